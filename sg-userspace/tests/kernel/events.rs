//! Events of logged packets: their times, their content, that the newest are kept, and that missing
//! ones are counted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sg_policy::policy::groups_from_lines;
use sg_userspace::kernel::apply;
use sg_userspace::observe::events::{Events, Logged};

use crate::frames::frame;
use crate::sandbox::{RawSender, Sandbox, sandbox};
use crate::watching::{apply_rules, only, read, read_when};

fn open(sandbox: &Sandbox) -> Events {
    Events::open(&only(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"))
}

fn drain(events: &mut Events) -> Logged {
    events.drain().unwrap_or_else(|e| panic!("{e}"))
}

fn lines(logged: &Logged) -> Vec<String> {
    logged.packets.iter().map(ToString::to_string).collect()
}

/// Proves O1 and O2: there is an event for each logged packet within the rate limit.
#[test]
fn logged_packets_come_out_of_the_ring() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let rules =
            "in tcp 22 from any accept\nin all from any drop log\nout all to any accept log";
        apply_rules(sandbox, rules, &sandbox.options("sg0"));
        let mut events = open(sandbox);
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        peer.send(frame("tcp 198.51.100.1:4000 > 192.0.2.1:22 syn").bytes());
        let dropped = frame("tcp [2001:db8::9]:4000 > [2001:db8::1]:80 syn");
        peer.send(dropped.bytes());
        read_when(sandbox, "sg0", |c| c.totals[0].packets == 2);
        node.send(frame("icmp 192.0.2.1 > 198.51.100.1 8/0 id 3").bytes());
        let logged = drain(&mut events);
        assert_eq!(
            lines(&logged),
            [
                format!(
                    "drop inbound tcp [2001:db8::9]:4000 → [2001:db8::1]:80, {} bytes, by rule 2 \
                     of lines (all from any)",
                    dropped.bytes().len()
                ),
                "accept outbound icmp 192.0.2.1 → 198.51.100.1 type 8/0, 66 bytes, by rule 1 of \
                 lines (all to any)"
                    .to_owned(),
            ]
        );
        let first = &logged.packets[0];
        assert_eq!((first.interface.as_str(), first.generation), ("sg0", 1));
        assert_eq!(
            (first.tcp_flags, logged.packets[1].tcp_flags),
            (Some(2), None)
        );
        assert_eq!((logged.lost, logged.suppressed), (0, 0));

        // Packets beyond the rate limit are only counted.
        let flood = frame("udp 192.0.2.1:1 > 198.51.100.1:2");
        for _ in 0..10_000 {
            node.send(flood.bytes());
        }
        let logged = drain(&mut events);
        let delivered = logged.packets.len() as u64;
        assert_eq!(delivered + logged.lost + logged.suppressed, 10_000);
        assert!(delivered < 9_000, "{delivered} written");
    });
}

/// Proves O2: an event carries the time at which its packet was judged, however late it is read.
/// Several readers all get it.
#[test]
fn an_event_has_the_time_of_its_packet_for_every_reader() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(
            sandbox,
            "out all to any accept log",
            &sandbox.options("sg0"),
        );
        let (mut events, mut others) = (open(sandbox), open(sandbox));
        let node = RawSender::new("sg0");
        let before = Timestamp::now();
        node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2").bytes());
        let after = Timestamp::now();
        std::thread::sleep(Duration::from_millis(1500));
        let logged = drain(&mut events);
        assert_eq!(lines(&logged), lines(&drain(&mut others)));
        let [packet] = &logged.packets[..] else {
            panic!("{logged:?}");
        };
        // The wall clock may be adjusted slowly in between.
        let coarse = SignedDuration::from_millis(20);
        assert!(
            before - coarse <= packet.at && packet.at <= after + coarse,
            "{} is not between {before} and {after}",
            packet.at
        );
    });
}

/// Proves O2: packets that several CPUs judge at nearly the same time are listed in the order in
/// which they were judged.
#[test]
fn events_of_several_cpus_are_in_order() {
    let on_cpu = |cpu: usize| {
        let mut cpus = CpuSet::new();
        cpus.set(cpu).unwrap_or_else(|e| panic!("{e}"));
        sched_setaffinity(Pid::from_raw(0), &cpus).is_ok()
    };
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(
            sandbox,
            "out all to any accept log",
            &sandbox.options("sg0"),
        );
        let mut events = open(sandbox);
        let node = RawSender::new("sg0");
        let ports = 1..=100;
        for port in ports.clone() {
            // Uses the second CPU if the machine has one.
            assert!(on_cpu(port % 2) || on_cpu(0));
            let sent = frame(&format!("udp 192.0.2.1:1 > 198.51.100.1:{port}"));
            assert!(node.send(sent.bytes()));
        }
        let logged = drain(&mut events);
        let found = logged
            .packets
            .iter()
            .map(|p| usize::from(p.remote_port.unwrap_or(0)));
        assert_eq!(found.collect::<Vec<_>>(), ports.collect::<Vec<_>>());
    });
}

/// Proves O1: a reader that was away gets the newest events, and the number of all that are
/// missing.
#[test]
fn the_newest_events_are_kept_and_the_lost_ones_counted() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(
            sandbox,
            "out all to any accept log",
            &sandbox.options("sg0"),
        );
        let mut events = open(sandbox);
        // Each of these readers reads once, to see whether events have been both suppressed and
        // lost by now.
        let mut scouts: Vec<_> = (0..40).map(|_| open(sandbox)).collect();
        let node = RawSender::new("sg0");
        // All packets are sent on one CPU. With what the limits allow of one rule in half a second,
        // its ring is full after six rounds.
        let mut cpus = CpuSet::new();
        cpus.set(0).unwrap_or_else(|e| panic!("{e}"));
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap_or_else(|e| panic!("{e}"));
        let old: Vec<_> = (1..=16)
            .map(|host| frame(&format!("udp 192.0.2.1:1 > 198.51.100.{host}:2")))
            .collect();
        const ROUND: usize = 1100;
        let mut rounds = 0;
        loop {
            for i in 0..ROUND {
                node.send(old[i % old.len()].bytes());
            }
            rounds += 1;
            // Longer than a tick, so that the limits begin anew.
            std::thread::sleep(Duration::from_millis(600));
            let seen = drain(&mut scouts.pop().expect("some are never held back or lost"));
            if seen.lost > 0 && seen.suppressed > 0 {
                break;
            }
        }
        for port in 1001..1021 {
            node.send(frame(&format!("udp 192.0.2.1:{port} > 198.51.100.1:2")).bytes());
        }
        let logged = drain(&mut events);
        let newest: Vec<_> = logged.packets.iter().rev().take(20).collect();
        let ports: Vec<_> = newest.iter().rev().map(|p| p.local_port).collect();
        assert_eq!(ports, (1001..1021).map(Some).collect::<Vec<_>>());
        let delivered = logged.packets.len() as u64;
        assert!(
            logged.lost > 0 && logged.suppressed > 0,
            "{delivered} {}",
            logged.lost
        );
        let counted = read(sandbox, "sg0").rules[0].packets;
        assert_eq!(delivered + logged.lost + logged.suppressed, counted);
        assert_eq!(counted, rounds * ROUND as u64 + 20);
        assert!(drain(&mut events).packets.is_empty());
    });
}

/// Proves P9: packets that no rule matches are logged and replies of flows are not, in the fast
/// path and in the slow path.
#[test]
fn what_no_rule_matches_is_logged_where_that_is_asked_for() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let policy = groups_from_lines(
            "option log-no-match: inbound
             group g
             in tcp 22 from any accept
             out udp 53 to any accept",
        );
        apply(&policy, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        let mut events = open(sandbox);
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        assert!(node.send(frame("udp 192.0.2.1:5000 > 198.51.100.7:53").bytes()));
        // This packet is not logged, because the option is set for inbound only.
        assert!(!node.send(frame("udp 192.0.2.1:5000 > 198.51.100.7:54").bytes()));
        for text in [
            // The reply to the datagram above, which belongs to its flow.
            "udp 198.51.100.7:53 > 192.0.2.1:5000",
            "tcp 198.51.100.7:4000 > 192.0.2.1:22 syn",
            // Four that no rule matches: to a port that has a flow, to one that has none, and two
            // that the flow table could only hold for another protocol.
            "udp 198.51.100.7:54 > 192.0.2.1:5000",
            "tcp 198.51.100.7:4000 > 192.0.2.1:80 syn",
            "tcp 198.51.100.7:4000 > 192.0.2.1:5000 ack",
            "icmp 198.51.100.7 > 192.0.2.1 8/0 id 3",
        ] {
            peer.send(frame(text).bytes());
        }
        read_when(sandbox, "sg0", |c| c.totals[0].packets == 6);
        let logged = drain(&mut events);
        let shown: Vec<String> = lines(&logged)
            .iter()
            .map(|line| line.split(", ").next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            shown,
            [
                "drop inbound udp 198.51.100.7:54 → 192.0.2.1:5000",
                "drop inbound tcp 198.51.100.7:4000 → 192.0.2.1:80",
                "drop inbound tcp 198.51.100.7:4000 → 192.0.2.1:5000",
                "drop inbound icmp 198.51.100.7 → 192.0.2.1 type 8/0",
            ]
        );
        for packet in &logged.packets {
            assert_eq!((packet.reason.name(), &packet.rule), ("no-match", &None));
            assert!(packet.to_string().ends_with(", no-match"), "{packet}");
        }
    });
}
