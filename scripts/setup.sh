#!/usr/bin/env bash
# Makes .venv (service, model, tests) and .venv-label-studio (the server) in the repository; run it as often as you like.
# A finished environment carries a stamp of what it was made from. No stamp means that an earlier run was interrupted,
# and the environment is made anew: a package that pip wrote only half looks installed to pip.
#   PYTHON=/path/to/python3.12 scripts/setup.sh     chooses the Python, otherwise python3 or the first that will do
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }
trap 'echo "setup: interrupted; run it again, and it makes anew what is not whole" >&2; exit 130' INT TERM

# From Python 3.12 on the job engine asks SQLite for milliseconds, which came with 3.42; without, no job can be stored.
judge='import sys
try:
    from sqlite3 import sqlite_version as sqlite
except ImportError:
    sqlite = "3.42"  # its absence is told below
old = sys.version_info >= (3, 12) and tuple(map(int, sqlite.split(".")[:2])) < (3, 42)
known = (3, 10) <= sys.version_info[:2] <= (3, 13)'

supported() {  # supported PYTHON: true for 3.10 to 3.13
    "$1" -c "$judge
sys.exit(old or not known)" >/dev/null 2>&1
}

find_python() {  # sets $python, or stops with the reason
    local candidate found candidates=(python3 python3.13 python3.12 python3.11 python3.10)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if supported "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "${python:-}" ]; then
        candidate=${candidates[0]}
        found=$("$candidate" -c "$judge
import platform
print('Python', platform.python_version() + f' with SQLite {sqlite}, from 3.12 on it needs 3.42' * (old and known))" 2>/dev/null) ||
            found="nothing that runs"
        die "Python 3.10 to 3.13 is needed, $candidate is $found; name another: PYTHON=/path/to/python3.12 $0"
    fi
    "$python" -c 'import ensurepip, sqlite3, ssl, venv' 2>/dev/null ||
        die "$python lacks one of the modules venv, ensurepip, sqlite3, ssl; install them (Debian, Ubuntu: apt-get install python3-venv)"
}

fingerprint() {  # fingerprint VENV FILE...: what the environment is made from (its place too: scripts in it name it)
    local venv=$1
    shift
    { "$venv/bin/python" -c 'import sys; print(sys.version)' && echo "$root/$venv" && cat "$@"; } 2>/dev/null | cksum
}

current() {  # current VENV FILE...: true if nothing changed since it was made
    [ -f "$1/stamp" ] && [ "$(cat "$1/stamp")" = "$(fingerprint "$@")" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -c "$version")" = "$("$1/bin/python" -c "$version")" ]
}
version='import sys; print(sys.version_info[:2])'

need_space() {  # need_space GB: stops if the disk has less left
    local left
    left=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$left" -ge "$1" ] || die "$1 GB of disk are needed in $root, $left GB are left; make room and run it again"
}

make_venv() {  # make_venv VENV: an empty environment with a pip
    rm -rf "$1"
    "$python" -m venv "$1" || die "$python could not make $1; the reason stands above"
}

install() {  # install VENV PIP-ARGUMENTS...: chatty on a terminal, where somebody waits for .venv
    local venv=$1 quiet=-qq
    shift
    [ "$venv" != .venv ] || [ ! -t 1 ] || quiet=
    "$venv/bin/python" -m pip install --no-compile --no-input --disable-pip-version-check $quiet "$@" </dev/null ||
        die "pip could not install $*; the reason stands above. Run it again once that is mended"
}

compile() {  # compile VENV: on all cores, where pip would take file after file
    # Templates and files for other Pythons do not compile, which is no fault.
    "$1/bin/python" -m compileall -qq -j 0 "$1/lib" || true
}

make_main() {
    say "making .venv: PyTorch, the service and the tests (7 GB, some minutes)"
    make_venv .venv
    install .venv -r requirements.txt
    install .venv --no-deps -r scripts/requirements-patched.txt
    install .venv -r scripts/requirements-benchmark.txt
    compile .venv
    # The patched packages break label-studio-ml's pins, as they are meant to; nothing else may.
    conflicts=$(.venv/bin/python -m pip check | grep -v -e '^label-studio-ml .* has requirement' -e '^No broken' || true)
    [ -z "$conflicts" ] || die "the packages do not go together: $conflicts"
    .venv/bin/python -c 'import cv2, dbos, faster_coco_eval, label_studio_ml.model, label_studio_sdk, torch, torchvision' ||
        die ".venv was made, but does not import; the reason stands above"
}

make_label_studio() {
    say "making .venv-label-studio: the Label Studio server (1 GB, some minutes)"
    make_venv .venv-label-studio
    install .venv-label-studio -r scripts/requirements-label-studio.txt
    compile .venv-label-studio
}

make_database() {
    say "making an empty Label Studio database, so that the demo's and the tests' servers start in seconds"
    env -u LABEL_STUDIO_BIN .venv/bin/python -m scripts.label_studio || die "the reason stands above"
}

finish() {  # finish VENV FILE...: what was made is whole
    fingerprint "$@" >"$1/stamp"
    say "$1 is ready"
}

if command -v flock >/dev/null; then  # two at a time would delete each other's work
    exec 9<"$root"
    flock -n 9 || { say "waiting for another set-up to end"; flock 9; }
fi
[ -z "${PYTHON:-}" ] || find_python
main=(.venv requirements.txt scripts/requirements-patched.txt scripts/requirements-benchmark.txt)
label_studio=(.venv-label-studio scripts/requirements-label-studio.txt)
main_needs=0 label_studio_needs=0  # GB
current "${main[@]}" || main_needs=10  # 7, and what pip unpacks on the way
current "${label_studio[@]}" || label_studio_needs=3
if [ $((main_needs + label_studio_needs)) != 0 ]; then
    find_python
    need_space $((main_needs + label_studio_needs))
fi

if [ "$label_studio_needs" != 0 ]; then  # beside .venv, since pip keeps only one core busy
    errors=$(mktemp)
    trap 'kill -- "-${maker:-}" 2>/dev/null || true; rm -f "$errors"' EXIT
    set -m  # in a process group of its own, which the trap can end
    make_label_studio 2>"$errors" &
    maker=$!
    set +m
fi
if [ "$main_needs" = 0 ]; then
    say ".venv is up to date"
else
    make_main
    finish "${main[@]}"
fi
if [ "$label_studio_needs" = 0 ]; then
    say ".venv-label-studio is up to date"
else
    wait "$maker" || { cat "$errors" >&2; exit 1; }
    maker=
    make_database
    finish "${label_studio[@]}"
fi
