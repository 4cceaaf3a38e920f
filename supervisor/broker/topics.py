"""The names of the topics and of the subscription that a node uses (spec 1.1, 1.4 and 4). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from workernode.settings import Settings


@dataclass(frozen=True, slots=True)
class Topics:
    """The names. Those of topics are whole: persistent://tenant/namespace/name.

    Attributes:
        tasks: where the gateway publishes tasks.
        subscription: what all nodes of the model share on it, and what autoscaling reads.
        records: where billing records go.
        dead_letters: where messages go that no node can serve.
        claims: where the nodes of the model claim tasks.
    """

    tasks: str
    subscription: str
    records: str
    dead_letters: str
    claims: str

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        """Return the names for this node's model."""
        tasks = f"model-{settings.model_name}"
        subscription = f"{tasks}-subscription"
        namespace = settings.pulsar_namespace
        return cls(
            whole_name(tasks, namespace),
            subscription,
            whole_name(settings.res_topic_name, namespace),
            whole_name(f"{tasks}-{subscription}-DLQ", namespace),
            whole_name(f"{tasks}-claims", namespace),
        )


def whole_name(topic: str, namespace: str) -> str:
    """Return the whole name of a topic; one that is whole stays as it is.

    Args:
        namespace: tenant/namespace of a topic whose name does not include it.
    """
    return topic if "://" in topic else f"persistent://{namespace}/{topic}"


def short_name(topic: str) -> str:
    """Return the name for people: without the namespace where it is the default one."""
    return topic.removeprefix("persistent://public/default/")
