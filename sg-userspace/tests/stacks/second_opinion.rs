//! ICMP errors that nftables considers `ct state related` must be those that the enforcer accepts
//! as related, for packets that the node sends, receives and forwards, in both directions.
//!
//! Two equal networks have the same conversations and then get the same constructed errors. The
//! node of one has the enforcer, the node of the other nftables with connection tracking.
//!
//! The test leaves out where the two differ on purpose (K8). Connection tracking also relates
//! redirects and source quench, and cannot relate errors about packets that the rules would accept
//! and that were never sent. And it accepts four quoted bytes of a transport header, where RFC 792
//! demands that routers quote eight.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::apply;

use crate::errors::send_raw;
use crate::line::{Family, Line, NIC};
use crate::sandbox::{Sandbox, run, sandbox};
use crate::service::{PATIENCE, Service, Transport, again, any, connect_from};
use sg_testbed::{Host, wait_for};

/// The policy accepts only the conversations, so that no error is about other accepted traffic.
const RULES: &str = "in tcp 22 from any accept
    in udp 5300 from any accept
    in icmp 8 from any accept
    in icmpv6 128 from any accept
    out tcp 443 to any accept
    out udp 53 to any accept
    out icmp 8 to any accept
    out icmpv6 128 to any accept";

/// The first port of the clients.
const CLIENT: u16 = 40_000;
const ECHO: u16 = 7;

/// The end of a conversation on the node's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    Node,
    Pod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Echo,
}

/// One packet of a conversation: inbound or outbound, and a request or a reply.
#[derive(Clone, Copy, Debug)]
struct Talk {
    family: Family,
    local: Local,
    protocol: Protocol,
    is_opened_inbound: bool,
}

/// What an error has that a genuine one has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twist {
    Nothing,
    /// A router sends it, not the end of the conversation.
    Router,
    /// It is sent to another host.
    OtherReceiver,
    /// The quoted packet has another port or identifier at the end that sends the error.
    OtherPort,
    /// The same at the end that the error is sent to.
    OtherSenderPort,
    /// The quoted packet has another destination address.
    OtherPeer,
    /// The quoted packet has another source address.
    OtherSender,
    /// The quoted packet went in the opposite direction.
    Backwards,
    /// It quotes only the IP header.
    Cut,
}

const TWISTS: [Twist; 9] = [
    Twist::Nothing,
    Twist::Router,
    Twist::OtherReceiver,
    Twist::OtherPort,
    Twist::OtherSenderPort,
    Twist::OtherPeer,
    Twist::OtherSender,
    Twist::Backwards,
    Twist::Cut,
];

/// An error about one packet.
#[derive(Clone, Copy)]
struct Case {
    talk: Talk,
    is_reply: bool,
    message: (u8, u8),
    twist: Twist,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            talk,
            is_reply,
            message,
            twist,
        } = self;
        let part = if *is_reply { "a reply" } else { "a request" };
        write!(f, "{message:?} about {part} of {talk:?}, {twist:?}")
    }
}

fn parsed(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Addresses that no host has: one behind the node, and one next to the remote.
fn unused(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (parsed("10.244.0.77"), parsed("10.0.0.77")),
        Family::V6 => (parsed("fd00:244::77"), parsed("2001:db8::77")),
    }
}

fn pod_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => parsed("10.244.0.2"),
        Family::V6 => parsed("fd00:244::2"),
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in Family::BOTH {
        let messages: &[(u8, u8)] = match family {
            Family::V4 => &[(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)],
            Family::V6 => &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)],
        };
        for local in [Local::Node, Local::Pod] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Echo] {
                for is_opened_inbound in [true, false] {
                    let talk = Talk {
                        family,
                        local,
                        protocol,
                        is_opened_inbound,
                    };
                    for is_reply in [true, false] {
                        for twist in TWISTS {
                            cases.extend(messages.iter().map(|message| Case {
                                talk,
                                is_reply,
                                message: *message,
                                twist,
                            }));
                        }
                    }
                }
            }
        }
    }
    cases
}

impl Talk {
    fn local(&self, line: &Line) -> IpAddr {
        match self.local {
            Local::Node => line.node_address(self.family),
            Local::Pod => pod_address(self.family),
        }
    }

    /// The ports of the client and of the server.
    fn ports(&self) -> (u16, u16) {
        // Each client has its own port.
        let client = CLIENT + self.local as u16 * 2 + u16::from(self.is_opened_inbound);
        match (self.protocol, self.is_opened_inbound) {
            (Protocol::Tcp, true) => (client, 22),
            (Protocol::Tcp, false) => (client, 443),
            (Protocol::Udp, true) => (client, 5300),
            (Protocol::Udp, false) => (client, 53),
            (Protocol::Echo, _) => (ECHO, ECHO),
        }
    }
}

/// A packet of a conversation.
fn packet(
    protocol: Protocol,
    (source, destination): (IpAddr, IpAddr),
    (from, to): (u16, u16),
    is_reply: bool,
) -> Vec<u8> {
    let ip = ip(source, destination);
    let mut bytes = Vec::new();
    let written = match protocol {
        Protocol::Tcp => ip.tcp(from, to, 1, 1000).ack(1).write(&mut bytes, &[0; 16]),
        Protocol::Udp => ip.udp(from, to).write(&mut bytes, &[0; 16]),
        Protocol::Echo => {
            let [a, b] = from.to_be_bytes();
            let kind = match (source.is_ipv4(), is_reply) {
                (true, false) => 8,
                (true, true) => 0,
                (false, false) => 128,
                (false, true) => 129,
            };
            return message(source, destination, (kind, 0), [a, b, 0, 1], &[0; 16]);
        }
    };
    written.expect("a vector takes everything");
    bytes
}

fn ip(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), 64),
        _ => panic!("two families"),
    }
}

/// An ICMP message with a correct checksum, because connection tracking checks it.
fn message(
    source: IpAddr,
    destination: IpAddr,
    (kind, code): (u8, u8),
    word: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let ip = ip(source, destination);
    let mut bytes = Vec::new();
    let written = match source {
        IpAddr::V4(_) => ip.icmpv4_raw(kind, code, word).write(&mut bytes, payload),
        IpAddr::V6(_) => ip.icmpv6_raw(kind, code, word).write(&mut bytes, payload),
    };
    written.expect("a vector takes everything");
    bytes
}

/// The second word in the header of the first error. No router sends such a word, so the test
/// recognises its errors by it.
const FIRST: u32 = 0x5a00_0000;

impl Case {
    /// The error, its destination, and whether it is inbound.
    fn error(&self, line: &Line, number: u32) -> (Vec<u8>, IpAddr, bool) {
        let Case { talk, twist, .. } = *self;
        let (local, remote) = (talk.local(line), line.remote_address(talk.family));
        let (unused_here, unused_there) = unused(talk.family);
        // The sender and the receiver of the quoted packet. The error goes back to the sender.
        let is_sent_inbound = talk.is_opened_inbound != self.is_reply;
        let (mut sender, mut peer, unused_beside, unused_beyond) = match is_sent_inbound {
            true => (remote, local, unused_there, unused_here),
            false => (local, remote, unused_here, unused_there),
        };
        let (client, server) = talk.ports();
        let (mut from, mut to) = match self.is_reply {
            true => (server, client),
            false => (client, server),
        };
        let (mut source, mut destination) = (peer, sender);
        match twist {
            Twist::Nothing | Twist::Cut => {}
            Twist::Router => source = unused_beyond,
            Twist::OtherReceiver => destination = unused_beside,
            Twist::OtherPort => to += 100,
            Twist::OtherSenderPort => from += 100,
            Twist::OtherPeer => peer = unused_beyond,
            Twist::OtherSender => sender = unused_beside,
            Twist::Backwards => {
                (sender, peer) = (peer, sender);
                (from, to) = (to, from);
            }
        }
        if talk.protocol == Protocol::Echo && twist == Twist::OtherPort {
            // An ICMP query has only one identifier.
            from = to;
        }
        let is_reply = self.is_reply != (twist == Twist::Backwards);
        let mut quoted = packet(talk.protocol, (sender, peer), (from, to), is_reply);
        if twist == Twist::Cut {
            quoted.truncate(if sender.is_ipv4() { 20 } else { 40 });
        }
        let word = (FIRST + number).to_be_bytes();
        let error = message(source, destination, self.message, word, &quoted);
        (error, destination, !is_sent_inbound)
    }

    /// Whether a rule would accept the quoted packet, which was never sent. The enforcer accepts
    /// such an error, and connection tracking cannot.
    fn is_about_something_else_that_is_accepted(&self) -> bool {
        let accepted_by_a_rule = !self.is_reply;
        match self.twist {
            Twist::OtherPeer | Twist::OtherSender => {
                accepted_by_a_rule && self.twist == Twist::OtherPeer
            }
            Twist::OtherSenderPort => accepted_by_a_rule,
            Twist::OtherPort => accepted_by_a_rule && self.talk.protocol == Protocol::Echo,
            _ => false,
        }
    }
}

/// A network whose node has conversations under way and gets ICMP errors.
struct World {
    line: Line,
    pod: Host,
    _open: Vec<TcpStream>,
    _services: Vec<Service>,
}

impl World {
    /// Brings up the node's interface, with either implementation in place.
    fn new(line: Line) -> World {
        let pod = pod(&line);
        // The addresses that no host has need a static neighbour entry, or packets to them would
        // not be sent.
        for (_, beyond) in Family::BOTH.map(unused) {
            let neighbour = "lladdr 02:00:00:00:00:77 nud permanent";
            line.node
                .ip(&format!("neighbour add {beyond} dev {NIC} {neighbour}"));
        }
        let inbound = [(Transport::Tcp, 22), (Transport::Udp, 5300)];
        let outbound = [(Transport::Tcp, 443), (Transport::Udp, 53)];
        let services = vec![
            Service::start(&line.node, &inbound),
            Service::start(&pod, &inbound),
            Service::start(&line.remote, &outbound),
        ];
        let mut world = World {
            line,
            pod,
            _open: Vec::new(),
            _services: services,
        };
        for case in cases() {
            let is_first = case.twist == Twist::Nothing && !case.is_reply;
            if is_first && [(3, 1), (1, 0)].contains(&case.message) {
                let opened = world.begin(case.talk);
                world._open.extend(opened);
            }
        }
        world
    }

    /// Has a conversation up to its first reply.
    fn begin(&self, talk: Talk) -> Option<TcpStream> {
        let (local, remote) = (
            talk.local(&self.line),
            self.line.remote_address(talk.family),
        );
        let here = match talk.local {
            Local::Node => &self.line.node,
            Local::Pod => &self.pod,
        };
        let (client, source, destination) = match talk.is_opened_inbound {
            true => (&self.line.remote, remote, local),
            false => (here, local, remote),
        };
        let (from, to) = talk.ports();
        let server = SocketAddr::new(destination, to);
        match talk.protocol {
            Protocol::Tcp => {
                let opened = client.inside(|| connect_from(from, server, PATIENCE));
                return Some(opened.unwrap_or_else(|e| panic!("{talk:?}: {e}")));
            }
            Protocol::Udp => client.inside(|| {
                let socket = UdpSocket::bind(SocketAddr::new(any(source).ip(), from));
                let socket = socket.expect("a free port");
                socket.set_read_timeout(Some(PATIENCE)).expect("an option");
                socket.connect(server).expect("a route");
                socket.send(b"a datagram").expect("a route");
                let answered = again(|| socket.recv(&mut [0; 16]));
                answered.unwrap_or_else(|e| panic!("{talk:?}: {e}"));
            }),
            Protocol::Echo => {
                let packet = packet(talk.protocol, (source, destination), (from, to), false);
                client.inside(|| send_raw(&packet, destination));
            }
        }
        None
    }

    /// Sends all errors. Returns for each whether `seen` has read its word.
    fn related(&self, seen: impl Fn() -> Vec<u32>) -> Vec<bool> {
        let cases = cases();
        for (number, case) in (0..).zip(&cases) {
            let (error, to, is_inbound) = case.error(&self.line, number);
            let from = match (is_inbound, case.talk.local, case.twist) {
                (true, ..) => &self.line.remote,
                (false, Local::Pod, _) => &self.pod,
                (false, Local::Node, _) => &self.line.node,
            };
            from.inside(|| send_raw(&error, to));
        }
        // Waits until no more errors arrive.
        let mut last = Vec::new();
        wait_for("an end of the errors", PATIENCE, || {
            sleep(Duration::from_millis(200));
            let now = seen();
            !now.is_empty() && std::mem::replace(&mut last, now) == last
        });
        let numbers = 0..cases.len() as u32;
        numbers.map(|n| last.contains(&(FIRST + n))).collect()
    }
}

fn pod(line: &Line) -> Host {
    let (node, pod) = (&line.node, Host::new());
    node.join("pod", &pod, "eth0");
    node.ip("link set pod up");
    pod.ip("link set eth0 up");
    for (gateway, length) in [("10.244.0.1", 24), ("fd00:244::1", 64)] {
        node.ip(&format!("address add {gateway}/{length} dev pod nodad"));
        let family = if length == 24 { Family::V4 } else { Family::V6 };
        let address = pod_address(family);
        pod.ip(&format!("address add {address}/{length} dev eth0 nodad"));
        pod.ip(&format!("route add default via {gateway}"));
    }
    node.set("net/ipv4/ip_forward", "1");
    node.set("net/ipv6/conf/all/forwarding", "1");
    node.wait_for_carrier("pod");
    pod.wait_for_carrier("eth0");
    pod
}

/// Records the errors that match at a hook of nftables in the calling thread's network namespace,
/// by the second word of their header.
fn note(name: &str, hook: &str, expression: &str) {
    let table = format!(
        "table inet {name} {{
            set words {{ typeof meta mark; size 65535; flags dynamic; }}
            chain only {{
                type filter hook {hook} priority 0;
                {expression} meta l4proto {{ icmp, ipv6-icmp }} meta mark set @th,32,32 add @words {{ meta mark }};
            }}
        }}"
    );
    run("nft", &[&table]);
}

fn noted(name: &str) -> Vec<u32> {
    let json = run("nft", &["-j", "list", "set", "inet", name, "words"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("nft prints JSON");
    let parts = json["nftables"].as_array().expect("a list").iter();
    let set = parts.filter_map(|part| part["set"]["elem"].as_array());
    let words = set.flatten().map(|word| word.as_u64().expect("a number"));
    // nftables copies the word into a mark without changing its byte order.
    let words = words.map(|word| u32::from_be_bytes((word as u32).to_ne_bytes()));
    words.collect()
}

/// The errors that the enforcer accepts: inbound to the node's own stack, outbound to the remote.
fn by_the_enforcer(sandbox: &Sandbox) -> Vec<bool> {
    let line = Line::new(0);
    let enforced = line.enforce(sandbox, &rules_from_lines(RULES));
    note("inwards", "prerouting", &format!("iifname {NIC}"));
    let outwards = || note("outwards", "prerouting", &format!("iifname {NIC}"));
    line.remote.inside(outwards);
    let world = World::new(line);
    let seen = || {
        let mut words = noted("inwards");
        words.extend(world.line.remote.inside(|| noted("outwards")));
        words
    };
    let related = world.related(seen);
    let counted = enforced.reason("in related") + enforced.reason("out related");
    let passed = related.iter().filter(|passed| **passed).count() as u64;
    assert_eq!(counted, passed, "each that passes is counted as related");
    enforced.assert_adds_up();
    related
}

/// The errors that nftables considers related, inbound and outbound.
fn by_nftables(sandbox: &Sandbox) -> Vec<bool> {
    let line = Line::new(0);
    let is_related = "ct state related";
    note(
        "inwards",
        "prerouting",
        &format!("iifname {NIC} {is_related}"),
    );
    note(
        "outwards",
        "postrouting",
        &format!("oifname {NIC} {is_related}"),
    );
    // The interface comes up with a policy that accepts everything, so that both networks go
    // through the same steps.
    let everything = rules_from_lines("in all from any accept\nout all to any accept");
    let options = sandbox.options(NIC);
    apply(&everything, &options).unwrap_or_else(|e| panic!("apply: {e}"));
    let _enforced = line.raise_node(crate::enforced::Enforced::new(&options.bpffs));
    let world = World::new(line);
    world.related(|| [noted("inwards"), noted("outwards")].concat())
}

/// Proves K8 by comparison with an independent implementation.
#[test]
fn the_same_errors_are_related_as_in_nftables() {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    sandbox(|sandbox| ours = by_the_enforcer(sandbox));
    sandbox(|sandbox| theirs = by_nftables(sandbox));
    let cases = cases();
    let mut different = Vec::new();
    let mut compared = [0, 0];
    for ((case, ours), theirs) in cases.iter().zip(ours).zip(theirs) {
        if case.is_about_something_else_that_is_accepted() {
            continue;
        }
        compared[usize::from(theirs)] += 1;
        if ours != theirs {
            different.push(format!(
                "{case:?}: nftables says {theirs}, the enforcer {ours}"
            ));
        }
    }
    let count = different.len();
    assert!(count == 0, "{count} differ:\n{}", different.join("\n"));
    // The test only means something if enough errors were related and enough were not.
    println!("{} related, {} not", compared[1], compared[0]);
    assert!(compared.iter().all(|count| *count > 200), "{compared:?}");
}
