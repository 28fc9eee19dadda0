//! The flow table against a model, under interleaved conversations, a clock that jumps, new
//! policies, and tables that are too small. After every step the kernel's tables hold what the
//! reference holds.

use std::sync::Mutex;

use fastrand::Rng;

use crate::agreement::Tally;
use crate::sandbox::{Sandbox, sandbox};
use crate::support::is_guest;
use crate::traffic::talks::{Talks, policy};
use crate::world::hunt::{self, Manner};
use crate::world::script::Step;

const STEPS: usize = 1200;
/// How many scripts each of the two threads tries in the normal test run.
const SCRIPTS: u64 = 46;
/// Room for many more flows than a script has. It is no larger because every step reads the whole
/// table.
const MANY_FLOWS: u32 = 1024;
const THREADS: u64 = 2;

/// A random script. One in three has tables that are too small for its flows.
fn script(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let is_tiny = rng.u8(..3) == 0;
    let (max_flows, count) = match is_tiny {
        true => (rng.u32(4..48), rng.usize(80..160)),
        false => (MANY_FLOWS, rng.usize(2..12)),
    };
    let first = policy(&mut rng, max_flows);
    // What is there before the first policy is stamped by it, so that it flushes none of that.
    let may_seed = !first.options.iter().any(|o| o == "established: flush");
    let mut talks = Talks::new(rng, count);
    let mut steps = vec![Step::Policy(first)];
    if talks.rng().u8(..3) == 0 && may_seed {
        for _ in 0..4 {
            steps.extend(talks.seed().map(Step::Seed));
        }
    }
    for _ in 0..STEPS {
        let rng = talks.rng();
        steps.push(match rng.u8(..150) {
            0 => Step::Policy(policy(rng, max_flows)),
            1..4 => Step::Wait(rng.u32(1..45)),
            // These waits are around two seconds, the age that makes a flow without a handshake a
            // stream.
            4..7 => Step::Wait(rng.u32(1..4)),
            _ => Step::Frame(talks.next()),
        });
    }
    steps
}

pub(crate) fn round(sandbox: &Sandbox, seed: u64, tally: &Mutex<Tally>) {
    let manner = Manner {
        exact: true,
        ..Manner::default()
    };
    let world = hunt::check(sandbox, &manner, "flows", seed, &script(seed));
    tally
        .lock()
        .expect("no other thread has failed")
        .add(&world);
}

/// Every path that a frame of these scripts can take.
const PATHS: &[&str] = &[
    "related to a flow",
    "related to what the rules accept",
    "no-match",
    "drop",
    "reply",
    "kept",
    "revoked",
    "revoked, although the rules pass both sides",
    "accept, replies by the rules",
    "accept, in place of a cut one",
    "seeded",
    "accept, in a flow",
    "accept, opens a flow",
    "accept, opens nothing",
    "fragment follows an accept",
    "fragment follows a reply",
    "audit, in a flow",
    "audit, opens a flow",
    "accept, as a reply in a watched flow",
    "reply, audited",
    "revoked, audited",
    "related to what is audited",
];

/// Proves K4, K6, K7, K8, K9, K10, K11, A1 and A2 packet by packet: the entry of each flow (kind,
/// state, originator, rule, generation, times) is that of the reference. This holds across
/// timeouts, new policies that revalidate, keep or flush, and evictions, for which the counters
/// account.
#[test]
fn flows_are_remembered_as_the_model_remembers_them() {
    if is_guest() {
        // The model takes frames for simultaneous. On emulated processors they are so slow that
        // flows pass the age of two seconds by themselves.
        println!("not tried on an emulated processor");
        return;
    }
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let tally = &tally;
            scope.spawn(move || {
                sandbox(|sandbox| {
                    for round in 0..SCRIPTS {
                        self::round(sandbox, thread * SCRIPTS + round, tally);
                    }
                });
            });
        }
    });
    let tally = tally.into_inner().expect("all threads have ended");
    println!("{tally:#?}");
    assert!(tally.frames >= 80_000, "{} frames", tally.frames);
    assert!(tally.evicted > 1000, "{} evicted", tally.evicted);
    for path in PATHS {
        let count = tally.paths.get(path).copied().unwrap_or(0);
        assert!(count >= 20, "`{path}` was tried {count} times only");
    }
}
