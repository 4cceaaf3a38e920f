"""A message's age by two clocks, its wait for a gateway that is away, and the settlement of a decided delivery."""

from supervisor.deliveries.gateway_waits import GatewayWaits
from supervisor.deliveries.publisher_clocks import PublisherClocks
from supervisor.deliveries.settlement import Hooks, Settlement

__all__ = ["GatewayWaits", "Hooks", "PublisherClocks", "Settlement"]
