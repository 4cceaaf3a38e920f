"""`workernode --subscribe` makes the subscription before the first node, for an autoscaler that starts from no pod."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from devstack.ports import free_port
from tests.support.fixtures import API_KEY
from tests.support.gateway import FakeGateway
from tests.support.helm import find_helm, one, render
from tests.support.node import Node
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream

REMOTE = {"NODE_TYPE": "remote", "API_URL": "http://127.0.0.1:9", "API_KEY": "sk-1", "STATUS_ADDR": "off"}


def test_a_task_that_is_published_before_any_node_is_counted_and_answered_when_one_comes(
    platform: Platform, gateway: FakeGateway, node: Callable[..., Node], tmp_path: Path
) -> None:
    first = node(ready=False, args=("--subscribe",))
    assert first.wait_exit(30) == 0
    id = platform.ask("hello")
    platform.wait_backlog(1)
    assert platform.unacked() == 0, "the subscription was made, and nobody holds the task"
    node()
    (answer,) = gateway.wait_all([id])
    assert answer.text
    platform.wait_backlog(0)


def test_a_chart_that_scales_to_zero_keeps_the_task_and_its_pod_answers_it(
    platform: Platform, gateway: FakeGateway, upstream: FakeUpstream, node: Callable[..., Node], tmp_path: Path
) -> None:
    """Job and pod are run here with the variables and files that the rendered chart gives them."""
    config = {
        "MODEL_NAME": platform.model, "API_URL": upstream.api_url, "PULSAR_URL": platform.broker.url,
        "RES_TOPIC_NAME": platform.res_topic, "WORKER_PROCESSES": 1,
    }  # fmt: skip
    secret = {"API_KEY": API_KEY, "RECORD_SALT": "salt-of-16-letters"}
    values = {"config": config, "secret": secret, "autoscaling": {"enabled": True, "minReplicas": 0}}
    objects = render(find_helm(), tmp_path, values)
    job = one(objects, "Job", "release-subscribe")["spec"]["template"]["spec"]["containers"][0]
    for_job = one(objects, "ConfigMap", "release-subscribe")["data"]
    for_job |= one(objects, "Secret", "release-subscribe")["stringData"]
    assert node(ready=False, args=tuple(job["args"]), **nothing_else(for_job)).wait_exit(30) == 0
    id = platform.ask("hello", task={"metadata": {"headers": {"Authorization": ["Bearer sk-client"]}}})
    platform.wait_backlog(1)

    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    stored = one(objects, "Secret")["stringData"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    (volume,) = [each["secret"] for each in pod["volumes"] if each["name"] == "secrets"]
    for item in volume["items"]:
        (tmp_path / item["path"]).write_text(stored[item["key"]])
    own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    own = {name: value.replace(mounts["secrets"], str(tmp_path)) for name, value in own.items()}
    node(**nothing_else({**one(objects, "ConfigMap")["data"], **stored, **own}))
    (answer,) = gateway.wait_all([id])
    assert answer.text
    platform.wait_backlog(0)
    assert platform.record_of(id)["client"]["key_id"], "RECORD_SALT is a variable of the Secret"
    assert own["API_KEY"] == "", "API_KEY is a file"


def nothing_else(variables: dict[str, str]) -> dict[str, str | None]:
    """The variables, without those that the fixture `node` sets by itself, and with a free port, as a pod has one."""
    return {"NODE_TYPE": None, "API_KEY": None, **variables, "STATUS_ADDR": f"127.0.0.1:{free_port()}"}


def test_it_says_why_there_is_no_subscription(platform: Platform, tmp_path: Path) -> None:
    environ = {**REMOTE, "MODEL_NAME": platform.model, "PULSAR_URL": "pulsar://127.0.0.1:9"}
    with Node(dict(environ), tmp_path, ("--subscribe",)) as run:
        assert run.wait_exit(60) == 1
        assert f"cannot make the subscription model-{platform.model}-subscription" in run.output
        assert "workernode --check says what to do" in run.output
        assert "Traceback" not in run.output
