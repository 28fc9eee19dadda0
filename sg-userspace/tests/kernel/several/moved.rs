//! One interface of an attachment is moved to another network namespace, or renamed.

use sg_policy::policy::rules_from_lines;
use sg_testbed::Host;
use sg_userspace::kernel::{
    ApplyOptions, EgressHook, KernelError, Outcome, apply, detach, interfaces,
};
use sg_userspace::observe::flows::flows;
use sg_userspace::observe::status::Health;

use super::{health, on, programs, put, uplinks};
use crate::frames::frame;
use crate::sandbox::{RawSender, ip, sandbox, silent_and_up};
use crate::support::egress_hooks;
use crate::watching::{only, read_when};

/// Proves K1 and C12: it goes on with the flows that it shares, and is found from both namespaces;
/// an `apply` that cannot reach it is refused with a remedy that works from either. Taken out, it
/// leaves the other undisturbed, and may begin an attachment where it is now.
#[test]
fn an_interface_that_was_moved_shares_flows_until_it_is_taken_out() {
    let from_there_too = egress_hooks().iter().zip([true, false]);
    let from_here_too = egress_hooks().iter().zip([false, true]);
    for (&hook, is_taken_out_there) in from_there_too.chain(from_here_too) {
        sandbox(|sandbox| {
            const RULES: &str = "out tcp 443 to any accept";
            let options = ApplyOptions {
                egress_hook: hook,
                ..uplinks(sandbox)
            };
            put(RULES, &options);
            let before = programs(sandbox, "up0");
            let there = Host::bare();
            there.take("up1");
            there.inside(|| silent_and_up("up1"));
            there.wait_for_carrier("up1");

            let check = || {
                // The kernel removes the qdisc of an interface that moves, and so the filter.
                let is_whole = hook == EgressHook::Tcx;
                assert_eq!(health(sandbox, "up1") == Health::Enforcing, is_whole);
            };
            check();
            there.inside(check);
            assert_eq!(health(sandbox, "up0"), Health::Enforcing);
            let near = RawSender::new("up0");
            near.send(frame("tcp 192.0.2.1:4000 > 198.51.100.7:443 syn").bytes());
            let reply = frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 syn ack");
            RawSender::new("far1").send(reply.bytes());
            let c = read_when(sandbox, "up1", |c| c.totals[0].packets == 1);
            assert_eq!(c.rules[0].reply_packets, 1, "{c:#?}");

            let refused = |interface: &str, other: &str| {
                let next = rules_from_lines("out udp 53 to any accept");
                let error = apply(&next, &on(sandbox, &[interface])).unwrap_err();
                let KernelError::Fixed { help, .. } = &error else {
                    panic!("{error}");
                };
                let remedy = format!("`sgctl detach --iface {other}`");
                assert!(help.contains(&remedy), "{help}");
                assert!(!help.contains("name all"), "which cannot be done: {help}");
            };
            refused("up0", "up1");
            there.inside(|| refused("up1", "up0"));
            assert_eq!(programs(sandbox, "up0"), before);

            let take_out = || {
                let pins = only(sandbox, "up1").pins;
                detach(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
            };
            match is_taken_out_there {
                true => there.inside(take_out),
                false => take_out(),
            }
            assert_eq!(programs(sandbox, "up0"), before);
            assert_eq!(health(sandbox, "up0"), Health::Enforcing);
            assert_eq!(flows(&only(sandbox, "up0")).unwrap().len(), 1);
            there.inside(|| {
                let index = interfaces::index_of("up1").unwrap();
                assert_eq!(interfaces::xdp_program(index).unwrap(), None);
                // An attachment of its own, where it is now.
                assert_eq!(
                    put(RULES, &on(sandbox, &["up1"])).outcome,
                    Outcome::Attached
                );
                assert_eq!(only(sandbox, "up1").shared_with(), [""; 0]);
            });
            let next = put("out udp 53 to any accept", &on(sandbox, &["up0"]));
            assert_eq!(next.outcome, Outcome::Replaced);
            let end = |name: &str| {
                assert_eq!(health(sandbox, name), Health::Enforcing);
                let pins = only(sandbox, name).pins;
                detach(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
            };
            end("up0");
            there.inside(|| end("up1"));
            assert!(!sandbox.pins().exists(), "nothing is left");
        });
    }
}

/// One that was renamed and left out of an `apply` is named as it is called now.
#[test]
fn an_interface_that_was_renamed_is_named_as_it_is_called() {
    sandbox(|sandbox| {
        put("in udp 53 from any accept", &uplinks(sandbox));
        ip(&["link", "set", "up1", "name", "wan"]);
        let error = apply(
            &rules_from_lines("in udp 55 from any accept"),
            &on(sandbox, &["up0"]),
        );
        let Err(KernelError::Fixed { reason, help, .. }) = error else {
            panic!("{error:?}");
        };
        let words = "wan is under the same policy";
        assert!(reason.starts_with(words), "{reason}");
        assert!(help.contains("`--iface up0 --iface wan`"), "{help}");
    });
}
