"""Sends answers to the gateway: POST for a plain answer, WebSocket frames for a stream."""
