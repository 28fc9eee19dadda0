//! Watching what is dropped: whether or not a rule logs, under a flood, by several watchers, and
//! after one was killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sg_common::verdict::{Action, Direction};
use sg_policy::policy::groups_from_lines;
use sg_userspace::kernel::apply;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::observe::counters::Counters;
use sg_userspace::observe::events::{Events, Logged, LoggedPacket, Tally, event_totals};

use crate::frames::{Frame, frame, non_ip};
use crate::sandbox::{FIT, RawSender, Sandbox, lost_on_the_way, sandbox};
use crate::support::{Enforcer, run_hook};
use crate::watching::{apply_rules, only, read, read_when};

fn watch(sandbox: &Sandbox, snap: u32) -> Events {
    Events::watch(&only(sandbox, "sg0"), snap).unwrap_or_else(|e| panic!("{e}"))
}

fn settle(events: &mut Events) -> Logged {
    events.settle().unwrap_or_else(|e| panic!("{e}"))
}

fn inbound(sandbox: &Sandbox) -> u64 {
    read(sandbox, "sg0").totals[0].packets
}

/// The machine held a watcher up until its watch was over: what it saw says nothing.
#[derive(Clone, Copy, Debug)]
struct HeldUp;

/// Tries again where the machine was too busy, in a sandbox of its own each time.
fn unless_held_up(attempt: impl Fn(&Sandbox) -> Result<(), HeldUp> + Sync) {
    const ATTEMPTS: usize = 5;
    let is_done = (0..ATTEMPTS).any(|_| {
        let mut result = Err(HeldUp);
        sandbox(|sandbox| result = attempt(sandbox));
        result.is_ok()
    });
    assert!(
        is_done,
        "held up for seconds in each of {ATTEMPTS} attempts"
    );
}

/// A watcher that is never away for longer than it takes to read the counters, and what it saw.
struct Watcher<'a> {
    sandbox: &'a Sandbox,
    events: Events,
    seen: Logged,
}

impl Watcher<'_> {
    fn begin(sandbox: &Sandbox, snap: u32) -> Watcher<'_> {
        Watcher {
            sandbox,
            events: watch(sandbox, snap),
            seen: Logged::default(),
        }
    }

    fn drain(&mut self) -> Result<(), HeldUp> {
        let logged = self.events.drain().unwrap_or_else(|e| panic!("{e}"));
        self.add(logged)
    }

    fn settle(&mut self) -> Result<(), HeldUp> {
        let logged = settle(&mut self.events);
        self.add(logged)
    }

    fn add(&mut self, logged: Logged) -> Result<(), HeldUp> {
        self.seen.add(logged);
        match self.seen.unwatched {
            true => Err(HeldUp),
            false => Ok(()),
        }
    }

    fn tally(&mut self) -> Result<Vec<Tally>, HeldUp> {
        let mut more = Logged::default();
        let tallies = self.events.tally(&mut more);
        self.add(more)?;
        Ok(tallies.unwrap_or_else(|e| panic!("{e}")))
    }

    /// Watches until all inbound packets were counted that were ever sent, but for those that were
    /// lost on the way.
    fn until_counted(&mut self, sent: u64) -> Result<Counters, HeldUp> {
        let mut is_watched = Ok(());
        let counted = read_when(self.sandbox, "sg0", |counted| {
            is_watched = is_watched.and_then(|()| self.drain());
            let arrived = counted.totals[0].packets + lost_on_the_way("sg1");
            is_watched.is_err() || arrived == sent
        });
        is_watched.map(|()| counted)
    }
}

/// What a packet is and what decided it, in one line.
fn line(packet: &LoggedPacket) -> String {
    let vlans: Vec<String> = packet.vlans.iter().map(u16::to_string).collect();
    let vlans = match vlans.is_empty() {
        true => String::new(),
        false => format!(" vlan {}", vlans.join(".")),
    };
    format!("{packet}{vlans}")
}

/// Proves O2 and O3: all that is dropped is seen as it was sent, though no rule logs; what is
/// accepted is not, and after the watch nothing is counted any more.
#[test]
fn what_is_dropped_is_seen_as_it_was_sent() {
    unless_held_up(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let policy = groups_from_lines(
            "option non-ip: arp-only
             group g
             in tcp 22 from any accept
             in udp 53 from any drop
             out tcp 80 to any accept",
        );
        apply(&policy, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        let long = |mut frame: Frame| {
            frame = frame.padded(200);
            frame
        };
        let sent: Vec<(Frame, &str)> = vec![
            (
                frame("tcp 198.51.100.1:4000 > 192.0.2.1:3306 syn"),
                "drop inbound tcp 198.51.100.1:4000 → 192.0.2.1:3306, 78 bytes, no-match",
            ),
            (
                frame("tcp [2001:db8::9]:4000 > [2001:db8::1]:80 fin ack"),
                "drop inbound tcp [2001:db8::9]:4000 → [2001:db8::1]:80, 98 bytes, no-match",
            ),
            (
                long(frame("udp 198.51.100.1:4000 > 192.0.2.1:53")),
                "drop inbound udp 198.51.100.1:4000 → 192.0.2.1:53, 266 bytes, by rule 2 of g \
                 (udp 53 from any)",
            ),
            (
                frame("icmp 198.51.100.1 > 192.0.2.1 8/0 id 3"),
                "drop inbound icmp 198.51.100.1 → 192.0.2.1 type 8/0, 66 bytes, no-match",
            ),
            (
                frame("icmp 2001:db8::9 > 2001:db8::1 128/0 id 3"),
                "drop inbound icmpv6 2001:db8::9 → 2001:db8::1 type 128/0, 86 bytes, no-match",
            ),
            (
                frame("udp 198.51.100.1:1 > 192.0.2.1:2").vlan(0x8100, 7),
                "drop inbound udp 198.51.100.1:1 → 192.0.2.1:2, 70 bytes, no-match vlan 7",
            ),
            (
                frame("udp 198.51.100.1:1 > 192.0.2.1:2")
                    .vlan(0x8100, 9)
                    .vlan(0x88a8, 8),
                "drop inbound udp 198.51.100.1:1 → 192.0.2.1:2, 74 bytes, no-match vlan 8.9",
            ),
            (
                frame("udp 198.51.100.1:1 > 192.0.2.1:2").fragment4(5, 10, true),
                "drop inbound udp 198.51.100.1 → 192.0.2.1, 66 bytes, fragment",
            ),
            (
                frame("udp [2001:db8::9]:1 > [2001:db8::1]:2").fragment6(5, 10, true),
                "drop inbound udp 2001:db8::9 → 2001:db8::1, 94 bytes, fragment",
            ),
            // A header length of 4 words.
            (
                frame("udp 198.51.100.1:1 > 192.0.2.1:2").set(0, &[0x44]),
                "drop inbound udp 198.51.100.1 → 192.0.2.1, 66 bytes, malformed",
            ),
            (
                non_ip(0x88cc),
                "drop inbound 0x88cc - → -, 60 bytes, non-ip",
            ),
            (
                frame("proto 47 198.51.100.1 > 192.0.2.1"),
                "drop inbound gre 198.51.100.1 → 192.0.2.1, 58 bytes, no-match",
            ),
        ];
        let mut watcher = Watcher::begin(sandbox, 128);
        // Accepted: not seen.
        peer.send(frame("tcp 198.51.100.1:4000 > 192.0.2.1:22 syn").bytes());
        for (i, (frame, _)) in sent.iter().enumerate() {
            peer.send(frame.bytes());
            watcher.until_counted(i as u64 + 2)?;
        }
        assert!(!node.send(frame("udp 192.0.2.1:9 > 198.51.100.1:53").bytes()));
        watcher.settle()?;
        let seen = watcher.seen;
        assert_eq!((seen.lost, seen.suppressed), (0, 0));
        let mut expected: Vec<&str> = sent.iter().map(|(_, line)| *line).collect();
        expected.push("drop outbound udp 192.0.2.1:9 → 198.51.100.1:53, 66 bytes, no-match");
        let found: Vec<String> = seen.packets.iter().map(line).collect();
        assert_eq!(found, expected);
        for (packet, (frame, line)) in seen.packets.iter().zip(&sent) {
            let len = frame.bytes().len().min(128);
            assert_eq!(packet.later_fragment, line.ends_with("fragment"), "{line}");
            assert_eq!(packet.head, &frame.bytes()[..len], "{packet}");
            assert_eq!((packet.interface.as_str(), packet.generation), ("sg0", 1));
            assert_eq!((packet.verdict, packet.packets), (Action::Drop, 1));
        }
        let flags: Vec<_> = seen.packets.iter().map(|p| p.tcp_flags).collect();
        assert_eq!(flags[..3], [Some(2), Some(0x11), None]);
        Ok(())
    });
}

/// Proves O3: several watchers see the same, and one that reads late too.
#[test]
fn watchers_do_not_take_events_from_each_other() {
    unless_held_up(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(
            sandbox,
            "in tcp 22 from any accept",
            &sandbox.options("sg0"),
        );
        let mut one = Watcher::begin(sandbox, 0);
        let mut other = watch(sandbox, 0);
        let peer = RawSender::new("sg1");
        for port in 1..=50 {
            peer.send(frame(&format!("udp 198.51.100.1:{port} > 192.0.2.1:9")).bytes());
        }
        one.until_counted(50)?;
        one.settle()?;
        let seen = one.seen;
        assert_eq!(seen.packets.len(), 50);
        // Each has its own reading of the clock.
        let lines = |logged: &Logged| -> Vec<_> {
            let packets = logged.packets.iter();
            packets.map(|p| (p.to_string(), p.head.clone())).collect()
        };
        assert_eq!(lines(&seen), lines(&settle(&mut other)));
        // Whoever comes later finds them, without watching.
        let late = Events::newest(&only(sandbox, "sg0")).and_then(|mut late| late.settle());
        assert_eq!(lines(&late.unwrap_or_else(|e| panic!("{e}"))), lines(&seen));
        // Headers only, unless more is asked for.
        assert!(seen.packets.iter().all(|packet| packet.head.len() == 64));
        Ok(())
    });
}

/// Proves O3: without a watcher nothing is written, and a watcher that was killed stops costing
/// within ten seconds, by itself.
#[test]
fn a_watch_ends_by_itself() {
    unless_held_up(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(
            sandbox,
            "in tcp 22 from any accept",
            &sandbox.options("sg0"),
        );
        let peer = RawSender::new("sg1");
        let dropped = frame("udp 198.51.100.1:1 > 192.0.2.1:9");
        let produced = || {
            let totals = event_totals(&only(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"));
            totals.produced
        };
        let send = |times: u64| {
            let before = inbound(sandbox);
            for sent in 1..=times {
                peer.send(dropped.bytes());
                if sent.is_multiple_of(FIT) {
                    read_when(sandbox, "sg0", |c| c.totals[0].packets == before + sent);
                }
            }
        };
        send(FIT);
        assert_eq!(produced(), 0, "nobody watches");
        let send_to = |watcher: &mut Watcher<'_>, times: u64| {
            let before = inbound(sandbox);
            for _ in 0..times {
                peer.send(dropped.bytes());
            }
            watcher.until_counted(before + times)
        };
        let mut watcher = Watcher::begin(sandbox, 0);
        send_to(&mut watcher, FIT)?;
        assert_eq!(produced(), FIT);
        // As a kill does: nothing says goodbye.
        drop(watcher);
        let started = Instant::now();
        let mut last = produced();
        loop {
            let began = started.elapsed();
            send(4 * FIT);
            let now = produced();
            if now == last {
                break;
            }
            last = now;
            assert!(began < Duration::from_secs(10), "{last} after {began:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        send(10 * FIT);
        assert_eq!(produced(), last, "the watch is over for good");
        // And begins again with the next watcher.
        let mut watcher = Watcher::begin(sandbox, 0);
        send_to(&mut watcher, 3)?;
        watcher.settle()?;
        assert_eq!(watcher.seen.packets.len(), 3);
        Ok(())
    });
}

/// Rules and reasons under flood, each by what tells its packets apart.
const KINDS: [(&str, u16); 4] = [
    ("rule 2", 53),
    ("rule 3", 54),
    ("rule 4", 55),
    ("no-match", 9),
];

fn kind(packet: &LoggedPacket) -> String {
    match &packet.rule {
        Some(rule) => format!("rule {}", rule.position.unwrap_or(0)),
        None => packet.reason.name().to_owned(),
    }
}

/// Proves O1 and O4: under a flood of one source and one rule, every rule and every reason has an
/// event in each second, other sources under the same rule are seen too, and what was produced is
/// what the counters count and what was delivered, lost and suppressed, to the packet.
#[test]
fn a_flood_silences_nobody() {
    unless_held_up(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(
            sandbox,
            "in tcp 22 from any accept
             in udp 53 from any drop
             in udp 54 from any drop
             in udp 55 from any drop
             out all to any accept",
            &sandbox.options("sg0"),
        );
        let peer = RawSender::new("sg1");
        let flood = frame("udp 203.0.113.7:1 > 192.0.2.1:53");
        let others: Vec<Frame> = KINDS
            .iter()
            .map(|(_, port)| frame(&format!("udp 198.51.100.1:1 > 192.0.2.1:{port}")))
            .collect();
        let broken = frame("udp 198.51.100.1:1 > 192.0.2.1:2").set(0, &[0x44]);
        let mut watcher = Watcher::begin(sandbox, 0);
        let mut sent = 0;
        let mut parts = Vec::new();
        for _ in 0..3 {
            let begun = Timestamp::now();
            let started = Instant::now();
            // For more than a second: the last packets are sent a tick after its end.
            loop {
                let late = started.elapsed() > Duration::from_millis(1100);
                watcher.drain()?;
                for _ in 0..100 {
                    peer.send(flood.bytes());
                }
                for frame in others.iter().chain([&broken]) {
                    peer.send(frame.bytes());
                }
                sent += 105;
                if late {
                    break;
                }
            }
            watcher.until_counted(sent)?;
            parts.push((begun, Timestamp::now()));
        }
        let counted = watcher.until_counted(sent)?;
        let arrived = sent - lost_on_the_way("sg1");
        watcher.settle()?;
        let tallies = watcher.tally()?;
        let seen = watcher.seen;

        // Each has its event in each second.
        let coarse = jiff::SignedDuration::from_millis(20);
        for (begun, ended) in parts {
            let within: Vec<&LoggedPacket> = seen
                .packets
                .iter()
                .filter(|p| begun - coarse <= p.at && p.at <= ended + coarse)
                .collect();
            for wanted in ["rule 2", "rule 3", "rule 4", "no-match", "malformed"] {
                let found = within.iter().any(|packet| kind(packet) == wanted);
                assert!(found, "{wanted} from {begun} to {ended}");
            }
            let is_other = |p: &&LoggedPacket| {
                kind(p) == "rule 2" && p.remote == Some([198, 51, 100, 1].into())
            };
            assert!(within.iter().any(is_other), "the other source under rule 2");
        }

        // The counters are the truth.
        let mut rows: BTreeMap<String, &Tally> = BTreeMap::new();
        for row in &tallies {
            assert_eq!(row.produced, row.delivered + row.lost + row.suppressed);
            assert_eq!(
                (row.interface.as_str(), row.direction),
                ("sg0", Direction::Inbound)
            );
            let name = match &row.rule {
                Some(rule) => format!("rule {}", rule.position.unwrap_or(0)),
                None => row.reason.name().to_owned(),
            };
            assert!(rows.insert(name, row).is_none());
        }
        for rule in counted.rules.iter().filter(|rule| rule.packets > 0) {
            let name = format!("rule {}", rule.position.unwrap_or(0));
            assert_eq!(rows[&name].produced, rule.packets, "{name}");
        }
        for reason in counted.reasons.iter().filter(|reason| reason.packets > 0) {
            assert_eq!(rows[reason.reason.name()].produced, reason.packets);
        }
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        assert_eq!(sum(|row| row.produced), arrived);
        assert_eq!(sum(|row| row.delivered), seen.packets.len() as u64);
        assert_eq!(sum(|row| row.lost), seen.lost);
        assert_eq!(sum(|row| row.suppressed), seen.suppressed);
        assert!(rows["rule 2"].suppressed > 0, "it was a flood");
        let totals = event_totals(&only(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (totals.produced, totals.suppressed),
            (arrived, seen.suppressed)
        );
        Ok(())
    });
}

/// Programs that share no pinned map have a watch of their own, and their events are read in the
/// same way.
#[test]
fn programs_that_are_not_pinned_can_be_watched() {
    let mut enforcer = Enforcer::new("in tcp 22 from any accept");
    let dropped = frame("tcp 198.51.100.1:4000 > 192.0.2.1:3306 syn");
    let judge =
        |programs: &mut Programs| run_hook(programs, Direction::Inbound, dropped.bytes(), 1);
    assert!(matches!(judge(&mut enforcer.programs), Ok(false)));
    let (watch, mut reader) = enforcer.programs.events().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(reader.drain().events.len(), 0, "nobody watched");
    for _ in 0..3 {
        assert!(matches!(judge(&mut enforcer.programs), Ok(false)));
    }
    assert_eq!(reader.drain().events.len(), 3);
    drop(watch);
}

/// Proves O1: a dropped frame is counted with a watcher as it is without one, whether it gets an
/// event or the fast path or the slow path suppresses it.
#[test]
fn what_is_suppressed_is_counted_as_ever() {
    use Direction::{Inbound, Outbound};
    const TIMES: u64 = 1000;
    let mut enforcer = Enforcer::new("in tcp 22 from any accept");
    let refused = frame("tcp 198.51.100.1:4000 > 192.0.2.1:3306 syn");
    let broken = frame("udp 198.51.100.1:1 > 192.0.2.1:2").set(0, &[0x44]);
    let leaving = frame("udp 192.0.2.1:9 > 198.51.100.1:9");
    let kinds = [
        (Inbound, &refused, 1),
        // Of this one the slow path decides all.
        (Inbound, &broken, 1),
        (Outbound, &leaving, 1),
        (Outbound, &leaving, 3),
    ];
    let send = |enforcer: &mut Enforcer, (direction, frame, segments): (_, &Frame, _)| {
        enforcer.send_offloaded(direction, frame.bytes(), segments)
    };
    let unwatched = kinds.map(|kind| send(&mut enforcer, kind));
    assert!(unwatched.iter().all(|decision| !decision.accept));
    assert_eq!(unwatched.each_ref().map(|d| d.packets), [1, 1, 1, 3]);

    let (mut watch, mut reader) = enforcer.programs.events().unwrap_or_else(|e| panic!("{e}"));
    let mut events = 0;
    for (kind, expected) in kinds.into_iter().zip(&unwatched) {
        watch.renew();
        for _ in 0..TIMES {
            assert_eq!(send(&mut enforcer, kind), *expected);
        }
        let seen = reader.drain().events.len() as u64;
        assert!(seen < TIMES, "some have no event: {seen}");
        events += seen;
    }
    assert!(events > 0, "somebody watched");
}
