"""The local model server as a child process: start, health, restart, stop, and why it exited.

`LocalModel` is what the node uses; `ModelServer` is the child itself, which --check starts as well.
"""

from supervisor.model_server.local_model import LocalModel
from supervisor.model_server.model_server import ModelServer

__all__ = ["LocalModel", "ModelServer"]
