#!/bin/busybox sh
# The guest's first process: mounts what the tests need, loads the modules and runs the suites.
# Standard output is the serial port that the host reads; each step has a line that starts "guest".
export PATH=/bin HOME=/ SG_GUEST=1

/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# The repository may lie below it, and its files with it.
[ -n "$(ls -A /tmp)" ] || mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /run/netns

# As much as a service gets elsewhere.
ulimit -n 65536

exec > /dev/ttyS1 2>&1 < /dev/null
echo "guest booted $(uname -r)"
while read -r module; do
  insmod "/modules/$module.ko" || echo "guest cannot load $module"
done < /modules/order
ip link set lo up

suite() {
  name=$1
  shift
  echo "guest runs $name"
  "$@"
  echo "guest ran $name $?"
}
. /suites

echo "guest done"
# The last one to close the port waits until all of it is sent.
exec > /dev/null 2>&1
reboot -f
