#!/usr/bin/env bash
# Sets everything up on a fresh machine, then checks style, imports and types, and runs the tests.
# Arguments go to pytest: tests/run.sh tests/unit -k sse
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=devstack/find_python.sh
source devstack/find_python.sh

STEPS=6
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/workernode"
VENV=.venv
EXTRAS=local,kubernetes,dev

step() { printf '[%s/%s] %s\n' "$1" "$STEPS" "$2"; }

fail() { # what happened, then what to do, a line each
    printf 'tests/run.sh: %s\n' "$@" >&2
    exit 1
}

make_venv() {
    local python
    if "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    python="$(find_python)"
    "$python" -m venv --clear "$VENV" ||
        fail "$python could not make the virtual environment $VENV." \
            "On Debian and Ubuntu: apt install python3-venv. Otherwise see the message above."
}

install_packages() { # again only when what is to be installed has changed
    local stamp="$VENV/.tests-stamp" wanted
    wanted="$EXTRAS $(cat setup.cfg pyproject.toml | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
        echo "      nothing changed since the last time"
        return
    fi
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check -e ".[$EXTRAS]" ||
        fail "pip could not install the packages; its message is above." \
            "Mostly the network or the package index: check them, then run this again (it goes on where it stopped)."
    printf '%s\n' "$wanted" >"$stamp"
}

shell_scripts() { find . -path ./.venv -prune -o -path ./.run -prune -o -name '*.sh' -print && echo .ci/run; }

check_style() {
    ruff check . || fail "ruff found faults (above). It can repair many itself: $VENV/bin/ruff check --fix ."
    # shellcheck disable=SC2046  # our scripts have no spaces in their names
    shellcheck -x $(shell_scripts) || fail "shellcheck found faults in the shell scripts (above)."
    lint-imports --cache-dir "$CACHE/import-linter" >"$CACHE/lint-imports.log" 2>&1 ||
        { cat "$CACHE/lint-imports.log"; fail "an import breaks a rule of docs/architecture.md (above)."; }
}

# With it set, each process would compile all modules and tests anew: a quarter of a minute of CPU for each of six.
unset PYTHONDONTWRITEBYTECODE
mkdir -p "$CACHE"
export MYPY_CACHE_DIR="$CACHE/mypy" RUFF_CACHE_DIR="$CACHE/ruff" HYPOTHESIS_STORAGE_DIRECTORY="$CACHE/hypothesis"

step 1 "Python and the virtual environment $VENV"
make_venv
PATH="$PWD/$VENV/bin:$PATH"
step 2 "packages into $VENV (about 600 MB the first time)"
install_packages
step 3 "Apache Pulsar (245 MB the first time)"
python -m devstack.broker fetch || fail "there is no broker to test with; the message above names what to do."
step 4 "style and imports: ruff, shellcheck, lint-imports"
check_style
step 5 "types: mypy"
mypy || fail "mypy found faults (above)."
step 6 "tests: pytest"
code=0
# Six processes, because tests mostly wait; they share two brokers (tests/support/shared_broker.py). The tests of a file
# stay in one process, and the files begin in the order of tests/support/order.py.
python -m pytest -o cache_dir="$CACHE/pytest" -n 6 --dist loadfile --no-loadscope-reorder "$@" || code=$?
if ! command -v chromium chromium-browser google-chrome >/dev/null; then
    echo "tests/run.sh: there is no Chromium, so the tests of the page in a browser were skipped. Install it: apt install chromium"
fi
exit "$code"
