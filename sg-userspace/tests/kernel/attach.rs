//! Attaching, replacing and detaching on real interfaces: what carries over, what is refused, and
//! that nothing is left behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::{loaded_links, loaded_programs};
use fastrand::Rng;
use sg_userspace::kernel::netns::Netns;
use sg_userspace::kernel::{
    ApplyOptions, EgressHook, KernelError, XdpMode, apply, detach, interfaces, netns,
};
use sg_userspace::observe::attached::{Attached, Health, Scope, attached};
use sg_userspace::observe::counters::{Counters, counters};
use sg_userspace::observe::events::Events;
use sg_userspace::observe::explain::{Question, Transport, explain_attached, explain_policy};
use sg_userspace::observe::flows::flows;
use sg_userspace::policy::{Established, rules_from_lines};
use sg_userspace::testing::{self, Shape};

use crate::frames::{Frame, frame, non_ip};
use crate::sandbox::{RawSender, Sandbox, ip, sandbox, unmount};
use crate::support::{egress_hooks, is_kernel_since};

const NODE: &str = "in tcp 22 from any accept
     in all from 10.0.0.0/8 accept
     in all from any drop
     out all to any accept";

pub(crate) fn only(sandbox: &Sandbox, interface: &str) -> Attached {
    let scope = Scope::Interface(interface.into());
    attached(sandbox.bpffs(), &scope)
        .unwrap_or_else(|e| panic!("{e}"))
        .remove(0)
}

pub(crate) fn read(sandbox: &Sandbox, interface: &str) -> Counters {
    counters(&only(sandbox, interface)).unwrap_or_else(|e| panic!("{e}"))
}

/// Waits for receivers to catch up, then reads.
pub(crate) fn read_when(
    sandbox: &Sandbox,
    interface: &str,
    done: impl Fn(&Counters) -> bool,
) -> Counters {
    // Emulated processors that others use as well may need some of it.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let counted = read(sandbox, interface);
        if done(&counted) || Instant::now() > deadline {
            return counted;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn apply_rules(sandbox: &Sandbox, rules: &str, options: &ApplyOptions) {
    let _ = sandbox;
    apply(&rules_from_lines(rules), options).unwrap_or_else(|e| panic!("apply: {e}"));
}

/// SPEC A2, summed up from the listed rows without looking at how totals are made.
pub(crate) fn assert_adds_up(c: &Counters, inbound: u64, outbound: u64) {
    for (direction, sent) in [("inbound", inbound), ("outbound", outbound)] {
        let rules: u64 = c
            .rules
            .iter()
            .map(|r| match r.direction == direction {
                true => r.packets,
                false => r.reply_packets,
            })
            .sum();
        let reasons: u64 = c
            .reasons
            .iter()
            .filter(|r| r.direction == direction)
            .map(|r| r.packets)
            .sum();
        let total = c.totals.iter().find(|t| t.direction == direction).unwrap();
        assert_eq!(rules + reasons, sent, "{direction} packets counted");
        assert_eq!(total.packets, sent, "{direction} total");
        assert_eq!(total.accepted + total.dropped, sent, "{direction} verdicts");
    }
}

fn xdp_programs() -> BTreeSet<u32> {
    loaded_programs()
        .filter_map(Result::ok)
        .filter(|p| p.name_as_str().is_some_and(|n| n.starts_with("sg_")))
        .map(|p| p.id())
        .collect()
}

/// Proves A2: exactly, after 100,000 mixed packets in both directions with reloads in between.
#[test]
fn every_packet_is_counted_once_across_reloads() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        let mut rng = Rng::with_seed(3);
        let shape = Shape {
            rules: 60,
            ipv6: 40,
            inbound_only: false,
        };
        let policies: Vec<_> = (0..4)
            .map(|_| rules_from_lines(&testing::rules(&mut rng, shape)))
            .collect();
        apply(&policies[0], &options).unwrap_or_else(|e| panic!("{e}"));
        let (from_peer, from_node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        let mut sent = (0, 0);
        let mut bytes = (0, 0);
        for round in 0..100 {
            if round % 20 == 19 {
                let next = &policies[(round / 20 + 1) % policies.len()];
                apply(next, &options).unwrap_or_else(|e| panic!("{e}"));
            }
            for _ in 0..500 {
                let frame = mixed(&mut rng);
                from_peer.send(frame.bytes());
                sent.0 += 1;
                bytes.0 += frame.bytes().len() as u64;
                let frame = mixed(&mut rng);
                from_node.send(frame.bytes());
                sent.1 += 1;
                bytes.1 += frame.bytes().len() as u64;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets >= sent.0);
        assert_adds_up(&counted, sent.0, sent.1);
        assert_eq!(
            (counted.totals[0].bytes, counted.totals[1].bytes),
            bytes,
            "bytes"
        );
        assert_eq!(counted.policy.generation, 6);
    });
}

/// TCP, UDP, ICMP, other protocols, ARP and broken packets between few addresses, so that flows
/// come about.
fn mixed(rng: &mut Rng) -> Frame {
    let v6 = rng.bool();
    let host = |rng: &mut Rng| match v6 {
        true => format!("2001:db8::{}", rng.u8(1..9)),
        false => format!("{}.0.0.{}", rng.choice([10, 198]).unwrap(), rng.u8(1..9)),
    };
    let (a, b) = (host(rng), host(rng));
    let end = |address: &str, port: u16| match v6 {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    let port = |rng: &mut Rng| *rng.choice(&[22, 53, 443, 40000, 40001]).unwrap();
    let (s, d) = (end(&a, port(rng)), end(&b, port(rng)));
    match rng.u8(..8) {
        0 | 1 => frame(&format!("tcp {s} > {d} syn")),
        2 => frame(&format!("tcp {s} > {d} ack")),
        3 | 4 => frame(&format!("udp {s} > {d}")),
        5 => frame(&format!("icmp {a} > {b} {}/0 id 1", rng.u8(..2) * 8)),
        6 => frame(&format!("proto 47 {a} > {b}")),
        _ if rng.bool() => non_ip(0x88cc),
        _ => frame(&format!("udp {s} > {d}")).set(0, &[0]),
    }
}

/// Proves A3: counters and flows carry over, and the programs are replaced in their links.
#[test]
fn a_second_policy_replaces_the_first_in_place() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, NODE, &options);
        let links = link_ids(sandbox);
        let has_tcx = egress_hooks().contains(&EgressHook::Tcx);
        assert_eq!(links.len(), if has_tcx { 2 } else { 1 });
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        peer.send(frame("tcp 198.51.100.1:4000 > 192.0.2.1:22 syn").bytes());
        node.send(frame("tcp 192.0.2.1:5000 > 198.51.100.7:443 syn").bytes());
        peer.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:5000 syn ack").bytes());
        let before = read_when(sandbox, "sg0", |c| c.totals[0].packets == 2);
        assert_eq!(before.rules[0].packets, 1);
        assert_eq!(before.rules[3].reply_packets, 1);

        // The same rules in another order, with one more in front and one gone.
        apply_rules(
            sandbox,
            "in udp 53 from any accept
             in tcp 22 from any accept
             in all from any drop
             out all to any accept",
            &options,
        );
        assert_eq!(link_ids(sandbox), links, "the links are the same");
        assert_eq!(only(sandbox, "sg0").status().unwrap().policy.generation, 2);
        peer.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:5000 ack").bytes());
        peer.send(frame("tcp 198.51.100.1:4001 > 192.0.2.1:22 syn").bytes());
        let after = read_when(sandbox, "sg0", |c| c.totals[0].packets == 4);
        assert_adds_up(&after, 4, 1);
        let rule = |summary: &str| {
            after
                .rules
                .iter()
                .find(|r| r.summary == summary)
                .unwrap_or_else(|| panic!("no rule `{summary}` in {after:#?}"))
        };
        assert_eq!(rule("tcp 22 from any").packets, 2);
        assert_eq!(rule("tcp 22 from any").position, Some(2));
        assert_eq!(rule("udp 53 from any").packets, 0);
        assert_eq!(rule("all to any").reply_packets, 2, "the flow lives on");
    });
}

fn link_ids(sandbox: &Sandbox) -> Vec<u32> {
    let pins = only(sandbox, "sg0").pins;
    [pins.xdp_link(), pins.tcx_link()]
        .iter()
        .filter(|path| path.exists())
        .map(|path| {
            let link = aya::programs::links::PinnedLink::from_pin(path).expect("a pinned link");
            aya::programs::links::FdLink::from(link)
                .info()
                .expect("the link's info")
                .id()
        })
        .collect()
}

/// Proves A2 for a rule that is gone: its packets stay in the list, without a position.
#[test]
fn what_a_removed_rule_has_counted_stays() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, NODE, &options);
        let peer = RawSender::new("sg1");
        for port in 0..7 {
            peer.send(frame(&format!("tcp 10.0.0.1:{port} > 192.0.2.1:1 syn")).bytes());
        }
        read_when(sandbox, "sg0", |c| c.totals[0].packets == 7);
        apply_rules(sandbox, "in tcp 22 from any accept", &options);
        let counted = read(sandbox, "sg0");
        assert_adds_up(&counted, 7, 0);
        let gone: Vec<_> = counted
            .rules
            .iter()
            .filter(|r| r.position.is_none())
            .collect();
        assert_eq!(gone.len(), 1);
        assert_eq!(
            (gone[0].summary.as_str(), gone[0].packets),
            ("all from 10.0.0.0/8", 7)
        );
    });
}

/// Proves A2, A3 when the counter map has to grow, and when slots are used again.
#[test]
fn counters_survive_more_rules_than_there_were_slots() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        let peer = RawSender::new("sg1");
        let numbered = |round: usize, rules: usize| {
            let mut text = String::from("in tcp 22 from any accept\n");
            for i in 0..rules {
                text.push_str(&format!(
                    "in udp {} from 10.{round}.{}.{} accept\n",
                    i + 1,
                    i / 250,
                    i % 250
                ));
            }
            text
        };
        let mut sent = 0;
        for (round, rules) in [10, 1500, 900, 900, 900, 900, 900].into_iter().enumerate() {
            apply_rules(sandbox, &numbered(round, rules), &options);
            for i in 0..10 {
                let packet = format!("udp 10.{round}.0.{i}:9 > 192.0.2.1:{}", i + 1);
                peer.send(frame(&packet).bytes());
                peer.send(frame(&format!("tcp 10.9.9.9:{i} > 192.0.2.1:22 syn")).bytes());
                sent += 2;
            }
            let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets == sent);
            assert_adds_up(&counted, sent, 0);
            assert_eq!(counted.rules[0].packets, sent / 2, "the rule that stayed");
            for i in 1..=10 {
                assert_eq!(counted.rules[i].packets, 1, "round {round}, rule {i}");
            }
        }
    });
}

/// Proves K11.
#[test]
fn live_flows_are_judged_again_kept_or_flushed() {
    for (mode, after_opener, after_reply) in [
        (Established::Revalidate, "revoked", "revoked"),
        (Established::Keep, "kept", "reply"),
        (Established::Flush, "dropped", "dropped"),
    ] {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let options = sandbox.options("sg0");
            apply_rules(sandbox, "out tcp 443 to any accept", &options);
            let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
            for port in [5000, 5001] {
                node.send(frame(&format!("tcp 192.0.2.1:{port} > 198.51.100.7:443 syn")).bytes());
                peer.send(
                    frame(&format!("tcp 198.51.100.7:443 > 192.0.2.1:{port} syn ack")).bytes(),
                );
            }
            read_when(sandbox, "sg0", |c| c.totals[0].packets == 2);
            let mut next = rules_from_lines("out tcp 80 to any accept");
            next.established = mode;
            apply(&next, &options).unwrap_or_else(|e| panic!("{e}"));

            let forward = node.send(frame("tcp 192.0.2.1:5000 > 198.51.100.7:443 ack").bytes());
            peer.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:5001 ack").bytes());
            let c = read_when(sandbox, "sg0", |c| c.totals[0].packets == 3);
            assert_adds_up(&c, 3, 3);
            let reason = |direction: &str, name: &str| {
                c.reasons
                    .iter()
                    .find(|r| r.direction == direction && r.reason == name)
                    .unwrap()
                    .packets
            };
            let old = c.rules.iter().find(|r| r.position.is_none()).unwrap();
            let opener = match (reason("outbound", "revoked"), old.packets) {
                (1, 2) => "revoked",
                (0, 3) => "kept",
                _ => "dropped",
            };
            let reply = match (reason("inbound", "revoked"), old.reply_packets) {
                (1, 2) => "revoked",
                (0, 3) => "reply",
                _ => "dropped",
            };
            assert_eq!((opener, reply), (after_opener, after_reply), "{mode:?}");
            assert_eq!(forward, mode == Established::Keep, "{mode:?}");
        });
    }
}

/// A flow that the new policy admits by another rule goes on, counted for that rule (K11).
#[test]
fn a_flow_moves_to_the_rule_that_admits_it_now() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, "out tcp 443 to any accept", &options);
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        node.send(frame("tcp 192.0.2.1:5000 > 198.51.100.7:443 syn").bytes());
        apply_rules(sandbox, "out all to 198.51.100.0/24 accept", &options);
        peer.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:5000 syn ack").bytes());
        let c = read_when(sandbox, "sg0", |c| c.totals[0].packets == 1);
        assert_eq!(c.rules[0].reply_packets, 1);
        let flows = flows(&only(sandbox, "sg0")).unwrap();
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].state, "tcp-syn-recv");
        assert_eq!(flows[0].generation, 2);
        assert_eq!(
            flows[0].rule.as_ref().unwrap().summary,
            "all to 198.51.100.0/24"
        );
    });
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
                (status.xdp_mode.as_str(), status.egress_hook.as_str()),
                expected
            );
            // Both directions work in every mode.
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

/// Proves K1: the outbound hook is tcx where the kernel has it, else a clsact filter.
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
        // `auto` is what `options` has.
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let status = only(sandbox, "sg0").status().unwrap();
        assert_eq!(status.egress_hook, expected);
        assert_eq!(only(sandbox, "sg0").pins.tcx_link().exists(), has_tcx);
        let filters = crate::sandbox::run("tc", &["filter", "show", "dev", "sg0", "egress"]);
        assert_eq!(filters.contains("sg_outbound"), !has_tcx, "{filters}");
        // Whatever it is, packets meet it.
        let node = RawSender::new("sg0");
        assert!(node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2").bytes()));
        apply_rules(sandbox, "in tcp 1 from any accept", &sandbox.options("sg0"));
        assert!(!node.send(frame("udp 192.0.2.1:1 > 198.51.100.1:2").bytes()));
        assert_adds_up(&read(sandbox, "sg0"), 0, 2);
        assert_eq!(only(sandbox, "sg0").status().unwrap().egress_hook, expected);
    });
}

/// The counters of a clsact filter's program go on across a replacement, too.
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
fn another_xdp_program_is_named_and_left_alone() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let index = interfaces::index_of("sg0").unwrap();
        let theirs = interfaces::xdp_program(index).unwrap();
        // As if somebody else's: pins on another BPF file system.
        let other = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("bpf"), other.path(), Some("bpf"), flags, none).unwrap();
        let options = ApplyOptions {
            bpffs: other.path().to_owned(),
            ..sandbox.options("sg0")
        };
        let error = apply(&rules_from_lines(NODE), &options).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(
            matches!(&error, KernelError::OtherXdp { program, .. } if program == "sg_inbound"),
            "{error}"
        );
        assert!(!other.path().join("sgctl").exists());
        assert_eq!(interfaces::xdp_program(index).unwrap(), theirs);
        unmount(other.path());
    });
}

#[test]
fn pins_of_another_layout_are_refused() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let index = interfaces::index_of("sg0").unwrap();
        let theirs = sandbox
            .pins()
            .join("v0")
            .join(netns::cookie().unwrap().to_string())
            .join(index.to_string());
        std::fs::create_dir_all(&theirs).unwrap();
        let error = apply(&rules_from_lines(NODE), &sandbox.options("sg0")).unwrap_err();
        assert!(
            matches!(&error, KernelError::OtherLayout { found, .. } if found == "0"),
            "{error}"
        );
        assert!(theirs.exists());
        assert_eq!(interfaces::xdp_program(index).unwrap(), None);
    });
}

#[test]
fn a_pinned_map_of_another_shape_is_refused() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let pins = only(sandbox, "sg0").pins;
        // The state map in place of the flow table.
        let map = aya::maps::MapData::from_pin(pins.state()).unwrap();
        std::fs::remove_file(pins.flows4()).unwrap();
        map.pin(pins.flows4()).unwrap();
        let before = only(sandbox, "sg0").status().unwrap();
        let error = apply(
            &rules_from_lines("in tcp 1 from any accept"),
            &sandbox.options("sg0"),
        );
        let error = error.unwrap_err();
        assert!(matches!(&error, KernelError::OtherMap { .. }), "{error}");
        let after = only(sandbox, "sg0").status().unwrap();
        assert_eq!(
            after.policy.digest, before.policy.digest,
            "nothing has changed"
        );
        assert_eq!(after.health, Health::Enforcing);
    });
}

#[test]
fn a_damaged_state_record_is_an_error_until_detached() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, NODE, &options);
        let pins = only(sandbox, "sg0").pins;
        // Another map in the record's place is a record cut off before its first byte.
        std::fs::remove_file(pins.state()).unwrap();
        aya::maps::MapData::from_pin(pins.flows4())
            .unwrap()
            .pin(pins.state())
            .unwrap();
        let running = interfaces::xdp_program(pins.ifindex).unwrap();
        for error in [
            apply(&rules_from_lines(NODE), &options).unwrap_err(),
            counters(&only(sandbox, "sg0")).unwrap_err(),
        ] {
            assert!(
                matches!(&error, KernelError::DamagedState { .. }),
                "{error}"
            );
            assert_eq!(error.exit_code(), 1);
        }
        assert_eq!(interfaces::xdp_program(pins.ifindex).unwrap(), running);
        detach(sandbox.bpffs(), &pins).unwrap();
        apply_rules(sandbox, NODE, &options);
        assert_eq!(
            only(sandbox, "sg0").status().unwrap().health,
            Health::Enforcing
        );
    });
}

#[test]
fn a_policy_that_does_not_fit_changes_nothing() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let mut options = sandbox.options("sg0");
        options.budget.table_bytes = 64;
        let error = apply(&rules_from_lines(NODE), &options).unwrap_err();
        assert!(matches!(error, KernelError::TooLarge(_)), "{error}");
        assert!(!sandbox.pins().exists(), "nothing was pinned");
        assert_eq!(
            interfaces::xdp_program(interfaces::index_of("sg0").unwrap()).unwrap(),
            None
        );
    });
}

#[test]
fn an_unknown_interface_is_named_with_those_there_are() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let error = apply(&rules_from_lines(NODE), &sandbox.options("eth9")).unwrap_err();
        let KernelError::NoInterface { name, known } = &error else {
            panic!("{error}");
        };
        assert_eq!(name, "eth9");
        assert!(known.contains("sg0"), "{known}");
        assert!(!sandbox.pins().exists());
    });
}

#[test]
fn interfaces_of_one_name_in_two_namespaces_do_not_collide() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let bpffs = sandbox.bpffs().to_owned();
        let here = netns::cookie().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                assert_ne!(netns::cookie().unwrap(), here);
                sandbox.veth("sg0", "sg1");
                apply_rules(sandbox, "in tcp 1 from any accept", &sandbox.options("sg0"));
                assert_eq!(only(sandbox, "sg0").status().unwrap().rules, 1);
                assert_eq!(attached(&bpffs, &Scope::Namespace).unwrap().len(), 1);
                assert_eq!(attached(&bpffs, &Scope::Machine).unwrap().len(), 2);
                detach(&bpffs, &only(sandbox, "sg0").pins).unwrap();
            });
        });
        assert_eq!(only(sandbox, "sg0").status().unwrap().rules, 4);
    });
}

#[test]
fn a_namespace_that_does_not_exist_is_an_error() {
    let error = Netns::from("no-such-namespace").enter().unwrap_err();
    assert!(matches!(&error, KernelError::NoNetns { .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn concurrent_writers_take_turns() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        std::thread::scope(|scope| {
            // Threads of this one share its namespaces.
            let writers: Vec<_> = (0..4)
                .map(|i| {
                    let options = options.clone();
                    scope.spawn(move || {
                        for _ in 0..3 {
                            let rules = format!("in tcp {} from any accept", i + 1);
                            apply(&rules_from_lines(&rules), &options)
                                .unwrap_or_else(|e| panic!("{e}"));
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
        });
        let status = only(sandbox, "sg0").status().unwrap();
        assert_eq!(status.policy.generation, 12);
        assert_eq!(status.health, Health::Enforcing);
    });
}

#[test]
fn an_interface_that_is_gone_is_told_and_can_be_detached() {
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

/// The pins go by the interface's index, so a new name changes nothing.
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

/// Proves that `explain --iface` reads what the interface enforces: it agrees with the oracle.
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
            assert_eq!(
                explain_attached(&running, &question).unwrap(),
                explain_policy(&policy, &question),
                "{question:?}"
            );
        }
    });
}

/// `apply` of the recommended policy is quick, and leaves no other link behind.
#[test]
fn the_recommended_policy_is_applied_and_replaced() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let tke = sg_userspace::policy::PolicyInput::from("builtin:tke");
        let tke = sg_userspace::policy::load(&[tke], &[]).unwrap().policy;
        let applied = apply(&tke, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        assert!(applied.is_first);
        assert_eq!(applied.state.rules.len(), 8);
        let again = apply(&tke, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        assert!(!again.is_first);
        assert_eq!(again.state.rules, applied.state.rules);
        assert!(loaded_links().filter_map(Result::ok).count() >= 2);
        assert!(Path::new(&only(sandbox, "sg0").status().unwrap().pins).is_dir());
    });
}

/// Rules with `log` leave an event of each packet they decide, within the rate limit.
#[test]
fn logged_packets_come_out_of_the_ring() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let rules =
            "in tcp 22 from any accept\nin all from any drop log\nout all to any accept log";
        apply_rules(sandbox, rules, &sandbox.options("sg0"));
        let mut events = Events::open(&only(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"));
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        peer.send(frame("tcp 198.51.100.1:4000 > 192.0.2.1:22 syn").bytes());
        let dropped = frame("tcp [2001:db8::9]:4000 > [2001:db8::1]:80 syn");
        peer.send(dropped.bytes());
        read_when(sandbox, "sg0", |c| c.totals[0].packets == 2);
        node.send(frame("icmp 192.0.2.1 > 198.51.100.1 8/0 id 3").bytes());
        let (packets, held_back) = events.drain().unwrap_or_else(|e| panic!("{e}"));
        let lines: Vec<String> = packets.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                format!(
                    "drop inbound tcp [2001:db8::9]:4000 → [2001:db8::1]:80, {} bytes, by rule 2 \
                     of lines (all from any)",
                    dropped.bytes().len()
                ),
                "accept outbound icmp 192.0.2.1 → 198.51.100.1 type 8/0, 66 bytes, by rule 1 of \
                 lines (all to any)"
                    .to_owned(),
            ]
        );
        assert_eq!(held_back, 0);

        // A flood is counted, not written.
        let flood = frame("udp 192.0.2.1:1 > 198.51.100.1:2");
        for _ in 0..10_000 {
            node.send(flood.bytes());
        }
        let (packets, held_back) = events.drain().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(packets.len() as u64 + held_back, 10_000);
        assert!(packets.len() < 9_000, "{} written", packets.len());
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
