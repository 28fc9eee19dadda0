//! Tests that run only in a guest of `cargo xtask test --kernels`, which has pairs of virtio
//! interfaces, the kernel modules for VLANs and bonds, and a clock that may be set. Elsewhere they
//! are ignored.

mod clock;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use sg_common::verdict::Direction;
use sg_policy::policy::rules_from_lines;
use sg_testbed::Host;
use sg_userspace::kernel::{ApplyOptions, XdpMode, apply};
use sg_userspace::observe::counters::{Counters, RuleCounters};

use crate::facts::{fact, native_xdp};
use crate::frames::{Frame, frame, non_ip};
use crate::sandbox::{RawSender, Sandbox, ip, run, sandbox, silent_and_up};
use crate::support::is_guest;
use crate::watching::{assert_adds_up, only, read, read_when, under};

/// How long to wait for a connection that must succeed, and for one that must not.
const PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(700);

fn require_guest() {
    assert!(
        is_guest(),
        "this test needs the guest of `cargo xtask test --kernels`, which runs it"
    );
}

/// A pair of virtio interfaces that no other test uses, moved to the namespace of the calling
/// thread. The MAC address of a card encodes its pair and end.
fn virtio(pair: u8) -> [String; 2] {
    require_guest();
    let here = Host::here();
    let ends = Host::of_the_machine().inside(|| {
        [0, 1].map(|end| {
            let name = with_address(&format!("52:54:00:5e:{pair:02x}:{end:02x}"));
            here.take(&name);
            name
        })
    });
    for end in &ends {
        silent_and_up(end);
        // The frames of the tests have another MAC address, so the card has to be promiscuous.
        ip(&["link", "set", "dev", end, "promisc", "on"]);
    }
    ends
}

/// The name of the interface with this MAC address. /sys shows the interfaces of the machine's own
/// namespace.
fn with_address(address: &str) -> String {
    let interfaces = std::fs::read_dir("/sys/class/net").expect("/sys is mounted");
    for interface in interfaces {
        let path = interface.expect("the folder can be listed").path();
        if std::fs::read_to_string(path.join("address")).is_ok_and(|a| a.trim() == address) {
            let name = path.file_name().expect("the entry has a name");
            return name.to_string_lossy().into_owned();
        }
    }
    panic!("the guest has no interface with the address {address}")
}

fn apply_in(mode: XdpMode, sandbox: &Sandbox, interface: &str, rules: &str) {
    let options = ApplyOptions {
        xdp_mode: mode,
        ..sandbox.options(interface)
    };
    apply(&rules_from_lines(rules), &options).unwrap_or_else(|e| panic!("{interface}: {e}"));
}

/// Checks that the program runs in the driver: `ip` prints `xdp` then, and `xdpgeneric` otherwise.
fn assert_in_driver(sandbox: &Sandbox, interface: &str) {
    let shown = run("ip", &["link", "show", "dev", interface]);
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert!(words.contains(&"xdp"), "{shown}");
    assert!(!words.contains(&"xdpgeneric"), "{shown}");
    let status = only(sandbox, interface).status().unwrap();
    assert_eq!(status.xdp_mode.name(), "native");
}

/// All counters that are not zero, as lines: `inbound 1: 20`, `outbound 1: 6, replies 6`, `inbound
/// no-match: 5`.
fn counted(c: &Counters) -> Vec<String> {
    let rules = c.rules.iter().filter(|r| r.packets + r.reply_packets > 0);
    let rules = rules.map(|r| {
        let position = r.position.expect("every rule is in the policy");
        let replies = match r.reply_packets {
            0 => String::new(),
            n => format!(", replies {n}"),
        };
        format!("{} {position}: {}{replies}", r.direction, r.packets)
    });
    let reasons = c.reasons.iter().filter(|r| r.packets > 0);
    let reasons = reasons.map(|r| format!("{} {}: {}", r.direction, r.reason, r.packets));
    rules.chain(reasons).collect()
}

/// Proves K1 and A2 with virtio, a driver like those of real network cards.
#[test]
#[ignore = "needs the guest of cargo xtask test --kernels"]
fn virtio_runs_the_inbound_program_in_its_driver() {
    sandbox(|sandbox| {
        let [node, peer] = virtio(0);
        let rules = "in tcp 22 from any accept
             in all from 203.0.113.0/24 drop
             out udp 53 to any accept";
        apply_in(XdpMode::Native, sandbox, &node, rules);
        assert_in_driver(sandbox, &node);
        let (from_peer, from_node) = (RawSender::new(&peer), RawSender::new(&node));

        let ssh = || frame("tcp 198.51.100.1:4000 > 192.0.2.1:22 syn");
        let arriving: [(u64, Frame); 7] = [
            (20, ssh()),
            (3, frame("tcp [2001:db8::9]:4000 > [2001:db8::1]:22 syn")),
            (2, ssh().vlan(0x8100, 7)),
            (10, frame("tcp 203.0.113.5:4000 > 192.0.2.1:80 syn")),
            (5, frame("udp 198.51.100.1:4000 > 192.0.2.1:123")),
            (4, non_ip(0x88cc)),
            (1, ssh().set(0, &[0x40])),
        ];
        let mut sent = 0;
        for (times, frame) in &arriving {
            for _ in 0..*times {
                from_peer.send(frame.bytes());
                sent += 1;
            }
        }
        let question = frame("udp 192.0.2.1:5000 > 198.51.100.7:53");
        let answer = frame("udp 198.51.100.7:53 > 192.0.2.1:5000");
        for _ in 0..6 {
            assert!(from_node.send(question.bytes()));
            from_peer.send(answer.bytes());
            sent += 1;
        }
        for _ in 0..2 {
            assert!(!from_node.send(frame("tcp 192.0.2.1:5000 > 198.51.100.7:443 syn").bytes()));
        }
        let c = read_when(sandbox, &node, |c| c.totals[0].packets >= sent);
        assert_eq!(
            counted(&c),
            [
                "inbound 1: 25",
                "inbound 2: 10",
                "outbound 1: 6, replies 6",
                "inbound non-ip: 4",
                "inbound no-match: 5",
                "inbound malformed: 1",
                "outbound no-match: 2",
            ]
        );
        assert_adds_up(&c, sent, 8);

        // Another policy replaces the program in the driver.
        apply_in(XdpMode::Native, sandbox, &node, "in tcp 22 from any drop");
        assert_in_driver(sandbox, &node);
        from_peer.send(ssh().bytes());
        let c = read_when(sandbox, &node, |c| c.totals[0].packets > sent);
        let now = c.rules.iter().find(|r| r.position == Some(1));
        assert_eq!(now.map(|r| (r.action.name(), r.packets)), Some(("drop", 1)));
        assert_adds_up(&c, sent + 1, 8);
    });
}

/// Frames that fill several buffers of the driver are judged, and counted with their whole length.
/// If the driver cannot pass them to a program, generic XDP does.
#[test]
#[ignore = "needs the guest of cargo xtask test --kernels"]
fn virtio_judges_jumbo_frames() {
    sandbox(|sandbox| {
        let [node, peer] = virtio(2);
        let limit = native_xdp("virtio_net", &node, &peer);
        for end in [&node, &peer] {
            ip(&["link", "set", "dev", end, "mtu", "9000"]);
        }
        apply_in(XdpMode::Auto, sandbox, &node, "in tcp 22 from any accept");
        let mode = only(sandbox, &node).status().unwrap().xdp_mode;
        assert_eq!(
            mode.name(),
            if limit >= 9000 { "native" } else { "generic" }
        );
        fact("XDP on virtio_net with MTU 9000", mode.name());
        let from_peer = RawSender::new(&peer);
        let jumbo = |port: u16| {
            frame(&format!("tcp 198.51.100.1:4000 > 192.0.2.1:{port} syn")).padded(8000)
        };
        let bytes = jumbo(22).bytes().len() as u64;
        for port in [22, 22, 22, 80] {
            from_peer.send(jumbo(port).bytes());
        }
        let c = read_when(sandbox, &node, |c| c.totals[0].packets >= 4);
        assert_eq!(counted(&c), ["inbound 1: 3", "inbound no-match: 1"]);
        assert_eq!(c.totals[0].bytes, 4 * bytes);
    });
}

/// Proves K2: connections through VLAN interfaces, with one tag and with two, are judged on the
/// interface below.
#[test]
#[ignore = "needs the guest of cargo xtask test --kernels"]
fn connections_through_a_vlan_are_judged() {
    require_guest();
    for mode in [XdpMode::Native, XdpMode::Generic] {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            judges_vlans(sandbox, "sg0", "sg1", mode);
        });
    }
    sandbox(|sandbox| {
        let [node, peer] = virtio(1);
        judges_vlans(sandbox, &node, &peer, XdpMode::Native);
    });
}

/// Proves K2 and K3: a tag that the kernel leaves to the device counts like one in the frame. So
/// the frame may have one more tag, but not two.
#[test]
#[ignore = "needs the guest of cargo xtask test --kernels"]
fn a_tag_that_the_device_puts_in_is_one_of_two() {
    require_guest();
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let rules = "out all to any accept";
        apply_in(XdpMode::Native, sandbox, "sg0", rules);
        ip(&[
            "link", "add", "link", "sg0", "name", "tagged", "type", "vlan", "id", "7",
        ]);
        silent_and_up("tagged");
        let sender = RawSender::new("tagged");
        let tagged = |frame: Frame| frame.vlan(0x8100, 8);
        let opens = || frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 syn");
        let outbound = Direction::Outbound as usize;
        let mut malformed = 0;
        for (sent, (frame, passes)) in (1..).zip([
            (opens(), true),
            (tagged(opens()), true),
            (tagged(tagged(opens())), false),
            (non_ip(0x0806), true),
            (tagged(non_ip(0x0806)), true),
            (tagged(tagged(non_ip(0x0806))), false),
        ]) {
            sender.send(frame.bytes());
            malformed += u64::from(!passes);
            let c = read_when(sandbox, "sg0", |c| c.totals[outbound].packets >= sent);
            assert_adds_up(&c, 0, sent);
            assert_eq!(under(&c, "malformed"), [0, malformed], "{frame:?}");
        }
    });
}

/// The networks behind one tag and behind two tags. The node is host 1 in each, the peer host 2.
const NETWORKS: [(&str, [&str; 2]); 2] = [
    ("one", ["192.0.2.", "2001:db8:1::"]),
    ("two", ["198.51.100.", "2001:db8:2::"]),
];

/// Adds VLAN interfaces to `link`: one with a tag of IEEE 802.1Q, and one inside another with a tag
/// of IEEE 802.1ad.
fn add_vlans(link: &str, host: u8) {
    let add = |below: &str, name: &str, protocol: &str, id: &str| {
        ip(&[
            "link", "add", "link", below, "name", name, "type", "vlan", "proto", protocol, "id", id,
        ]);
        ip(&["link", "set", name, "up"]);
    };
    add(link, "one", "802.1q", "5");
    add(link, "outer", "802.1ad", "7");
    add("outer", "two", "802.1q", "8");
    for (name, [v4, v6]) in NETWORKS {
        ip(&["address", "add", &format!("{v4}{host}/24"), "dev", name]);
        let v6 = format!("{v6}{host}/64");
        ip(&["address", "add", &v6, "dev", name, "nodad"]);
    }
}

fn judges_vlans(sandbox: &Sandbox, node: &str, peer: &str, mode: XdpMode) {
    let (here, there) = (Host::here(), Host::bare());
    there.take(peer);
    there.inside(|| {
        silent_and_up(peer);
        add_vlans(peer, 2);
    });
    add_vlans(node, 1);
    let rules = "in tcp 7000 from any accept
         in all from any drop
         out tcp 443 to any accept";
    apply_in(mode, sandbox, node, rules);

    let address = |network: &str, host: u8, port: u16| -> SocketAddr {
        let host = format!("{network}{host}");
        let host = host.parse().unwrap_or_else(|e| panic!("{host}: {e}"));
        SocketAddr::new(host, port)
    };
    let mut silent = Vec::new();
    for network in NETWORKS.iter().flat_map(|(_, networks)| networks) {
        talk(&there, &here, address(network, 1, 7000));
        talk(&here, &there, address(network, 2, 443));
        silent.push((&there, address(network, 1, 7001)));
        silent.push((&here, address(network, 2, 444)));
    }
    std::thread::scope(|scope| {
        for (client, address) in &silent {
            scope.spawn(move || assert_silent(client, *address));
        }
    });

    let c = read(sandbox, node);
    let rule = |direction: &str, position: u32| {
        let is_it =
            |r: &&RuleCounters| r.direction.name() == direction && r.position == Some(position);
        c.rules.iter().find(is_it).expect("the rule is listed")
    };
    let reason = |direction: &str, name: &str| {
        let mut reasons = c.reasons.iter();
        reasons.find(|r| r.direction.name() == direction && r.reason.name() == name)
    };
    let networks = 4;
    let handshake = 3;
    for opened in [rule("inbound", 1), rule("outbound", 1)] {
        assert!(opened.packets >= networks * handshake, "{opened:?}");
        assert!(opened.reply_packets >= networks, "{opened:?}");
    }
    assert!(rule("inbound", 2).packets >= networks, "{c:#?}");
    for (direction, name, least) in [
        ("outbound", "no-match", networks),
        // ARP for IPv4 in both VLANs, and neighbour discovery.
        ("inbound", "non-ip", 2),
        ("inbound", "essential", 2),
    ] {
        let packets = reason(direction, name).map_or(0, |r| r.packets);
        assert!(packets >= least, "{direction} {name}: {packets}");
    }
    assert_eq!(reason("inbound", "malformed").map_or(0, |r| r.packets), 0);
}

/// The networks on the bond itself and on a VLAN of it. The node is host 1 in each, the peer host
/// 2.
const ON_THE_BOND: [(&str, [&str; 2]); 2] = [
    ("bond", ["192.0.2.", "2001:db8:1::"]),
    ("vlan", ["198.51.100.", "2001:db8:2::"]),
];

/// Joins two interfaces to a bond that sends by both in turns, with a VLAN interface on it.
fn add_bond(members: [&str; 2], host: u8) {
    let bond = ["link", "add", "bond", "type", "bond"];
    ip(&[&bond[..], &["mode", "balance-rr", "miimon", "20"]].concat());
    for member in members {
        join_bond(member);
    }
    ip(&["link", "set", "bond", "up"]);
    ip(&[
        "link", "add", "link", "bond", "name", "vlan", "type", "vlan", "id", "5",
    ]);
    ip(&["link", "set", "vlan", "up"]);
    for (name, [v4, v6]) in ON_THE_BOND {
        ip(&["address", "add", &format!("{v4}{host}/24"), "dev", name]);
        let v6 = format!("{v6}{host}/64");
        ip(&["address", "add", &v6, "dev", name, "nodad"]);
    }
}

/// An interface joins a bond only while it is down; the bond sets it up.
fn join_bond(member: &str) {
    ip(&["link", "set", member, "down"]);
    ip(&["link", "set", member, "master", "bond"]);
}

/// Takes a member out. Its other end loses the carrier, by which the peer's bond notices.
fn leave_bond(member: &str) {
    ip(&["link", "set", member, "nomaster"]);
    ip(&["link", "set", member, "down"]);
}

/// Proves K1 on a bond: the policy is attached to the bond itself, and judges what any member
/// receives, also one that has left the bond and come back, and what a VLAN on the bond carries.
#[test]
#[ignore = "needs the guest of cargo xtask test --kernels"]
fn a_bond_is_judged_whichever_member_carries_the_packets() {
    require_guest();
    sandbox(|sandbox| {
        let (here, there) = (Host::here(), Host::bare());
        for (member, other) in [("m0", "s0"), ("m1", "s1")] {
            here.join(member, &there, other);
        }
        add_bond(["m0", "m1"], 1);
        there.inside(|| add_bond(["s0", "s1"], 2));
        let rules = "in tcp 7000 from any accept
             in all from any drop
             out tcp 443 to any accept";
        apply_in(XdpMode::Auto, sandbox, "bond", rules);
        let mode = only(sandbox, "bond").status().unwrap().xdp_mode;
        fact("XDP on a bond of veth pairs", mode.name());

        let dropped = || {
            let c = read(sandbox, "bond");
            let mut rules = c.rules.iter();
            let rule = rules.find(|r| r.direction == Direction::Inbound && r.position == Some(2));
            rule.expect("the rule is listed").packets
        };
        let judges = |members: &str| {
            for network in ON_THE_BOND.iter().flat_map(|(_, networks)| networks) {
                let at = |host: u8, port: u16| -> SocketAddr {
                    let host = format!("{network}{host}");
                    let host = host.parse().unwrap_or_else(|e| panic!("{host}: {e}"));
                    SocketAddr::new(host, port)
                };
                talk(&there, &here, at(1, 7000));
                talk(&here, &there, at(2, 443));
                assert_silent(&here, at(2, 444));
                // A bond may send by a member that is gone until it notices.
                let (before, deadline) = (dropped(), Instant::now() + PATIENCE);
                while dropped() == before {
                    assert!(Instant::now() < deadline, "{network} with {members}");
                    assert_silent(&there, at(1, 7001));
                }
            }
        };
        judges("both members");
        leave_bond("m0");
        judges("the second member alone");
        join_bond("m0");
        judges("the first member back");
        leave_bond("m1");
        judges("only the member that has come back");

        let c = read(sandbox, "bond");
        assert_eq!(under(&c, "malformed"), [0, 0]);
        assert_adds_up(&c, c.totals[0].packets, c.totals[1].packets);
    });
}

/// Connects to the server's `address`, sends a message and receives the same one.
fn talk(client: &Host, server: &Host, address: SocketAddr) {
    let failed = |e: std::io::Error| -> ! { panic!("{address}: {e}") };
    let listener = server.inside(|| TcpListener::bind(address).unwrap_or_else(|e| failed(e)));
    let mut asking = client
        .inside(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap_or_else(|e| failed(e)));
    let (mut answering, _) = listener.accept().unwrap_or_else(|e| failed(e));
    let mut heard = [0; 5];
    for stream in [&asking, &answering] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }
    asking.write_all(b"ready").unwrap_or_else(|e| failed(e));
    answering
        .read_exact(&mut heard)
        .unwrap_or_else(|e| failed(e));
    answering.write_all(&heard).unwrap_or_else(|e| failed(e));
    asking.read_exact(&mut heard).unwrap_or_else(|e| failed(e));
    assert_eq!(&heard, b"ready");
}

/// Connects to an `address` without a listener. If the SYN arrived, the connection would be
/// refused, so it must time out.
fn assert_silent(client: &Host, address: SocketAddr) {
    let result = client.inside(|| TcpStream::connect_timeout(&address, SILENCE));
    let error = result.expect_err("there is no listener").kind();
    assert_eq!(error, ErrorKind::TimedOut, "{address}");
}
