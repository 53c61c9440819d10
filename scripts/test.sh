#!/usr/bin/env bash
# Run all checks and tests: makes .venv if there is none and installs what they need into it.
#   ./scripts/test.sh            everything
#   ./scripts/test.sh -k parity  arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
install requirements.txt requirements-diffusion.txt requirements-score.txt requirements-demo.txt requirements-test.txt

.venv/bin/ruff format --check .
.venv/bin/ruff check .
./scripts/rooms.sh
# Two processes with one thread each; a file stays in one process, since its tests share what they computed.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
