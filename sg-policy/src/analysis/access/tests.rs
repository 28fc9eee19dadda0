use fastrand::Rng;

use super::*;

/// A TCP segment to a port.
fn tcp(remote: IpAddr, port: u16) -> Packet {
    Packet {
        direction: Direction::Inbound,
        remote,
        protocol: sg_common::protocol::IPPROTO_TCP,
        port,
        icmp: (0, 0),
    }
}

use crate::oracle;
use crate::policy::{load_text, rules_from_lines};

fn policy(text: &str) -> Policy {
    load_text("p.yaml", text, None, &[])
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
        .policy
}

fn accepts(policy: &Policy, packet: &Packet) -> bool {
    let rule = oracle::first_match(policy, packet);
    rule.is_some_and(|rule| policy.rules[rule].action == Action::Accept)
}

/// Proves C6: what a policy drops of its own guard is found, with the rule and a packet.
#[test]
fn what_the_rules_drop_of_the_guard_is_found() {
    for (guard, rules, expected) in [
        (
            "{protocol: tcp, ports: 22, from: any}",
            "{protocol: tcp, ports: 22, from: any, action: accept}",
            vec![],
        ),
        (
            "{protocol: tcp, ports: 22, from: 10.0.0.0/8}",
            "{protocol: all, from: 10.0.0.0/8, action: accept}",
            vec![],
        ),
        (
            "{protocol: tcp, ports: 22, from: any}",
            "{protocol: tcp, ports: 22, from: 0.0.0.0/0, action: accept}",
            vec![(None, "tcp 22 from 2001:")],
        ),
        // Only one port of one address is dropped, by a rule in front.
        (
            "{protocol: tcp, ports: 20-30, from: 10.0.0.0/8}",
            "{protocol: tcp, ports: 25, from: 10.9.9.9, action: drop}, {protocol: all, from: any, action: accept}",
            vec![(Some(0), "tcp 25 from 10.9.9.9")],
        ),
        // Two rules accept it together.
        (
            "{protocol: udp, ports: 53, from: 10.0.0.0/8}",
            "{protocol: udp, ports: 53, from: 10.0.0.0/9, action: accept}, {protocol: udp, from: 10.128.0.0/9, action: accept}",
            vec![],
        ),
        (
            "{protocol: icmp, from: 10.0.0.0/8}",
            "{protocol: icmp, icmp: {type: 8}, from: any, action: accept}",
            vec![(None, "icmp ")],
        ),
        // All protocols: some number of each kind is dropped, by no rule in either case.
        (
            "{protocol: all, from: 10.0.0.1}",
            "{protocol: tcp, from: any, action: accept}",
            vec![(None, "")],
        ),
        (
            "{protocol: gre, from: 10.0.0.1}",
            "{protocol: gre, from: 10.0.0.0/30, action: accept}",
            vec![],
        ),
        (
            "{protocol: gre, from: 10.0.0.1}",
            "{protocol: esp, from: 10.0.0.0/30, action: accept}",
            vec![(None, "gre from 10.0.0.1")],
        ),
    ] {
        let policy = policy(&format!("guard: [{guard}]\ninbound: [{rules}]\n"));
        let found: Vec<(Option<usize>, String)> = breaches(&policy)
            .iter()
            .map(|it| (it.rule, shown(&it.witness)))
            .collect();
        assert_eq!(found.len(), expected.len(), "{guard}\n{rules}\n{found:?}");
        for ((rule, witness), (of, words)) in found.iter().zip(expected) {
            assert_eq!(*rule, of, "{guard}\n{rules}");
            assert!(witness.starts_with(words), "{witness}, not {words}");
        }
        for breach in breaches(&policy) {
            assert!(!accepts(&policy, &breach.witness));
            assert_eq!(oracle::first_match(&policy, &breach.witness), breach.rule);
        }
    }
}

/// Proves C6: against the oracle, for random rules and every packet of a small universe: a
/// guard without a breach is accepted whole, and each breach is one.
#[test]
fn breaches_are_what_the_oracle_finds() {
    let mut rng = Rng::with_seed(6);
    let (mut whole, mut broken) = (0, 0);
    for _ in 0..2000 {
        let remote = |rng: &mut Rng| match rng.u8(..4) {
            0 => "any".to_owned(),
            1 => format!("192.0.2.{}", rng.u8(..4)),
            2 => format!("192.0.2.{}/31", rng.u8(..2) * 2),
            _ => "192.0.2.0/30".to_owned(),
        };
        let ports = |rng: &mut Rng| {
            let first = rng.u16(20..24);
            format!("{first}-{}", rng.u16(first..24))
        };
        let mut rules = String::new();
        for _ in 0..rng.u8(1..6) {
            let action = if rng.bool() { "accept" } else { "drop" };
            let (ports, remote) = (ports(&mut rng), remote(&mut rng));
            rules.push_str(&format!(
                "  - {{protocol: tcp, ports: {ports}, from: {remote}, action: {action}}}\n"
            ));
        }
        let (named, from) = (ports(&mut rng), format!("192.0.2.{}/31", rng.u8(..2) * 2));
        let text = format!(
            "guard:\n  - {{protocol: tcp, ports: {named}, from: {from}}}\ninbound:\n{rules}"
        );
        let policy = policy(&text);
        let guard = accepting(&policy);
        let mut dropped = std::collections::BTreeSet::new();
        for last in 0..6u8 {
            for port in 18..26 {
                let packet = tcp([192, 0, 2, last].into(), port);
                if accepts(&guard, &packet) && !accepts(&policy, &packet) {
                    dropped.insert(oracle::first_match(&policy, &packet));
                }
            }
        }
        let found: std::collections::BTreeSet<_> =
            breaches(&policy).iter().map(|it| it.rule).collect();
        assert_eq!(found, dropped, "{text}");
        match dropped.is_empty() {
            true => whole += 1,
            false => broken += 1,
        }
    }
    assert!(
        whole > 100 && broken > 100,
        "{whole} whole, {broken} broken"
    );
}

/// Proves C5: a port becomes reachable exactly from where the later policy accepts it and the
/// earlier one does not.
#[test]
fn what_is_opened_is_what_the_oracle_finds() {
    let mut rng = Rng::with_seed(5);
    let mut lines = || {
        let mut lines = String::new();
        for _ in 0..rng.u8(0..6) {
            let action = if rng.bool() { "accept" } else { "drop" };
            let len = rng.u8(28..=32);
            let bits = u32::from_be_bytes([192, 0, 2, rng.u8(..16)])
                & !(u32::MAX.checked_shr(len.into()).unwrap_or(0));
            let address = std::net::Ipv4Addr::from(bits);
            lines.push_str(&format!("in tcp 22 from {address}/{len} {action}\n"));
        }
        lines
    };
    let mut total = 0;
    for _ in 0..1000 {
        let (before, after) = (lines(), lines());
        let [was, is] = [&before, &after].map(|lines| rules_from_lines(lines));
        let [old, new] = [&was, &is].map(Partition::new);
        let opened = opened((&was, &old), (&is, &new), Kind::Tcp, 22);
        for last in 0..20u8 {
            let remote: IpAddr = [192, 0, 2, last].into();
            let packet = tcp(remote, 22);
            let expected = (accepts(&is, &packet) && !accepts(&was, &packet))
                .then(|| oracle::first_match(&is, &packet))
                .flatten();
            let found = opened
                .iter()
                .find(|it| (it.first..=it.last).contains(&remote));
            assert_eq!(
                found.map(|it| it.rule as usize),
                expected,
                "{before}\n{after}\n{remote}"
            );
        }
        total += opened.len();
    }
    assert!(total > 100, "{total} ranges were opened");
}

/// Proves C6: a line is only proposed if it lets nothing else pass.
#[test]
fn what_is_wider_by_one_packet_is_known() {
    let base = "in tcp 22 from 192.0.2.1 accept\nout all to any accept";
    let packet = tcp([203, 0, 113, 9].into(), 22);
    for (line, expected) in [
        ("in tcp 22 from 203.0.113.9 accept", true),
        ("in tcp 22 from 203.0.113.8/31 accept", false),
        ("in tcp 22-23 from 203.0.113.9 accept", false),
        ("in all from 203.0.113.9 accept", false),
        ("in tcp 23 from 203.0.113.9 accept", false),
        ("out tcp 22 to 203.0.113.9 accept", false),
        ("in tcp 22 from 203.0.113.9 drop", false),
        ("in tcp 22 from 192.0.2.1 accept", false),
    ] {
        let before = rules_from_lines(base);
        let after = rules_from_lines(&format!("{line}\n{base}"));
        assert_eq!(
            is_wider_only_by(&before, &after, &packet),
            expected,
            "{line}"
        );
    }
    // One packet more, and one less.
    let before = rules_from_lines(base);
    let after = rules_from_lines("in tcp 22 from 203.0.113.9 accept\nout all to any accept");
    assert!(!is_wider_only_by(&before, &after, &packet));
}
