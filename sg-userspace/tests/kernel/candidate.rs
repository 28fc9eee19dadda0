//! A candidate beside the enforced policy, compiled into its tables: in the kernel no verdict
//! changes, and what the candidate would decide otherwise is counted for the pair of rules, packet
//! by packet as the oracle says, replies of flows included.

use fastrand::Rng;
use sg_policy::policy::groups_from_lines;

use crate::sandbox::sandbox;
use crate::support::is_guest;
use crate::traffic::{Traffic, policies, talks};
use crate::world::hunt::{self, Manner};
use crate::world::script::{Group, PolicyText, Step};

/// How many random pairs of policies are tried in the normal test run.
const PAIRS: u64 = 30;
const PAIRS_OF_A_GUEST: u64 = 2;
/// How many frames are sent for each.
const FRAMES: usize = 3000;
/// How many conversations are followed, flow by flow.
const SCRIPTS: u64 = 8;
const STEPS: usize = 800;

fn count(normally: u64) -> u64 {
    match (is_guest(), std::env::var_os("SG_THOROUGH")) {
        (true, _) => PAIRS_OF_A_GUEST,
        (false, Some(_)) => normally * 20,
        (false, None) => normally,
    }
}

/// The groups with some rules left out, turned round, moved, or put in.
fn edited(rng: &mut Rng, groups: &[Group], others: &[Group]) -> Vec<Group> {
    let mut groups = groups.to_vec();
    let others: Vec<&String> = others.iter().flat_map(|group| &group.rules).collect();
    for group in &mut groups {
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..=group.rules.len());
            let is_rule = at < group.rules.len();
            match rng.u8(..4) {
                0 if is_rule => {
                    group.rules.remove(at);
                }
                1 if is_rule => {
                    let words = [" accept", " drop"];
                    let [accept, drop] = words;
                    let rule = &mut group.rules[at];
                    *rule = match rule.contains(accept) {
                        true => rule.replace(accept, drop),
                        // What is accepted cannot be audited.
                        false => rule.replace(drop, accept).replace(" audit", ""),
                    };
                }
                2 if at + 1 < group.rules.len() => group.rules.swap(at, at + 1),
                _ => {
                    if let Some(rule) = rng.choice(&others) {
                        group.rules.insert(at, (*rule).clone());
                    }
                }
            }
        }
    }
    groups
}

/// A policy with a candidate: another policy, or the same with edits.
fn with_candidate(rng: &mut Rng, policy: PolicyText, another: PolicyText) -> PolicyText {
    let candidate = match rng.u8(..3) {
        0 => another.groups,
        _ => edited(rng, &policy.groups, &another.groups),
    };
    PolicyText {
        candidate,
        ..policy
    }
}

/// What C10 stands on: no verdict changes, and the counters of differences are those of the oracle.
#[test]
fn a_candidate_changes_no_verdict_and_its_differences_are_counted() {
    sandbox(|sandbox| {
        let (mut packets, mut pairs) = (0, 0);
        for seed in 0..count(PAIRS) {
            let world = hunt::check(
                sandbox,
                &Manner::default(),
                "candidate",
                seed,
                &frames_for_two_policies(seed),
            );
            let (more, _, different) = world.counted_for_pairs();
            packets += more;
            pairs += different;
        }
        println!("{packets} packets of {pairs} pairs");
        assert!(
            is_guest() || (packets > 2000 && pairs > 100),
            "{packets} packets, {pairs} pairs"
        );
    });
}

fn frames_for_two_policies(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let rules = if seed.is_multiple_of(4) { 40 } else { 12 };
    let policy = policies::policy(&mut rng, rules);
    let another = policies::policy(&mut rng, rules);
    let policy = with_candidate(&mut rng, policy, another);
    let candidate = policy.candidate_lines().expect("there is one");
    // Frames at the edges of both.
    let edges = [policy.lines(), candidate].map(|lines| groups_from_lines(&lines));
    let mut sources = edges.map(|edges| Traffic::new(rng.fork(), edges));
    let mut steps = vec![Step::Policy(policy)];
    for i in 0..FRAMES {
        steps.push(Step::Frame(sources[i % 2].next()));
    }
    steps
}

/// What C10 stands on, for flows: replies are counted for the pair that admitted the flow, also
/// when other policies with other candidates come in between.
#[test]
fn replies_are_counted_for_the_pair_that_admitted_their_flow() {
    sandbox(|sandbox| {
        let (mut packets, mut replies) = (0, 0);
        let manner = Manner {
            exact: true,
            ..Manner::default()
        };
        for seed in 0..count(SCRIPTS) {
            let steps = conversations(seed);
            let world = hunt::check(sandbox, &manner, "candidate-flows", seed, &steps);
            let (more, answers, _) = world.counted_for_pairs();
            packets += more;
            replies += answers;
        }
        println!("{packets} packets and {replies} replies of pairs");
        assert!(
            is_guest() || (packets > 100 && replies > 50),
            "{packets} packets, {replies} replies"
        );
    });
}

fn conversations(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let policy = |rng: &mut Rng| {
        let policy = talks::policy(rng, 1024);
        let another = talks::policy(rng, 1024);
        with_candidate(rng, policy, another)
    };
    let first = policy(&mut rng);
    let count = rng.usize(2..12);
    let mut talks = talks::Talks::new(rng, count);
    let mut steps = vec![Step::Policy(first)];
    for _ in 0..STEPS {
        let rng = talks.rng();
        steps.push(match rng.u8(..150) {
            0 => Step::Policy(policy(rng)),
            1..4 => Step::Wait(rng.u32(1..45)),
            _ => Step::Frame(talks.next()),
        });
    }
    steps
}
