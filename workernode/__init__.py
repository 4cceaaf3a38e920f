"""One task's life: from the bytes of a message to a decided outcome. Knows nothing of brokers, processes or
Kubernetes.
"""

__version__ = "0.1.0"
