"""A message's age by two clocks, its waits for worker, gateway or another node, and how it is settled once decided."""

from supervisor.deliveries.claim_waits import ClaimWaits
from supervisor.deliveries.gateway_waits import GatewayWaits
from supervisor.deliveries.publisher_clocks import PublisherClocks
from supervisor.deliveries.queues import Queues
from supervisor.deliveries.refusal_waits import RefusalWaits
from supervisor.deliveries.rest import decide_rest, settle_ended_streams
from supervisor.deliveries.settlement import Hooks, Settlement

__all__ = [
    "ClaimWaits",
    "GatewayWaits",
    "Hooks",
    "PublisherClocks",
    "Queues",
    "RefusalWaits",
    "Settlement",
    "decide_rest",
    "settle_ended_streams",
]
