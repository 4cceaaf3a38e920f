#!/usr/bin/env bash
# Asks the model through the gateway that start.sh started: ./ai.sh [stream] [question]
# MODEL_NAME and GATEWAY_PORT (8081) choose another model or gateway.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PORT="${GATEWAY_PORT:-8081}"

model_name() { # the one that start.sh serves
    if [ -n "${MODEL_NAME:-}" ]; then
        printf '%s' "$MODEL_NAME"
    else
        cat "$HERE/.run/$PORT/model" 2>/dev/null || printf 'gemma3-270m'
    fi
}

how_to_get_jo() {
    if command -v apt-get >/dev/null; then
        echo "sudo apt-get install jo"
    elif command -v dnf >/dev/null; then
        echo "sudo dnf install jo"
    else
        echo "brew install jo"
    fi
}

chat_request() { # model, question, true or false for stream; the values come as files, so that jo guesses no types
    if command -v jo >/dev/null; then
        jo model=@<(printf '%s' "$1") messages="$(jo -a "$(jo role=user content=@<(printf '%s' "$2"))")" stream="$3"
    elif command -v python3 >/dev/null; then
        echo "ai.sh: python3 builds the JSON, because jo is not installed: $(how_to_get_jo)" >&2
        python3 -c 'import json, sys
model, question, stream = sys.argv[1:]
request = {"model": model, "messages": [{"role": "user", "content": question}], "stream": stream == "true"}
print(json.dumps(request, ensure_ascii=False, separators=(",", ":")))' "$@"
    else
        echo "ai.sh: jo or python3 is needed to build the JSON: $(how_to_get_jo)" >&2
        exit 127
    fi
}

if ! command -v curl >/dev/null; then
    echo "ai.sh: curl is needed: apt-get install curl | dnf install curl | brew install curl" >&2
    exit 127
fi

stream=false
curl_options=()
if [ "${1:-}" = stream ]; then
    stream=true
    curl_options=(--no-buffer)
    shift
fi

request="$(chat_request "$(model_name)" "${*:-Hello!}" "$stream")"
code=0
curl -sS -v --noproxy localhost ${curl_options[@]+"${curl_options[@]}"} -H 'Content-Type: application/json' --data-binary @- \
    "http://localhost:$PORT/api/v1/chat/completions" <<<"$request" || code=$?
if ! $stream; then echo; fi # the answer ends without a line break
if [ "$code" = 7 ]; then # connection refused
    echo "ai.sh: nothing listens at localhost:$PORT. Run ./start.sh in another terminal and wait until it is ready." >&2
fi
exit "$code"
