#!/bin/sh
# Makes a root filesystem of Debian packages: debian.sh FOLDER SUITE PACKAGE,PACKAGE... [MIRROR]
# It runs in a mount namespace of its own (unshare --mount), so that no mount of debootstrap's stays behind.
set -eu
root=$1 suite=$2 packages=$3 mirror=${4-}

debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"}

# Programs in the containers trust what this machine trusts, its proxies and mirrors among it.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/* \
  "$root"/usr/share/man "$root"/usr/share/locale
# The licences stay.
find "$root/usr/share/doc" ! -type d ! -name copyright -delete
