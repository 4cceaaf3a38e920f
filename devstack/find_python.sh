# shellcheck shell=bash
# For start.sh, tests/run.sh and benchmarks/run.sh, which source this file and have a function `fail`.

find_python() { # prints the path of the first Python that is new enough
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.10 or newer is needed, and there is none on PATH." \
        "Install it: apt install python3 python3-venv | dnf install python3.12 | brew install python"
}
