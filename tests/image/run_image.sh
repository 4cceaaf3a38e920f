#!/usr/bin/env bash
# Runs the image's entry point as an engine would: read-only root, tmpfs at /tmp, another user, the image's own variables.
# Usage: run_image.sh ROOT USER:GROUP WORKDIR NAME=VALUE... -- PROGRAM [ARGUMENT...]     (as root, in a mount namespace of its own)
set -euo pipefail
root=$1 user=$2 workdir=$3
shift 3
variables=()
while [ "$1" != -- ]; do
    variables+=("$1")
    shift
done
shift
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,ro,bind "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
exec chroot --userspec="$user" "$root" /usr/bin/env -i -C "$workdir" "${variables[@]}" "$@"
