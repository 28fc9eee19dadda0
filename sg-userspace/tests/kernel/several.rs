//! Several interfaces under one policy: they share flows, each has its own counters, and adding or
//! removing one does not affect the others (K1).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use sg_policy::policy::rules_from_lines;
use sg_policy::testing::{self, Shape};
use sg_userspace::kernel::held::InForce;
use sg_userspace::kernel::{
    Applied, ApplyOptions, FaultCode, KernelError, Outcome, apply, detach, interfaces,
};
use sg_userspace::observe::attached::{Health, Scope, attached};
use sg_userspace::observe::events::Events;
use sg_userspace::observe::explain::{Question, Transport, explain_attached};
use sg_userspace::observe::flows::flows;

use crate::frames::{Frame, frame};
use crate::probe::{Probe, Seen};
use crate::sandbox::{RawSender, Sandbox, ip, sandbox};
use crate::watching::{assert_adds_up, only, read, read_when, under};

/// The names of an uplink's two ends: the node's and the router's.
const UPLINKS: [(&str, &str); 2] = [("up0", "far0"), ("up1", "far1")];

/// Two veth pairs, with options for the node's ends of both.
fn uplinks(sandbox: &Sandbox) -> ApplyOptions {
    for (near, far) in UPLINKS {
        sandbox.veth(near, far);
    }
    both(sandbox)
}

fn both(sandbox: &Sandbox) -> ApplyOptions {
    on(sandbox, &["up0", "up1"])
}

fn on(sandbox: &Sandbox, interfaces: &[&str]) -> ApplyOptions {
    ApplyOptions {
        interfaces: interfaces.iter().map(|name| (*name).into()).collect(),
        ..sandbox.options("up0")
    }
}

fn put(rules: &str, options: &ApplyOptions) -> Applied {
    apply(&rules_from_lines(rules), options).unwrap_or_else(|e| panic!("{e}"))
}

/// The ids of both programs that an interface runs.
fn programs(sandbox: &Sandbox, interface: &str) -> [u32; 2] {
    let one = only(sandbox, interface);
    let found = one.inspect().unwrap_or_else(|e| panic!("{e}"));
    sg_common::verdict::Direction::BOTH
        .map(|direction| found.running(direction).expect("a program runs"))
}

fn health(sandbox: &Sandbox, interface: &str) -> Health {
    only(sandbox, interface).status().unwrap().health
}

/// Proves K1 and K6: for each protocol and both families, replies to packets that leave by one
/// uplink are accepted at the other, and replies to packets that enter by one may leave by the
/// other. Nothing else is accepted. Proves A2 for each interface.
#[test]
fn a_flow_may_use_both_interfaces() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        put(
            "out tcp 443 to any accept
             out udp 53 to any accept
             out icmp 8 to any accept
             out icmpv6 128 to any accept
             out gre to any accept
             in tcp 22 from any accept
             in udp 500 from any accept",
            &options,
        );
        let near = UPLINKS.map(|(near, _)| RawSender::new(near));
        let far = UPLINKS.map(|(_, far)| RawSender::new(far));
        let mut sent = [[0u64; 2]; 2];
        let (mut replies, mut dropped) = ([[0u64; 2]; 2], [0u64; 2]);
        for (v4, v6) in [
            ("192.0.2.1", "198.51.100.7"),
            ("2001:db8::1", "2001:db8:9::7"),
        ] {
            let end = |address: &str, port: u16| match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            };
            let (a, b) = (v4, v6);
            let (ask, answer) = match a.contains(':') {
                true => (128, 129),
                false => (8, 0),
            };
            // Requests and replies, first for outbound requests and then for inbound ones.
            let outbound = [
                (
                    format!("tcp {} > {} syn", end(a, 4000), end(b, 443)),
                    format!("tcp {} > {} syn ack", end(b, 443), end(a, 4000)),
                ),
                (
                    format!("udp {} > {}", end(a, 4000), end(b, 53)),
                    format!("udp {} > {}", end(b, 53), end(a, 4000)),
                ),
                (
                    format!("icmp {a} > {b} {ask}/0 id 7"),
                    format!("icmp {b} > {a} {answer}/0 id 7"),
                ),
                (format!("proto 47 {a} > {b}"), format!("proto 47 {b} > {a}")),
            ];
            let inbound = [
                (
                    format!("tcp {} > {} syn", end(b, 5000), end(a, 22)),
                    format!("tcp {} > {} syn ack", end(a, 22), end(b, 5000)),
                ),
                (
                    format!("udp {} > {}", end(b, 5000), end(a, 500)),
                    format!("udp {} > {}", end(a, 500), end(b, 5000)),
                ),
            ];
            for (request, reply) in &outbound {
                // Without the request its reply is dropped.
                far[1].send(frame(reply).bytes());
                sent[1][0] += 1;
                dropped[1] += 1;
                read_when(sandbox, "up1", |c| c.totals[0].packets == sent[1][0]);
                assert!(near[0].send(frame(request).bytes()), "{request}");
                far[1].send(frame(reply).bytes());
                far[0].send(frame(reply).bytes());
                sent[0][1] += 1;
                sent[1][0] += 1;
                sent[0][0] += 1;
                replies[1][0] += 1;
                replies[0][0] += 1;
            }
            for (request, reply) in &inbound {
                assert!(
                    !near[1].send(frame(reply).bytes()),
                    "{reply} before it was asked for"
                );
                sent[1][1] += 1;
                far[0].send(frame(request).bytes());
                sent[0][0] += 1;
                read_when(sandbox, "up0", |c| c.totals[0].packets == sent[0][0]);
                assert!(near[1].send(frame(reply).bytes()), "{reply}");
                sent[1][1] += 1;
                replies[1][1] += 1;
            }
        }
        for (i, (name, _)) in UPLINKS.into_iter().enumerate() {
            let c = read_when(sandbox, name, |c| c.totals[0].packets == sent[i][0]);
            assert_adds_up(&c, sent[i][0], sent[i][1]);
            for (direction, expected) in [("outbound", replies[i][0]), ("inbound", replies[i][1])] {
                let rules = c
                    .rules
                    .iter()
                    .filter(|rule| rule.direction.name() == direction);
                let counted: u64 = rules.map(|rule| rule.reply_packets).sum();
                assert_eq!(counted, expected, "{name}: replies of {direction} rules");
            }
            assert_eq!(under(&c, "no-match")[0], dropped[i], "{name}");
        }
        // The table is the same for both interfaces.
        let [a, b] = ["up0", "up1"].map(|name| flows(&only(sandbox, name)).unwrap().len());
        assert_eq!((a, b), (12, 12));
    });
}

/// Proves K1 and K4: the first fragment of a datagram comes by one interface and the rest by the
/// other.
#[test]
fn fragments_of_one_datagram_may_come_by_both_interfaces() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        put("in udp 53 from any accept", &options);
        let far = UPLINKS.map(|(_, far)| RawSender::new(far));
        let fragment = |id: u16, is_first: bool| -> [Frame; 2] {
            let (units, more) = if is_first { (0, true) } else { (4, false) };
            [
                frame("udp 198.51.100.1:4000 > 192.0.2.1:53").fragment4(id, units, more),
                frame("udp [2001:db8::9]:4000 > [2001:db8::1]:53").fragment6(
                    id.into(),
                    units,
                    more,
                ),
            ]
        };
        for first in fragment(7, true) {
            far[0].send(first.bytes());
        }
        read_when(sandbox, "up0", |c| c.totals[0].packets == 2);
        for rest in fragment(7, false).iter().chain(&fragment(8, false)) {
            far[1].send(rest.bytes());
        }
        let c = read_when(sandbox, "up1", |c| c.totals[0].packets == 4);
        assert_eq!(
            c.rules[0].packets, 2,
            "those whose first ones came by the other"
        );
        assert_eq!(under(&c, "fragment"), [2, 0]);
    });
}

/// Proves K1 and C2: an interface that is added gets the policy in force, and the others keep their
/// programs and flows. One that is removed leaves the flows to the others, and the last one leaves
/// nothing.
#[test]
fn an_interface_comes_and_goes_without_disturbing_the_others() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        const RULES: &str = "out tcp 443 to any accept\nin udp 53 from any accept log";
        let first = put(RULES, &on(sandbox, &["up0"]));
        let (near, far) = (
            RawSender::new("up0"),
            UPLINKS.map(|(_, far)| RawSender::new(far)),
        );
        near.send(frame("tcp 192.0.2.1:4000 > 198.51.100.7:443 syn").bytes());
        let before = programs(sandbox, "up0");

        let added = put(RULES, &options);
        assert_eq!(
            (added.outcome, added.first.outcome),
            (Outcome::Attached, Outcome::Unchanged)
        );
        assert_eq!(added.others.len(), 1);
        assert_eq!(added.others[0].outcome, Outcome::Attached);
        assert_eq!(programs(sandbox, "up0"), before, "the same programs");
        let policy = |name: &str| only(sandbox, name).status().unwrap().policy;
        assert_eq!(
            policy("up0").generation,
            first.first.state.policy.generation
        );
        for (name, other) in [("up0", "up1"), ("up1", "up0")] {
            assert_eq!(policy(name).generation, 1);
            assert_eq!(health(sandbox, name), Health::Enforcing);
            assert_eq!(only(sandbox, name).shared_with(), [other]);
        }
        far[1].send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 syn ack").bytes());
        let c = read_when(sandbox, "up1", |c| c.totals[0].packets == 1);
        assert_adds_up(&c, 1, 0);
        assert_eq!(
            c.rules.iter().map(|rule| rule.reply_packets).sum::<u64>(),
            1
        );
        assert_adds_up(&read(sandbox, "up0"), 0, 1);
        assert_eq!(put(RULES, &options).outcome, Outcome::Unchanged);

        // A reader of one interface's events gets those of both, with their names.
        let mut events = Events::open(&only(sandbox, "up0")).unwrap();
        for far in &far {
            far.send(frame("udp 198.51.100.7:9 > 192.0.2.1:53").bytes());
        }
        let mut names = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while names.len() < 2 && Instant::now() < deadline {
            names.extend(
                events
                    .drain()
                    .unwrap()
                    .packets
                    .into_iter()
                    .map(|p| p.interface),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        names.sort();
        assert_eq!(names, ["up0", "up1"]);

        detach(sandbox.bpffs(), &only(sandbox, "up1").pins).unwrap();
        assert_eq!(programs(sandbox, "up0"), before, "the same programs");
        assert_eq!(health(sandbox, "up0"), Health::Enforcing);
        assert_eq!(
            interfaces::xdp_program(interfaces::index_of("up1").unwrap()).unwrap(),
            None
        );
        let mut live = flows(&only(sandbox, "up0")).unwrap();
        live.retain(|flow| flow.protocol == 6);
        assert_eq!(
            (live.len(), live[0].state.name()),
            (1, "tcp-syn-recv"),
            "with its answer"
        );
        far[0].send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 ack").bytes());
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets == 2);
        assert_eq!(
            c.rules.iter().map(|rule| rule.reply_packets).sum::<u64>(),
            1
        );

        detach(sandbox.bpffs(), &only(sandbox, "up0").pins).unwrap();
        assert!(!sandbox.pins().exists(), "nothing is left");
    });
}

/// Proves K1: while an interface is added and removed repeatedly, no packet of the other one is
/// lost or passes unjudged.
#[test]
fn the_others_lose_no_packet_meanwhile() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        const RULES: &str = "in udp 53 from any accept\nout udp 53 to any accept";
        put(RULES, &on(sandbox, &["up0"]));
        let (done, sent) = (AtomicBool::new(false), std::sync::Mutex::new([0u64; 3]));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (near, far) = (RawSender::new("up0"), RawSender::new("far0"));
                let mut counts = [0; 3];
                for i in 0u16.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let port = 1024 + i % 20_000;
                    let inbound = format!("udp 198.51.100.1:{port} > 192.0.2.1:53");
                    far.send(frame(&inbound).bytes());
                    let outbound = format!("udp 192.0.2.1:{port} > 198.51.100.1:53");
                    counts[2] += u64::from(!near.send(frame(&outbound).bytes()));
                    let refused = format!("udp 192.0.2.1:{port} > 198.51.100.1:54");
                    counts[2] += u64::from(near.send(frame(&refused).bytes()));
                    (counts[0], counts[1]) = (counts[0] + 1, counts[1] + 2);
                    std::thread::sleep(Duration::from_micros(200));
                }
                *sent.lock().unwrap() = counts;
            });
            for _ in 0..8 {
                put(RULES, &options);
                detach(sandbox.bpffs(), &only(sandbox, "up1").pins).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        let [inbound, outbound, wrong] = *sent.lock().unwrap();
        assert_eq!(wrong, 0, "outbound packets that met another verdict");
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets == inbound);
        assert_adds_up(&c, inbound, outbound);
        assert_eq!(c.totals[0].dropped, 0);
        assert_eq!(
            (c.rules[0].packets, c.rules[1].packets),
            (inbound, outbound / 2)
        );
        assert_eq!(c.policy.generation, 1);
    });
}

/// Proves A2 and A3 for each of two interfaces, of which one joins later, over reloads in both
/// directions under load.
#[test]
fn each_interface_counts_exactly_over_reloads() {
    // 300 with `SG_THOROUGH`, which takes minutes.
    let reloads = match std::env::var_os("SG_THOROUGH") {
        Some(_) => 300,
        None => 30,
    };
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        let mut rng = Rng::with_seed(11);
        let shape = Shape {
            rules: 30,
            ipv6: 40,
            inbound_only: false,
        };
        let policies: Vec<_> = (0..5)
            .map(|_| rules_from_lines(&testing::rules(&mut rng, shape)))
            .collect();
        apply(&policies[0], &on(sandbox, &["up0"])).unwrap();
        let done = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let senders = UPLINKS.map(|(near, far)| {
                let done = &done;
                scope.spawn(move || {
                    let (near, far) = (RawSender::new(near), RawSender::new(far));
                    let mut rng = Rng::new();
                    let mut sent = [0u64; 2];
                    while !done.load(Ordering::Relaxed) {
                        for _ in 0..20 {
                            far.send(crate::reload::mixed(&mut rng).bytes());
                            near.send(crate::reload::mixed(&mut rng).bytes());
                            sent = [sent[0] + 1, sent[1] + 1];
                        }
                        std::thread::sleep(Duration::from_micros(500));
                    }
                    sent
                })
            });
            // The second one judges only packets from here on.
            let before = apply(&policies[0], &options).map(|_| ());
            before.unwrap_or_else(|e| panic!("{e}"));
            for round in 1..=reloads {
                let next = &policies[round % policies.len()];
                apply(next, &options).unwrap_or_else(|e| panic!("{e}"));
            }
            done.store(true, Ordering::Relaxed);
            senders.map(|sender| sender.join().unwrap())
        });
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets >= sent[0][0]);
        assert_adds_up(&c, sent[0][0], sent[0][1]);
        assert_eq!(c.policy.generation as usize, reloads + 1);
        // Each packet of the second one was counted exactly once as well.
        let settled = read_when(sandbox, "up1", |_| true);
        let [inbound, outbound] = [0, 1].map(|i| settled.totals[i].packets);
        assert_adds_up(&settled, inbound, outbound);
        assert!(inbound > 0 && inbound <= sent[1][0] && outbound <= sent[1][1]);
        let (near, far) = (RawSender::new("up1"), RawSender::new("far1"));
        for _ in 0..500 {
            far.send(crate::reload::mixed(&mut rng).bytes());
            near.send(crate::reload::mixed(&mut rng).bytes());
        }
        let c = read_when(sandbox, "up1", |c| c.totals[0].packets >= inbound + 500);
        assert_adds_up(&c, inbound + 500, outbound + 500);
    });
}

/// What is refused changes nothing, and the message says why and names a remedy.
#[test]
fn a_set_that_is_no_whole_attachment_is_refused() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        sandbox.veth("alone", "far2");
        put("in udp 53 from any accept", &options);
        put("in udp 54 from any accept", &on(sandbox, &["alone"]));
        let before = ["up0", "up1", "alone"].map(|name| programs(sandbox, name));
        let refused = |interfaces: &[&str], words: &[&str]| {
            let other = rules_from_lines("in udp 55 from any accept");
            let error = apply(&other, &on(sandbox, interfaces)).unwrap_err();
            let KernelError::Fixed { what, reason, help } = &error else {
                panic!("{error}");
            };
            let all = format!("{what}: {reason}; {help}");
            for word in words {
                assert!(all.contains(word), "`{word}` is not in: {all}");
            }
            assert_eq!(error.exit_code(), 1);
            let after = ["up0", "up1", "alone"].map(|name| programs(sandbox, name));
            assert_eq!(before, after);
        };
        let left_out = "applying to up0 alone: up1 is under the same policy";
        refused(
            &["up0"],
            &[left_out, "`--iface up0 --iface up1`", "detach --iface up1"],
        );
        refused(
            &["up0", "alone"],
            &["putting up0 and alone under one policy"],
        );
        refused(&["up0", "up1", "alone"], &["detach --iface alone"]);
        for name in ["up0", "up1", "alone"] {
            assert_eq!(health(sandbox, name), Health::Enforcing);
        }
        let missing = apply(
            &rules_from_lines("in udp 55 from any accept"),
            &on(sandbox, &["up0", "up9"]),
        );
        assert!(matches!(missing, Err(KernelError::NoInterface { .. })));
        // Naming an interface twice is the same as once.
        let same = put(
            "in udp 53 from any accept",
            &on(sandbox, &["up1", "up0", "up1"]),
        );
        assert_eq!((same.outcome, same.others.len()), (Outcome::Unchanged, 1));
    });
}

/// Proves C12: an interface that was deleted is reported, and does not prevent anything. When it is
/// created again, an `apply` that names it continues its counters.
#[test]
fn an_interface_of_an_attachment_may_vanish_and_come_back() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        put("in udp 53 from any accept", &options);
        let send = |far: &str, port: u16| {
            let far = RawSender::new(far);
            far.send(frame(&format!("udp 198.51.100.1:9 > 192.0.2.1:{port}")).bytes());
        };
        send("far1", 53);
        read_when(sandbox, "up1", |c| c.totals[0].packets == 1);
        ip(&["link", "del", "up1"]);
        let gone = only(sandbox, "up1").status().unwrap();
        assert_eq!(gone.health, Health::InterfaceGone);
        assert_eq!(health(sandbox, "up0"), Health::Enforcing);
        let next = put("in udp 54 from any accept", &on(sandbox, &["up0"]));
        assert_eq!(next.first.state.policy.generation, 2);
        assert_eq!(health(sandbox, "up0"), Health::Enforcing);

        sandbox.veth("up1", "far1");
        let back = only(sandbox, "up1").status().unwrap();
        assert_eq!(back.faults[0].code, FaultCode::Unprotected);
        // It belongs to the attachment again.
        let left_out = apply(
            &rules_from_lines("in udp 55 from any accept"),
            &on(sandbox, &["up0"]),
        );
        assert!(
            matches!(left_out, Err(KernelError::Fixed { .. })),
            "{left_out:?}"
        );
        put("in udp 55 from any accept", &options);
        send("far1", 55);
        let c = read_when(sandbox, "up1", |c| c.totals[0].packets == 2);
        assert_adds_up(&c, 2, 0);
        for name in ["up0", "up1"] {
            assert_eq!(health(sandbox, name), Health::Enforcing);
        }
        ip(&["link", "del", "up0"]);
        for name in ["up0", "up1"] {
            detach(sandbox.bpffs(), &only(sandbox, name).pins).unwrap();
        }
        assert!(!sandbox.pins().exists(), "nothing is left");
    });
}

/// Proves C12: if the interfaces of one attachment run different generations, they are reported as
/// interrupted, and the next `apply` to all of them repairs that.
#[test]
fn interfaces_of_two_generations_are_no_whole() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        put("in udp 53 from any accept", &options);
        let pins = only(sandbox, "up1").pins;
        // The state after an `apply` that was interrupted after the first interface.
        let held = InForce::find(sandbox.bpffs(), &pins).unwrap();
        let InForce::Policy(held) = held else {
            panic!("a policy is in force");
        };
        let second = put("in udp 54 from any accept", &options);
        let now = second.others[0].state.attempted().programs;
        assert!(held.put_back(sandbox.bpffs(), &pins, &[now]).unwrap());
        let status = only(sandbox, "up1").status().unwrap();
        assert_eq!(status.health, Health::Interrupted, "{status:?}");
        assert!(status.faults[0].message.contains("up0"), "{status:?}");
        assert_eq!(health(sandbox, "up0"), Health::Enforcing);
        put("in udp 54 from any accept", &options);
        for name in ["up0", "up1"] {
            assert_eq!(health(sandbox, name), Health::Enforcing);
        }
    });
}

/// `explain` evaluates the tables, which all interfaces share. A pattern stands for all of them.
#[test]
fn all_interfaces_are_found_by_a_pattern_and_explained_alike() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        put("in udp 53 from any accept", &options);
        let scope = Scope::Interfaces(vec!["up*".into(), "up0".into()]);
        let found = attached(sandbox.bpffs(), &scope).unwrap();
        assert_eq!(found.len(), 2);
        for one in &found {
            let question = Question {
                direction: sg_common::verdict::Direction::Inbound,
                transport: Transport::Protocol(17),
                remote: "198.51.100.1".parse().unwrap(),
                remote_port: None,
                local: "192.0.2.1".parse().unwrap(),
                local_port: Some(53),
            };
            let answer = explain_attached(one, &question).unwrap();
            assert_eq!(
                (answer.verdict.name(), answer.reason.name()),
                ("accept", "rule")
            );
        }
        let none = attached(sandbox.bpffs(), &Scope::Interfaces(vec!["far*".into()]));
        let error = none.unwrap_err().to_string();
        assert_eq!(
            error,
            "nothing is attached to an interface that matches `far*`"
        );
    });
}

/// Proves K11: when a policy comes back after another one, what only that one admitted is judged by
/// it at the next packet, whichever side sends that, although its generation has the lower number.
#[test]
fn what_only_the_policy_between_admitted_is_judged_when_the_former_comes_back() {
    sandbox(|sandbox| {
        sandbox.veth("up0", "far0");
        let options = on(sandbox, &["up0"]);
        // The answers pass by its rules, the requests do not.
        put(
            "in tcp 4000-4999 from any accept\nin udp 4000-4999 from any accept",
            &options,
        );
        let pins = only(sandbox, "up0").pins;
        let held = InForce::find(sandbox.bpffs(), &pins).unwrap();
        let InForce::Policy(held) = held else {
            panic!("a policy is in force");
        };
        let between = put(
            "out tcp 443 to any accept\nout udp 53 to any accept",
            &options,
        );
        let (near, far) = (RawSender::new("up0"), RawSender::new("far0"));
        near.send(frame("tcp 192.0.2.1:4000 > 198.51.100.7:443 syn").bytes());
        far.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 syn ack").bytes());
        near.send(frame("udp 192.0.2.1:4001 > 198.51.100.7:53").bytes());
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets == 1);
        assert_eq!(c.totals[0].accepted, 1);
        let ours = between.first.state.attempted().programs;
        assert!(held.put_back(sandbox.bpffs(), &pins, &[ours]).unwrap());
        let state = only(sandbox, "up0").state().unwrap().clone();
        assert_eq!(state.policy.generation, 1, "the former one");
        assert!(state.epoch > 2, "{}", state.epoch);
        far.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 ack").bytes());
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets == 2);
        assert_eq!(under(&c, "revoked"), [1, 0], "{c:#?}");
        assert_adds_up(&c, 2, 2);
        // A number is used once.
        let next = put("in udp 9 from any accept", &options);
        assert!(next.first.state.policy.generation > state.epoch);
        assert_eq!(health(sandbox, "up0"), Health::Enforcing);
    });
}

/// Proves K11: loading a policy again that means the same, to repair it or to add an interface, is
/// no new policy for the flows, even where a new one would flush them.
#[test]
fn the_same_policy_again_leaves_the_flows_alone() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        let mut policy = rules_from_lines("out tcp 443 to any accept");
        policy.established = sg_policy::policy::Established::Flush;
        apply(&policy, &on(sandbox, &["up0"])).unwrap();
        let (near, far) = (RawSender::new("up0"), RawSender::new("far0"));
        near.send(frame("tcp 192.0.2.1:4000 > 198.51.100.7:443 syn").bytes());
        let goes_on = |count: u64| {
            far.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 syn ack").bytes());
            let c = read_when(sandbox, "up0", |c| c.totals[0].packets == count);
            assert_eq!(c.totals[0].accepted, count, "{c:#?}");
            let live = flows(&only(sandbox, "up0")).unwrap();
            assert_eq!((live.len(), live[0].generation), (1, 1));
        };
        goes_on(1);
        apply(&policy, &options).unwrap();
        goes_on(2);
        // Somebody takes the inbound link away.
        std::fs::remove_file(only(sandbox, "up0").pins.xdp_link()).unwrap();
        let index = interfaces::index_of("up0").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while interfaces::xdp_program(index).unwrap().is_some() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let repaired = apply(&policy, &options).unwrap();
        assert_eq!(repaired.outcome, Outcome::Replaced);
        assert_eq!(repaired.first.state.policy.generation, 2);
        assert_eq!(repaired.first.state.epoch, 1);
        goes_on(3);
        // Another policy flushes them.
        let mut other = rules_from_lines("out tcp 443 to any accept\nout udp 53 to any accept");
        other.established = sg_policy::policy::Established::Flush;
        apply(&other, &options).unwrap();
        far.send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 syn ack").bytes());
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets == 4);
        assert_eq!(under(&c, "revoked"), [1, 0]);
    });
}

/// Proves K12 where an interface joins: a connection over it goes on, and one that the other
/// interface does not let through is not brought to life.
#[test]
fn of_what_no_rule_admits_only_what_leaves_by_the_new_interface_is_kept() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        for (near, far, net) in [("up0", "far0", 1), ("up1", "far1", 2)] {
            ip(&["addr", "add", &format!("10.0.{net}.1/24"), "dev", near]);
            ip(&[
                "neigh",
                "add",
                &format!("10.0.{net}.2"),
                "lladdr",
                "02:00:00:00:00:01",
                "dev",
                near,
            ]);
            let _ = far;
        }
        put("in udp 9 from any accept", &on(sandbox, &["up0"]));
        let socket = |to: &str| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            let _ = socket.send(b"a datagram");
            socket
        };
        let sockets = [socket("10.0.1.2:53"), socket("10.0.2.2:53")];
        let added = put("in udp 9 from any accept", &options);
        assert_eq!(
            added.seeded.as_ref().map(|seeded| seeded.without_rule),
            Some(1)
        );
        let live = flows(&only(sandbox, "up1")).unwrap();
        let remotes: Vec<String> = live.iter().map(|flow| flow.remote.to_string()).collect();
        assert_eq!(remotes, ["10.0.2.2"]);
        for (i, (net, far)) in [(1, "far0"), (2, "far1")].into_iter().enumerate() {
            let port = sockets[i].local_addr().unwrap().port();
            let answer = format!("udp 10.0.{net}.2:53 > 10.0.{net}.1:{port}");
            RawSender::new(far).send(frame(&answer).bytes());
        }
        let c = read_when(sandbox, "up1", |c| c.totals[0].packets == 1);
        assert_eq!(under(&c, "seeded"), [1, 0]);
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets == 1);
        assert_eq!(under(&c, "no-match"), [1, 1]);
    });
}

/// Proves C1 and C12 for two interfaces: where a step of `apply` fails, all directions of both run
/// one policy; where it is killed, each runs the old one or the new one, and `status` calls
/// enforcing only what is. An interface that joins never disturbs the other. The next `apply` puts
/// everything right.
#[test]
fn a_fault_at_any_step_leaves_one_policy_everywhere() {
    sandbox(|sandbox| {
        uplinks(sandbox);
        let dir = tempfile::tempdir().expect("a directory");
        let trace = dir.path().join("points");
        let policy = |name: &str, port: u16| {
            let rule = |end: &str| {
                format!("[{{protocol: udp, ports: {port}, {end}: any, action: accept}}]")
            };
            let text = format!("inbound: {}\noutbound: {}\n", rule("from"), rule("to"));
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("it can be written");
            path.display().to_string()
        };
        let (a, b) = (policy("a", 1000), policy("b", 2000));
        let run = |policy: &str, interfaces: &[&str], fault: Option<&str>| {
            let _ = std::fs::remove_file(&trace);
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sgctl"));
            command.arg("--bpffs").arg(sandbox.bpffs());
            command.args(["apply", policy, "--max-flows", "64"]);
            for name in interfaces {
                command.args(["--iface", name]);
            }
            command.env("SG_FAULT_TRACE", &trace);
            if let Some(fault) = fault {
                command.env("SG_FAULT", fault);
            }
            command.output().expect("sgctl starts")
        };
        let passed = || -> Vec<String> {
            let points = std::fs::read_to_string(&trace).expect("a build with fault points");
            points.lines().map(str::to_owned).collect()
        };
        let clean = || {
            for one in attached(sandbox.bpffs(), &Scope::Namespace).unwrap() {
                detach(sandbox.bpffs(), &one.pins).unwrap_or_else(|e| panic!("{e}"));
            }
            sg_userspace::kernel::tidy_up(sandbox.bpffs()).unwrap();
            assert!(!sandbox.pins().exists(), "pins are left");
        };
        const BOTH: [&str; 2] = ["up0", "up1"];
        let mut probes = UPLINKS.map(|(near, far)| Probe::new(near, far));
        // The policy and the interfaces before, and the policy that is applied to both.
        let scenarios: [(&str, &[&str], &str); 3] =
            [(&a, &BOTH, &b), (&a, &["up0"], &a), (&a, &["up0"], &b)];
        for (number, (before, on, next)) in scenarios.into_iter().enumerate() {
            let set_up = || assert!(run(before, on, None).status.success());
            set_up();
            assert!(run(next, &BOTH, None).status.success());
            let points = passed();
            assert!(points.len() > 40, "{points:?}");
            clean();
            // A sample, of other points for each scenario.
            let every = 17;
            for (at, point) in points.iter().enumerate().skip(number).step_by(every) {
                let kind = ["fail", "kill"][(at / every) % 2];
                set_up();
                let output = run(next, &BOTH, Some(&format!("{kind}:{point}")));
                let error = String::from_utf8_lossy(&output.stderr);
                let when = format!("{on:?}, {kind} {point}: {} {error}", output.status);
                let seen = [probes[0].look(), probes[1].look()];
                let when = format!("{when} {seen:?}");
                let joins = on.len() == 1;
                for (interface, seen) in seen.iter().enumerate() {
                    let allowed: &[Seen] = match interface {
                        1 if joins => &[Seen::Open, Seen::A, Seen::B],
                        0 if before == next => &[Seen::A],
                        _ => &[Seen::A, Seen::B],
                    };
                    assert!(seen.iter().all(|seen| allowed.contains(seen)), "{when}");
                    if kind == "fail" {
                        assert_eq!(seen[0], seen[1], "{when}: half of a policy");
                    }
                }
                if kind == "fail" && !(joins && seen[1] == [Seen::Open; 2]) {
                    assert_eq!(seen[0], seen[1], "{when}: two policies");
                }
                let rows = attached(sandbox.bpffs(), &Scope::Namespace).unwrap();
                let enforcing = rows.iter().filter(|one| {
                    one.state.is_ok()
                        && one
                            .status()
                            .is_ok_and(|row| row.health == Health::Enforcing)
                });
                let enforcing: Vec<u32> = enforcing.map(|one| one.pins.ifindex).collect();
                for (interface, seen) in BOTH.iter().zip(&seen) {
                    let index = interfaces::index_of(interface).unwrap();
                    let is_one = seen[0] == seen[1] && seen[0] != Seen::Open;
                    assert!(
                        is_one || !enforcing.contains(&index),
                        "{when}: {enforcing:?}"
                    );
                }
                if enforcing.len() == 2 {
                    assert_eq!(seen[0], seen[1], "{when}: both are called enforcing");
                }
                let again = run(&b, &BOTH, None);
                let error = String::from_utf8_lossy(&again.stderr);
                assert!(again.status.success(), "{when}: then {error}");
                for probe in &mut probes {
                    assert_eq!(probe.look(), [Seen::B; 2], "{when}: then");
                }
                clean();
            }
        }
    });
}
