#!/bin/sh
# First process of a booted kernel. The host's file system is its root, read-only; the folders below are its own.
# From the kernel's command line: share=FOLDER (writable, the host's), repository=FOLDER, way=uml or vm.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/tmp/home TERM=dumb LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/shm /dev/pts
for folder in /tmp /run /dev/shm /var/lib /root; do mount -t tmpfs tmpfs "$folder"; done
mkdir -p "$HOME" /run/lock
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null

attach() { # FOLDER OPTIONS: make a folder of the host visible that lies below one of ours, or is written
  mkdir -p "$1"
  case $way in
    uml) mount -t hostfs -o "$1" none "$1" ;;
    vm) [ -e "$1/." ] && mount --bind "/host$1" "$1" ;;
  esac
}
for folder in "$share" "$repository" $(echo "$extra" | tr , " "); do attach "$folder"; done
cd /tmp || exit

"$share/modprobe" ipv6 2>/dev/null
echo "$share/modprobe" > /proc/sys/kernel/modprobe
ip link set lo up 2>/dev/null || "$python" -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sh14x", b"lo", 0x41))'
# Kernels up to 5.10 wait for entropy that a kernel without devices does not collect (random(4), RNDADDENTROPY).
"$python" -S -E -c '
import fcntl, struct, sys
seed = open(sys.argv[1], "rb").read()
with open("/dev/random", "wb") as device:
    fcntl.ioctl(device, 0x40085203, struct.pack("ii", 8 * len(seed), len(seed)) + seed)' "$share/seed"
"$python" "$repository/tools/kernels/inside.py" "$share" booted > "$share/console" 2>&1 < /dev/null
sync
poweroff -f 2>/dev/null || echo o > /proc/sysrq-trigger
