"""The development gateway: an HTTP server that stands in for the platform's REST service."""

from devstack.gateway.server import Gateway

__all__ = ["Gateway"]
