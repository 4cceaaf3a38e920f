#!/usr/bin/env bash
# Builds a release (deploy/release.sh) and installs its wheel into empty environments, whose nodes serve tasks of a real
# broker: one remote, one with the embedded model. Needs the package index, and what tests/run.sh has set up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
    echo "tests/wheel.sh: there is no .venv yet: run ./tests/run.sh once, which makes it." >&2
    exit 1
fi
exec .venv/bin/python -m pytest tests/wheel "$@"
