//! Policies that are undone unless they are confirmed (C4): at the deadline, by hand, in time and
//! too late, on one interface and on several, with the flows that they have met.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use fastrand::Rng;
use sg_common::trial::CONFIRMED;
use sg_common::verdict::Direction;
use sg_policy::policy::{Established, Policy, groups_from_lines, rules_from_lines};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::pins::{InterfacePins, PinTree};
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;
use sg_userspace::kernel::trial::left_until;
use sg_userspace::kernel::{
    Applied, ApplyOptions, EgressHook, KernelError, Outcome, apply, confirm, confirm_generation,
    detach, undo,
};
use sg_userspace::observe::status::{Health, Status};

use crate::frames::{frame, non_ip};
use crate::hosts::Pair;
use crate::probe::{A, B, Probe, Seen};
use crate::sandbox::{RawSender, Sandbox, lost_on_the_way, sandbox};
use crate::seed::{NODE4, NODE6, Node, PEER4, PEER6};
use crate::support::{Decision, Enforcer, egress_hooks, is_guest, rounds};
use crate::traffic::talks::{self, Talks};
use crate::watching::{apply_rules, assert_adds_up, only, read, read_when, under};

/// Long enough for whatever comes before the deadline.
const LONG: Duration = Duration::from_secs(3600);
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(1500);
/// A third policy, which accepts both ports.
const BOTH: &str = "in udp 1000,2000 from any accept\nout udp 1000,2000 to any accept";

fn on_trial(options: &ApplyOptions, within: Duration) -> ApplyOptions {
    ApplyOptions {
        confirm_within: Some(within),
        ..options.clone()
    }
}

fn try_out(policy: &Policy, options: &ApplyOptions, within: Duration) -> Applied {
    apply(policy, &on_trial(options, within)).unwrap_or_else(|e| panic!("apply: {e}"))
}

fn deadline(applied: &Applied) -> u64 {
    let trial = applied.first.state.open_trial();
    trial.expect("the policy waits to be confirmed").deadline
}

/// Waits for the deadline, and a moment longer.
fn wait_for(deadline: u64) {
    std::thread::sleep(left_until(deadline) + Duration::from_millis(20));
    assert_eq!(left_until(deadline), Duration::ZERO);
}

fn status(sandbox: &Sandbox, interface: &str) -> Status {
    let status = only(sandbox, interface).status();
    status.unwrap_or_else(|e| panic!("{e}"))
}

fn pins(sandbox: &Sandbox, interface: &str) -> InterfacePins {
    only(sandbox, interface).pins
}

fn with_hook(sandbox: &Sandbox, hook: EgressHook) -> ApplyOptions {
    ApplyOptions {
        egress_hook: hook,
        ..sandbox.options("sg0")
    }
}

/// The names of the pins that only a trial needs, of an interface and of its attachment.
fn of_trial(pins: &InterfacePins) -> Vec<String> {
    let parent = pins.dir.parent().expect("the attachment's directory");
    let names = [&*pins.dir, parent].into_iter().flat_map(|dir| {
        let entries = std::fs::read_dir(dir).expect("a directory").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
    });
    let is_of_trial = |name: &String| {
        ["_gate_", "_behind_", "trial_"]
            .iter()
            .any(|part| name.contains(part))
    };
    names.filter(is_of_trial).collect()
}

/// Proves C4: a policy is in force at once, and undone at its deadline by nothing but the kernel:
/// the policy before it decides again, or everything passes. What `status` says is true at every
/// moment, and the counters are exact (A2). The next `apply` tidies up and says so.
#[test]
fn what_nobody_confirms_is_undone_at_the_deadline() {
    for (hook, replaces) in egress_hooks()
        .iter()
        .flat_map(|hook| [(*hook, true), (*hook, false)])
    {
        sandbox(|sandbox| {
            let when = format!("{hook:?}, over another policy: {replaces}");
            sandbox.veth("sg0", "sg1");
            let options = with_hook(sandbox, hook);
            if replaces {
                apply_rules(sandbox, A, &options);
            }
            let mut probe = Probe::new("sg0", "sg1");
            let applied = try_out(&rules_from_lines(B), &options, SHORT);
            let until = deadline(&applied);
            let seen = probe.look();
            let before = status(sandbox, "sg0");
            if left_until(until) > Duration::ZERO {
                assert_eq!(seen, [Seen::B; 2], "{when}");
                assert_eq!(before.health, Health::Enforcing, "{when}: {before:?}");
                let waits = before.unconfirmed.expect("it waits");
                assert!(waits.seconds_left > 0.0 && waits.seconds_left <= SHORT.as_secs_f64());
                assert_eq!(waits.returns_to.is_some(), replaces, "{when}");
                assert_eq!(
                    before.policy.generation,
                    applied.first.state.policy.generation
                );
            }
            wait_for(until);
            let expected = if replaces { Seen::A } else { Seen::Open };
            assert_eq!(probe.look(), [expected; 2], "{when}");
            let after = status(sandbox, "sg0");
            assert!(after.unconfirmed.is_none(), "{when}: {after:?}");
            let decided = after.decided.expect("no command has tidied up");
            assert!(!decided.confirmed);
            assert_eq!(decided.policy.digest, applied.first.state.policy.digest);
            if replaces {
                assert_eq!(
                    after.health,
                    Health::Enforcing,
                    "{when}: {:?}",
                    after.faults
                );
                assert_eq!(after.policy.generation, 1, "{when}");
                // Six packets each time, of which the gates count none.
                assert_adds_up(&read(sandbox, "sg0"), 6, 6);
            } else {
                assert_eq!(after.health, Health::Undone, "{when}: {:?}", after.faults);
                let counted = if seen == [Seen::B; 2] { 3 } else { 0 };
                assert_adds_up(&read(sandbox, "sg0"), counted, counted);
            }

            let next = apply(&rules_from_lines(BOTH), &options).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(next.decided.len(), 1, "{when}");
            assert!(!next.decided[0].is_confirmed);
            assert_eq!(next.outcome == Outcome::Replaced, replaces, "{when}");
            // It accepts both ports, and passes other frames.
            assert_eq!(probe.look(), [Seen::Open; 2], "{when}");
            assert_eq!(of_trial(&pins(sandbox, "sg0")), Vec::<String>::new());
            detach(sandbox.bpffs(), &pins(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"));
            assert!(!sandbox.pins().exists(), "{when}");
        });
    }
}

/// Proves C4: a policy that is confirmed in time stays, by the very programs that were loaded, and
/// nothing of the trial is left.
#[test]
fn what_is_confirmed_in_time_stays() {
    for &hook in egress_hooks() {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let options = with_hook(sandbox, hook);
            apply_rules(sandbox, A, &options);
            // An emulated processor takes its time.
            let within = Duration::from_secs(if is_guest() { 30 } else { 5 });
            let applied = try_out(&rules_from_lines(B), &options, within);
            let until = deadline(&applied);
            let pins = pins(sandbox, "sg0");
            match confirm(sandbox.bpffs(), &pins) {
                Ok(decided) => {
                    assert!(decided.is_confirmed);
                    assert_eq!(decided.interfaces, ["sg0"]);
                }
                Err(e) => {
                    assert_eq!(left_until(until), Duration::ZERO, "{e}");
                    panic!("the machine is too busy for this test: {e}");
                }
            }
            wait_for(until);
            let mut probe = Probe::new("sg0", "sg1");
            assert_eq!(probe.look(), [Seen::B; 2]);
            let now = status(sandbox, "sg0");
            assert_eq!(now.health, Health::Enforcing, "{:?}", now.faults);
            assert!(now.unconfirmed.is_none() && now.decided.is_none());
            assert_eq!(of_trial(&pins), Vec::<String>::new());
            let found = only(sandbox, "sg0");
            let state = found.state().unwrap_or_else(|e| panic!("{e}"));
            let ids = Direction::BOTH.map(|direction| state.program(direction));
            let loaded = Direction::BOTH.map(|direction| applied.first.state.program(direction));
            assert_eq!(ids, loaded, "no other programs");
            let inspection = found.inspect().unwrap_or_else(|e| panic!("{e}"));
            let link = inspection.inbound.link.expect("the inbound link");
            assert_eq!(link.program, ids[0], "no gate is before it");
            assert_adds_up(&read(sandbox, "sg0"), 3, 3);
            let again = confirm(sandbox.bpffs(), &pins);
            assert!(
                matches!(again, Err(KernelError::NothingToConfirm { .. })),
                "{again:?}"
            );
            // The same policy once more is unchanged, and there is nothing to confirm.
            let same = try_out(&rules_from_lines(B), &options, SHORT);
            assert_eq!(same.outcome, Outcome::Unchanged);
            assert!(same.first.state.open_trial().is_none());
        });
    }
}

/// Proves C4: after the deadline nothing can be confirmed any more; the attempt tidies up.
#[test]
fn it_is_too_late_to_confirm_after_the_deadline() {
    for replaces in [true, false] {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let options = sandbox.options("sg0");
            if replaces {
                apply_rules(sandbox, A, &options);
            }
            let applied = try_out(&rules_from_lines(B), &options, Duration::from_millis(10));
            let pins = pins(sandbox, "sg0");
            wait_for(applied.first.state.trial.expect("a trial").deadline);
            let late = confirm(sandbox.bpffs(), &pins);
            assert!(matches!(late, Err(KernelError::TooLate { .. })), "{late:?}");
            assert_eq!(late.map_err(|e| e.exit_code()), Err(1));
            let mut probe = Probe::new("sg0", "sg1");
            let expected = if replaces { Seen::A } else { Seen::Open };
            assert_eq!(probe.look(), [expected; 2]);
            match replaces {
                true => {
                    assert_eq!(of_trial(&pins), Vec::<String>::new());
                    let now = status(sandbox, "sg0");
                    assert_eq!(now.health, Health::Enforcing, "{:?}", now.faults);
                    assert_eq!(now.policy.generation, 1);
                    assert_adds_up(&read(sandbox, "sg0"), 3, 3);
                }
                false => assert!(!sandbox.pins().exists()),
            }
        });
    }
}

/// Proves C4: by hand a policy is undone at once, on all interfaces of the attachment, also those
/// that it has added; where there was no policy nothing is left.
#[test]
fn one_word_undoes_all_interfaces() {
    for &hook in egress_hooks() {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            sandbox.veth("sg2", "sg3");
            let one = with_hook(sandbox, hook);
            apply_rules(sandbox, A, &one);
            let two = ApplyOptions {
                interfaces: vec!["sg0".into(), "sg2".into()],
                ..one.clone()
            };
            try_out(&rules_from_lines(B), &two, LONG);
            let mut probes = [Probe::new("sg0", "sg1"), Probe::new("sg2", "sg3")];
            for probe in &mut probes {
                assert_eq!(probe.look(), [Seen::B; 2]);
            }
            let undone = undo(sandbox.bpffs(), &pins(sandbox, "sg2"));
            let undone = undone.unwrap_or_else(|e| panic!("{e}")).expect("a trial");
            assert!(!undone.is_confirmed);
            assert_eq!(undone.interfaces, ["sg0", "sg2"]);
            assert_eq!(probes[0].look(), [Seen::A; 2]);
            assert_eq!(probes[1].look(), [Seen::Open; 2]);
            assert_eq!(status(sandbox, "sg0").health, Health::Enforcing);
            assert_adds_up(&read(sandbox, "sg0"), 6, 6);
            assert_eq!(of_trial(&pins(sandbox, "sg0")), Vec::<String>::new());
            let again = undo(sandbox.bpffs(), &pins(sandbox, "sg0"));
            assert!(again.unwrap_or_else(|e| panic!("{e}")).is_none());

            // And at the deadline, for all of them.
            let applied = try_out(&rules_from_lines(B), &two, SHORT);
            wait_for(deadline(&applied));
            assert_eq!(probes[0].look(), [Seen::A; 2]);
            assert_eq!(probes[1].look(), [Seen::Open; 2]);
            let confirmed = try_out(&rules_from_lines(B), &two, LONG);
            assert_eq!(confirmed.decided.len(), 1);
            confirm(sandbox.bpffs(), &pins(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"));
            for probe in &mut probes {
                assert_eq!(probe.look(), [Seen::B; 2]);
            }
            for interface in ["sg0", "sg2"] {
                let now = status(sandbox, interface);
                assert_eq!(now.health, Health::Enforcing, "{:?}", now.faults);
                assert!(now.unconfirmed.is_none());
            }
        });
    }
}

/// Proves C4: a second policy inside the time of the first. The undo of one that is to be confirmed
/// as well is the last policy that was confirmed; one that is not to be confirmed stays.
#[test]
fn a_second_policy_is_undone_to_the_last_confirmed_one() {
    for first_attachment in [true, false] {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let options = sandbox.options("sg0");
            if !first_attachment {
                apply_rules(sandbox, A, &options);
            }
            let mut probe = Probe::new("sg0", "sg1");
            try_out(&rules_from_lines(B), &options, LONG);
            assert_eq!(probe.look(), [Seen::B; 2]);
            let second = try_out(&rules_from_lines(""), &options, LONG);
            assert!(second.has_ended_trial);
            assert_eq!(probe.look(), [Seen::Dead; 2]);
            undo(sandbox.bpffs(), &pins(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"));
            let before = if first_attachment {
                Seen::Open
            } else {
                Seen::A
            };
            assert_eq!(probe.look(), [before; 2]);
            if !first_attachment {
                assert_adds_up(&read(sandbox, "sg0"), 9, 9);
            }
            // The same policy again, which begins a new time, and then one for good.
            for within in [SHORT, SHORT] {
                try_out(&rules_from_lines(B), &options, within);
            }
            let until = deadline(&try_out(&rules_from_lines(B), &options, SHORT));
            let stays = apply(&rules_from_lines(B), &options).unwrap_or_else(|e| panic!("{e}"));
            if stays.has_ended_trial {
                assert_eq!(stays.outcome, Outcome::Replaced);
                wait_for(until);
                assert_eq!(probe.look(), [Seen::B; 2]);
                assert_eq!(of_trial(&pins(sandbox, "sg0")), Vec::<String>::new());
            }
            assert_eq!(status(sandbox, "sg0").health, Health::Enforcing);
        });
    }
}

/// Proves A2 and C4: under traffic in both directions each packet is counted once, before, at and
/// after the deadline, and when tidying up.
#[test]
fn every_packet_is_counted_once_over_the_deadline() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, A, &options);
        let is_over = AtomicBool::new(false);
        let sender = |interface: &str, text: &str| {
            let socket = RawSender::new(interface);
            let frames = [non_ip(0x88cc), frame(text)];
            let is_over = &is_over;
            move || {
                let mut sent = [0u64; 2];
                while !is_over.load(Relaxed) {
                    for (frame, sent) in frames.iter().zip(&mut sent) {
                        // One of the ports is dropped by each policy.
                        socket.send(frame.bytes());
                        *sent += 1;
                    }
                }
                sent
            }
        };
        let senders = [
            sender("sg1", "udp 198.51.100.1:9 > 192.0.2.1:1000"),
            sender("sg0", "udp 192.0.2.1:1000 > 198.51.100.1:2000"),
        ];
        let sent = std::thread::scope(|scope| {
            let senders = senders.map(|sender| scope.spawn(sender));
            for _ in 0..2 {
                let applied = try_out(&rules_from_lines(B), &options, Duration::from_millis(400));
                let trial = applied.first.state.trial.expect("a trial");
                wait_for(trial.deadline);
                std::thread::sleep(Duration::from_millis(100));
                let _ = confirm(sandbox.bpffs(), &pins(sandbox, "sg0"));
            }
            is_over.store(true, Relaxed);
            senders.map(|sender| sender.join().expect("it does not panic"))
        });
        let [inbound, outbound] = sent.map(|[others, udp]| others + udp);
        // Where the senders are faster than the receiver, its queue is full at times.
        let inbound = inbound - lost_on_the_way("sg1");
        let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets >= inbound);
        assert_adds_up(&counted, inbound, outbound);
        assert_eq!(under(&counted, "incomplete"), [0, 0]);
        assert!(inbound > 1000 && outbound > 1000, "{sent:?}");
    });
}

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
                let pins = PinTree::new(sandbox.bpffs()).interface(netns, 1);
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

/// Proves C4: who confirms a generation by its number confirms that one only. What another process
/// has put on trial since goes on waiting.
#[test]
fn one_generation_is_confirmed_and_no_other() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, A, &options);
        let first = try_out(&rules_from_lines(B), &options, LONG);
        let first = first.first.state.policy.generation;
        let second = try_out(&rules_from_lines(BOTH), &options, LONG);
        let second = second.first.state.policy.generation;
        let pins = pins(sandbox, "sg0");
        let refused = confirm_generation(&options.bpffs, &pins, first);
        let is_right = matches!(&refused, Err(KernelError::NothingToConfirm { .. }));
        assert!(is_right, "{refused:?}");
        assert!(
            status(sandbox, "sg0").unconfirmed.is_some(),
            "it still waits"
        );
        let decided = confirm_generation(&options.bpffs, &pins, second);
        let decided = decided.unwrap_or_else(|e| panic!("confirm: {e}"));
        assert!(decided.is_confirmed);
        assert_eq!(decided.policy.generation, second);
        assert!(status(sandbox, "sg0").unconfirmed.is_none());
    });
}
