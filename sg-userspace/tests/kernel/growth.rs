//! Nothing that `apply` leaves in the kernel grows with the number of replacements.

use std::time::Duration;

use sg_common::flow::Timeout;
use sg_policy::policy::{Policy, rules_from_lines};
use sg_userspace::kernel::apply;
use sg_userspace::observe::counters::Counters;

use crate::frames::frame;
use crate::sandbox::{RawSender, Sandbox, sandbox};
use crate::support::rounds;
use crate::watching::{assert_adds_up, only, read, read_when};

const RULES: usize = 400;

/// Rules that differ in each round, half of them inbound and half outbound, some with action drop.
/// Accepted packets need flow entries, since neither direction accepts everything.
fn policy(round: usize) -> Policy {
    let lines: Vec<String> = (0..RULES)
        .map(|i| {
            let action = if i % 8 < 6 { "accept" } else { "drop" };
            let remote = remote(round, i);
            match i % 2 {
                0 => format!("in udp {} from {remote} {action}", 1000 + i),
                _ => format!("out udp {} to {remote} {action}", 1000 + i),
            }
        })
        .collect();
    let mut policy = rules_from_lines(&lines.join("\n"));
    for kind in [Timeout::Udp, Timeout::UdpStream] {
        policy.timeouts[kind as usize] = 1;
    }
    policy
}

fn remote(round: usize, rule: usize) -> String {
    format!("10.{round}.{}.{}", rule / 250, rule % 250)
}

/// The number of counter maps, the size of the record, and the number of removed rules that are
/// still listed.
fn size(sandbox: &Sandbox, counted: &Counters) -> (usize, usize, usize) {
    let attached = only(sandbox, "sg0");
    let names = std::fs::read_dir(&attached.pins.dir).expect("the pins");
    let maps = names
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("counters_"))
        .count();
    let state = attached.state().expect("the record");
    let record = serde_json::to_vec(state).expect("the record").len();
    let gone = counted.rules.iter().filter(|r| r.position.is_none());
    (maps, record, gone.count())
}

/// Proves A2: the counters are exact after each of 120 replacements, whose rules have all counted a
/// packet and whose flows expire meanwhile. Neither the counter maps nor the record nor the list of
/// rules grows.
#[test]
fn many_replacements_leave_no_more_than_a_few() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        let mut sent = (0, 0);
        let mut early = None;
        let rounds = rounds(120);
        for round in 0..rounds {
            apply(&policy(round), &options).unwrap_or_else(|e| panic!("round {round}: {e}"));
            for i in 0..RULES {
                let (local, remote) = ("192.0.2.1", remote(round, i));
                let port = 1000 + i;
                if i % 2 == 0 {
                    peer.send(frame(&format!("udp {remote}:9 > {local}:{port}")).bytes());
                    sent.0 += 1;
                } else {
                    node.send(frame(&format!("udp {local}:9 > {remote}:{port}")).bytes());
                    sent.1 += 1;
                }
            }
            let counted = read_when(sandbox, "sg0", |c| {
                (c.totals[0].packets, c.totals[1].packets) == sent
            });
            assert_adds_up(&counted, sent.0, sent.1);
            let now = counted.rules.iter().filter(|r| r.position.is_some());
            assert!(now.clone().all(|r| r.packets == 1), "round {round}");
            assert_eq!(now.count(), RULES);
            if round == rounds / 6 {
                early = Some(size(sandbox, &counted));
            }
        }
        // The last flows expire. Then two more replacements give back the slots that they named.
        std::thread::sleep(Duration::from_millis(1500));
        for round in [0, 1] {
            apply(&policy(rounds + round), &options).unwrap_or_else(|e| panic!("{e}"));
        }
        let counted = read(sandbox, "sg0");
        assert_adds_up(&counted, sent.0, sent.1);
        let (maps, record, gone) = size(sandbox, &counted);
        let (maps_early, record_early, gone_early) = early.expect("some rounds");
        // One more counter map is allowed: if rounds get faster, the flows of more rounds are live
        // at once. Without any reuse of slots there would be seven more.
        assert!(maps <= maps_early + 1, "{maps} counter maps");
        assert!(record < record_early + record_early / 10, "{record} bytes");
        assert!(gone_early < 40 * RULES, "{gone_early} rules early");
        assert_eq!(gone, 4, "one row for each direction and action");
        let row = |direction: &str, action: &str| {
            let mut rows = counted.rules.iter().filter(|r| r.position.is_none());
            let row = rows.find(|r| (r.direction.name(), r.action.name()) == (direction, action));
            row.map(|r| r.packets).unwrap_or_default()
        };
        let total = (rounds * RULES) as u64;
        assert_eq!(row("inbound", "accept"), total * 3 / 8);
        assert_eq!(row("inbound", "drop"), total / 8);
        assert_eq!(row("outbound", "accept"), total * 3 / 8);
        assert_eq!(row("outbound", "drop"), total / 8);
    });
}

/// Proves A2 and A3: a slot has several owners one after the other, rules that accept and rules
/// that drop, and flows name it in between. No packet is counted for the wrong rule.
#[test]
fn a_reused_slot_starts_at_nothing() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        let peer = RawSender::new("sg1");
        let rule = |round: usize| {
            let action = if round.is_multiple_of(2) {
                "drop"
            } else {
                "accept"
            };
            let mut policy = rules_from_lines(&format!("in udp {} from any {action}", 100 + round));
            policy.timeouts[Timeout::Udp as usize] = 1;
            policy
        };
        let mut sent = 0;
        let mut slots = Vec::new();
        let mut dropped = 0;
        for round in 0..8 {
            apply(&rule(round), &options).unwrap_or_else(|e| panic!("{e}"));
            let state = only(sandbox, "sg0").state.expect("the record");
            slots.push(state.rules[0].slot);
            assert_eq!(read(sandbox, "sg0").rules[0].packets, 0, "round {round}");
            for i in 0..=round {
                let packet = format!("udp 198.51.100.1:{} > 192.0.2.1:{}", 900 + i, 100 + round);
                peer.send(frame(&packet).bytes());
                sent += 1;
                dropped += u64::from(round.is_multiple_of(2));
            }
            let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets == sent);
            assert_adds_up(&counted, sent, 0);
            assert_eq!(counted.rules[0].packets, round as u64 + 1);
            assert_eq!(counted.totals[0].dropped, dropped, "round {round}");
            // A pause, so that the flows of this round have expired before their slot is needed
            // again.
            if round % 4 == 3 {
                std::thread::sleep(Duration::from_millis(1500));
            }
        }
        slots.sort_unstable();
        let most = slots.chunk_by(|a, b| a == b).map(<[u32]>::len).max();
        assert!(most >= Some(3), "no slot was used three times: {slots:?}");
    });
}
