//! Interfaces that join an attachment, leave it, vanish, or are refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::held::InForce;
use sg_userspace::kernel::{
    FaultCode, KernelError, Outcome, apply, detach, detach_each, interfaces,
};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::events::Events;
use sg_userspace::observe::explain::{Question, Transport};
use sg_userspace::observe::flows::flows;
use sg_userspace::observe::inquiry::explain_attached;
use sg_userspace::observe::status::Health;

use super::{UPLINKS, health, on, programs, put, uplinks};
use crate::frames::frame;
use crate::sandbox::{RawSender, ip, lost_on_the_way, sandbox};
use crate::support::rounds;
use crate::watching::{assert_adds_up, only, read, read_when, under};

/// Proves C11: interfaces that are detached together go at once. An `apply` of the same policy
/// meanwhile finds all of them or none, so that what it leaves as it is stays.
#[test]
fn interfaces_that_are_detached_together_go_at_once() {
    const RULES: &str = "out tcp 443 to any accept";
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        for _ in 0..rounds(8) {
            put(RULES, &options);
            let places = UPLINKS.map(|(near, _)| only(sandbox, near).pins);
            let applied = std::thread::scope(|scope| {
                let places = [&places[0], &places[1]];
                let detaching = scope.spawn(move || {
                    let all = detach_each(sandbox.bpffs(), &places, |_| true).unwrap();
                    assert!(all.into_iter().all(|one| one.unwrap()));
                });
                let mut applied = put(RULES, &options);
                while applied.outcome == Outcome::Unchanged && !detaching.is_finished() {
                    applied = put(RULES, &options);
                }
                detaching.join().unwrap();
                applied
            });
            let outcomes: Vec<_> = applied.interfaces().map(|one| one.outcome).collect();
            assert!(
                outcomes.iter().all(|one| *one == outcomes[0]),
                "{outcomes:?}"
            );
        }
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
        let inbound = inbound - lost_on_the_way("far0");
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
