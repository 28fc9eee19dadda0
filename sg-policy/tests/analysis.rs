//! What is said of rules and of two policies, against brute force: a universe of few packets that
//! has one of each kind that small random policies can tell apart, each of which is asked of the
//! oracle.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use sg_common::verdict::{Action, Direction};
use sg_policy::analysis::{Change, Diff, Idle, Why, diff, idle};
use sg_policy::oracle::{Packet, first_match, matches};
use sg_policy::policy::{Policy, groups_from_lines, rules_from_lines};

/// The packets that the rules of [`policy`] can tell apart: all of these, since rules name no
/// other addresses, ports, messages and protocols, and one beyond each.
fn universe() -> Vec<Packet> {
    let v4 = (0..8).map(|i| IpAddr::V4(Ipv4Addr::new(10, 0, 0, i)));
    let v4 = v4.chain([IpAddr::from([192, 0, 2, 1])]);
    let v6 = |i| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, i));
    let remotes = v4.chain([v6(0), v6(1), v6(2)]);
    let mut packets = Vec::new();
    for remote in remotes {
        let icmp = if remote.is_ipv4() { 1 } else { 58 };
        for direction in Direction::BOTH {
            let mut push = |protocol, port, icmp| {
                packets.push(Packet {
                    direction,
                    remote,
                    protocol,
                    port,
                    icmp,
                });
            };
            for port in 0..5 {
                push(6, port, (0, 0));
            }
            for port in 0..5 {
                push(17, port, (0, 0));
            }
            for message in [(8, 0), (8, 1), (3, 0), (0, 0)] {
                push(icmp, 0, message);
            }
            for protocol in [132, 47, 50] {
                push(protocol, 0, (0, 0));
            }
        }
    }
    packets
}

/// A rule, as a line.
fn rule(rng: &mut Rng) -> String {
    let v6 = rng.u8(..6) == 0;
    let remote = match rng.u8(..6) {
        0 => "any".to_owned(),
        1 if !v6 => "0.0.0.0/0".to_owned(),
        _ if v6 => rng
            .choice(["::/0", "2001:db8::/127", "2001:db8::1", "2001:db8::"])
            .unwrap()
            .to_owned(),
        2 => {
            let first = rng.u8(..8);
            let last = rng.u8(first..8);
            let range = format!("10.0.0.{first}-10.0.0.{last}");
            if first == last {
                format!("10.0.0.{first}")
            } else {
                range
            }
        }
        _ => {
            let len = rng.u8(29..=32);
            let bits = rng.u8(..8) & (0xff << (32 - len));
            format!("10.0.0.{bits}/{len}")
        }
    };
    let ports = |rng: &mut Rng| match rng.u8(..4) {
        0 => String::new(),
        1 => format!(" {}", rng.u8(1..5)),
        2 => {
            let first = rng.u8(1..5);
            format!(" {first}-{}", rng.u8(first..5))
        }
        _ => " 1,3-4".to_owned(),
    };
    let protocol = match rng.u8(..10) {
        0..=3 => format!("tcp{}", ports(rng)),
        4..=5 => format!("udp{}", ports(rng)),
        6 => {
            let name = if v6 { "icmpv6" } else { "icmp" };
            let message = *rng.choice(&["", " 8", " 8/0", " 3"]).unwrap();
            format!("{name}{message}")
        }
        7 => rng.choice(["gre", "sctp"]).unwrap().to_owned(),
        _ => "all".to_owned(),
    };
    let (direction, to) = match rng.u8(..5) {
        0 => ("out", "to"),
        _ => ("in", "from"),
    };
    let action = if rng.bool() { "accept" } else { "drop" };
    let log = if rng.u8(..8) == 0 { " log" } else { "" };
    format!("{direction} {protocol} {to} {remote} {action}{log}")
}

/// Two rules that together cover the third and last one.
fn covered_together(rng: &mut Rng) -> [String; 3] {
    let mut action = || if rng.bool() { "accept" } else { "drop" };
    let [a, b, c] = [action(), action(), action()];
    match rng.bool() {
        true => [
            format!("in tcp 1-2 from 10.0.0.0/30 {a}"),
            format!("in tcp 2-4 from 10.0.0.0/29 {b}"),
            format!("in tcp 1-3 from 10.0.0.0/30 {c}"),
        ],
        false => [
            format!("in udp 1-3 from 10.0.0.0/30 {a}"),
            format!("in all from 10.0.0.4/30 {b}"),
            format!("in udp 2 from 10.0.0.2-10.0.0.5 {c}"),
        ],
    }
}

/// Few rules, of which many concern the same packets.
fn policy(rng: &mut Rng) -> Policy {
    let mut text = String::new();
    if rng.u8(..4) == 0 {
        let log = rng.choice(["true", "inbound", "outbound"]).unwrap();
        let _ = writeln!(text, "option log-no-match: {log}");
    }
    text.push_str("group lines\n");
    let together = match rng.u8(..6) {
        0 => covered_together(rng).to_vec(),
        _ => Vec::new(),
    };
    for i in 0..rng.usize(..8) {
        let _ = writeln!(text, "{}", rule(rng));
        if let Some(rule) = together.get(i) {
            let _ = writeln!(text, "{rule}");
        }
    }
    groups_from_lines(&text)
}

/// The same with a few edits: rules swapped, changed, left out, put in.
fn edited(rng: &mut Rng, old: &Policy) -> Policy {
    let mut lines: Vec<String> = old.rules.iter().map(line).collect();
    for _ in 0..rng.usize(1..3) {
        let at = rng.usize(..=lines.len());
        match rng.u8(..4) {
            0 if at < lines.len() => {
                lines.remove(at);
            }
            1 if at + 1 < lines.len() => lines.swap(at, at + 1),
            2 if at < lines.len() => lines[at] = rule(rng),
            _ => lines.insert(at, rule(rng)),
        }
    }
    rules_from_lines(&lines.join("\n"))
}

/// A rule as a line again.
fn line(rule: &sg_policy::policy::Rule) -> String {
    let direction = match rule.direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    };
    let log = if rule.log { " log" } else { "" };
    format!("{direction} {} {}{log}", rule.summary, rule.action.name())
}

/// What becomes of a packet that a rule decides, or no rule: whether it passes, and is logged.
fn effect(policy: &Policy, direction: Direction, rule: Option<usize>) -> (bool, bool) {
    match rule.map(|rule| &policy.rules[rule]) {
        Some(rule) => (rule.action == Action::Accept, rule.log),
        None => (false, policy.log_no_match[direction as usize]),
    }
}

/// The first rule that matches, one of them left out.
fn first_without(policy: &Policy, packet: &Packet, without: usize) -> Option<usize> {
    let rules = policy.rules.iter().enumerate();
    let mut matching = rules.filter(|(i, rule)| *i != without && matches(rule, packet));
    matching.next().map(|(i, _)| i)
}

fn rounds() -> u64 {
    match std::env::var_os("SG_THOROUGH") {
        Some(_) => 100_000,
        None => 10_000,
    }
}

fn show(policy: &Policy) -> String {
    let lines: Vec<String> = policy.rules.iter().map(line).collect();
    format!(
        "log-no-match {:?}\n{}",
        policy.log_no_match,
        lines.join("\n")
    )
}

/// Proves C8: no rule that does nothing is missed, none is named wrongly, and the rules that are
/// named with it and its packet are right.
#[test]
fn rules_that_do_nothing_are_those_of_brute_force() {
    let universe = universe();
    let (mut never, mut together, mut nothing) = (0, 0, 0);
    for seed in 0..rounds() {
        let mut rng = Rng::with_seed(seed);
        let policy = policy(&mut rng);
        let about = || format!("seed {seed}:\n{}", show(&policy));
        let found = idle(&policy);
        assert!(found.is_sorted_by_key(|one| one.rule), "{}", about());
        let mut found = found.iter().peekable();
        let decided: Vec<Option<usize>> = universe
            .iter()
            .map(|packet| first_match(&policy, packet))
            .collect();
        for rule in 0..policy.rules.len() {
            let found = found.next_if(|one| one.rule as usize == rule);
            let decides = || {
                let all = universe.iter().zip(&decided);
                all.filter(|(_, by)| **by == Some(rule))
                    .map(|(packet, _)| packet)
            };
            if decides().next().is_none() {
                let takes = universe.iter().zip(&decided);
                let takes = takes.filter(|(packet, _)| matches(&policy.rules[rule], packet));
                let mut by: Vec<u32> = takes.filter_map(|(_, by)| Some((*by)? as u32)).collect();
                by.sort_unstable();
                by.dedup();
                let Some(Idle {
                    why: Why::NeverMatches { covered_by },
                    witness,
                    ..
                }) = found
                else {
                    panic!("rule {rule} never matches, and not {found:?}: {}", about());
                };
                never += 1;
                assert!(matches(&policy.rules[rule], witness), "{}", about());
                let decider = first_match(&policy, witness).map(|rule| rule as u32);
                assert_eq!(decider, Some(covered_by[0]), "{witness:?} {}", about());
                match covered_by[..] {
                    [alone] => {
                        let alone = &policy.rules[alone as usize];
                        let all = universe.iter().filter(|p| matches(&policy.rules[rule], p));
                        assert!(all.clone().count() > 0);
                        assert!(all.clone().all(|p| matches(alone, p)), "{}", about());
                    }
                    _ => {
                        together += 1;
                        assert_eq!(*covered_by, by, "{}", about());
                    }
                }
                continue;
            }
            let is_same = |packet: &Packet| {
                let other = first_without(&policy, packet, rule);
                let effect = |by| effect(&policy, packet.direction, by);
                effect(Some(rule)) == effect(other)
            };
            if !decides().all(is_same) {
                assert_eq!(found, None, "rule {rule} matters: {}", about());
                continue;
            }
            let mut others: Vec<Option<u32>> = decides()
                .map(|packet| Some(first_without(&policy, packet, rule)? as u32))
                .collect();
            others.sort_unstable();
            others.dedup();
            let Some(Idle {
                why: Why::ChangesNothing { instead },
                witness,
                ..
            }) = found
            else {
                panic!(
                    "rule {rule} changes nothing, and not {found:?}: {}",
                    about()
                );
            };
            nothing += 1;
            assert_eq!(*instead, others, "rule {rule}: {}", about());
            assert_eq!(first_match(&policy, witness), Some(rule), "{}", about());
            let other = first_without(&policy, witness, rule).map(|rule| rule as u32);
            assert_eq!(other, instead[0], "{}", about());
        }
        assert_eq!(found.next(), None, "{}", about());
    }
    assert!(
        never > 3000 && together > 100 && nothing > 3000,
        "{never} {together} {nothing}"
    );
}

/// Whether a packet is in a row, what decides it there, and whether the witness shows it.
fn compare(old: &Policy, new: &Policy, found: &Diff, universe: &[Packet], about: &str) {
    let rule = |rule: Option<usize>| rule.map(|rule| rule as u32);
    for packet in universe {
        let [was, is] = [first_match(old, packet), first_match(new, packet)];
        let passes = |policy, rule| effect(policy, packet.direction, rule).0;
        let rows = found.rows.iter().filter(|row| row.traffic.contains(packet));
        let rows: Vec<_> = rows.map(|row| (row.old, row.new, row.change)).collect();
        let expected = match (passes(old, was), passes(new, is)) {
            (false, true) => vec![(rule(was), rule(is), Change::Widened)],
            (true, false) => vec![(rule(was), rule(is), Change::Narrowed)],
            _ => vec![],
        };
        assert_eq!(rows, expected, "{packet:?} {about}");
    }
    for row in &found.rows {
        assert!(row.traffic.contains(&row.witness), "{row:?} {about}");
        let decides = |policy| rule(first_match(policy, &row.witness));
        assert_eq!(
            (decides(old), decides(new)),
            (row.old, row.new),
            "{row:?} {about}"
        );
        let in_universe = universe.iter().any(|packet| row.traffic.contains(packet));
        assert!(
            in_universe,
            "no packet of the universe is in {row:?} {about}"
        );
    }
}

/// Proves C7: every packet whose verdict differs is in one row, no other packet is in any, and
/// each row's rules and packet are right.
#[test]
fn the_difference_of_two_policies_is_that_of_brute_force() {
    let universe = universe();
    let (mut rows, mut logging, mut same) = (0, 0, 0);
    for seed in 0..rounds() {
        let mut rng = Rng::with_seed(seed);
        let old = policy(&mut rng);
        let new = match rng.u8(..4) {
            0 => policy(&mut rng),
            _ => edited(&mut rng, &old),
        };
        let about = format!("seed {seed}:\n{}\nnew {}", show(&old), show(&new));
        let found = diff(&old, &new);
        compare(&old, &new, &found, &universe, &about);
        rows += found.rows.len();
        same += usize::from(found.is_same());
        logging += found.logging.len();
        // What is logged differently, where the verdict is the same.
        let mut expected: Vec<_> = Vec::new();
        for packet in &universe {
            let [was, is] = [first_match(&old, packet), first_match(&new, packet)];
            let was_logged = effect(&old, packet.direction, was);
            let is_logged = effect(&new, packet.direction, is);
            let differs = was_logged.0 == is_logged.0 && was_logged.1 != is_logged.1;
            if differs && (was, is) != (None, None) {
                let rule = |rule: Option<usize>| rule.map(|rule| rule as u32);
                expected.push((packet.direction, rule(was), rule(is), is_logged.1));
            }
        }
        expected.sort_unstable();
        expected.dedup();
        let of = |l: &sg_policy::analysis::Logging| (l.direction, l.old, l.new, l.logs);
        let found: Vec<_> = found.logging.iter().map(of).collect();
        assert_eq!(found, expected, "{about}");
    }
    assert!(
        rows > 10_000 && logging > 300 && same > 300,
        "{rows} {logging} {same}"
    );
}

/// The other way round, what was widened is narrowed, and nothing else changes.
#[test]
fn a_difference_the_other_way_round_has_the_same_packets() {
    for seed in 0..500 {
        let mut rng = Rng::with_seed(seed);
        let old = policy(&mut rng);
        let new = edited(&mut rng, &old);
        let mut there: Vec<_> = diff(&old, &new).rows;
        let mut back: Vec<_> = diff(&new, &old).rows;
        assert!(diff(&old, &old).is_same() && diff(&old, &old).another_rule == 0);
        for row in &mut back {
            std::mem::swap(&mut row.old, &mut row.new);
            row.change = match row.change {
                Change::Widened => Change::Narrowed,
                _ => Change::Widened,
            };
        }
        let order = |rows: &mut Vec<sg_policy::analysis::Row>| {
            rows.sort_by_key(|row| format!("{row:?}"));
        };
        order(&mut there);
        order(&mut back);
        assert_eq!(there, back, "seed {seed}");
    }
}

/// The rows of a difference as text.
fn rows(old: &str, new: &str) -> Vec<String> {
    let [old, new] = [old, new].map(rules_from_lines);
    let of = |row: &sg_policy::analysis::Row| {
        let rule = |rule: Option<u32>| rule.map_or("-".to_owned(), |rule| (rule + 1).to_string());
        format!(
            "{} {} {} {}>{} {:?}",
            row.traffic.direction.name(),
            row.traffic.services_in_words(),
            row.traffic.remotes_in_words(3),
            rule(row.old),
            rule(row.new),
            row.change,
        )
    };
    diff(&old, &new).rows.iter().map(of).collect()
}

/// Proves C7: rows are what a person would write.
#[test]
fn rows_are_merged_to_what_a_person_would_write() {
    let none: [&str; 0] = [];
    let ssh = "in tcp 22 from 10.0.0.0/8 accept\n";
    let around = "in tcp 20-30 from 10.1.0.0/16 drop\n";
    let web = "in tcp 443 from any accept\n";
    // Two rules swapped: with packets in common, and without.
    assert_eq!(
        rows(&[ssh, around].concat(), &[around, ssh].concat()),
        ["inbound tcp 22 10.1.0.0/16 1>1 Narrowed"]
    );
    assert_eq!(rows(&[ssh, web].concat(), &[web, ssh].concat()), none);
    // Another rule, and the same verdict.
    assert_eq!(
        rows(web, &[web, ssh].concat()),
        ["inbound tcp 22 10.0.0.0/8 ->2 Widened"]
    );
    assert_eq!(
        rows(
            "in tcp 443 from any accept",
            "in tcp 443 from 0.0.0.0/0 accept\nin tcp 443 from ::/0 accept"
        ),
        none
    );
    assert_eq!(rows(web, ""), ["inbound tcp 443 any 1>- Narrowed"]);
    assert_eq!(
        rows("", "in all from any accept"),
        ["inbound all any ->1 Widened"]
    );
    // What is left of a rule behind others.
    let drops = "in tcp 25 from any drop\n";
    assert_eq!(
        rows(drops, &format!("{drops}in all from 10.0.0.0/8 accept")),
        ["inbound all but tcp 25 10.0.0.0/8 ->2 Widened"]
    );
    let one = "in all from 10.1.2.3 drop\n";
    assert_eq!(
        rows(one, &format!("{one}in udp from 10.0.0.0/8 accept")),
        ["inbound udp 10.0.0.0/8 but 10.1.2.3 ->2 Widened"]
    );
    // Two ports, one of them from fewer addresses: a row for each, not one for each prefix.
    assert_eq!(
        rows(
            "",
            "in tcp 22 from 10.0.0.0/8 accept\nin tcp 23 from 10.1.0.0/16 accept"
        ),
        [
            "inbound tcp 22 10.0.0.0/8 ->1 Widened",
            "inbound tcp 23 10.1.0.0/16 ->2 Widened",
        ]
    );
    let hole = "in tcp 22 from 10.1.0.0/16 drop\n";
    assert_eq!(
        rows(hole, &format!("{hole}in tcp 22,80 from 10.0.0.0/8 accept")),
        [
            "inbound tcp 22 10.0.0.0/8 but 10.1.0.0/16 ->2 Widened",
            "inbound tcp 80 10.0.0.0/8 ->2 Widened",
        ]
    );
    // Both families where that means the same, and one each where it does not.
    assert_eq!(
        rows(
            "",
            "in icmp 8 from any accept\nin icmpv6 128 from any accept\nout 47 to any accept"
        ),
        [
            "inbound icmp 8 0.0.0.0/0 ->1 Widened",
            "inbound icmpv6 128 ::/0 ->2 Widened",
            "outbound gre 0.0.0.0/0 ->3 Widened",
            "outbound gre ::/0 ->3 Widened",
        ]
    );
}

/// Proves C7: what is said for the whole policy is compared as well.
#[test]
fn settings_that_differ_are_named() {
    let old = groups_from_lines("group g\nin tcp 22 from any accept");
    let new = groups_from_lines(
        "option essential: false\noption non-ip: arp-only\noption established: flush\n\
         option log-no-match: inbound\noption timeouts: {udp: 31s}\ngroup g\n\
         in tcp 22 from any accept log",
    );
    let found = diff(&old, &new);
    let settings: Vec<String> = found
        .settings
        .iter()
        .map(|s| format!("{} {}>{}", s.setting, s.old, s.new))
        .collect();
    assert_eq!(
        settings,
        [
            "essential true>false",
            "non-ip accept>arp-only",
            "established revalidate>flush",
            "log-no-match false>inbound",
            "timeouts: udp 30s>31s",
        ]
    );
    assert!(found.rows.is_empty() && !found.is_same());
    assert_eq!(found.logging.len(), 1);
    assert!(found.logging[0].logs && found.change().is_none());
}
