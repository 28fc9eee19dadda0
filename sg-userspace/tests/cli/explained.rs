//! `sgctl explain --iface`: the way to the verdict, as a person reads it, and what listens.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use super::world::{World, inside, ip};

const POLICY: &str = "\
name: db
inbound:
  - {name: ssh, protocol: tcp, ports: 22, from: any, action: accept}
  - {protocol: tcp, ports: 3360, from: 192.0.2.0/24, action: accept, description: the database}
  - {protocol: icmp, from: any, action: accept}
outbound:
  - {protocol: udp, ports: 53, to: any, action: accept}
";

/// Asks, and fails unless the answer has each of these.
#[track_caller]
fn asked(world: &World, words: &[&str], says: &[&str]) -> String {
    let answer = world
        .run(&[&["explain", "--iface", "nic"], words].concat())
        .ok()
        .out;
    for what in says {
        assert!(answer.contains(what), "`{what}` is not in\n{answer}");
    }
    answer
}

/// Proves O2 and the command's promise: what decides and where it is written, what nearly decides
/// and by which field it does not, and what lets the reply pass. LOCAL and DIRECTION may be left
/// out.
#[test]
fn the_way_to_a_verdict_is_shown() {
    let (world, policy) = World::enforcing("db.yaml", POLICY);
    let place = format!("{policy}:4");
    asked(
        &world,
        &["tcp", "192.0.2.2", ":3306"],
        &[
            "drop  inbound tcp 192.0.2.2 → 192.0.2.1:3306",
            "by no rule, counted as no-match",
            "none between these ends",
            "nearest   rule 2 accept tcp 3360 from 192.0.2.0/24: another port",
            "rule 1 accept [ssh] tcp 22 from any: another port",
            "a private copy of the programs in force",
        ],
    );
    asked(
        &world,
        &["in", "tcp", "192.0.2.2", ":3360"],
        &[
            "accept  inbound tcp 192.0.2.2 → 192.0.2.1:3360",
            "by inbound rule 2 of db: tcp 3360 from 192.0.2.0/24",
            "the database",
            &place,
            "reply     accept, by its flow, of inbound rule 2",
        ],
    );
    asked(
        &world,
        &["tcp", "203.0.113.9", "198.51.100.5:3360"],
        &[
            "drop  inbound tcp 203.0.113.9 → 198.51.100.5:3360",
            "another address",
        ],
    );
    asked(
        &world,
        &["udp", "192.0.2.2:53"],
        &[
            "accept  outbound udp 192.0.2.1 → 192.0.2.2:53",
            "by its flow, of outbound rule 1",
        ],
    );
    let neighbours = ["in", "icmpv6:135", "fe80::2", "fe80::1"];
    asked(&world, &neighbours, &["accept", "counted as essential"]);
    // What there is no address for has to be given.
    let refused = world.run(&["explain", "--iface", "nic", "tcp", "2001:db8::1", ":22"]);
    assert_eq!(refused.code, 2, "{}", refused.all());
    assert!(
        refused.err.contains("has no IPv6 address"),
        "{}",
        refused.all()
    );
    // A policy that is not read from a file that is still there says so of itself.
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    let rolled = world.run(&["rollback", "--iface", "nic"]);
    assert_eq!(rolled.code, 0, "{}", rolled.all());
    asked(
        &world,
        &["tcp", "192.0.2.2", ":3360"],
        &["by inbound rule 2 of db", "generation 1:"],
    );
}

/// Proves K6: the flow of exactly these ends is shown, and what becomes of its next segment.
#[test]
fn a_flow_is_shown_with_its_rule() {
    let (world, _) = World::enforcing("db.yaml", POLICY);
    let listener = inside(&world.node, || {
        TcpListener::bind("192.0.2.1:22").expect("it is free")
    });
    let peer = inside(&world.peer, || {
        TcpStream::connect("192.0.2.1:22").expect("it is accepted")
    });
    let (_node, _) = listener.accept().expect("it has come");
    let ends = peer.local_addr().expect("it is bound").to_string();
    let answer = asked(
        &world,
        &["out", "tcp", &ends, "192.0.2.1:22"],
        &[
            "drop  outbound tcp 192.0.2.1:22 → ",
            "flow      tcp-established, opened inbound",
            "by inbound rule 1 ([ssh] tcp 22 from any)",
            "its next segment: accept, by its flow, of inbound rule 1 ([ssh] tcp 22 from any)",
        ],
    );
    assert!(!answer.contains("between these ends"), "{answer}");
    asked(
        &world,
        &["tcp", "192.0.2.2", ":22"],
        &["1 flow between these ends"],
    );
    // Asking does not keep it alive, nor count.
    let counters = || world.run(&["counters", "--json"]).ok().json()[0]["rules"].clone();
    let before = counters();
    for _ in 0..3 {
        asked(&world, &["in", "tcp", &ends, "192.0.2.1:22"], &["accept"]);
    }
    assert_eq!(counters(), before);
}

/// What listens at the port is shown with its process and its address, and what else is in the way.
#[test]
fn what_listens_is_shown() {
    let (world, _) = World::enforcing("db.yaml", POLICY);
    let listening =
        |words: &[&str], says: &[&str]| asked(&world, &[words, &["--listening"]].concat(), says);
    let words = ["tcp", "192.0.2.2", ":3360"];
    listening(
        &words,
        &[
            "nothing listens at tcp port 3360 in this network namespace",
            "not seen  netfilter",
        ],
    );
    ip(&["-n", &world.node, "link", "set", "lo", "up"]);
    let local = inside(&world.node, || {
        TcpListener::bind("127.0.0.1:3360").expect("it is free")
    });
    let own = format!("(pid {})", std::process::id());
    let says = [
        &own,
        "at 127.0.0.1:3360, which takes no packets to 192.0.2.1",
    ];
    listening(&words, &says);
    let open = inside(&world.node, || {
        TcpListener::bind("192.0.2.1:3360").expect("it is free")
    });
    let answer = listening(&words, &["at 192.0.2.1:3360\n", "at 127.0.0.1:3360, which"]);
    assert!(!answer.contains("in its way"), "{answer}");
    listening(
        &["udp", "192.0.2.2", ":3360"],
        &["nothing listens at udp port 3360 in this network namespace"],
    );
    drop((local, open));
    let udp = inside(&world.node, || {
        UdpSocket::bind("[::]:53").expect("it is free")
    });
    listening(
        &["in", "udp", "192.0.2.2", ":53"],
        &[
            "drop  inbound udp",
            "at [::]:53, and IPv4 too unless it is IPV6_V6ONLY",
        ],
    );
    drop(udp);
    listening(
        &["tcp", "192.0.2.2", "198.51.100.5:22"],
        &[
            "in its way 198.51.100.5 is no address of this network namespace, which does not forward",
        ],
    );
    // What is sent to several machines reaches this one too.
    let udp = inside(&world.node, || {
        UdpSocket::bind("0.0.0.0:5353").expect("it is free")
    });
    let (group, by) = (Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(192, 0, 2, 1));
    udp.join_multicast_v4(&group, &by)
        .expect("an interface with this address");
    for (to, is_reached) in [
        ("255.255.255.255", true),
        ("192.0.2.255", true),
        ("224.0.0.251", true),
        ("224.0.0.252", false),
        ("198.51.100.255", false),
    ] {
        let local = format!("{to}:5353");
        let answer = listening(&["udp", "192.0.2.2", &local], &["at 0.0.0.0:5353\n"]);
        assert_eq!(answer.contains("in its way"), !is_reached, "{answer}");
    }
    drop(udp);
    ip(&["-n", &world.node, "link", "set", "nic", "down"]);
    listening(
        &["tcp", "192.0.2.2", "192.0.2.1:22"],
        &["in its way nic is down"],
    );
    for (words, says) in [
        (
            &["out", "tcp", "192.0.2.2:22"][..],
            "is about inbound packets",
        ),
        (&["in", "icmp", "192.0.2.2"], "is about inbound packets"),
    ] {
        let words = [&["explain", "--iface", "nic", "--listening"], words].concat();
        let refused = world.run(&words);
        assert_eq!(refused.code, 2, "{}", refused.all());
        assert!(refused.err.contains(says), "{}", refused.all());
    }
}
