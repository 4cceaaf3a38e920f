#!/usr/bin/env python3
"""A stand-in for a llamafile: a real, tiny model server that takes the real flags and has bad manners on a switch.

It stands alone (standard library only), so that local.sh can run it as $LLAMAFILE, or be LOCAL_COMMAND itself. The
switches are variables, because they have to come through local.sh:

    STANDIN_LOAD_S=40        /health answers 503 for so long
    STANDIN_SLOW=path        /health answers 503 as long as the file is there
    STANDIN_BROKEN=path      exits at once as long as the file is there
    STANDIN_SAY=text         written first
    STANDIN_EXIT=3           exits at once with this code
    STANDIN_SIGNAL=SIGILL    dies of this signal at once
    STANDIN_FLOOD=1          writes without end, as fast as it can
    STANDIN_LONG_LINE=5000   writes one line of so many characters
    STANDIN_IGNORE_TERM=1    SIGTERM does nothing
    STANDIN_GRANDCHILD=path  starts a process that ignores SIGTERM and SIGHUP, and writes its pid to the file
    STANDIN_DEAF=path        takes connections and answers none, as long as the file is there
    STANDIN_STUCK=path       works on no request as long as the file is there, and answers /health
    STANDIN_STUCK_WORDS=3    ... but sends so many words of a stream before that
    STANDIN_PROMPT_S=10      uses the CPU for so long before the first token
    STANDIN_PROMPT=path      uses the CPU before the first token as long as the file is there
    STANDIN_TOKENS_PER_S=50  how fast it answers
    STANDIN_PIDFILE=path     each run appends its pid
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENV = os.environ
STUCK_WORDS = int(ENV.get("STANDIN_STUCK_WORDS", "0"))
WORDS = ["The", "stand-in", "answers", "what", "it", "always", "answers,", "one", "word", "after", "the", "other."]


def arguments() -> argparse.Namespace:
    """The flags of llamafile and of llama.cpp's server that a start script may use; any other is refused as there."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for switch in ("--server", "--nobrowser", "--metrics", "--slots", "--no-slots", "--no-webui", "--no-warmup",
                   "--mlock", "--no-mmap", "--jinja", "--log-disable", "--v2"):  # fmt: skip
        parser.add_argument(switch, action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=ENV.get("LOCAL_PORT", "8080"))
    parser.add_argument("-np", "--parallel", type=int, default=ENV.get("LOCAL_PARALLEL", "1"))
    parser.add_argument("-c", "--ctx-size", type=int, default=ENV.get("LOCAL_CTX", "4096"))
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--api-key", default=ENV.get("LLAMA_API_KEY"))
    parser.add_argument("--api-key-file")
    for value in ("-m --model", "-a --alias", "-ngl --n-gpu-layers --gpu-layers", "--gpu", "-b --batch-size",
                  "--cache-ram", "--timeout -to", "--threads-http", "-l --listen"):  # fmt: skip
        parser.add_argument(*value.split())
    known, unknown = parser.parse_known_args()
    if known.api_key_file:
        with open(known.api_key_file, encoding="utf-8") as keys:
            known.api_key = keys.read().strip()
    if unknown:
        print(f"error: invalid argument: {unknown[0]}", flush=True)
        sys.exit(1)
    return known


class Handler(BaseHTTPRequestHandler):
    """llama.cpp's endpoints, as far as the node asks them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    flags: argparse.Namespace
    loaded_at: float
    slots: threading.Semaphore
    busy = waiting = 0

    def log_message(self, format: str, *args: object) -> None:
        print(f"srv  log_server_r: request: {format % args}", flush=True)

    def do_GET(self) -> None:
        while os.path.exists(ENV.get("STANDIN_DEAF", "")):
            time.sleep(0.1)
        path = self.path.partition("?")[0]
        flags, name = self.flags, self.flags.alias or "standin.gguf"
        per_slot = flags.ctx_size // flags.parallel
        if time.monotonic() < self.loaded_at or os.path.exists(ENV.get("STANDIN_SLOW", "")):
            self.answer(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
        elif path == "/health":
            self.answer(200, {"status": "ok"})
        elif not self.key_fits():
            self.answer(401, {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}})
        elif path == "/props":
            settings = {"n_ctx": per_slot}
            self.answer(200, {"default_generation_settings": settings, "total_slots": flags.parallel})
        elif path == "/slots":
            slots = range(flags.parallel)
            self.answer(200, [{"id": id, "n_ctx": per_slot, "is_processing": id < Handler.busy} for id in slots])
        elif path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": name, "object": "model"}]})
        elif path == "/metrics" and flags.metrics:
            figures = {"processing": Handler.busy, "deferred": Handler.waiting}
            self.answer(200, "".join(f"llamacpp:requests_{name} {value}\n" for name, value in figures.items()))
        else:
            self.answer(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.key_fits():
            self.answer(401, {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}})
            return
        path = self.path.partition("?")[0]
        if path == "/tokenize":
            self.answer(200, {"tokens": asked["content"].split()})
            return
        if path == "/apply-template":
            self.answer(200, {"prompt": "".join(message["content"] for message in asked["messages"])})
            return
        last = asked["messages"][-1] if asked["messages"] else {}
        begun = len(last["content"].split()) if last.get("role") == "assistant" else 0  # it goes on behind that
        words = WORDS[begun:][: asked.get("max_tokens") or len(WORDS)]
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        head = {"id": "chatcmpl-standin", "created": int(time.time()), "model": self.flags.alias or "standin.gguf"}
        Handler.waiting += 1
        with self.slots:  # more than there are slots wait here, as in the real one
            Handler.waiting -= 1
            Handler.busy += 1
            if not (asked.get("stream") and STUCK_WORDS):
                wait_while_stuck()
            first_token_at = time.monotonic() + float(ENV.get("STANDIN_PROMPT_S", "0"))
            while time.monotonic() < first_token_at or os.path.exists(ENV.get("STANDIN_PROMPT", "")):
                sum(range(10_000))
            if asked.get("stream"):
                self.stream(words, usage, head)
            else:
                time.sleep(len(words) / float(ENV.get("STANDIN_TOKENS_PER_S", "1000")))
                choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(words)}}
                choices = [{**choice, "finish_reason": "stop"}]
                self.answer(200, {**head, "object": "chat.completion", "choices": choices, "usage": usage})
            Handler.busy -= 1

    def stream(self, words: list[str], usage: dict[str, int], head: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        head = {**head, "object": "chat.completion.chunk"}
        for count, word in enumerate(words):
            if count >= STUCK_WORDS:
                wait_while_stuck()
            time.sleep(1 / float(ENV.get("STANDIN_TOKENS_PER_S", "1000")))
            self.event({**head, "choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
        self.event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, data: object) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def key_fits(self) -> bool:
        key = self.flags.api_key
        return not key or self.headers.get("Authorization") == f"Bearer {key}"

    def answer(self, status: int, body: object) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def misbehave() -> None:
    """What the switches ask for before it serves."""
    if path := ENV.get("STANDIN_PIDFILE"):
        with open(path, "a", encoding="utf-8") as pids:
            pids.write(f"{os.getpid()}\n")
    if ENV.get("STANDIN_IGNORE_TERM"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if path := ENV.get("STANDIN_GRANDCHILD"):
        stubborn = "trap '' TERM HUP INT; echo $$ >\"$1.new\"; mv \"$1.new\" \"$1\"; while :; do sleep 1; done"
        subprocess.Popen(["/bin/sh", "-c", stubborn, "grandchild", path])
    if text := ENV.get("STANDIN_SAY"):
        print(text, flush=True)
    if length := ENV.get("STANDIN_LONG_LINE"):
        print("x" * int(length), flush=True)
    if ENV.get("STANDIN_FLOOD"):
        threading.Thread(target=flood, daemon=True).start()
    if number := ENV.get("STANDIN_SIGNAL"):
        os.kill(os.getpid(), signal.Signals[number])
    if os.path.exists(ENV.get("STANDIN_BROKEN", "")):
        sys.exit(1)
    if code := ENV.get("STANDIN_EXIT"):
        sys.exit(int(code))


def wait_while_stuck() -> None:
    while os.path.exists(ENV.get("STANDIN_STUCK", "")):
        time.sleep(0.1)


def flood() -> None:
    block = b"".join(b"flood %06d: one more line of output\n" % number for number in range(2000))
    while True:
        os.write(1, block)


def main() -> None:
    Handler.flags = arguments()
    misbehave()
    Handler.loaded_at = time.monotonic() + float(ENV.get("STANDIN_LOAD_S", "0"))
    Handler.slots = threading.Semaphore(Handler.flags.parallel)
    try:
        server = ThreadingHTTPServer((Handler.flags.host, Handler.flags.port), Handler)
    except OSError as fault:
        print(f"couldn't bind HTTP server socket, hostname: {Handler.flags.host}: {fault.strerror}", flush=True)
        sys.exit(1)
    print(f"srv  main: listening on http://{Handler.flags.host}:{Handler.flags.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
