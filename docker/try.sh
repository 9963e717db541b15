#!/usr/bin/env bash
# Builds and starts the containers, runs two cycles of Algorithm 1 against them and a third, in which a worker is killed,
# and takes containers and volumes away again.
#   docker/try.sh                      with Docker and compose as they are here
#   docker/try.sh --without-registry   as root on Debian, where no image can be pulled: a Docker daemon of its own, and
#                                      stand-ins for the three images, made of packages (docker.io, docker-compose,
#                                      debootstrap, iptables and iproute2 are needed)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
project=tsp-try
export POSTGRES_PASSWORD=$(openssl rand -hex 16) LABEL_STUDIO_PASSWORD=$(openssl rand -hex 8)
export LABEL_STUDIO_API_KEY=$(openssl rand -hex 20) LABEL_STUDIO_PORT=18080 PORT=19090 TSP_PRESET=tiny

say() { echo "try: $*"; }
die() { echo "try: $*" >&2; exit 1; }

compose() { $command -p $project -f docker/compose.yaml "$@"; }

await() {  # await SECONDS WHAT COMMAND...: until the command succeeds
    local seconds=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { compose logs --tail=30; die "waited $seconds s for $what"; }
        sleep 1
    done
    say "$what: $SECONDS s after the start"
}

start_daemon() {  # start_daemon PREFIX... -- OPTIONS...: dockerd on this folder's socket
    local prefix=()
    while [ "$1" != -- ]; do prefix+=("$1"); shift; done
    shift
    "${prefix[@]}" dockerd --data-root "$work/d" --exec-root "$work/run/exec" --pidfile "$work/run/d.pid" \
        -H "$DOCKER_HOST" "$@" >>"$work/dockerd.log" 2>&1 &
    for _ in $(seq 60); do docker info >/dev/null 2>&1 && return; sleep 1; done
    tail "$work/dockerd.log"
    die "the Docker daemon does not answer"
}

stop_daemon() {
    [ -f "$work/run/d.pid" ] || return 0
    local pid
    pid=$(cat "$work/run/d.pid")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
}

clean_up() {
    set +e
    compose down -v -t 2 >/dev/null 2>&1
    [ -z "${without_registry:-}" ] || stop_daemon
    umount "$work"/run/exec/netns/* 2>/dev/null
    rm -rf "$work"
}

make_images() {  # a base of Debian's packages with this machine's certificates, and of it the three images
    mkdir -p "$work/run"
    export DOCKER_HOST=unix://$work/run/d.sock DOCKER_CONFIG=$work/cfg DOCKER_BUILDKIT=0
    export BASE_IMAGE=localhost/python-base TSP_IMAGE=localhost/tsp-backend
    export POSTGRES_IMAGE=localhost/postgres LABEL_STUDIO_IMAGE=localhost/label-studio
    # Builds need the machine's network; running needs a bridge, which the daemon may not make there.
    start_daemon env -- --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --bridge=none
    say "making a base image of Debian's packages"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$work/rootfs" >"$work/debootstrap.log"
    cp /usr/local/share/ca-certificates/*.crt "$work/rootfs/usr/local/share/ca-certificates/" 2>/dev/null || true
    chroot "$work/rootfs" update-ca-certificates >/dev/null 2>&1
    ln -s python3 "$work/rootfs/usr/bin/python"
    rm -rf "$work"/rootfs/var/lib/apt/lists/*
    tar -C "$work/rootfs" -c . | docker import --change 'ENV LANG=C.UTF-8' --change 'ENV PIP_BREAK_SYSTEM_PACKAGES=1' - $BASE_IMAGE >/dev/null
    rm -rf "$work/rootfs"
    local name file
    for name in $POSTGRES_IMAGE $LABEL_STUDIO_IMAGE $TSP_IMAGE; do
        file=docker/stand-ins/${name#*/}.Dockerfile
        [ "$name" != $TSP_IMAGE ] || file=docker/Dockerfile
        say "building $name from $file"
        docker build -q --network host --build-arg BASE_IMAGE=$BASE_IMAGE -t "$name" -f "$file" .
    done
    stop_daemon
    start_daemon unshare --net bash -c 'ip link set lo up; exec "$@"' dockerd --
}

workers() { compose exec -T web python -c "
import requests
assert requests.get('http://127.0.0.1:9090/health', timeout=9).json().get('workers') == $1"; }

studio() { compose exec -T web python -c "
import os, requests
requests.get(os.environ['LABEL_STUDIO_URL'] + '/health', timeout=9).raise_for_status()"; }

in_training() {  # the workers that have begun one since $began
    local container
    for container in $(compose ps -q worker); do
        if docker logs --since "$began" "$container" 2>&1 | grep 'epoch [0-9]* of' >/dev/null; then echo "$container"; fi
    done
}

healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$(compose ps -q web)")" = healthy ]; }

training() { [ -n "$(in_training)" ]; }

command=$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
trap clean_up EXIT
trap 'exit 130' INT TERM
if [ "${1:-}" = --without-registry ]; then
    without_registry=yes
    make_images
    compose up -d --no-build --scale worker=2
else
    compose up -d --build --scale worker=2
fi
await 600 "Label Studio answers" studio
await 120 "two workers" workers 2
await 120 "a healthy web service" healthy
[ "$(compose exec -T web id -u)" = 10001 ] || die "the web service runs as another user"

say "Algorithm 1 in the container of the web service"
learn() { compose exec -T web python -m scripts.active_learning --data synthetic --out "$@"; }
learn /tmp/smoke --smoke

say "once more, and a worker is killed in the midst of a training"
began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
learn /tmp/killed --cycles 1 --train-images 20 --test-images 10 --set epochs=60 >"$work/learn.log" 2>&1 &
learning=$!
await 300 "a training" training
in_training | xargs docker kill >/dev/null
await 120 "one worker" workers 1
wait $learning || { cat "$work/learn.log"; die "the training did not go on"; }
tail -n 3 "$work/learn.log"
compose logs --no-color worker | grep 'gone: their jobs' || die "no worker took its job over"
say "all of it works"
