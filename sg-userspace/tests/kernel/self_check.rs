//! The self-check: it agrees with what is right, and finds each boundary that is in a wrong place.

use fastrand::Rng;
use sg_common::lookup::LINE_WORDS;
use sg_common::verdict::{FIRST_RULE_SLOT, Verdict};
use sg_policy::compile::{Budget, Compiled};
use sg_policy::compile_policy;
use sg_policy::edges::edges;
use sg_policy::oracle::kind_and_number;
use sg_policy::partition::Partition;
use sg_policy::policy::{AuditScope, Policy, groups_from_lines, rules_from_lines};
use sg_policy::testing::{self, Shape};
use sg_userspace::kernel::KernelError;
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::self_check::{CheckedRules, SelfCheck, self_check};

use crate::sandbox::require_root;
use crate::support::is_guest;

fn compiled(policy: &Policy) -> (Vec<u32>, Compiled) {
    let rules = policy.rules.len() as u32;
    let slots: Vec<u32> = (FIRST_RULE_SLOT..FIRST_RULE_SLOT + rules).collect();
    let compiled = compile_policy(policy, &slots, Budget::default()).expect("tables fit");
    (slots, compiled)
}

fn check(policy: &Policy, compiled: &Compiled, slots: &[u32]) -> Result<SelfCheck, KernelError> {
    require_root();
    let partition = Partition::new(policy);
    let generation = Generation::of(policy, 1);
    let rules = CheckedRules {
        policy,
        partition: &partition,
        slots,
        beside: None,
    };
    self_check(&rules, compiled, &generation, None)
}

/// Policies of every kind agree, also where they are audited and where essential traffic passes.
#[test]
fn what_is_right_agrees() {
    let mut rng = Rng::with_seed(11);
    let shape = Shape {
        rules: 60,
        ipv6: 40,
        inbound_only: false,
    };
    let random = testing::rules(&mut rng, shape);
    let link_local = "in udp 540-550 from fe80::/10 drop\nin icmpv6 from fe80::/10 drop";
    for (text, scope) in [
        (random.as_str(), AuditScope::Rules),
        (&random, AuditScope::All),
        (link_local, AuditScope::Rules),
        (
            "in tcp 80 from any drop audit\nout all to any accept",
            AuditScope::Rules,
        ),
        ("", AuditScope::Rules),
    ] {
        let policy = rules_from_lines(text).audited(scope);
        let (slots, compiled) = compiled(&policy);
        let checked = check(&policy, &compiled, &slots).unwrap_or_else(|e| panic!("{e}"));
        assert!(checked.is_whole() && checked.packets > 10, "{checked:?}");
    }
    let text =
        "option essential: false\noption log-no-match: true\ngroup g\nin all from ::/0 drop log";
    let policy = groups_from_lines(text);
    let (slots, compiled) = compiled(&policy);
    check(&policy, &compiled, &slots).unwrap_or_else(|e| panic!("{e}"));
}

/// A mistake in any word of the tables that changes a decision at an edge is found, and named with
/// the packet. No other is reported.
#[test]
fn each_wrong_word_of_the_tables_is_found() {
    let policy = rules_from_lines(
        "in tcp 22,80-90 from 10.0.0.0/8 accept\nin udp 53 from 10.1.0.0/16 drop\n\
         in all from 10.2.3.0/24,2001:db8::/32 accept\nout tcp 443 to any accept",
    );
    let (slots, right) = compiled(&policy);
    let packets = edges(&Partition::new(&policy), policy.rules.len(), usize::MAX / 2).packets;
    let decided = |compiled: &Compiled| -> Vec<Verdict> {
        let one = |packet: &sg_policy::oracle::Packet| {
            let (kind, number) = kind_and_number(packet);
            compiled.decide(packet.direction, packet.remote, kind, number)
        };
        packets.iter().map(one).collect()
    };
    let expected = decided(&right);
    let mut rng = Rng::with_seed(2);
    // Words that say something, behind the description of the tables.
    let said = |word: &usize| right.lines[word / LINE_WORDS].0[word % LINE_WORDS] != 0;
    let words = sg_common::lookup::SHAPE_LINES * LINE_WORDS..right.lines.len() * LINE_WORDS;
    let words: Vec<usize> = words.filter(said).collect();
    let (mut found, mut harmless) = (0, 0);
    for _ in 0..60 {
        let mut wrong = right.clone();
        let word = *rng.choice(&words).expect("some words");
        let bit = *rng.choice(&[Verdict::ACCEPT_BIT, 1, 2]).expect("some bits");
        wrong.lines[word / LINE_WORDS].0[word % LINE_WORDS] ^= bit;
        let differs = decided(&wrong) != expected;
        match check(&policy, &wrong, &slots) {
            Err(error @ KernelError::SelfCheck { .. }) => {
                assert!(differs, "word {word}, bit {bit:#x}: {error}");
                assert_eq!(error.exit_code(), 3);
                found += 1;
            }
            Err(error) => panic!("{error}"),
            Ok(_) => {
                assert!(!differs, "word {word}, bit {bit:#x} was not found");
                harmless += 1;
            }
        }
    }
    assert!(found >= 4, "{found} found, {harmless} harmless");
}

/// A thousand rules are checked in half a second on an idle machine, and twenty thousand by an even
/// share of their edges. Prints the figures. In an emulator the time says nothing.
#[test]
fn large_policies_are_checked_within_a_bound() {
    let mut rng = Rng::with_seed(4);
    for (rules, bound) in [(1000, 10.0), (20_000, 60.0)] {
        let text: String = (0..rules)
            .map(|i| {
                let port = rng.u16(1..);
                format!(
                    "in tcp {port} from 10.{}.{}.0/24 accept\n",
                    i >> 8 & 255,
                    i & 255
                )
            })
            .collect();
        let policy = rules_from_lines(&text);
        let (slots, compiled) = compiled(&policy);
        let checked = check(&policy, &compiled, &slots).unwrap_or_else(|e| panic!("{e}"));
        println!("{rules} rules: {checked:?}");
        assert!(checked.packets >= 200, "{checked:?}");
        assert!(is_guest() || checked.seconds < bound, "{checked:?}");
    }
}
