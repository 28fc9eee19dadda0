//! Attaching and detaching on real interfaces, with nothing left behind. Replacing is tested in
//! `reload`, what is refused in `refusals`.

use std::collections::BTreeSet;
use std::path::Path;

use aya::programs::{loaded_links, loaded_programs};
use fastrand::Rng;
use sg_policy::policy::rules_from_lines;
use sg_policy::testing::{self, Shape};
use sg_userspace::kernel::{
    ApplyOptions, EgressHook, KernelError, XdpMode, apply, detach, interfaces,
};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::explain::{Question, Transport, explain_policy};
use sg_userspace::observe::inquiry::{Inquiry, explain_attached};
use sg_userspace::observe::status::Health;

use crate::frames::frame;
use crate::sandbox::{RawSender, ip, sandbox};
use crate::support::{egress_hooks, is_kernel_since};
use crate::watching::{NODE, apply_rules, assert_adds_up, only, read, read_when};

fn xdp_programs() -> BTreeSet<u32> {
    loaded_programs()
        .filter_map(Result::ok)
        .filter(|p| p.name_as_str().is_some_and(|n| n.starts_with("sg_")))
        .map(|p| p.id())
        .collect()
}

#[test]
fn detaching_leaves_nothing_behind() {
    let modes = [XdpMode::Native, XdpMode::Generic];
    for (mode, hook) in modes
        .into_iter()
        .zip(egress_hooks().iter().cycle().copied())
    {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let options = ApplyOptions {
                xdp_mode: mode,
                egress_hook: hook,
                ..sandbox.options("sg0")
            };
            apply_rules(sandbox, NODE, &options);
            apply_rules(sandbox, NODE, &options);
            let status = only(sandbox, "sg0").status().unwrap();
            assert_eq!(status.health, Health::Enforcing);
            let ours = interfaces::xdp_program(interfaces::index_of("sg0").unwrap()).unwrap();
            let ours = ours.expect("an XDP program is attached");
            let expected = (
                if mode == XdpMode::Native {
                    "native"
                } else {
                    "generic"
                },
                if hook == EgressHook::Tcx {
                    "tcx"
                } else {
                    "clsact"
                },
            );
            assert_eq!(
                (status.xdp_mode.name(), status.egress_hook.name()),
                expected
            );
            // Packets pass the programs in both directions, in every mode.
            let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
            peer.send(frame("tcp 198.51.100.1:4000 > 192.0.2.1:80 syn").bytes());
            node.send(frame("tcp 192.0.2.1:80 > 198.51.100.1:4000 ack").bytes());
            let c = read_when(sandbox, "sg0", |c| c.totals[0].packets == 1);
            assert_adds_up(&c, 1, 1);

            let pins = only(sandbox, "sg0").pins;
            detach(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
            assert!(!sandbox.pins().exists(), "no pins");
            let index = interfaces::index_of("sg0").unwrap();
            assert_eq!(interfaces::xdp_program(index).unwrap(), None);
            assert!(!xdp_programs().contains(&ours), "the program is gone");
            let qdiscs = crate::sandbox::run("tc", &["qdisc", "show", "dev", "sg0"]);
            assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        });
    }
}

/// Proves K1: the outbound hook is tcx where the kernel has it, and else a clsact filter.
#[test]
fn the_outbound_hook_is_tcx_since_linux_6_6_and_clsact_before() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let has_tcx = is_kernel_since(6, 6);
        let expected = if has_tcx { "tcx" } else { "clsact" };
        let by_name = ApplyOptions {
            egress_hook: EgressHook::Tcx,
            ..sandbox.options("sg0")
        };
        if !has_tcx {
            let error = apply(&rules_from_lines(NODE), &by_name).unwrap_err();
            assert!(error.to_string().contains("no tcx"), "{error}");
            assert_eq!(error.exit_code(), 3);
            assert!(!sandbox.pins().exists(), "nothing was pinned");
        }
        // These options have `auto`.
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let status = only(sandbox, "sg0").status().unwrap();
        assert_eq!(status.egress_hook.name(), expected);
        assert_eq!(only(sandbox, "sg0").pins.tcx_link().exists(), has_tcx);
        let filters = crate::sandbox::run("tc", &["filter", "show", "dev", "sg0", "egress"]);
        assert_eq!(filters.contains("sg_outbound"), !has_tcx, "{filters}");
        // The program judges packets at either hook.
        let node = RawSender::new("sg0");
        assert!(node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2").bytes()));
        apply_rules(sandbox, "in tcp 1 from any accept", &sandbox.options("sg0"));
        assert!(!node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2").bytes()));
        assert_adds_up(&read(sandbox, "sg0"), 0, 2);
        assert_eq!(
            only(sandbox, "sg0").status().unwrap().egress_hook.name(),
            expected
        );
    });
}

/// The counters go on when the program of a clsact filter is replaced.
#[test]
fn a_clsact_filter_is_replaced_in_place() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = ApplyOptions {
            egress_hook: EgressHook::Clsact,
            ..sandbox.options("sg0")
        };
        apply_rules(sandbox, NODE, &options);
        let node = RawSender::new("sg0");
        assert!(node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2").bytes()));
        apply_rules(sandbox, "out udp 3 to any accept", &options);
        assert!(!node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2").bytes()));
        assert!(node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:3").bytes()));
        assert_adds_up(&read(sandbox, "sg0"), 0, 3);
        let filters = crate::sandbox::run("tc", &["filter", "show", "dev", "sg0", "egress"]);
        assert_eq!(filters.matches("handle 0x1").count(), 1, "{filters}");
    });
}

#[test]
fn an_interface_that_is_gone_is_reported_and_can_be_detached() {
    for &hook in egress_hooks() {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let options = ApplyOptions {
                egress_hook: hook,
                ..sandbox.options("sg0")
            };
            apply_rules(sandbox, NODE, &options);
            ip(&["link", "del", "sg0"]);
            let found = attached(sandbox.bpffs(), &Scope::Namespace).unwrap();
            assert_eq!(found[0].status().unwrap().health, Health::InterfaceGone);
            detach(sandbox.bpffs(), &found[0].pins).unwrap();
            assert!(!sandbox.pins().exists());
        });
    }
}

/// Pins are found by the index of the interface, which renaming does not change.
#[test]
fn a_renamed_interface_is_detached_all_the_same() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = ApplyOptions {
            egress_hook: EgressHook::Clsact,
            ..sandbox.options("sg0")
        };
        apply_rules(sandbox, NODE, &options);
        ip(&["link", "set", "sg0", "down"]);
        ip(&["link", "set", "sg0", "name", "lan0"]);
        detach(sandbox.bpffs(), &only(sandbox, "lan0").pins).unwrap();
        let qdiscs = crate::sandbox::run("tc", &["qdisc", "show", "dev", "lan0"]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    });
}

/// Proves that `explain --iface` explains the policy in force: it agrees with the oracle.
#[test]
fn the_running_tables_explain_as_the_policy_does() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let mut rng = Rng::with_seed(9);
        let shape = Shape {
            rules: 50,
            ipv6: 40,
            inbound_only: false,
        };
        let policy = rules_from_lines(&testing::rules(&mut rng, shape));
        apply(&policy, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        let running = only(sandbox, "sg0");
        let mut inquiry = Inquiry::open(&running).unwrap();
        for _ in 0..300 {
            let packet = testing::packet(&mut rng, &policy);
            let is_icmp = packet.protocol == if packet.remote.is_ipv4() { 1 } else { 58 };
            let question = Question {
                direction: packet.direction,
                transport: match is_icmp {
                    true => Transport::Icmp {
                        kind: packet.icmp.0,
                        code: packet.icmp.1,
                    },
                    false => Transport::Protocol(packet.protocol),
                },
                remote: packet.remote,
                remote_port: Some(packet.port),
                local: packet.remote,
                local_port: Some(packet.port),
            };
            let answer = inquiry.ask(&question).unwrap();
            let expected = explain_policy(&policy, &question);
            assert_eq!(answer.verdict, expected.verdict, "{question:?}");
            assert_eq!(answer.direction, expected.direction, "{question:?}");
            assert_eq!(answer.rule, expected.rule, "{question:?}");
            assert_eq!(answer.reason, expected.reason, "{question:?}");
        }
        let question = Question {
            direction: sg_common::verdict::Direction::Inbound,
            transport: Transport::Arp,
            remote: "192.0.2.2".parse().unwrap(),
            remote_port: None,
            local: "192.0.2.1".parse().unwrap(),
            local_port: None,
        };
        let answer = explain_attached(&running, &question).unwrap();
        assert_eq!(answer.health, Some(Health::Enforcing));
        assert_eq!(answer.reason.name(), "non-ip");
    });
}

/// The recommended policy can be applied twice: the second time keeps its rules.
#[test]
fn the_recommended_policy_is_applied_and_replaced() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let tke = sg_policy::policy::PolicyInput::from("builtin:tke");
        let tke = sg_policy::policy::load(&[tke], &[]).unwrap().policy;
        let applied = apply(&tke, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        assert!(applied.is_first());
        assert_eq!(applied.first.state.rules.len(), 8);
        let again = apply(&tke, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        assert!(!again.is_first());
        assert_eq!(again.first.state.rules, applied.first.state.rules);
        // A clsact filter has no link.
        let links = 1 + usize::from(egress_hooks().contains(&EgressHook::Tcx));
        assert!(loaded_links().filter_map(Result::ok).count() >= links);
        assert!(Path::new(&only(sandbox, "sg0").status().unwrap().pins).is_dir());
    });
}

#[test]
fn an_interface_without_ethernet_frames_is_refused() {
    sandbox(|sandbox| {
        ip(&["tuntap", "add", "dev", "tun9", "mode", "tun"]);
        let error = apply(&rules_from_lines(NODE), &sandbox.options("tun9")).unwrap_err();
        assert!(matches!(&error, KernelError::NotEthernet { .. }), "{error}");
        assert!(!sandbox.pins().exists());
    });
}
