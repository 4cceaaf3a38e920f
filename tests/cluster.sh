#!/usr/bin/env bash
# The tests on a real Pulsar cluster: ZooKeeper, three bookies, two brokers, about 2 GB of memory and two minutes.
# tests/run.sh makes the virtual environment and fetches Pulsar; run it before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${VENV:-.venv}/bin/python" -m pytest -p no:cacheprovider -s tests/cluster "$@"
