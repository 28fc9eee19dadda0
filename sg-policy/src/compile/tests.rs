//! The compiled tables against the naive oracle, on random policies and by hand.

use fastrand::Rng;
use sg_common::lookup::{POSITION_MASK, column_entry};
use sg_common::protocol::Kind;
use sg_common::verdict::{FIRST_RULE_SLOT, Verdict};

use super::*;
use crate::compile_policy as compile;
use crate::oracle;
use crate::partition::{Candidate, Pair, Verdicts};
use crate::policy::{Policy, rules_from_lines};
use crate::testing::{self, Shape, kind_and_number};

fn slots(policy: &Policy) -> Vec<u32> {
    (0..policy.rules.len() as u32)
        .map(|i| FIRST_RULE_SLOT + i)
        .collect()
}

fn expected(policy: &Policy, packet: &oracle::Packet) -> Verdict {
    match oracle::first_match(policy, packet) {
        Some(i) => {
            let rule = &policy.rules[i];
            Verdict::new(rule.action, FIRST_RULE_SLOT + i as u32, rule.log)
        }
        None => {
            let log = policy.log_no_match[packet.direction as usize];
            Verdict::no_match(packet.direction).logged(log)
        }
    }
}

fn agrees(policy: &Policy, compiled: &Compiled, packet: &oracle::Packet, about: &str) {
    let (kind, number) = kind_and_number(packet);
    let decided = compiled.decide(packet.direction, packet.remote, kind, number);
    assert_eq!(
        decided,
        expected(policy, packet),
        "{packet:?} with the rules:\n{about}"
    );
}

/// Proves P2 of the compiled tables.
#[test]
fn random_policies_decide_as_the_oracle_does() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape {
            rules: rng.usize(..60),
            ipv6: 40,
            inbound_only: false,
        };
        let text = testing::rules(&mut rng, shape);
        let policy = rules_from_lines(&text);
        let compiled = compile(&policy, &slots(&policy), Budget::default()).unwrap();
        for _ in 0..400 {
            let packet = testing::packet(&mut rng, &policy);
            agrees(&policy, &compiled, &packet, &format!("seed {seed}\n{text}"));
        }
    }
}

/// Proves P2: order wins over prefix length, in both nestings.
#[test]
fn an_earlier_wide_rule_beats_a_later_narrow_one_and_the_other_way_round() {
    let policy = rules_from_lines(
        "in tcp 80 from 10.0.0.0/8 drop
         in tcp 80 from 10.1.0.0/16 accept
         in tcp 443 from 10.1.2.0/24 accept
         in tcp 443 from 10.1.0.0/16 drop",
    );
    let compiled = compile(&policy, &slots(&policy), Budget::default()).unwrap();
    let decide = |address: &str, port| {
        compiled
            .decide(
                Direction::Inbound,
                address.parse().unwrap(),
                Kind::Tcp,
                port,
            )
            .slot()
            .checked_sub(FIRST_RULE_SLOT)
    };
    assert_eq!(decide("10.1.2.3", 80), Some(0));
    assert_eq!(decide("10.1.2.3", 443), Some(2));
    assert_eq!(decide("10.1.3.3", 443), Some(3));
    assert_eq!(decide("10.2.0.0", 443), None);
}

/// Proves K7: only where an answer might not pass by itself are flows remembered.
#[test]
fn flows_are_opened_where_answers_do_not_pass() {
    for (rules, opens) in [
        ("", false),
        ("in all from any drop\nout all to any drop", false),
        ("in all from any accept\nout all to any accept", false),
        ("in all from any accept", true),
        ("in tcp 22 from any accept\nout all to any accept", true),
        ("in tcp 22 from any accept\nout tcp to any accept", true),
        ("in tcp from any accept\nout tcp to any accept", false),
        (
            "in all from 10.0.0.0/8 accept\nout all to 10.0.0.0/8 accept",
            false,
        ),
        (
            "in all from 10.0.0.0/8 accept\nout all to 10.0.0.0/9 accept",
            true,
        ),
        (
            "in all from 2001:db8::/32 accept\nout udp to any accept",
            true,
        ),
    ] {
        let policy = rules_from_lines(rules);
        let compiled = compile(&policy, &slots(&policy), Budget::default()).unwrap();
        assert_eq!(compiled.opens_flows(), opens, "{rules}");
    }
}

#[test]
fn a_long_blocklist_adds_one_class() {
    let mut rng = Rng::with_seed(1);
    let list: Vec<String> = (0..5000)
        .map(|_| std::net::Ipv4Addr::from(rng.u32(..)).to_string())
        .collect();
    let policy = rules_from_lines(&format!(
        "in all from {} drop\nin tcp 22 from any accept",
        list.join(",")
    ));
    let compiled = compile(&policy, &slots(&policy), Budget::default()).unwrap();
    // Listed IPv4, other IPv4, and IPv6, which shares the row of other IPv4.
    assert_eq!(compiled.sizes().address_classes, 2);
}

/// A packet to such a prefix waits for one line of nodes instead of two.
#[test]
fn the_node_of_a_lone_prefix_lies_beside_its_ports() {
    let mut rng = Rng::with_seed(1);
    let rules: String = (0..1000)
        .map(|i| {
            let network = std::net::Ipv4Addr::from(i << 17 | rng.u32(1..0xff) << 8);
            let first = rng.u16(1..1000);
            format!(
                "in udp {first}-{} from {network}/24 accept\n",
                first + 7 + i as u16
            )
        })
        .collect();
    let policy = rules_from_lines(&rules);
    let compiled = compile(&policy, &slots(&policy), Budget::default()).unwrap();
    let line_of = |entry: u32| {
        assert_ne!(entry & POINTER, 0);
        arena::place(entry & POSITION_MASK).0
    };
    let is_beside = |remote: u32| {
        let node = compiled.root4[remote as usize >> 16];
        let class = compiled.class(IpAddr::V4(remote.into())).unwrap();
        let tables = compiled.tables();
        let ports = column_entry(&tables, class, Direction::Inbound, Kind::Udp as u8).unwrap();
        line_of(node) == line_of(ports as u32)
    };
    let beside = policy
        .rules
        .iter()
        .filter(|rule| is_beside(rule.remote.v4[0].bits))
        .count();
    // The first port tables begin with 256-way nodes.
    assert_eq!(beside, 1000 - 16);
}

#[test]
fn a_prefix_that_decides_what_its_parent_decides_disappears() {
    let with = |rules| {
        let policy = rules_from_lines(rules);
        compile(&policy, &slots(&policy), Budget::default()).unwrap()
    };
    let one = with("in tcp 22 from 2001:db8::/32 accept");
    let hidden = with("in tcp 22 from 2001:db8::/32 accept\nin tcp 22 from 2001:db8:1::/48 drop");
    assert_eq!(one.sizes().ipv6_prefixes, 1);
    assert_eq!(hidden.sizes().ipv6_prefixes, 1);
}

#[test]
fn a_budget_that_is_too_small_is_an_error() {
    let policy = rules_from_lines("in tcp 22 from 192.0.2.1 accept");
    let budget = Budget {
        table_bytes: 64,
        ..Budget::default()
    };
    let error = compile(&policy, &slots(&policy), budget).unwrap_err();
    assert_eq!(error.budget_bytes, 64);
}

#[test]
fn a_policy_without_rules_drops_everything() {
    let policy = rules_from_lines("");
    let compiled = compile(&policy, &[], Budget::default()).unwrap();
    for direction in Direction::BOTH {
        for remote in ["192.0.2.1", "2001:db8::1"] {
            let verdict = compiled.decide(direction, remote.parse().unwrap(), Kind::Tcp, 22);
            assert_eq!(verdict, Verdict::no_match(direction));
        }
    }
}

/// A random policy, and another that has most of its rules.
fn two_policies(rng: &mut Rng) -> (Policy, Policy) {
    let shape = Shape {
        rules: rng.usize(1..40),
        ipv6: 40,
        inbound_only: false,
    };
    let text = testing::rules(rng, shape);
    let other = testing::rules(rng, shape);
    let mut lines: Vec<&str> = text.lines().collect();
    let others: Vec<&str> = other.lines().collect();
    for _ in 0..rng.usize(..6) {
        let at = rng.usize(..=lines.len());
        match rng.u8(..3) {
            0 if at < lines.len() => {
                lines.remove(at);
            }
            1 if at + 1 < lines.len() => lines.swap(at, at + 1),
            _ => lines.insert(at, others[rng.usize(..others.len())]),
        }
    }
    (rules_from_lines(&text), rules_from_lines(&lines.join("\n")))
}

/// What C10 stands on: with a candidate beside it a policy decides as before, and a
/// packet that the candidate would decide otherwise has the slot of the pair of rules.
#[test]
fn a_candidate_changes_nothing_but_the_slots_of_what_it_would_decide_otherwise() {
    let mut differing = 0;
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let (enforced, candidate) = two_policies(&mut rng);
        let found = Candidate::new(&enforced, &candidate).unwrap();
        let first = FIRST_RULE_SLOT + enforced.rules.len() as u32;
        let pair_slots: Vec<u32> = (first..).take(found.pairs().len()).collect();
        let verdicts = Verdicts::beside(&enforced, &slots(&enforced), found.pairs(), &pair_slots);
        let compiled = compile_beside(&found, &verdicts, Budget::default()).unwrap();
        let alone = compile(&enforced, &slots(&enforced), Budget::default()).unwrap();
        let mut seen = vec![false; found.pairs().len()];
        for i in 0..400 {
            let of = if i % 2 == 0 { &enforced } else { &candidate };
            let packet = testing::packet(&mut rng, of);
            let (kind, number) = kind_and_number(&packet);
            let decide =
                |tables: &Compiled| tables.decide(packet.direction, packet.remote, kind, number);
            let (with, without) = (decide(&compiled), decide(&alone));
            let about = format!("seed {seed}: {packet:?}");
            assert_eq!(
                with.0 & !Verdict::SLOT_MASK,
                without.0 & !Verdict::SLOT_MASK,
                "{about}"
            );
            let rule =
                |policy: &Policy| oracle::first_match(policy, &packet).map(|rule| rule as u32);
            let passes = |policy: &Policy| expected(policy, &packet).passes();
            let pair = Pair {
                direction: packet.direction,
                enforced: rule(&enforced),
                candidate: rule(&candidate),
            };
            match passes(&enforced) == passes(&candidate) {
                true => assert_eq!(with, without, "{about}"),
                false => {
                    let index = found.pairs().iter().position(|known| *known == pair);
                    let index = index.unwrap_or_else(|| panic!("{about}: no {pair:?}"));
                    assert_eq!(with.slot(), pair_slots[index], "{about}");
                    seen[index] = true;
                    differing += 1;
                }
            }
        }
        assert_eq!(compiled.opens_flows(), alone.opens_flows(), "seed {seed}");
    }
    assert!(differing > 2000, "{differing}");
}

/// A candidate that splits what is accepted whole makes no flows necessary, nor do two rules that
/// accept everything together.
#[test]
fn what_is_accepted_by_several_rules_needs_no_flow() {
    let opens = |text: &str| {
        let policy = rules_from_lines(text);
        let compiled = compile(&policy, &slots(&policy), Budget::default());
        compiled.unwrap().opens_flows()
    };
    let out = "out all to any accept\n";
    assert!(!opens(&format!("{out}in all from any accept")));
    let split = "in tcp 0-99 from any accept\nin all from any accept";
    assert!(!opens(&format!("{out}{split}")));
    let but_ssh = "in tcp 22 from any drop\nin all from any accept";
    assert!(opens(&format!("{out}{but_ssh}")));
    assert!(opens(&format!("{out}in tcp from any accept")));
}
