#!/usr/bin/env bash
# Sets up, then runs ruff and the tests. Arguments after --all go to pytest; without any, several files of tests run side
# by side.
#   scripts/test.sh            the fast tier
#   scripts/test.sh --all      the slow tier too
#   scripts/test.sh -k scores  whatever pytest takes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tier=(-m "not slow")
if [ "${1:-}" = --all ]; then
    tier=()
    shift
fi
if [ $# -eq 0 ]; then
    # Each of them starts a Label Studio, and several more processes.
    processes=$(getconf _NPROCESSORS_ONLN)
    set -- -n $((processes < 4 ? processes : 4)) --dist loadfile
fi

scripts/setup.sh

# One thread: on small machines threads that wait for each other cost more than they bring.
export OMP_NUM_THREADS=1 TORCH_THREADS=1
failed=0
{ .venv/bin/python -m ruff check . && .venv/bin/python -m ruff format --check .; } || { failed=1; echo "ruff failed: the tests run, but the exit code will be 1" >&2; }
.venv/bin/python -m pytest ${tier[@]+"${tier[@]}"} "$@" </dev/null || failed=$?
exit "$failed"
