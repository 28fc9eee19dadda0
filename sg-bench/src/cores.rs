//! The two cores of a measurement: pins threads to them, and measures how long a cache line takes
//! from one to the other, which depends on whether they share a cache (see `windows`).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The core that sends, and the one that receives.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) sender: usize,
    pub(crate) receiver: usize,
}

impl Cores {
    /// The last two cores that this process may use.
    pub(crate) fn find() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("which cores may be used")?;
        let mut cores = (0..CpuSet::count())
            .rev()
            .filter(|&core| allowed.is_set(core) == Ok(true));
        let two = cores.next().zip(cores.next());
        let (receiver, sender) = two.context(
            "live measurements need two cores, and there is one\n\
             name the rows that need but one, such as `code`",
        )?;
        Ok(Cores { sender, receiver })
    }
}

/// Pins a thread (zero: the calling one) to one core.
pub(crate) fn pin(thread: i32, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(thread), &set))
        .with_context(|| format!("pinning a thread to core {core}"))
}

/// Runs it on a thread of its own, whose core and namespaces nothing else shares.
pub(crate) fn apart<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Nanoseconds that a cache line takes from one core to the other: the best of several attempts,
/// as an interrupt makes it longer and nothing makes it shorter.
pub(crate) fn transfer_time(cores: Cores) -> Result<f64> {
    const ATTEMPTS: usize = 5;
    const TURNS: u32 = 4000;
    let line = AtomicU32::new(0);
    let spin_until = |value: u32| {
        while line.load(Ordering::Acquire) != value {
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<()> {
            let pinned = pin(0, cores.receiver);
            for turn in 0..ATTEMPTS as u32 * TURNS {
                spin_until(2 * turn + 1);
                line.store(2 * turn + 2, Ordering::Release);
            }
            pinned
        });
        pin(0, cores.sender)?;
        let mut best = f64::INFINITY;
        for attempt in 0..ATTEMPTS as u32 {
            let started = Instant::now();
            for turn in attempt * TURNS..(attempt + 1) * TURNS {
                line.store(2 * turn + 1, Ordering::Release);
                spin_until(2 * turn + 2);
            }
            let nanoseconds = started.elapsed().as_nanos() as f64;
            best = best.min(nanoseconds / f64::from(2 * TURNS));
        }
        match other.join() {
            Ok(pinned) => pinned.map(|()| best),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
