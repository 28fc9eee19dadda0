//! What it costs to load the programs: how many instructions the verifier explores, and how long it
//! takes. `--nocapture` prints the figures.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sg_common::verdict::Action;
use sg_policy::policy::{AuditScope, rules_from_lines};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::object::OBJECT;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;

use crate::stack::depths;
use crate::support::{Enforcer, is_guest, verified_instructions};

/// The deepest chain of calls enters a flow and takes this much. The kernel's limit for a chain is
/// 512 (MAX_BPF_STACK in include/linux/filter.h).
const STACK_BYTES: u32 = 384;

/// The limit of instructions for one program. With more, `apply` would take noticeably long on a
/// kernel with a slower verifier.
const VERIFIED_INSTRUCTIONS: u32 = 4000;

/// The limit for loading all programs of a small policy, several times as long as it takes on an
/// idle machine.
const LOAD: Duration = Duration::from_millis(500);

/// How long to try: on a busy machine only some of the loads run undisturbed.
const QUIET_WITHIN: Duration = Duration::from_secs(120);

/// Proves K1: the programs are small enough to be loaded at any time.
#[test]
fn programs_stay_within_their_budget() {
    let both = rules_from_lines(
        "in tcp 22,80-90 from 2001:db8::/32 accept\nin udp 53 from any drop\n\
         in all from 10.0.0.0/8 accept\nout all to any accept",
    );
    let logging = {
        let mut policy = both.clone();
        policy.rules[0].log = true;
        policy
    };
    let auditing = {
        let mut policy = both.clone();
        policy.rules[1].action = Action::Audit;
        policy
    };
    let policies = [
        ("no rules", rules_from_lines("")),
        (
            "IPv4 only",
            rules_from_lines("in tcp 22 from 10.0.0.0/8 accept\nout all to 0.0.0.0/0 accept"),
        ),
        ("both families", both.clone()),
        ("logging", logging),
        ("auditing", auditing),
        ("auditing everything", both.clone().audited(AuditScope::All)),
    ];
    for (name, policy) in policies {
        let after_a_cut = Generation {
            may_have_cut: true,
            ..Generation::of(&policy, 1)
        };
        let maps = SharedMaps::default();
        let cut = Enforcer::loaded_by(policy.clone(), &after_a_cut, &maps, Programs::load);
        stays_within_budget(&format!("{name}, after a cut"), &cut.programs);
        let not_confirmed = Generation {
            on_trial: true,
            has_fallback: true,
            may_have_cut: true,
            ..Generation::of(&policy, 1)
        };
        let trial = Enforcer::loaded_by(policy.clone(), &not_confirmed, &maps, Programs::load);
        has_budget(&format!("{name}, on trial"), &trial.programs, &GATES);
        let started = Instant::now();
        let enforcer = loop {
            let enforcer = Enforcer::of(policy.clone());
            let load = enforcer.programs.load_time;
            println!("{name}: loaded in {:.1} ms", load.as_secs_f64() * 1000.0);
            if load < LOAD || is_guest() {
                break enforcer;
            }
            let is_late = started.elapsed() > QUIET_WITHIN;
            assert!(
                !is_late,
                "{name}: never loaded in {LOAD:?}, last in {load:?}"
            );
        };
        stays_within_budget(name, &enforcer.programs);
    }
}

/// Fails if a program of a policy has more instructions to verify than it may have.
pub(crate) fn stays_within_budget(policy: &str, programs: &Programs) {
    has_budget(policy, programs, &[]);
}

fn has_budget(policy: &str, programs: &Programs, gates: &[&str]) {
    let counts = verified_instructions(programs);
    let names: BTreeSet<&str> = counts.keys().map(String::as_str).collect();
    let usual = match policy.starts_with("auditing") {
        true => AUDITING,
        false => PROGRAMS,
    };
    assert_eq!(
        names,
        usual.into_iter().chain(gates.iter().copied()).collect()
    );
    for (program, count) in counts {
        println!("  {program:<14} {count:>5}");
        assert!(
            (1..=VERIFIED_INSTRUCTIONS).contains(&count),
            "{policy}: the verifier walks {count} instructions of {program}"
        );
    }
}

const PROGRAMS: [&str; 10] = [
    "sg_in_event",
    "sg_in_related",
    "sg_in_slow",
    "sg_in_track",
    "sg_inbound",
    "sg_out_event",
    "sg_out_related",
    "sg_out_slow",
    "sg_out_track",
    "sg_outbound",
];

/// The programs in front of a policy that waits to be confirmed.
const GATES: [&str; 2] = ["sg_in_gate", "sg_out_gate"];

/// The programs of a policy that audits.
const AUDITING: [&str; 10] = [
    "sg_in_event",
    "sg_in_rel_aud",
    "sg_in_slow_aud",
    "sg_in_track_aud",
    "sg_inbound",
    "sg_out_event",
    "sg_out_rel_aud",
    "sg_out_slow_aud",
    "sg_out_track_aud",
    "sg_outbound",
];

/// Proves K1: the stack of every program stays well below the kernel's limit.
#[test]
fn stacks_stay_within_their_budget() {
    let depths = depths(OBJECT);
    let names: BTreeSet<&str> = depths.keys().map(String::as_str).collect();
    let all = PROGRAMS.into_iter().chain(AUDITING).chain(GATES);
    assert_eq!(names, all.collect());
    for (program, bytes) in depths {
        println!("{program:<14} {bytes} bytes of stack");
        assert!((8..=STACK_BYTES).contains(&bytes), "{program}: {bytes}");
    }
}
