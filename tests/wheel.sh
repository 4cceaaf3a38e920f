#!/usr/bin/env bash
# Builds a release (deploy/release.sh) and installs its wheel into an empty environment, whose node serves a task of a real
# broker. Needs the package index, and what tests/run.sh has set up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
    echo "tests/wheel.sh: there is no .venv yet: run ./tests/run.sh once, which makes it." >&2
    exit 1
fi
exec .venv/bin/python -m pytest tests/wheel "$@"
