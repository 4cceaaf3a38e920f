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
"$work/tools/bin/pip" install --quiet build cyclonedx-bom
"$work/tools/bin/python" -m build --outdir "$out" . # the wheel is built from the sdist: so the sdist holds everything

# An environment with the wheel and what it needs, and nothing else: not even pip is in it.
python3 -m venv --without-pip "$work/empty"
"$work/tools/bin/pip" --python "$work/empty/bin/python" install --quiet "$out"/*.whl
version="$(basename "$out"/*.whl -py3-none-any.whl)"
version="${version#workernode-}"
sbom="$out/workernode-$version.cdx.json"
"$work/tools/bin/cyclonedx-py" environment --gather-license-texts --output-reproducible --output-file "$sbom" "$work/empty/bin/python"
python3 - "$sbom" >"$out/LICENCES.md" <<'PYTHON'
"""Prints the table of licences of an SBOM."""
import base64
import json
import sys


def names(component):
    """The licences of a component: SPDX expressions where there are any, else names or short texts."""
    expressions, others = set(), set()
    for each in component.get("licenses", []):
        licence = each.get("license", {})
        text = licence.get("text", {})
        content = text.get("content", "")
        if text.get("encoding") == "base64":
            content = base64.b64decode(content).decode("utf-8", "replace")
        if each.get("expression") or licence.get("id"):
            expressions.add(each.get("expression") or licence["id"])
        elif not licence.get("name", "").startswith("declared license"):
            others.add(licence.get("name", ""))
        elif content and "\n" not in content.strip():
            others.add(content.strip())
    return ", ".join(sorted(expressions or others)) or "see the SBOM"


with open(sys.argv[1], encoding="utf-8") as file:
    components = json.load(file)["components"]
print("| package | version | licence |\n|---|---|---|")
for each in sorted(components, key=lambda one: one["name"].lower()):
    print(f"| {each['name']} | {each.get('version', '')} | {names(each)} |")
PYTHON
echo "release.sh: $version is in $out:"
ls -l "$out"
