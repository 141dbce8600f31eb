#!/usr/bin/env bash
# A real Apptainer for the tests, on Debian 12 or newer, as root: apptainer.sh FOLDER
#
# Debian 12 has no Apptainer; Debian sid has one, built for a newer C library. Both packages are
# unpacked into FOLDER/apptainer and joined there: nothing is installed from sid, and the system's
# own C library and its sources of packages stay as they are. Running it again does nothing.
set -euo pipefail

VERSION=1.4.5-2   # in Debian sid
FOLDER=$1
PREFIX=$FOLDER/apptainer

say() { echo "apptainer.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || fail "must run as root: it installs packages"
[ -c /dev/fuse ] || fail "there is no /dev/fuse: load the kernel module fuse"
chmod 666 /dev/fuse  # as udev has it; ordinary users mount images through it
[ "$(cat "$PREFIX/.version" 2>/dev/null)" = "$VERSION" ] && exit 0

# What Apptainer calls, and what makes the base of the images.
export DEBIAN_FRONTEND=noninteractive
packages="python3 squashfs-tools squashfuse fuse-overlayfs fuse2fs uidmap patchelf debootstrap"
if ! dpkg-query --show $packages >/dev/null 2>&1; then
  apt-get update -qq
  apt-get install -qq --no-install-recommends $packages >/dev/null \
    || fail "apt-get could not install: $packages"
fi

# An apt of our own that knows sid and trixie, with this machine's mirror, keyring and settings.
apt=$FOLDER/apt
mkdir -p "$apt"/{sources,lists/partial,archives/partial}
sources=$(find /etc/apt/sources.list.d -name '*.sources' -exec grep -l '^URIs:.*debian' {} + | head -n 1)
mirror=$([ -z "$sources" ] || awk '/^URIs:/ { print $2; exit }' "$sources")
cat >"$apt/sources/newer.sources" <<EOF
Types: deb
URIs: ${mirror:-http://deb.debian.org/debian}
Suites: trixie sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
options=(
  -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$apt/sources"
  -o "Dir::State::lists=$apt/lists" -o "Dir::Cache::archives=$apt/archives"
  -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o "APT::Sandbox::User=root"
)
apt-get "${options[@]}" update -qq || fail "the package lists of trixie and sid can't be had from $mirror"
cd "$apt/archives"
apt-get "${options[@]}" download -qq "apptainer=$VERSION" \
  || fail "Debian sid has no apptainer $VERSION any more; it has:" \
    "$(apt-cache "${options[@]}" madison apptainer | cut -d'|' -f2 | xargs); try that in $0"
apt-get "${options[@]}" download -qq libc6/trixie || fail "trixie's libc6 can't be had from $mirror"


# The package looks for its files relative to itself, its helper relative to `lib`.
new=$PREFIX.new
rm -rf "$new" "$PREFIX"
mkdir -p "$new/libc"
dpkg -x apptainer_*.deb "$new/package"
dpkg -x libc6_*.deb "$new/libc"
mv "$new"/package/usr/* "$new/package/etc" "$new"/package/var "$new"
rm -r "$new/package"
mkdir -p "$new/lib/var/lib/apptainer/mnt/session"
ln -s ../etc "$new/lib/etc"
ln -s apptainer "$new/bin/singularity"
libc=$PREFIX/libc/usr/lib/x86_64-linux-gnu
for program in bin/apptainer lib/x86_64-linux-gnu/apptainer/bin/starter; do
  patchelf --set-interpreter "$libc/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libc" \
    "$new/$program"
done
echo "$VERSION" >"$new/.version"
mv "$new" "$PREFIX"
rm -rf "$apt"
