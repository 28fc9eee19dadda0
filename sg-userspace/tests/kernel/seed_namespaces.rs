//! Connections of other network namespaces whose packets cross the node's interface, without
//! connection tracking. The namespaces are behind an interface stacked on the node's, behind a
//! bridge, or behind another namespace.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command};

use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::{Seeded, UnseenKind, apply};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::flows::flows;
use socket2::{Domain, Protocol, Socket, Type};

use crate::hosts::{Host, Pair, address, gateway, listen, sysctl};
use crate::sandbox::{Sandbox, ip, sandbox};
use crate::seed::{NO_RULES, NODE4, PEER4, PEER6, at};

/// A process in a host's namespace. The seeder finds a namespace by the processes in it.
struct Process(Child);

impl Process {
    fn of(host: &Host) -> Process {
        let sleep = || Command::new("sleep").arg("600").spawn();
        Process(host.inside(sleep).expect("coreutils are there"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host at the other end of the node's `nic`, with a listener at port 443.
fn outside() -> (Host, std::net::TcpListener) {
    let outside = Host::new();
    outside.connect("nic", "eth0");
    let listener = outside.inside(|| {
        address("eth0", &format!("{PEER4}/24"));
        address("eth0", &format!("{PEER6}/64"));
        listen("[::]:443")
    });
    (outside, listener)
}

fn udp(from: &Host, to: &Host) -> Pair {
    let at = at(PEER4, 53);
    let server = to.inside(|| UdpSocket::bind(&at)).expect("port 53");
    from.inside(|| Pair::udp(server, &at))
}

fn enforce(sandbox: &Sandbox, rules: &str) -> Seeded {
    let applied = apply(&rules_from_lines(rules), &sandbox.options("nic"));
    let applied = applied.unwrap_or_else(|e| panic!("{e}"));
    applied.seeded.expect("the first policy seeds")
}

/// The local addresses of all flows.
fn locals(sandbox: &Sandbox) -> Vec<String> {
    let scope = Scope::Interface("nic".into());
    let found = attached(sandbox.bpffs(), &scope).unwrap_or_else(|e| panic!("{e}"));
    let flows = flows(&found[0]).unwrap_or_else(|e| panic!("{e}"));
    let mut locals: Vec<String> = flows.iter().map(|flow| flow.local.to_string()).collect();
    locals.sort();
    locals
}

/// The kinds of flows that could not be seen. Namespaces are left out, because a container cannot
/// see all namespaces of its host.
fn kinds(seeded: &Seeded) -> Vec<UnseenKind> {
    let mut kinds: Vec<UnseenKind> = seeded.unseen.iter().map(|unseen| unseen.kind).collect();
    kinds.retain(|kind| *kind != UnseenKind::Namespaces);
    kinds.dedup();
    kinds
}

/// Proves K12 for a container with an interface stacked on the node's.
#[test]
fn connections_on_top_of_the_interface_go_on() {
    sandbox(|sandbox| {
        let (outside, listener) = outside();
        address("nic", &format!("{NODE4}/24"));
        let pod = Host::new();
        // The process of the outside host is visible as well, but its connections are not the
        // node's.
        let _processes = [Process::of(&pod), Process::of(&outside)];
        ip(&[
            "link", "add", "mac0", "link", "nic", "type", "macvlan", "mode", "bridge",
        ]);
        pod.take("mac0");
        let pairs = pod.inside(|| {
            ip(&["link", "set", "mac0", "up"]);
            address("mac0", "192.0.2.10/24");
            address("mac0", "2001:db8::10/64");
            [
                Pair::tcp(&listener, &at(PEER4, 443)),
                Pair::tcp(&listener, &at(PEER6, 443)),
            ]
        });
        let datagrams = udp(&pod, &outside);

        // This host is not connected to the node, so a socket with a matching address must not be
        // taken for one of the node's.
        let stranger = Host::new();
        let _stranger = Process::of(&stranger);
        let _socket = stranger.inside(|| {
            ip(&[
                "link", "add", "eth0", "type", "veth", "peer", "name", "eth1",
            ]);
            ip(&["link", "set", "eth0", "up"]);
            address("eth0", "192.0.2.77/24");
            let socket = UdpSocket::bind("192.0.2.77:5000").expect("a socket");
            socket.connect(at(PEER4, 53)).expect("a connected socket");
            socket
        });

        let seeded = enforce(sandbox, NO_RULES);
        assert_eq!((seeded.entered, seeded.without_rule), (3, 3));
        assert_eq!(kinds(&seeded), [UnseenKind::Untracked]);
        assert_eq!(
            locals(sandbox),
            ["192.0.2.10", "192.0.2.10", "2001:db8::10"]
        );
        pairs.iter().for_each(Pair::goes_on);
        datagrams.goes_on();
    });
}

/// Proves K12 for pods that the node forwards to without translating or tracking, one of them
/// behind another namespace. The report says that forwarded connections of other hosts cannot be
/// seen.
#[test]
fn connections_that_are_routed_to_pods_go_on() {
    sandbox(|sandbox| {
        let (outside, listener) = outside();
        address("nic", &format!("{NODE4}/24"));
        sysctl("ipv4/ip_forward", "1");
        let (middle, pod) = (Host::new(), Host::new());
        let _processes = [Process::of(&middle), Process::of(&pod)];
        middle.connect("mid", "eth0");
        address("mid", "10.244.0.1/24");
        ip(&["route", "add", "10.244.1.0/24", "via", "10.244.0.2"]);
        outside.inside(|| gateway(NODE4));
        middle.inside(|| {
            address("eth0", "10.244.0.2/24");
            gateway("10.244.0.1");
            sysctl("ipv4/ip_forward", "1");
            pod.connect("pod", "inner");
            address("pod", "10.244.1.1/24");
        });
        pod.inside(|| {
            address("inner", "10.244.1.2/24");
            gateway("10.244.1.1");
        });
        let pairs =
            [&middle, &pod].map(|host| host.inside(|| Pair::tcp(&listener, &at(PEER4, 443))));

        let seeded = enforce(sandbox, NO_RULES);
        assert_eq!((seeded.entered, seeded.without_rule), (2, 2));
        assert_eq!(locals(sandbox), ["10.244.0.2", "10.244.1.2"]);
        let expected = [UnseenKind::Forwarded, UnseenKind::Untracked];
        assert_eq!(kinds(&seeded), expected);
        pairs.iter().for_each(Pair::goes_on);
    });
}

/// Proves K12 for pods on a bridge with the interface as a port. The report says that connections
/// of machines behind another port cannot be seen.
#[test]
fn connections_through_a_bridge_go_on() {
    sandbox(|sandbox| {
        let (_outside, listener) = outside();
        let pod = Host::new();
        let _process = Process::of(&pod);
        ip(&["link", "add", "br0", "type", "bridge"]);
        ip(&["link", "set", "br0", "up"]);
        pod.connect("pod", "eth0");
        for port in ["nic", "pod"] {
            ip(&["link", "set", port, "master", "br0"]);
        }
        let pair = pod.inside(|| {
            address("eth0", "192.0.2.10/24");
            Pair::tcp(&listener, &at(PEER4, 443))
        });
        let seeded = enforce(sandbox, NO_RULES);
        assert_eq!(seeded.entered, 1);
        assert_eq!(kinds(&seeded), [UnseenKind::Untracked]);
        pair.goes_on();
    });
    sandbox(|sandbox| {
        let _outside = outside();
        ip(&["link", "add", "br0", "type", "bridge"]);
        ip(&["link", "set", "nic", "master", "br0"]);
        ip(&["tuntap", "add", "tap0", "mode", "tap"]);
        ip(&["link", "set", "tap0", "master", "br0"]);
        let seeded = enforce(sandbox, NO_RULES);
        let said: Vec<&str> = seeded.unseen.iter().map(|u| u.message.as_str()).collect();
        assert_eq!(kinds(&seeded), [UnseenKind::Bridged, UnseenKind::Untracked]);
        assert!(said[0].contains("`br0`"), "{said:?}");
    });
}

/// An SCTP socket that is used like one of TCP. Fails if the kernel has no SCTP.
fn sctp() -> io::Result<Socket> {
    Socket::new(
        Domain::IPV4,
        Type::STREAM,
        Some(Protocol::from(libc::IPPROTO_SCTP)),
    )
}

/// Proves K12 for SCTP associations, if the kernel has SCTP. Without it, the report does not call
/// any of them unseen.
#[test]
fn associations_go_on() {
    sandbox(|sandbox| {
        let (outside, _listener) = outside();
        address("nic", &format!("{NODE4}/24"));
        let Ok(client) = sctp() else {
            let seeded = enforce(sandbox, NO_RULES);
            assert_eq!(kinds(&seeded), [UnseenKind::Untracked]);
            assert_eq!(seeded.entered, 0);
            return;
        };
        let to: SocketAddr = at(PEER4, 9899).parse().expect("an address");
        let listener: TcpListener = outside.inside(|| {
            let socket = sctp().expect("a socket");
            socket.bind(&to.into()).expect("a free port");
            socket.listen(4).expect("a listener");
            socket.into()
        });
        client.connect(&to.into()).expect("an association");
        let client: TcpStream = client.into();
        let (server, _) = listener.accept().expect("an association");
        let pair = Pair::of("sctp", [client, server]);
        pair.goes_on();
        let seeded = enforce(sandbox, NO_RULES);
        assert!(seeded.entered >= 1, "{seeded:?}");
        assert_eq!(kinds(&seeded), [UnseenKind::Untracked]);
        pair.goes_on();
    });
}
