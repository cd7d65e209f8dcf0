#!/usr/bin/env bash
# Runs SCRIPT as root on a temporary machine: this machine's files under a layer that receives every write,
# a network with one address and no exit, and no other processes.
#
#   machine.sh FOLDER SCRIPT
#
# FOLDER contains what the machine gets in addition: `source` (a clone of the project with a built program),
# `systemctl` (the service manager) and SCRIPT.
set -euo pipefail

if [[ ${3:-} != inside ]]; then
  exec unshare --mount --net --pid --ipc --uts --fork --kill-child -- "$0" "$1" "$2" inside
fi
folder=$1 script=$2

mount --make-rprivate /
mkdir "$folder/layer"
mount -t tmpfs -o mode=755 tmpfs "$folder/layer"
mkdir "$folder/layer/upper" "$folder/layer/work" "$folder/layer/root"
root=$folder/layer/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/layer/upper,workdir=$folder/layer/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

# Removes what an earlier installation left on the real machine.
rm -rf "$root/etc/relay" "$root/var/lib/relay" "$root/usr/local/bin/relay" "$root"/etc/systemd/system/relay.* \
  "$root/usr/lib/sysusers.d/relay.conf"
sed -i '/^relay:/d' "$root"/etc/{passwd,shadow,group,gshadow}

rm -rf "$root/usr/src/relay"
cp -a "$folder/source" "$root/usr/src/relay"
install -m 755 "$folder/systemctl" "$root/usr/bin/systemctl"

hostname turn
ip link set lo up
ip link add eth0 type veth peer name wire
ip address add 198.51.100.10/24 dev eth0
ip link set wire up
ip link set eth0 up
ip route add default dev eth0
printf '127.0.0.1 localhost\n198.51.100.10 turn.example.org turn\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"

cp "$script" "$root/tmp/script"
exec chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
  bash -eu -o pipefail /tmp/script
