#!/usr/bin/env bash
# Check which room may import which: the contracts in pyproject.toml, read by import-linter.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
rooms=$(mktemp -d)
trap 'rm -r "$rooms"' EXIT

# It reads packages only, so the single modules of the top level are shown to it as packages of one file.
for package in */__init__.py; do
  ln -s "$root/${package%/*}" "$rooms/"
done
for module in *.py; do
  mkdir "$rooms/${module%.py}"
  ln -s "$root/$module" "$rooms/${module%.py}/__init__.py"
done
ln -s "$root/pyproject.toml" "$rooms/"
cd "$rooms"
"$root/.venv/bin/lint-imports" --no-cache
