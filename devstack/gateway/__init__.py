"""The development gateway: an HTTP and WebSocket server that stands in for the platform's REST service."""
