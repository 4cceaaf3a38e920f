#!/usr/bin/env bash
# Makes the virtual environment .venv if it is missing, then runs the benchmarks: benchmarks/run.sh --quick
# Arguments go to python -m benchmarks; --help lists them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=devstack/find_python.sh
source devstack/find_python.sh

VENV=.venv
EXTRAS=local,dev

fail() { # what happened, then what to do, a line each
    printf 'benchmarks/run.sh: %s\n' "$@" >&2
    exit 1
}

has_all() { "$VENV/bin/python" -c 'import matplotlib, psutil, pulsar, websockets, xllamacpp' 2>/dev/null; }

if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
    python="$(find_python)"
    "$python" -m venv --clear "$VENV" ||
        fail "$python could not make the virtual environment $VENV." \
            "On Debian and Ubuntu: apt install python3-venv. Otherwise see the message above."
fi
if ! has_all; then
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check -e ".[$EXTRAS]" ||
        fail "pip could not install the packages; its message is above." \
            "Mostly the network or the package index: check them, then run this again (it goes on where it stopped)."
fi
exec "$VENV/bin/python" -m benchmarks "$@"
