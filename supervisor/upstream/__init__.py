"""What the supervisor itself asks upstream (the list of models, one short chat, a vLLM's queue), and the sentences for
people about upstream's faults.

A leaf for supervisor.fitness and supervisor.check.
"""

from supervisor.upstream.chat_request import send_chat_request
from supervisor.upstream.engine_queue import EngineQueue
from supervisor.upstream.fault_messages import FaultMessages
from supervisor.upstream.model_list import ListAnswer, ModelList, listed_models

__all__ = ["EngineQueue", "FaultMessages", "ListAnswer", "ModelList", "listed_models", "send_chat_request"]
