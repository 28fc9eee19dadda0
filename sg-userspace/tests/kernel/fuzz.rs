//! The agreement tests for any length of time: `cargo xtask fuzz --minutes N [--seed S]`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::agreement::{self, Tally};
use crate::flow_model;
use crate::sandbox::sandbox;

/// Set by `cargo xtask fuzz`.
const SECONDS: &str = "SG_FUZZ_SECONDS";
const SEED: &str = "SG_FUZZ_SEED";

const PROGRESS: Duration = Duration::from_secs(10);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is `{text}`, which is no whole number")))
}

/// The agreement tests and the flow model, with other seeds than in the normal test run.
#[test]
#[ignore = "goes on for as long as asked; `cargo xtask fuzz` runs it"]
fn goes_on() {
    let seconds = number(SECONDS).unwrap_or(60);
    // The normal test run uses the small seeds.
    let first = number(SEED).unwrap_or_else(|| fastrand::u64(1 << 20..1 << 52));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    println!("seed {first}, {seconds} seconds, {threads} threads");
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let next = AtomicU64::new(first);
    let tally = Mutex::new(Tally::default());
    let said = Mutex::new(Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                sandbox(|sandbox| {
                    while Instant::now() < end {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        // The lock is poisoned if another thread has failed, and that thread
                        // reports the failure.
                        let Ok(()) = tally.lock().map(drop) else {
                            return;
                        };
                        match seed % 2 {
                            0 => agreement::round(sandbox, seed, &tally),
                            _ => flow_model::round(sandbox, seed, &tally),
                        }
                        report(started, seed, &tally, &said);
                    }
                });
            });
        }
    });
    let tally = tally.into_inner().expect("all threads have ended");
    println!("{tally:#?}");
    assert!(tally.frames > 0, "some frames were sent");
}

/// Prints the progress now and then.
fn report(started: Instant, seed: u64, tally: &Mutex<Tally>, said: &Mutex<Instant>) {
    let mut said = said.lock().expect("nothing fails while it is held");
    if said.elapsed() < PROGRESS {
        return;
    }
    *said = Instant::now();
    let tally = tally.lock().expect("nothing fails while it is held");
    println!(
        "{:>5} s  {:>10} frames  {:>6} scripts  at seed {seed}",
        started.elapsed().as_secs(),
        tally.frames,
        tally.policies
    );
}
