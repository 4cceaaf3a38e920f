"""Why the node takes no tasks (/readyz). Pure."""

from __future__ import annotations

from supervisor.health.broker_state import BrokerState
from supervisor.states import NodeState


def why_not_ready(state: NodeState, broker: BrokerState, has_worker: bool, model_fault: str, unfit: str) -> list[str]:
    """Return why the node takes no tasks, a sentence each; empty if it does (/readyz).

    Args:
        state: where the node is in its lifecycle.
        broker: the connection to the broker.
        has_worker: whether a worker process takes jobs.
        model_fault: why the local model takes no requests; "" if it does, or if there is none.
        unfit: why upstream does not let the node serve; "" if it does.
    """
    why = []
    if state in (NodeState.DRAINING, NodeState.STOPPING):
        why.append("draining: the node was asked to stop")
    if not broker.is_up:
        why.append(f"no connection to Pulsar: {broker.fault}")
    if not has_worker:
        why.append("no worker process is ready")
    return why + [fault for fault in (model_fault, unfit) if fault]
