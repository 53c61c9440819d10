#!/usr/bin/env bash
# Check which package may import which: the contracts in pyproject.toml, read by import-linter.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
packages=$(mktemp -d)
trap 'rm -r "$packages"' EXIT

# It reads packages only, so the single modules of the top level are shown to it as packages of one file.
for package in */__init__.py; do
  ln -s "$root/${package%/*}" "$packages/"
done
for module in *.py; do
  mkdir "$packages/${module%.py}"
  ln -s "$root/$module" "$packages/${module%.py}/__init__.py"
done
ln -s "$root/pyproject.toml" "$packages/"
cd "$packages"
"$root/.venv/bin/lint-imports" --no-cache
