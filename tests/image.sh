#!/usr/bin/env bash
# Builds the container image and runs it, without a container engine. Needs root, buildah and mmdebstrap (Debian: apt install
# buildah mmdebstrap), and what tests/run.sh has set up. The first run makes a base image from Debian's packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
    echo "tests/image.sh: there is no .venv yet: run ./tests/run.sh once, which makes it." >&2
    exit 1
fi
exec .venv/bin/python -m pytest tests/image "$@"
