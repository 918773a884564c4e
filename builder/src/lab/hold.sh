# Holds the namespaces of one host of a lab. Run by kiln as root: sh -c THIS kiln-lab-hold DIR CGROUP NAME BRIDGE ADDRESS KVM KEEP...
# First pass: a mount namespace, and a control group of version 2 whatever the machine itself uses. Second pass (pid 1 of the host):
# everything a lab process could leave on the machine is covered by a tmpfs that goes away with this process, or by what the host
# keeps over its own end, where DIR/disk has something for that place.
set -eu
dir=$1 group=$2 name=$3 bridge=$4 address=$5 kvm=$6
if [ "$$" != 1 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p "/sys/fs/cgroup/$group"
    echo $$ > "/sys/fs/cgroup/$group/cgroup.procs"
    exec unshare --fork --kill-child --pid --mount-proc --mount --net --uts --ipc --cgroup sh -c "$KILN_LAB_HOLD" kiln-lab-hold "$@"
fi
shift 6
hostname "$name"
# What must stay visible is put aside before /tmp and the like are covered, and put back at its own path after.
mount -t tmpfs -o mode=755 tmpfs /mnt
i=0
for keep in "$@"; do
    mkdir "/mnt/$i"
    mount --rbind "$keep" "/mnt/$i"
    i=$((i + 1))
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/kiln-lab/tree
mount -t tmpfs -o mode=1777 tmpfs /tmp
for place in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    [ ! -d "$place" ] || mount -t tmpfs -o mode=755 tmpfs "$place"
done
i=0
for keep in "$@"; do
    mkdir -p "$keep"
    mount --rbind "/mnt/$i" "$keep"
    i=$((i + 1))
done
umount -R -l /mnt
for place in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    [ ! -d "$dir/disk$place" ] || mount --bind "$dir/disk$place" "$place"
done
# A device on a file system without devices cannot be opened: it is there and does not work, which is what was found out about it.
if [ "$kvm" = hidden ] && [ -e /dev/kvm ]; then
    mount --bind /dev/kvm /dev/kvm
    mount -o remount,bind,nodev /dev/kvm
fi
# A fresh sysfs shows the lab's own network. Read-only, it tells systemd-nspawn that no udevd is to be waited for.
umount -R -l /sys
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
ip link add "$bridge" type bridge
[ "$address" = none ] || ip addr add "$address" dev "$bridge"
ip link set "$bridge" up
: > "$dir/host.ready"
# Pid 1 of the host has to reap what its daemons leave.
while :; do
    sleep 86400 & wait $! || :
done
