#!/usr/bin/env bash
# What the tests build images from, as root: base.sh FOLDER PYTHON
#
# FOLDER/base.sqfs stands for NVIDIA's images: Debian 12 with Python and torch, its CPU build.
# FOLDER/wheels holds all that the locks name, so that a build needs no network.
# PYTHON is an interpreter with pip. Running it again does nothing, unless a lock changed.
set -euo pipefail

FOLDER=$1 PYTHON=$2
ENVS=$(cd "$(dirname "$0")/../../envs" && pwd)
LOCKS=("$ENVS"/locks/{train,serve,tritonserver}.txt)
TORCH=$(sed -n 's/^\(torch==[0-9.]*\).*/\1+cpu/p' "$ENVS/train.txt")
TREE=$FOLDER/base
PACKAGES=$TREE/usr/local/lib/python3.11/dist-packages

say() { echo "base.sh: $*" >&2; }
fail() { say "$*"; exit 1; }
step() { local began=$SECONDS; "$@"; say "$1: $((SECONDS - began)) s"; }
pip() { "$PYTHON" -m pip --quiet --disable-pip-version-check "$@" 2>&1 | { grep -v 'is ignored' || :; }; }
wheels_for() { pip download --only-binary=:all: --python-version 3.11 --dest "$@"; }

fetch_wheels() {
  wheels_for "$FOLDER/wheels" --no-deps --require-hashes "${LOCKS[@]/#/--requirement=}" \
    || fail "the wheels that envs/locks names can't be had from pip's index"
}

fetch_torch() {
  wheels_for "$FOLDER/torch" --constraint "$ENVS/lock.txt" "$TORCH" \
    || fail "$TORCH can't be had: give pip an index of CPU builds, as in PIP_EXTRA_INDEX_URL"
}

bootstrap() {
  rm -rf "$TREE"
  debootstrap --variant=minbase --include=python3,python3-pip,libpython3.11 bookworm "$TREE" \
    >"$FOLDER/debootstrap.log" 2>&1 || fail "debootstrap failed; see $FOLDER/debootstrap.log"
}

install_torch() {
  pip install --no-compile --no-index --no-deps --only-binary=:all: --python-version 3.11 \
    --target "$PACKAGES" "$FOLDER"/torch/*.whl
  chroot "$TREE" python3 -m compileall -qq -j 0 "${PACKAGES#"$TREE"}"
}

squash() {
  mksquashfs "$TREE" "$FOLDER/base.new" -quiet -no-progress -noappend -all-root \
    -comp zstd -Xcompression-level 1 -wildcards \
    -e 'dev/*' 'var/cache/apt/archives/*.deb' 'usr/share/doc/*' 'usr/share/locale/*' >/dev/null
  mv "$FOLDER/base.new" "$FOLDER/base.sqfs"
  rm -rf "$TREE"
}

mkdir -p "$FOLDER"
inputs=$(cat "$0" "${LOCKS[@]}" | sha256sum)
[ "$(cat "$FOLDER/base.inputs" 2>/dev/null)" = "$inputs" ] && exit 0
rm -rf "$FOLDER/wheels" "$FOLDER/torch"
step fetch_wheels
step fetch_torch
step bootstrap
step install_torch
step squash
echo "$inputs" >"$FOLDER/base.inputs"
