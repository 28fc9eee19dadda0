//! What other processes can do to an attachment: `status` names it, and `apply` and `detach` repair
//! it (C12).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, TcAttachType};
use sg_common::verdict::Direction;
use sg_policy::policy::rules_from_lines;
use sg_testbed::Host;
use sg_userspace::kernel::{
    ApplyOptions, EgressHook, FaultCode, KernelError, Outcome, XdpMode, apply, detach, interfaces,
    netns,
};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::counters::counters;
use sg_userspace::observe::status::{Health, Status};

use crate::frames::{frame, non_ip};
use crate::probe::{A, B, Probe, Seen};
use crate::sandbox::{RawSender, Sandbox, ip, run, sandbox};
use crate::support::{Enforcer, egress_hooks};
use crate::watching::{apply_rules, only, read_when};

fn with_hook(sandbox: &Sandbox, hook: EgressHook) -> ApplyOptions {
    ApplyOptions {
        egress_hook: hook,
        ..sandbox.options("sg0")
    }
}

fn status(sandbox: &Sandbox) -> Status {
    let one = only(sandbox, "sg0");
    // The kernel detaches a link some time after its last pin is gone. That can be between the two
    // readings.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = one.status().unwrap_or_else(|e| panic!("{e}"));
        // The counters report the same health.
        let Ok(read) = counters(&one) else {
            return status;
        };
        let read = read.standing;
        let (counted, shown) = ((read.health, &read.faults), (status.health, &status.faults));
        if counted == shown {
            return status;
        }
        assert!(Instant::now() < deadline, "{counted:?}\n{shown:?}");
    }
}

fn codes(sandbox: &Sandbox) -> Vec<(FaultCode, Option<Direction>)> {
    let faults = status(sandbox).faults.into_iter();
    faults.map(|fault| (fault.code, fault.direction)).collect()
}

/// Detaches a pinned link from its interface, as `bpftool link detach pinned` does.
fn sever(pin: &std::path::Path) {
    use std::os::fd::AsRawFd;
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    let path = std::ffi::CString::new(pin.to_str().unwrap()).unwrap();
    let mut get = [0u64; 2];
    get[0] = path.as_ptr() as u64;
    // SAFETY: the attribute has the length that is passed, and the path outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, get.as_mut_ptr(), 16) };
    assert!(
        fd >= 0,
        "{}: {}",
        pin.display(),
        std::io::Error::last_os_error()
    );
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    let link: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd as i32) };
    let mut detach = [link.as_raw_fd() as u32];
    // SAFETY: the attribute has the length that is passed.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, detach.as_mut_ptr(), 4) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// A damage, with the outbound hook, the faults that `status` must report, and what packets show
/// then.
type Damage = (
    &'static str,
    EgressHook,
    fn(&Sandbox),
    &'static [(FaultCode, Option<Direction>)],
    [Seen; 2],
);

fn unlink(sandbox: &Sandbox, name: &str) {
    std::fs::remove_file(only(sandbox, "sg0").pins.dir.join(name)).unwrap();
}

fn tc(words: &str) {
    run("tc", &words.split(' ').collect::<Vec<_>>());
}

const DAMAGES: &[Damage] = &[
    (
        "the outbound link severed",
        EgressHook::Tcx,
        |s| sever(&only(s, "sg0").pins.tcx_link()),
        &[(FaultCode::Severed, Some(Direction::Outbound))],
        [Seen::A, Seen::Open],
    ),
    (
        "the inbound link severed",
        EgressHook::Tcx,
        |s| sever(&only(s, "sg0").pins.xdp_link()),
        &[(FaultCode::Severed, Some(Direction::Inbound))],
        [Seen::Open, Seen::A],
    ),
    (
        "the inbound link severed beside a filter",
        EgressHook::Clsact,
        |s| sever(&only(s, "sg0").pins.xdp_link()),
        &[(FaultCode::Severed, Some(Direction::Inbound))],
        [Seen::Open, Seen::A],
    ),
    (
        "both links severed",
        EgressHook::Tcx,
        |s| {
            let pins = only(s, "sg0").pins;
            sever(&pins.xdp_link());
            sever(&pins.tcx_link());
        },
        &[
            (FaultCode::Severed, Some(Direction::Inbound)),
            (FaultCode::Severed, Some(Direction::Outbound)),
        ],
        [Seen::Open; 2],
    ),
    (
        "the filter deleted",
        EgressHook::Clsact,
        |_| tc("filter del dev sg0 egress"),
        &[(FaultCode::NotAttached, Some(Direction::Outbound))],
        [Seen::A, Seen::Open],
    ),
    (
        "the qdisc deleted",
        EgressHook::Clsact,
        |_| tc("qdisc del dev sg0 clsact"),
        &[(FaultCode::NotAttached, Some(Direction::Outbound))],
        [Seen::A, Seen::Open],
    ),
    (
        "the qdisc deleted and added again",
        EgressHook::Clsact,
        |_| {
            tc("qdisc del dev sg0 clsact");
            tc("qdisc add dev sg0 clsact");
        },
        &[(FaultCode::NotAttached, Some(Direction::Outbound))],
        [Seen::A, Seen::Open],
    ),
    (
        "half a detach",
        EgressHook::Tcx,
        |s| {
            unlink(s, "inbound_link");
            unlink(s, "outbound_link");
        },
        &[
            (FaultCode::NotAttached, Some(Direction::Inbound)),
            (FaultCode::NotAttached, Some(Direction::Outbound)),
        ],
        [Seen::Open; 2],
    ),
];

/// Proves C12: whatever was removed is reported, and the next `apply` or `detach` succeeds.
#[test]
fn what_was_taken_off_is_named_and_attached_again_or_removed() {
    for (name, hook, damage, faults, seen) in DAMAGES {
        if !egress_hooks().contains(hook) {
            continue;
        }
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let mut probe = Probe::new("sg0", "sg1");
            let options = with_hook(sandbox, *hook);
            // What comes next: the same policy, another policy, or detaching.
            for next in [Some(A), Some(B), None] {
                apply_rules(sandbox, A, &options);
                assert_eq!(probe.look(), [Seen::A; 2], "{name}");
                damage(sandbox);
                assert_eq!(codes(sandbox), *faults, "{name}");
                assert_ne!(status(sandbox).health, Health::Enforcing, "{name}");
                // The kernel detaches a link some time after its last pin is gone.
                let deadline = Instant::now() + Duration::from_secs(30);
                while probe.look() != *seen {
                    assert!(Instant::now() < deadline, "{name}: {:?}", probe.look());
                }
                if let Some(next) = next {
                    let applied = apply(&rules_from_lines(next), &sandbox.options("sg0"));
                    let applied = applied.unwrap_or_else(|e| panic!("{name}: {e}"));
                    assert_eq!(applied.outcome, Outcome::Replaced, "{name}");
                    let expected = if next == A { Seen::A } else { Seen::B };
                    assert_eq!(probe.look(), [expected; 2], "{name}");
                    assert_eq!(status(sandbox).health, Health::Enforcing, "{name}");
                    let hook_now = if *hook == EgressHook::Tcx {
                        "tcx"
                    } else {
                        "clsact"
                    };
                    assert_eq!(status(sandbox).egress_hook.name(), hook_now, "{name}");
                }
                detach(sandbox.bpffs(), &only(sandbox, "sg0").pins)
                    .unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(!sandbox.pins().exists(), "{name}");
                assert_eq!(probe.look(), [Seen::Open; 2], "{name}");
            }
        });
    }
}

/// Another tool's programs, which accept every packet: their XDP_PASS is 2. Programs that come
/// after them at the hook never run.
fn accepts_everything() -> Enforcer {
    Enforcer::new("in all from any accept\nout all to any accept")
}

fn attach_first(theirs: &mut Enforcer) -> FdLink {
    let program = theirs.programs.outbound().unwrap();
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options("sg0", TcAttachType::Egress, order)
        .unwrap();
    program.take_link(id).unwrap().try_into().unwrap()
}

/// Proves C12: `apply` puts its program before those that are there already, and `status` reports
/// one that comes before it later.
#[test]
fn a_program_that_comes_before_ours_is_reported() {
    if !egress_hooks().contains(&EgressHook::Tcx) {
        return;
    }
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let mut theirs = accepts_everything();
        let before = attach_first(&mut theirs);
        apply_rules(sandbox, A, &sandbox.options("sg0"));
        assert_eq!(
            status(sandbox).health,
            Health::Enforcing,
            "ours is in front"
        );
        drop(before);

        let after = attach_first(&mut theirs);
        assert_eq!(
            codes(sandbox),
            [(FaultCode::Preceded, Some(Direction::Outbound))]
        );
        let said = &status(sandbox).faults[0].message;
        assert!(said.contains("sg_outbound"), "{said}");
        let read = counters(&only(sandbox, "sg0")).unwrap();
        assert_eq!(read.standing.health, Health::Preceded);
        // Applying the same policy is not `unchanged` here: the program moves to the front.
        let applied = apply(&rules_from_lines(A), &sandbox.options("sg0")).unwrap();
        assert_eq!(applied.outcome, Outcome::Replaced);
        assert_eq!(status(sandbox).health, Health::Enforcing);
        assert_eq!(Probe::new("sg0", "sg1").look(), [Seen::A; 2]);
        // The other programs still get the packets that the policy accepts.
        let mut counters = theirs.programs.counters().unwrap();
        let node = RawSender::new("sg0");
        let slot = sg_common::verdict::FIRST_RULE_SLOT + 1;
        let counted = counters.slot(slot).unwrap().packets;
        assert!(node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:1000").bytes()));
        assert!(!node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2000").bytes()));
        assert_eq!(counters.slot(slot).unwrap().packets, counted + 1);
        drop(after);
    });
}

/// A filter of another tool, which matches nothing.
fn their_filter(preference: &str) {
    let place = ["filter", "add", "dev", "sg0", "egress", "pref", preference];
    let what = ["protocol", "ip", "bpf", "bytecode", "1,6 0 0 0"];
    run("tc", &[&place[..], &what].concat());
}

/// Proves C12 for clsact filters: a tcx program always runs before a filter, and a filter of the
/// same preference may.
#[test]
fn what_comes_before_a_filter_is_named_or_refused() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = with_hook(sandbox, EgressHook::Clsact);
        tc("qdisc add dev sg0 clsact");
        their_filter("1");
        let error = apply(&rules_from_lines(A), &options).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("the clsact filter of preference 1"), "{said}");
        assert!(!sandbox.pins().exists(), "nothing is left");
        tc("filter del dev sg0 egress");
        // A filter after ours is allowed, and then the qdisc must not be removed.
        their_filter("2");
        apply_rules(sandbox, A, &options);
        assert_eq!(Probe::new("sg0", "sg1").look(), [Seen::A; 2]);
        assert_eq!(status(sandbox).health, Health::Enforcing);
        if egress_hooks().contains(&EgressHook::Tcx) {
            let mut theirs = accepts_everything();
            let _link = attach_first(&mut theirs);
            assert_eq!(
                codes(sandbox),
                [(FaultCode::Preceded, Some(Direction::Outbound))]
            );
            let error = apply(&rules_from_lines(B), &options).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("both directions run generation 1"),
                "{error}"
            );
            // With the tcx hook the program runs first, without a gap in enforcement.
            apply_rules(sandbox, B, &with_hook(sandbox, EgressHook::Tcx));
            assert_eq!(status(sandbox).health, Health::Enforcing);
            assert_eq!(status(sandbox).egress_hook.name(), "tcx");
        }
        detach(sandbox.bpffs(), &only(sandbox, "sg0").pins).unwrap();
        let filters = run("tc", &["filter", "show", "dev", "sg0", "egress"]);
        assert!(
            filters.contains("bytecode") && !filters.contains("sg_outbound"),
            "{filters}"
        );
    });
}

/// Proves C2: applying the same policy again changes nothing, and options that cannot be changed
/// are refused.
#[test]
fn the_same_policy_is_unchanged_and_flags_are_not_ignored() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        let policy = rules_from_lines(A);
        assert_eq!(apply(&policy, &options).unwrap().outcome, Outcome::Attached);
        let again = apply(&policy, &options).unwrap();
        assert_eq!(again.outcome, Outcome::Unchanged);
        assert_eq!(again.first.state.policy.generation, 1);
        assert_eq!(status(sandbox).policy.generation, 1);

        let more = ApplyOptions {
            max_flows: Some(8192),
            ..options.clone()
        };
        let other_mode = ApplyOptions {
            xdp_mode: XdpMode::Generic,
            ..options.clone()
        };
        for (options, flag) in [(more, "--max-flows"), (other_mode, "--xdp-mode")] {
            for policy in [A, B] {
                let error = apply(&rules_from_lines(policy), &options).unwrap_err();
                let KernelError::Fixed { help, .. } = &error else {
                    panic!("{error}");
                };
                assert!(help.contains(flag), "{help}");
            }
        }
        assert_eq!(status(sandbox).policy.generation, 1);
    });
}

/// Proves C2: while the hook changes, packets that the policy drops are sent all the time, and none
/// passes.
#[test]
fn the_outbound_hook_is_changed_without_a_gap() {
    if !egress_hooks().contains(&EgressHook::Tcx) {
        return;
    }
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let policy = rules_from_lines(A);
        apply(&policy, &sandbox.options("sg0")).unwrap();
        let is_over = AtomicBool::new(false);
        let sender = RawSender::new("sg0");
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let sender = sender;
                let dropped = frame("udp 192.0.2.1:1 > 198.51.100.1:9");
                let mut sent = 0;
                while !is_over.load(Relaxed) {
                    assert!(!sender.send(dropped.bytes()), "passed after {sent}");
                    sent += 1;
                }
                sent
            });
            for hook in [EgressHook::Clsact, EgressHook::Tcx, EgressHook::Clsact] {
                let applied = apply(&policy, &with_hook(sandbox, hook)).unwrap();
                assert_eq!(applied.outcome, Outcome::Replaced);
                assert_eq!(status(sandbox).health, Health::Enforcing);
            }
            is_over.store(true, Relaxed);
            assert!(sending.join().unwrap() > 100);
        });
        detach(sandbox.bpffs(), &only(sandbox, "sg0").pins).unwrap();
        let qdiscs = run("tc", &["qdisc", "show", "dev", "sg0"]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    });
}

/// Detaching loses no packet that the policy accepts, in either direction.
#[test]
fn detaching_loses_nothing() {
    for &hook in egress_hooks() {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let is_over = AtomicBool::new(false);
            let sender = RawSender::new("sg0");
            std::thread::scope(|scope| {
                let sending = scope.spawn(|| {
                    let sender = sender;
                    // A frame that is not IP, which needs a tail call.
                    let lldp = non_ip(0x88cc);
                    let mut sent = 0;
                    while !is_over.load(Relaxed) {
                        assert!(sender.send(lldp.bytes()), "lost after {sent}");
                        sent += 1;
                    }
                    sent
                });
                for _ in 0..5 {
                    apply_rules(sandbox, A, &with_hook(sandbox, hook));
                    detach(sandbox.bpffs(), &only(sandbox, "sg0").pins).unwrap();
                }
                is_over.store(true, Relaxed);
                assert!(sending.join().unwrap() > 100);
            });
        });
    }
}

/// Proves C12: an interface that was moved to another namespace is found from both.
#[test]
fn an_interface_that_was_moved_is_found_wherever_it_is() {
    let hooks = egress_hooks();
    for (&hook, from_new) in hooks
        .iter()
        .zip([true, false])
        .chain(hooks.iter().zip([false, true]))
    {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            apply_rules(sandbox, A, &with_hook(sandbox, hook));
            let old_cookie = netns::cookie().unwrap();
            let there = Host::bare();
            there.take("sg0");
            let cookie = there.inside(|| {
                ip(&["link", "set", "sg0", "up"]);
                netns::cookie().unwrap()
            });
            // It is listed with the namespace that it is in now.
            let check = || {
                let found = attached(sandbox.bpffs(), &Scope::Namespace).unwrap();
                let status = found[0].status().unwrap();
                assert_eq!(status.netns_cookie, cookie);
                // When an interface moves, the kernel removes its qdisc and so the filter.
                let is_whole = hook == EgressHook::Tcx;
                assert_eq!(status.health == Health::Enforcing, is_whole, "{status:?}");
                found[0].pins.clone()
            };
            let pins = check();
            assert_eq!(there.inside(check), pins);
            assert_eq!(
                attached(sandbox.bpffs(), &Scope::Interface("sg0".into())).unwrap()[0].pins,
                pins,
                "by the name that it had here"
            );
            match from_new {
                true => there.inside(|| {
                    // The next `apply` moves the pins, and the counters go on.
                    let applied = apply(&rules_from_lines(B), &sandbox.options("sg0")).unwrap();
                    assert_eq!(applied.outcome, Outcome::Replaced);
                    let one = only(sandbox, "sg0");
                    assert_eq!(one.status().unwrap().health, Health::Enforcing);
                    assert_eq!(one.pins.netns_cookie, cookie);
                    detach(sandbox.bpffs(), &one.pins).unwrap();
                }),
                false => {
                    assert_eq!(netns::cookie().unwrap(), old_cookie);
                    detach(sandbox.bpffs(), &pins).unwrap();
                }
            }
            assert!(!sandbox.pins().exists());
            there.inside(|| {
                let index = interfaces::index_of("sg0").unwrap();
                assert_eq!(interfaces::xdp_program(index).unwrap(), None);
            });
        });
    }
}

/// Proves C12: a new interface with the name of a deleted one is reported as unprotected.
#[test]
fn an_interface_made_anew_is_called_unprotected_and_takes_the_counters_over() {
    for &hook in egress_hooks() {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            apply_rules(sandbox, A, &with_hook(sandbox, hook));
            let peer = RawSender::new("sg1");
            peer.send(frame("udp 198.51.100.1:1 > 192.0.2.1:1000").bytes());
            read_when(sandbox, "sg0", |c| c.totals[0].packets == 1);
            ip(&["link", "del", "sg0"]);
            sandbox.veth("sg0", "sg1");
            assert_eq!(codes(sandbox), [(FaultCode::Unprotected, None)]);
            assert_eq!(status(sandbox).health, Health::Unprotected);
            let mut probe = Probe::new("sg0", "sg1");
            assert_eq!(probe.look(), [Seen::Open; 2]);
            let applied = apply(&rules_from_lines(A), &sandbox.options("sg0")).unwrap();
            assert_eq!(applied.outcome, Outcome::Replaced);
            assert_eq!(status(sandbox).health, Health::Enforcing);
            assert_eq!(probe.look(), [Seen::A; 2]);
            // The packet from before, and those of the probe: two ports, and a frame that is not
            // IP.
            let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets == 4);
            assert_eq!(counted.totals[0].packets, 4);
            assert_eq!(counted.rules[0].packets, 2);
        });
    }
}
