# Runs in mount and network namespaces of its own, and then in one of processes too, which take
# everything with them when it ends. $1 is where the system is put, $2 its archive, $3 and $4 the
# package now and a later one.
set -euo pipefail
root=$1 archive=$2 now=$3 later=$4

say() { printf '%8s %s\n' node "$*"; }
fail() { printf '%8s %s\n' FAILED "$*" >&2; exit 1; }

if [ -z "${INSIDE-}" ]; then
    mount --make-rprivate /
    mount -t tmpfs run /run
    mkdir -p "$root"
    mount -t tmpfs -o mode=755 system "$root"
    tar --extract --numeric-owner --file "$archive" --directory "$root" --exclude './dev/*'
    mount -t sysfs sysfs "$root/sys"
    mount -t bpf bpf "$root/sys/fs/bpf"
    # sgctl takes a file system for the machine's that is older than the first process it sees.
    sleep 2
    INSIDE=yes exec unshare --pid --fork --kill-child bash -c "$BASH_EXECUTION_STRING" "$0" "$@"
fi
mount -t proc proc /proc
mount -t proc proc "$root/proc"
mount -t tmpfs run "$root/run"
mount --rbind /dev "$root/dev"
mkdir "$root/run/systemd" "$root/run/systemd/system" "$root/packages"
cp "$now" "$root/packages/now.deb"
cp "$later" "$root/packages/later.deb"

in_system() { chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    DEBIAN_FRONTEND=noninteractive "$@" < /dev/null; }
apt() { in_system apt-get -o APT::Sandbox::User=root --yes --quiet "$@"; }
version() { in_system dpkg-query --show --showformat '${Version}' sgctl; }

# In the place of systemd: notes what it is asked for, and looks after one service as the unit does.
cat > "$root/usr/bin/systemctl" << 'END'
#!/bin/sh
echo "$*" >> /run/asked
start() {
    setsid /usr/bin/sgctl run --persist --interval 3600 /etc/sgctl/nic.yaml --iface nic \
        > /run/service.log 2>&1 < /dev/null &
    echo $! > /run/service.pid
    until grep -q . /run/service.log; do sleep 0.1; done
}
stop() {
    [ -e /run/service.pid ] || return 0
    kill "$(cat /run/service.pid)" 2> /dev/null || true
    while kill -0 "$(cat /run/service.pid)" 2> /dev/null; do sleep 0.1; done
    rm /run/service.pid
}
case "$*" in
list-units*) if [ -e /run/service.pid ]; then echo 'sgctl@nic.service loaded active running'; fi ;;
*is-enabled*) ;;
start*) start ;;
stop*) stop ;;
try-restart*) stop; start ;;
esac
END
chmod 755 "$root/usr/bin/systemctl"

# What is in the system, but for the records and caches of dpkg and apt.
listed() {
    (cd "$root" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/log \
        -o -path ./var/cache -o -path ./packages -o -path ./tmp \) -prune -o -print | sort)
}

# A node and a peer. Nothing but what is sent below is on the wire.
mkdir /run/netns
ip netns add peer
ip link add nic type veth peer name nic netns peer
sysctl -qw net.ipv6.conf.nic.disable_ipv6=1
ip netns exec peer sysctl -qw net.ipv6.conf.nic.disable_ipv6=1
ip address add 192.0.2.1/24 dev nic
ip link set lo up
ip link set nic up
ip -n peer address add 192.0.2.2/24 dev nic
ip -n peer link set nic up
has_program() { ip -details link show nic | grep -q prog/xdp; }

say 'install'
listed > /run/before
apt install /packages/now.deb
[ -e "$root/etc/sgctl/example.yaml" ] || fail 'there is no example'
has_program && fail 'a program is attached, and nobody has asked for it'
in_system sgctl check /etc/sgctl/example.yaml > /dev/null || fail 'the example is not valid'

cat > "$root/etc/sgctl/nic.yaml" << 'END'
inbound:
  - {protocol: tcp, ports: 7000, from: 192.0.2.2, action: accept, name: service}
  - {protocol: icmp, from: 192.0.2.2, action: accept, name: ping}
outbound:
  - {protocol: tcp, ports: 443, to: 198.51.100.0/24, action: accept}
END
in_system systemctl start sgctl@nic.service
for _ in $(seq 200); do has_program && break; sleep 0.1; done
has_program || fail "the service does not enforce: $(cat "$root/run/service.log")"

packets() {
    in_system sgctl counters --iface nic --json | tr -d ' \n' |
        grep -o '"totals":\[{"direction":"inbound","packets":[0-9]*' | grep -o '[0-9]*$'
}
received() { ip -s -j link show nic | tr -d ' ' | grep -o '"rx":{"bytes":[0-9]*,"packets":[0-9]*' | grep -o '[0-9]*$'; }
before_traffic=$(packets)
received_before=$(received)

# A connection that sends a line every so often and has one entry in the flow table, and echo
# requests, all of which have to be answered.
say 'traffic'
nc -l -p 7000 > /run/received &
listener=$!
ip netns exec peer bash -c 'for i in $(seq 100000); do echo $i; sleep 0.05; [ -e /run/enough ] && break; done' \
    > >(tee /run/sent | ip netns exec peer nc -N 192.0.2.1 7000) &
ip netns exec peer ping -q -i 0.02 192.0.2.1 > /run/pinged &
ping=$!

flow() {
    in_system sgctl flows --iface nic --proto tcp --port 7000 --limit 0 --json
}
# Seconds since the connection was opened, by its entry.
age() { flow | tr -d ' \n' | grep -o '"age_seconds":[0-9]*' | grep -o '[0-9]*$'; }
for _ in $(seq 200); do [ "$(packets)" -gt 50 ] && break; sleep 0.1; done
age=$(age) || true
[ -n "$age" ] || fail "the connection has no entry in the flow table: $(flow)"
began=$((SECONDS - age))
counted=$(packets)

step() {
    say "$1: $(version) becomes $2"
    : > "$root/run/asked"
    apt install --allow-downgrades "/packages/$3.deb"
    case "$(version)" in "$2"*) ;; *) fail "the version is $(version)" ;; esac
    grep -q '^try-restart sgctl@nic.service' "$root/run/asked" || fail "the service was not restarted: $(cat "$root/run/asked")"
    grep -q '^stop' "$root/run/asked" && fail 'the service was stopped'
    has_program || fail "nothing is enforced after the $1"
    in_system sgctl status | grep -q enforcing || fail "status: $(in_system sgctl status)"
    age=$(age) || true
    # Both clocks count whole seconds.
    [ "$age" -ge $((SECONDS - began - 2)) ] || fail "the flow is $age s old, and was opened $((SECONDS - began)) s ago"
    [ "$(packets)" -gt "$counted" ] || fail "the counter went from $counted to $(packets)"
    counted=$(packets)
}
step upgrade 999.0.0 later
step downgrade 0. now
step 'second upgrade' 999.0.0 later

touch /run/enough
for _ in $(seq 200); do kill -0 $listener 2> /dev/null || break; sleep 0.1; done
kill -INT $ping
wait $ping || true
grep -q ' 0% packet loss' /run/pinged || fail "packets were lost: $(cat /run/pinged)"
sent=$(wc -l < /run/sent)
cmp /run/sent /run/received || fail "of $sent lines $(wc -l < /run/received) have arrived"
answered=$(grep -o '[0-9]* received' /run/pinged)
say "$sent lines of one connection, echo requests $answered, none lost"

counted=$(($(packets) - before_traffic))
received=$(($(received) - received_before))
[ "$counted" = "$received" ] || fail "the interface has received $received frames, and $counted are counted"
say "$received frames received, and as many counted"

say 'a removal that cannot end what is enforced'
mount -o remount,ro,bind "$root/sys/fs/bpf"
if apt remove sgctl; then fail 'sgctl is gone, and what it enforces is not'; fi
mount -o remount,rw,bind "$root/sys/fs/bpf"
in_system sgctl status | grep -q enforcing || fail 'it is not enforced any more'
apt install --reinstall /packages/later.deb
: > "$root/run/asked"

say 'purge'
apt purge sgctl > /run/purged 2>&1 || fail "$(cat /run/purged)"
grep -q detached /run/purged || fail "what was ended is not said: $(cat /run/purged)"
grep -q '^disable sgctl@' "$root/run/asked" || fail "the service is still enabled: $(cat "$root/run/asked")"
has_program && fail 'a program is left'
[ -z "$(ls "$root/sys/fs/bpf" | grep sgctl)" ] || fail 'pins are left'
listed > /run/after
diff /run/before /run/after || fail 'files are left'
tc filter show dev nic egress 2> /dev/null | grep -q . && fail 'a filter is left'
say 'nothing is left'
