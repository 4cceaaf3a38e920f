"""The names of the topics and of the subscription that a node uses (spec 1.1, 1.4 and 4). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from workernode.settings import Settings


@dataclass(frozen=True, slots=True)
class Topics:
    """The four names. Each topic is a name that Pulsar takes as it is.

    Attributes:
        tasks: where the gateway publishes tasks.
        subscription: what all nodes of the model share on it, and what autoscaling reads.
        records: where billing records go.
        dead_letters: where messages go that no node can serve.
    """

    tasks: str
    subscription: str
    records: str
    dead_letters: str

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        """Return the names for this node's model."""
        tasks = f"model-{settings.model_name}"
        subscription = f"{tasks}-subscription"
        return cls(tasks, subscription, settings.res_topic_name, f"{tasks}-{subscription}-DLQ")
