# shellcheck shell=bash disable=SC2034 # most names are for the scripts that source this
# What every script here shares: names, folders and where the tools are. Sourced, never run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
cluster=${TRAINWRIGHT_CLUSTER:-trainwright}
cache=${TRAINWRIGHT_CACHE:-$HOME/.cache/trainwright}/kind
bin=$cache/bin
export KUBECONFIG=$cache/$cluster.kubeconfig
# Is there while the cluster is one that tests made and will delete.
temporary=$cache/$cluster.temporary
# Mounted into every node at /shared: the tests' ReadWriteMany storage.
shared=$cache/shared/$cluster
# What packages/ builds wins over what is installed: it is the version that the node image was made of.
export PATH=$bin:$PATH

# The published node image that belongs to the kind release in packages/versions.sh.
published_node=kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5
# The one assembled from packages where no image can be pulled.
assembled_node=trainwright-node:local

mkdir -p "$cache" "$bin"

say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step NAME COMMAND...: run it, print how long it took, and its output only when it fails.
step() {
  local name=$1 start=$SECONDS log rc
  shift
  log=$(mktemp)
  say "$name ..."
  # In an `if` or before `||` bash would ignore `set -e` inside the command.
  set +e
  (set -e; "$@") >"$log" 2>&1
  rc=$?
  set -e
  if [ "$rc" != 0 ]; then
    cat "$log" >&2
    die "$name failed after $((SECONDS - start)) s"
  fi
  say "$name: $((SECONDS - start)) s"
  rm -f "$log"
}

# One builder of a kind at a time: two test sessions on one machine share the caches.
exclusively() {
  exec 9>"$cache/${0##*/}.lock"
  flock 9
}

can_pull() {
  docker image inspect "$1" >/dev/null 2>&1 || timeout "${TRAINWRIGHT_PULL_TIMEOUT:-600}" docker pull -q "$1" >/dev/null 2>&1
}

# docker_build ARGS...: BuildKit where it is installed, the classic builder elsewhere.
docker_build() {
  if docker buildx version >/dev/null 2>&1; then
    docker buildx build --load --network host "$@"
  else
    DOCKER_BUILDKIT=0 docker build --network host "$@"
  fi
}
