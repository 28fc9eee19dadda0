//! The shell scripts that start a machine: the namespaces, what is mounted in them, and its
//! network.

/// What sets up the network: it writes down what is attached to the interfaces before it does.
pub(super) const NETWORK: &str = "\
[Unit]
DefaultDependencies=no
Wants=network.target
After=network-pre.target
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link show > /out/at-network; ip link set eth0 up; true'
";

/// As root, with the folder of the machine as its argument and in the network namespace of the
/// machine. The copies of the BPF file system's mount receive from the one outside, so that it
/// counts as the machine's and not as a container's.
pub(super) const OUTER: &str = r#"
set -e
stage=$1 cgroup=$2
mkdir "$cgroup"
echo $$ > "$cgroup/cgroup.procs"
mount --make-rprivate /
mount --bind "$stage/bpf-$3" "$stage/bpf"
mount --make-shared "$stage/bpf"
# As long as this is open the mounts outside exist.
exec 9< /proc/self/ns/mnt
exec unshare --mount --propagation slave --pid --fork --kill-child --uts --ipc --cgroup \
  sh -c "$4" inner "$stage"
"#;

/// Inside: makes the root of the machine, and becomes its first process.
pub(super) const INNER: &str = r#"
set -e
stage=$1
if [ -d "$stage/system" ]; then
  mount --bind "$stage/system" "$stage/root"
  cd "$stage/root"
  mkdir -p out old
  units=
else
  mount -t tmpfs -o mode=755 tmpfs "$stage/root"
  cd "$stage/root"
  mkdir -p usr etc var/log var/lib var/tmp tmp run proc sys dev out old root
  for dir in bin sbin lib lib64; do ln -s usr/$dir $dir; done
  mount -t overlay -o "lowerdir=$stage/over:/usr" overlay usr
  mount --bind "$stage/etc" etc
  units=SYSTEMD_UNIT_PATH=/etc/systemd/system:/usr/lib/sgctl-test
fi
mount --bind "$stage/out" out
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind "$stage/bpf" sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . old
umount -l /old
exec env -i container=sgctl PATH=/usr/sbin:/usr/bin:/sbin:/bin $units \
  /lib/systemd/systemd --show-status=false --log-target=journal
"#;
