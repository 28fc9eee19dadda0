//! A policy on trial (C4) and the flows that there are: it ends none, and its undo brings none back
//! that it has not found.

use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use fastrand::Rng;
use sg_common::trial::CONFIRMED;
use sg_policy::policy::{Established, Policy, groups_from_lines, rules_from_lines};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::pins::PinTree;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;
use sg_userspace::kernel::trial::left_until;
use sg_userspace::kernel::{confirm, undo};

use crate::confirm::{LONG, deadline, try_out, wait_for};
use crate::hosts::Pair;
use crate::sandbox::{Sandbox, sandbox};
use crate::seed::{NODE4, NODE6, Node, PEER4, PEER6};
use crate::support::{Decision, Enforcer, is_guest, rounds};
use crate::traffic::talks::{self, Talks};

const SSH: &str = "in tcp 22 from any accept\nout tcp 443 to any accept\nout udp 53 to any accept";
const WEB: &str = "in tcp 80 from any accept";
const OPEN: &str = "in all from any accept\nout all to any accept";

/// How an undo comes about.
#[derive(Clone, Copy, Debug)]
enum By {
    Hand,
    Deadline,
}

/// Puts a policy on trial, does something while it decides, and has it undone.
fn while_on_trial(sandbox: &Sandbox, node: &Node<'_>, policy: &Policy, by: By, act: impl FnOnce()) {
    // On an emulated processor connections would give up before the deadline.
    let by = if is_guest() { By::Hand } else { by };
    let within = match by {
        By::Hand => LONG,
        By::Deadline => Duration::from_secs(6),
    };
    let applied = try_out(policy, &sandbox.options("nic"), within);
    let until = deadline(&applied);
    act();
    assert!(
        left_until(until) > Duration::ZERO,
        "the machine is too busy"
    );
    match by {
        By::Hand => {
            let undone = undo(sandbox.bpffs(), &node.attached().pins);
            assert!(undone.unwrap_or_else(|e| panic!("{e}")).is_some());
        }
        By::Deadline => wait_for(until),
    }
}

/// Proves C4 and K11: connections that a policy on trial does not admit stand still while it
/// decides, and go on when it is undone, with what was sent meanwhile: those that the node has
/// opened and those to it, with and without an entry in the flow table, and datagrams.
#[test]
fn connections_that_were_stopped_go_on_after_the_undo() {
    let flushing = Policy {
        established: Established::Flush,
        ..rules_from_lines(WEB)
    };
    let cases = [
        (SSH, rules_from_lines(WEB), By::Deadline),
        (SSH, flushing, By::Hand),
        (OPEN, rules_from_lines(""), By::Hand),
    ];
    for (before, mistake, by) in cases {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            node.apply(&rules_from_lines(before));
            let tcp = [
                node.inbound(NODE4),
                node.inbound(NODE6),
                node.outbound(PEER4),
                node.outbound(PEER6),
            ];
            let udp = [node.udp(PEER4), node.udp(PEER6)];
            let revoked = || node.counted("revoked").iter().sum::<u64>();
            while_on_trial(sandbox, &node, &mistake, by, || {
                for pair in &tcp {
                    assert!(!pair.carries_from(0, false), "{before} {mistake:?}");
                }
                for pair in &udp {
                    assert!(!pair.carries_from(0, false), "{before} {mistake:?}");
                }
                assert!(revoked() > 0 || node.counted("no-match").iter().any(|n| *n > 0));
            });
            tcp.iter().chain(&udp).for_each(Pair::goes_on);
            let cut = node.flows().into_iter();
            assert_eq!(cut.filter(|flow| flow.state.name() == "tcp-cut").count(), 0);
        });
    }
}

/// Proves C4 and K11: what only the undone policy has admitted is judged again, in both directions,
/// whichever end sends; what the policy before admits as well goes on.
#[test]
fn what_only_the_undone_policy_admitted_is_judged_again() {
    for (before, by) in [
        (rules_from_lines(WEB), By::Deadline),
        (
            Policy {
                established: Established::Keep,
                ..rules_from_lines(WEB)
            },
            By::Hand,
        ),
    ] {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            node.apply(&before);
            let mut admitted = Vec::new();
            while_on_trial(sandbox, &node, &rules_from_lines(SSH), by, || {
                admitted.push(node.inbound(NODE4));
                admitted.push(node.inbound(NODE6));
                admitted.push(node.outbound(PEER4));
                admitted.iter().for_each(Pair::goes_on);
            });
            admitted.iter().for_each(Pair::is_cut);
            let revoked = node.counted("revoked");
            assert!(revoked.iter().all(|count| *count > 0), "{revoked:?}");
        });
    }
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines(SSH));
        let mut admitted = Vec::new();
        let other = rules_from_lines(&format!("{SSH}\nin tcp 80 from any accept"));
        while_on_trial(sandbox, &node, &other, By::Hand, || {
            admitted.extend([node.inbound(NODE4), node.outbound(PEER6), node.udp(PEER4)]);
        });
        admitted.iter().for_each(Pair::goes_on);
    });
}

/// Proves K11 and C4: once a policy is confirmed it ends the flows that it does not admit, and they
/// stay so under the policy before it.
#[test]
fn a_confirmed_policy_cuts_as_any_other() {
    for established in [Established::Revalidate, Established::Flush] {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            node.apply(&rules_from_lines(SSH));
            let pairs = [node.inbound(NODE4), node.outbound(PEER6)];
            let silent = node.inbound(NODE6);
            let mistake = Policy {
                established,
                ..rules_from_lines(WEB)
            };
            try_out(&mistake, &sandbox.options("nic"), LONG);
            pairs.iter().for_each(Pair::is_cut);
            let pins = node.attached().pins;
            confirm(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
            pairs.iter().for_each(Pair::is_cut);
            node.apply(&rules_from_lines(SSH));
            pairs.iter().for_each(Pair::is_cut);
            match established {
                // It has sent nothing under the policy that would have cut it.
                Established::Flush => silent.is_cut(),
                _ => silent.goes_on(),
            }
            let states = node.flows().into_iter().map(|flow| flow.state.name());
            assert!(states.filter(|name| *name == "tcp-cut").count() >= 2);
        });
    }
}

/// Proves C4 and K11, packet by packet: a policy on trial decides and counts as the same policy
/// does without one, for random conversations that began under another random policy; and so it
/// does after it was confirmed.
#[test]
fn a_policy_on_trial_decides_as_any_other() {
    const FRAMES: usize = 400;
    let mut revoked = 0;
    sandbox(|sandbox| {
        for round in 0..rounds(30) as u64 {
            let mut rng = Rng::with_seed(round);
            // Without audits: what a policy on trial has revoked it goes on revoking, where one
            // that has forgotten the flow would audit the next packet (SPEC C9).
            let mut policies = [0; 2].map(|_| {
                let lines = talks::policy(&mut rng, 1024).lines();
                groups_from_lines(&lines.replace(" audit", ""))
            });
            // The counters are made for the first one.
            policies.sort_by_key(|policy| std::cmp::Reverse(policy.rules.len()));
            let [first, second] = policies;
            let mut talks = Talks::new(rng, 10);
            let tables = [2 * round + 1, 2 * round + 2].map(|netns| {
                let pins = PinTree::new(sandbox.bpffs())
                    .interface(netns, 1)
                    .expect("the tree is readable");
                pins.create().unwrap_or_else(|e| panic!("{e}"));
                SharedMaps {
                    pins: Some(pins),
                    counter_slots: 64,
                    ..SharedMaps::default()
                }
            });
            let mut both = |twins: &mut [Enforcer; 2], when: &str| {
                for number in 0..FRAMES {
                    let sent = talks.next();
                    let mut bytes = sent.bytes;
                    // As Ethernet pads them: the kernel refuses shorter ones in test runs.
                    bytes.resize(bytes.len().max(60), 0);
                    let [plain, trial] = twins.each_mut().map(|it| it.send(sent.direction, &bytes));
                    // A flow that the plain one has forgotten is there still, and is revoked again.
                    let is_again = !plain.accept && trial.counter == "revoked";
                    let expected = match is_again {
                        true => Decision {
                            counter: trial.counter.clone(),
                            ..plain.clone()
                        },
                        false => plain.clone(),
                    };
                    assert_eq!(trial, expected, "round {round}, {when}, frame {number}");
                    revoked += usize::from(plain.counter == "revoked");
                }
            };
            let mut twins = tables
                .each_ref()
                .map(|maps| Enforcer::sharing(first.clone(), 1, maps.clone()));
            both(&mut twins, "before");
            let options = Generation {
                may_have_cut: true,
                ..Generation::of(&second, 2)
            };
            let on_trial = Generation {
                on_trial: true,
                ..options.clone()
            };
            let [plain, trial] = &tables;
            let load =
                |options, maps| Enforcer::loaded_by(second.clone(), options, maps, Programs::load);
            let mut twins = [load(&options, plain), load(&on_trial, trial)];
            both(&mut twins, "on trial");
            let word = trial.pins.as_ref().expect("it is pinned").trial(2);
            let word = MapData::from_pin(word).expect("the word of the trial");
            let mut word = Array::<_, u64>::try_from(Map::Array(word)).expect("an array");
            word.set(0, CONFIRMED, 0).expect("it can be written");
            both(&mut twins, "confirmed");
        }
    });
    assert!(
        revoked > 100,
        "only {revoked} packets were of revoked flows"
    );
}
