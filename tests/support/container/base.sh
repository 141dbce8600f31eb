#!/usr/bin/env bash
# What the tests build images from, as root: base.sh FOLDER PYTHON
#
# FOLDER/base.sqfs stands for NVIDIA's images: Debian 12 with Python and torch, its CPU build.
# FOLDER/wheels holds all that the locks name, so that a build needs no network.
# PYTHON is an interpreter with pip. What was made before is kept.
set -euo pipefail

FOLDER=$1 PYTHON=$2
ENVS=$(cd "$(dirname "$0")/../../../envs" && pwd)
LOCKS=("$ENVS"/locks/{train,serve,tritonserver}.txt)
TORCH=$(sed -n 's/^\(torch==[0-9.]*\).*/\1+cpu/p' "$ENVS/train.txt")
TREE=$FOLDER/base
PACKAGES=$TREE/usr/local/lib/python3.11/dist-packages

say() { echo "base.sh: $*" >&2; }
fail() { say "$*"; exit 1; }
pip() { "$PYTHON" -m pip --quiet --disable-pip-version-check "$@" 2>&1 | { grep -v 'is ignored' || :; }; }
wheels_for() { pip download --only-binary=:all: --python-version 3.11 --dest "$@"; }

make_wheels() {
  rm -rf "$FOLDER/wheels"
  # DeepSpeed is published as source alone
  wheels_for "$FOLDER/wheels" --no-binary=deepspeed --no-deps --require-hashes "${LOCKS[@]/#/--requirement=}" \
    || fail "the wheels that envs/locks names can't be had from pip's index"
}

make_base() {
  rm -rf "$FOLDER/torch" "$TREE"
  wheels_for "$FOLDER/torch" --constraint "$ENVS/lock.txt" "$TORCH" \
    || fail "$TORCH can't be had: give pip an index of CPU builds, as in PIP_EXTRA_INDEX_URL"
  debootstrap --variant=minbase --include=python3,python3-pip,libpython3.11 bookworm "$TREE" \
    >"$FOLDER/debootstrap.log" 2>&1 || fail "debootstrap failed; see $FOLDER/debootstrap.log"
  pip install --no-compile --no-index --no-deps --only-binary=:all: --python-version 3.11 \
    --target "$PACKAGES" "$FOLDER"/torch/*.whl
  # a few files of torch are for newer Pythons
  chroot "$TREE" python3 -m compileall -qq -j 0 "${PACKAGES#"$TREE"}" || :
  mksquashfs "$TREE" "$FOLDER/base.new" -quiet -no-progress -noappend -all-root \
    -comp zstd -Xcompression-level 1 -wildcards \
    -e 'dev/*' 'var/cache/apt/archives/*.deb' 'usr/share/doc/*' 'usr/share/locale/*' >/dev/null
  mv "$FOLDER/base.new" "$FOLDER/base.sqfs"
  rm -rf "$TREE"
}

# Do something unless it was done, by this script, with these inputs.
once() {
  local done=$FOLDER/$1.done inputs
  inputs=$(cat "$0" "${@:2}" | sha256sum)
  [ "$(cat "$done" 2>/dev/null)" = "$inputs" ] && return
  local began=$SECONDS
  "$1"
  say "$1: $((SECONDS - began)) s"
  echo "$inputs" >"$done"
}

mkdir -p "$FOLDER"
once make_wheels "${LOCKS[@]}"
once make_base "$ENVS/lock.txt"
