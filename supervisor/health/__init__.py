"""What keeps the node from serving, since when, and which of it is reported to a person."""

from supervisor.health.broker_state import REPORT_AFTER, BrokerState
from supervisor.health.incidents import Incidents, why_workers_die
from supervisor.health.no_local_model import NoLocalModel
from supervisor.health.readiness import why_not_ready
from supervisor.health.upstream_watch import UpstreamWatch

__all__ = [
    "REPORT_AFTER",
    "BrokerState",
    "Incidents",
    "NoLocalModel",
    "UpstreamWatch",
    "why_not_ready",
    "why_workers_die",
]
