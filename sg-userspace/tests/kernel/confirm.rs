//! Policies that are undone unless they are confirmed (C4): at the deadline, by hand, in time and
//! too late, on one interface and on several. `confirm_flows` is about the flows that they meet.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use sg_common::verdict::Direction;
use sg_policy::policy::{Policy, rules_from_lines};
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::kernel::trial::left_until;
use sg_userspace::kernel::{
    Applied, ApplyOptions, EgressHook, KernelError, Outcome, apply, confirm, confirm_generation,
    detach, undo,
};
use sg_userspace::observe::status::{Health, Status};

use crate::frames::{frame, non_ip};
use crate::probe::{A, B, Probe, Seen};
use crate::sandbox::{RawSender, Sandbox, lost_on_the_way, sandbox};
use crate::support::{egress_hooks, is_guest};
use crate::watching::{apply_rules, assert_adds_up, only, read, read_when, under};

/// Long enough for whatever comes before the deadline.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
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

pub(crate) fn try_out(policy: &Policy, options: &ApplyOptions, within: Duration) -> Applied {
    apply(policy, &on_trial(options, within)).unwrap_or_else(|e| panic!("apply: {e}"))
}

pub(crate) fn deadline(applied: &Applied) -> u64 {
    let trial = applied.first.state.open_trial();
    trial.expect("the policy waits to be confirmed").deadline
}

/// Waits for the deadline, and a moment longer.
pub(crate) fn wait_for(deadline: u64) {
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

/// Proves C4: a second policy is applied while the first waits to be confirmed. If the second has
/// to be confirmed too, its undo returns to the last policy that was confirmed. If not, it stays.
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
            // The same policy again, which each time has to be confirmed anew, and at last has not.
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
