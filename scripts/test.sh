#!/usr/bin/env bash
# Run all checks and tests: makes .venv if there is none and installs what they need into it.
#   ./scripts/test.sh            everything
#   ./scripts/test.sh --fast     without the slow ones: within two minutes
#   ./scripts/test.sh -k parity  arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not slow" "$@"
fi
install_requirements requirements.txt requirements-diffusion.txt requirements-score.txt requirements-demo.txt requirements-test.txt

# The page of scripts.demo is tested in a browser; without one that test is skipped.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing chromium"
  get="timeout 300 apt-get -qq -o DPkg::Lock::Timeout=60"
  chromium="$get install -y --no-install-recommends chromium"
  { $chromium || { $get update && $chromium; }; } >/dev/null 2>&1 </dev/null ||
    echo "no chromium to be had: the test in a browser is skipped"
fi

.venv/bin/ruff format --check .
.venv/bin/ruff check .
./scripts/imports.sh
# Two processes with one thread each; a file stays in one process, since its tests share what they computed.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
