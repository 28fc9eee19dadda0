//! Replacing a policy on a real interface: what carries over, what is counted, and what happens to
//! live flows.

use fastrand::Rng;
use sg_policy::policy::{Established, rules_from_lines};
use sg_policy::testing::{self, Shape};
use sg_userspace::kernel::{EgressHook, apply};
use sg_userspace::observe::flows::flows;

use crate::frames::{Frame, frame, non_ip};
use crate::sandbox::{FIT, RawSender, Sandbox, sandbox};
use crate::support::egress_hooks;
use crate::watching::{NODE, apply_rules, assert_adds_up, only, read, read_when, under};

/// Proves A2: the counters are exact after 100,000 mixed packets in both directions, with reloads
/// in between.
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
        let mut sent = (0u64, 0);
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
                if sent.0.is_multiple_of(FIT) {
                    read_when(sandbox, "sg0", |c| c.totals[0].packets >= sent.0);
                }
                let frame = mixed(&mut rng);
                from_node.send(frame.bytes());
                sent.1 += 1;
                bytes.1 += frame.bytes().len() as u64;
            }
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

/// A random frame of TCP, UDP, ICMP, another protocol, ARP, or a malformed one. There are few
/// addresses, so that flows arise.
pub(crate) fn mixed(rng: &mut Rng) -> Frame {
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

        // The same rules in another order, with one more at the beginning and one removed.
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

/// Proves A2 for a rule that was removed: its packets stay in the list, without a position.
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

/// Proves A2 and A3 when the counter map has to grow, and when slots are used again.
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

/// Proves K11 for live flows that the new policy does not admit.
#[test]
fn live_flows_are_judged_again_kept_or_flushed() {
    for (mode, after_originator, after_reply) in [
        (Established::Revalidate, "revoked", "revoked"),
        (Established::Keep, "kept", "reply"),
        (Established::Flush, "revoked", "revoked"),
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
            let [revoked_in, revoked_out] = under(&c, "revoked");
            let old = c.rules.iter().find(|r| r.position.is_none()).unwrap();
            let originator = match (revoked_out, old.packets) {
                (1, 2) => "revoked",
                (0, 3) => "kept",
                _ => "dropped",
            };
            let reply = match (revoked_in, old.reply_packets) {
                (1, 2) => "revoked",
                (0, 3) => "reply",
                _ => "dropped",
            };
            assert_eq!(
                (originator, reply),
                (after_originator, after_reply),
                "{mode:?}"
            );
            assert_eq!(forward, mode == Established::Keep, "{mode:?}");
        });
    }
}

/// Proves K11: a flow that the new policy admits by another rule goes on, and is counted for that
/// rule.
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
        assert_eq!(flows[0].state.name(), "tcp-syn-recv");
        assert_eq!(flows[0].generation, 2);
        assert_eq!(
            flows[0].rule.as_ref().unwrap().summary,
            "all to 198.51.100.0/24"
        );
    });
}
