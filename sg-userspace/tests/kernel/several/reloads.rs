//! Reloads of several interfaces: exact counts, and which flows are judged again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use sg_policy::policy::rules_from_lines;
use sg_policy::testing::{self, Shape};
use sg_userspace::kernel::held::InForce;
use sg_userspace::kernel::{Outcome, apply, interfaces};
use sg_userspace::observe::flows::flows;
use sg_userspace::observe::status::Health;

use super::{UPLINKS, health, on, put, uplinks};
use crate::frames::frame;
use crate::sandbox::{RawSender, lost_on_the_way, sandbox};
use crate::support::rounds;
use crate::watching::{assert_adds_up, only, read_when, under};

/// Proves A2 and A3 for each of two interfaces, of which one joins later, over reloads in both
/// directions under load.
#[test]
fn each_interface_counts_exactly_over_reloads() {
    // 300 with `SG_THOROUGH`, which takes minutes.
    let reloads = match std::env::var_os("SG_THOROUGH") {
        Some(_) => 300,
        None => rounds(30),
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
        let inbound = sent[0][0] - lost_on_the_way("far0");
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets >= inbound);
        assert_adds_up(&c, inbound, sent[0][1]);
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

/// Proves K11: a policy is replaced and comes back, with the lower generation number. A flow that
/// only the policy between has admitted is judged again at its next packet, whichever side sends
/// it.
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
