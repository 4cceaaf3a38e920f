#!/usr/bin/env bash
# Builds what a release consists of, in FOLDER (default: dist): the sdist, the wheel, an SBOM (CycloneDX, JSON) and a table
# of licences. The version is that of the last tag: `git tag v0.1.0` before it. Nothing is published.
#
#   deploy/release.sh [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)"
if [ -n "$(ls -A "$out")" ]; then
    echo "release.sh: $out is not empty: what is in it may be of another version. Remove it, or name another folder." >&2
    exit 1
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build cyclonedx-bom pip-licenses
"$work/tools/bin/python" -m build --outdir "$out" . # the wheel is built from the sdist: so the sdist holds everything

# An environment with the wheel and what it needs, and nothing else: not even pip is in it.
python3 -m venv --without-pip "$work/empty"
"$work/tools/bin/pip" --python "$work/empty/bin/python" install --quiet "$out"/*.whl
version="$(basename "$out"/*.whl -py3-none-any.whl)"
version="${version#workernode-}"
"$work/tools/bin/cyclonedx-py" environment --gather-license-texts --output-reproducible \
    --output-file "$out/workernode-$version.cdx.json" "$work/empty/bin/python"
"$work/tools/bin/pip-licenses" --python "$work/empty/bin/python" --from=meta --format=markdown --output-file "$out/LICENCES.md" >/dev/null
echo "release.sh: $version is in $out:"
ls -l "$out"
