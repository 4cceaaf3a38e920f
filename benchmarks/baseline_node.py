"""A node that is written in the obvious way, to compare with: a thread a task and the well-known libraries, no more.

It is what WorkerNode is compared with: consume, ask upstream, pass on the answer, ack. It bills nothing, bounds
nothing, retries nothing and survives nothing. It reads the same environment variables.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import pulsar
import requests
from websockets.sync.client import connect

READY = "baseline node: ready"


def chat(data: dict[str, Any], stream: bool) -> requests.Response:
    """Ask upstream, and return its response."""
    address = f"{os.environ['API_URL']}/chat/completions"
    body = {**data, "model": os.environ["UPSTREAM_MODEL"]}
    headers = {"Authorization": f"Bearer {os.environ['API_KEY']}"}
    return requests.post(address, json=body, headers=headers, stream=stream, timeout=120)


def answer(task: dict[str, Any]) -> None:
    """Answer a plain task with one POST."""
    data = chat(task["data"], stream=False).json()
    requests.post(task["endpoint"], json={"request_id": task["request_id"], "data": data}, timeout=60)


def answer_stream(task: dict[str, Any]) -> None:
    """Answer a stream over a WebSocket of its own, with a frame for each chunk."""
    with connect(task["endpoint"]) as socket, chat(task["data"], stream=True) as response:
        for line in response.iter_lines():
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                chunk = json.loads(line[len(b"data: ") :])
                socket.send(json.dumps({"request_id": task["request_id"], "end": False, "data": chunk}))
        socket.send(json.dumps({"request_id": task["request_id"], "end": True}))


def serve(consumer: pulsar.Consumer, message: pulsar.Message, slots: threading.Semaphore) -> None:
    """Run one task in its thread."""
    try:
        task = json.loads(message.data())
        (answer_stream if task["stream"] else answer)(task)
        consumer.acknowledge(message)
    except Exception as error:  # the edge of the thread: the benchmark sees that an answer is missing
        print(f"baseline node: {type(error).__name__}: {error}", flush=True)
        consumer.negative_acknowledge(message)
    finally:
        slots.release()


def main() -> None:
    topic = f"model-{os.environ['MODEL_NAME']}"
    client = pulsar.Client(os.environ["PULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    consumer = client.subscribe(
        topic,
        f"{topic}-subscription",
        consumer_type=pulsar.ConsumerType.Shared,
        initial_position=pulsar.InitialPosition.Earliest,
    )
    slots = threading.Semaphore(int(os.environ["MAX_PROCESS_NUM"]))
    print(READY, flush=True)
    while True:
        slots.acquire()
        message = consumer.receive()
        threading.Thread(target=serve, args=(consumer, message, slots)).start()


if __name__ == "__main__":
    main()
