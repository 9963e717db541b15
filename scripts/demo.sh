#!/usr/bin/env bash
# Sets up, then shows the loop: Label Studio, the backend, three cycles of TSP + SSL beside random, the table.
#   scripts/demo.sh            stays up until Ctrl-C, so that you can look around
#   scripts/demo.sh --once     ends by itself and leaves nothing running
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec .venv/bin/python -m scripts.demo "$@"
