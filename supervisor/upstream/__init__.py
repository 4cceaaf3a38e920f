"""What the supervisor itself asks upstream (the list of models), and the sentences for people about upstream's faults.

A leaf for supervisor.fitness and supervisor.check.
"""

from supervisor.upstream.fault_messages import FaultMessages
from supervisor.upstream.model_list import ListAnswer, ModelList, listed_models

__all__ = ["FaultMessages", "ListAnswer", "ModelList", "listed_models"]
