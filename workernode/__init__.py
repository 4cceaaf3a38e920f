"""The life of one task: from the bytes of a message to a decided outcome.

This package knows no broker, no other processes and no Kubernetes. "spec N" in docstrings is section N of the project's
specification, which is kept outside the repository; docs/ describes what follows from it.
"""

try:  # setuptools-scm writes this file when the package is built or installed
    from workernode._version import __version__
except ImportError:  # a checkout in which nothing is installed
    __version__ = "0.1.dev0"

__all__ = ["__version__"]
