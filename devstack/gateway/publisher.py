"""Publishes the development gateway's tasks on Pulsar."""

from __future__ import annotations

import threading

import pulsar


class PulsarPublisher:
    """Publishes on any topic, and keeps a producer for each. Safe to call from every thread."""

    def __init__(self, url: str, token: str | None) -> None:
        self._client = pulsar.Client(
            url,
            authentication=pulsar.AuthenticationToken(token) if token else None,
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Warn),
        )
        self._producers: dict[str, pulsar.Producer] = {}
        self._lock = threading.Lock()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish, and return when the broker has it. Raises pulsar.PulsarException."""
        with self._lock:
            producer = self._producers.get(topic)
            if producer is None:
                producer = self._producers[topic] = self._client.create_producer(topic)
        producer.send(payload)

    def close(self) -> None:
        """Close the connection to the broker."""
        self._client.close()
