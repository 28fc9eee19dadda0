//! The programs on several CPUs at once, over a flow table so small that flows are opened, answered and
//! evicted in the same places all the time.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use fastrand::Rng;
use sg_common::flow::FlowKind;
use sg_common::verdict::{Direction, FIRST_RULE_SLOT, Reason, reason_slot};
use sg_userspace::compile::{Budget, compile};
use sg_userspace::kernel::flow_tables::{monotonic_now, sweep};
use sg_userspace::kernel::pins::PinTree;
use sg_userspace::kernel::programs::{Generation, Programs, SharedMaps};
use sg_userspace::kernel::{ApplyOptions, apply};
use sg_userspace::policy::rules_from_lines;

use crate::frames::frame;
use crate::sandbox::sandbox;
use crate::support::{rounds, run_hook};
use crate::watching::only;
use crate::world::tables::Tables;

const THREADS: usize = 2;
/// More than the table holds: room for 8 is one group, of 48 established and 16 half-open flows.
const FLOWS: usize = 90;
const ROOM: u32 = 8;

/// Proves K9, K10 and A2 on several CPUs at once: no flow is there twice in one kind, what was entered
/// is there, has left or was evicted, and every packet is counted once, for the rule that it is due to.
#[test]
fn packets_of_all_cpus_share_one_table() {
    sandbox(|sandbox| {
        let policy = rules_from_lines("out udp 53 to any accept\nout udp 54 to any accept");
        let slots = [FIRST_RULE_SLOT, FIRST_RULE_SLOT + 1];
        let tables = compile(&policy, &slots, Budget::default()).expect("tables fit");
        let pins = PinTree::new(sandbox.bpffs()).interface(1, 1);
        pins.create().unwrap_or_else(|e| panic!("{e}"));
        let shared = SharedMaps {
            pins: Some(pins.clone()),
            counter_map: 0,
            counter_slots: 64,
            max_flows: ROOM,
        };
        let load = || {
            let generation = Generation::of(&policy, 1);
            Programs::load(&tables, &generation, &shared).unwrap_or_else(|e| panic!("{e}"))
        };
        let programs: Vec<Programs> = (0..THREADS).map(|_| load()).collect();
        let counters = programs[0].counters().unwrap_or_else(|e| panic!("{e}"));
        let begin = Barrier::new(THREADS);
        // By rule, requests that were sent and answers that were let in; answers that were not.
        let run = |mut programs: Programs, seed: u64| {
            let mut rng = Rng::with_seed(seed);
            let (mut sent, mut answered, mut refused) = ([0u64; 2], [0u64; 2], 0u64);
            begin.wait();
            for _ in 0..rounds(20_000) {
                let rule = rng.usize(..2);
                let (port, service) = (5000 + rng.usize(..FLOWS), 53 + rule);
                let request = frame(&format!("udp 192.0.2.1:{port} > 198.51.100.7:{service}"));
                // Of another flow: most requests wait, and half-open flows have to make room as well.
                let port = 5000 + rng.usize(..FLOWS);
                let answer = frame(&format!("udp 198.51.100.7:{service} > 192.0.2.1:{port}"));
                let mut hook = |direction, bytes: &[u8]| {
                    run_hook(&mut programs, direction, bytes, 1).unwrap_or_else(|e| panic!("{e:?}"))
                };
                if rng.bool() {
                    assert!(hook(Direction::Outbound, request.bytes()));
                    sent[rule] += 1;
                }
                match hook(Direction::Inbound, answer.bytes()) {
                    true => answered[rule] += 1,
                    false => refused += 1,
                }
            }
            (sent, answered, refused)
        };
        let (mut sent, mut answered, mut refused) = ([0; 2], [0; 2], 0);
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (seed, programs) in (0u64..).zip(programs) {
                let run = &run;
                threads.push(scope.spawn(move || run(programs, seed)));
            }
            for thread in threads {
                let (s, a, r) = thread.join().expect("a thread that ends");
                for rule in 0..2 {
                    sent[rule] += s[rule];
                    answered[rule] += a[rule];
                }
                refused += r;
            }
        });
        let counted = counters.all().unwrap_or_else(|e| panic!("{e}"));
        for rule in 0..2 {
            let counts = counted[slots[rule] as usize];
            assert_eq!(counts.packets, sent[rule], "rule {rule}");
            assert_eq!(
                counts.reply_packets, answered[rule],
                "replies of rule {rule}"
            );
            assert!(answered[rule] > 0);
        }
        let no_match = reason_slot(Direction::Inbound, Reason::NoMatch) as usize;
        assert_eq!(counted[no_match].packets, refused);

        let tables = Tables::open(&pins);
        let (flows, moves) = (tables.flows(), tables.moves());
        for kind in FlowKind::BOTH {
            let of_kind = flows.iter().filter(|(_, flow, _)| flow.kind == kind);
            let distinct: HashSet<_> = of_kind.clone().map(|(key, _, _)| *key).collect();
            let live = of_kind.count();
            assert_eq!(
                distinct.len(),
                live,
                "a flow is there twice, as {}",
                kind.name()
            );
            let moves = moves[kind as usize];
            assert_eq!(moves.entered, moves.left + moves.evicted + live as u64);
            assert!(moves.evicted > 100, "{moves:?}");
        }
    });
}

/// Proves K9: while expired flows are swept, flows are opened, answered and go on as ever. The time by
/// which they are swept lies far ahead, so that every flow has always expired.
#[test]
fn a_sweep_holds_up_no_packet() {
    const ROOM: u32 = 200_000;
    sandbox(|sandbox| {
        let policy = rules_from_lines("out udp 53 to any accept");
        let tables = compile(&policy, &[FIRST_RULE_SLOT], Budget::default()).expect("tables fit");
        sandbox.veth("sg0", "sg1");
        let options = ApplyOptions {
            max_flows: Some(ROOM),
            ..sandbox.options("sg0")
        };
        apply(&policy, &options).unwrap_or_else(|e| panic!("{e}"));
        let pins = only(sandbox, "sg0").pins;
        let shared = SharedMaps {
            pins: Some(pins.clone()),
            counter_map: 0,
            counter_slots: 64,
            max_flows: ROOM,
        };
        let mut programs = Programs::load(&tables, &Generation::of(&policy, 1), &shared)
            .unwrap_or_else(|e| panic!("{e}"));
        let mut hook = |direction, bytes: &[u8]| {
            run_hook(&mut programs, direction, bytes, 1).unwrap_or_else(|e| panic!("{e:?}"))
        };
        // Odd while a sweep is under way.
        let sweeps = AtomicU64::new(0);
        let is_over = AtomicBool::new(false);
        let sweep = || {
            let mut swept = 0;
            while !is_over.load(SeqCst) {
                sweeps.fetch_add(1, SeqCst);
                let far_ahead = monotonic_now() + 1_000_000_000_000_000;
                swept +=
                    sweep(&pins, &policy.timeouts, far_ahead).unwrap_or_else(|e| panic!("{e}"));
                sweeps.fetch_add(1, SeqCst);
            }
            swept
        };
        let (mut meanwhile, mut kept, opened) = (0, 0, rounds(20_000));
        let swept = std::thread::scope(|scope| {
            let sweeper = scope.spawn(sweep);
            for i in 0..opened {
                let (host, port) = (i / 50_000, 5000 + i % 50_000);
                let request = frame(&format!("udp 192.0.2.1:{port} > 198.51.100.{host}:53"));
                let answer = frame(&format!("udp 198.51.100.{host}:53 > 192.0.2.1:{port}"));
                let before = sweeps.load(SeqCst);
                assert!(hook(Direction::Outbound, request.bytes()));
                kept += u64::from(hook(Direction::Inbound, answer.bytes()));
                let is_within_one = before % 2 == 1 && sweeps.load(SeqCst) == before;
                meanwhile += u64::from(is_within_one);
            }
            is_over.store(true, SeqCst);
            sweeper.join().expect("it ends")
        });
        println!("{meanwhile} of {opened} flows were opened and answered within one sweep");
        assert!(meanwhile > 100, "{meanwhile} of {opened}");
        assert!(
            kept > 0 && swept > 0,
            "{kept} answers came in, {swept} flows were swept"
        );
        let tables = Tables::open(&pins);
        let (live, moves) = (tables.flows().len(), tables.moves());
        let entered: u64 = moves.iter().map(|m| m.entered).sum();
        let left: u64 = moves.iter().map(|m| m.left + m.evicted).sum();
        assert_eq!(entered, left + swept + live as u64);
    });
}
