//! Rows about what packets notice while the other core loads large tables and frees them: packets
//! are timed one by one, and the slowest ones are compared.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use sg_common::verdict::Direction;

use crate::cases::Inputs;
use crate::cores::{Cores, pin};
use crate::enforcer::Enforcer;
use crate::frames;
use crate::policies::{self, Workload};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::statistics::{Record, median};

/// The reported time is exceeded by one packet of so many.
const ONE_OF: usize = 10_000;
const ROUNDS: usize = 5;

type Build = fn(&Inputs<'_>) -> Result<Workload>;

const CASES: [(&str, Build); 2] = [
    ("replace/1m", |i| policies::prefixes(1_000_000, i.folder)),
    ("replace/hosts_1m", |i| policies::hosts(1_000_000, i.folder)),
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _)| *name)
}

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let wanted: Vec<_> = CASES
        .iter()
        .filter(|(name, _)| settings.wants(name))
        .collect();
    let mut records = Vec::new();
    if wanted.is_empty() {
        return Ok(records);
    }
    // Before this thread is pinned to one core: afterwards that would be the only one found.
    let cores = Cores::find()?;
    for (name, build) in wanted {
        progress.say((*name).to_owned());
        let folder = tempfile::tempdir().context("a folder for set files")?;
        let inputs = Inputs {
            folder: folder.path(),
            data: None,
        };
        let record = measure(name, &build(&inputs)?, cores, settings);
        records.push(record.context(*name)?);
    }
    progress.clear();
    Ok(records)
}

fn measure(name: &str, workload: &Workload, cores: Cores, settings: &Settings) -> Result<Record> {
    let ready = Enforcer::ready(&workload.policy, 65_536)?;
    let mut enforcer = ready.load()?;
    let packets = enforcer.inbound()?;
    let (is_busy, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let replacements = AtomicU32::new(0);
    let replace = || -> Result<()> {
        pin(0, cores.sender)?;
        while !is_over.load(SeqCst) {
            if is_busy.load(SeqCst) {
                // Loaded, filled, and freed with all its tables.
                drop(ready.load()?);
                replacements.fetch_add(1, SeqCst);
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    };
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let (mut longest_quiet, mut longest_busy) = (0.0f64, 0.0f64);
    std::thread::scope(|scope| -> Result<()> {
        let other = scope.spawn(replace);
        let measured = (|| {
            pin(0, cores.receiver)?;
            for _ in 0..ROUNDS {
                let (slow, longest) = slow_packets(packets, 5 * settings.window)?;
                quiet.push(slow);
                longest_quiet = longest_quiet.max(longest);
                is_busy.store(true, SeqCst);
                let (slow, longest) = slow_packets(packets, 5 * settings.window)?;
                is_busy.store(false, SeqCst);
                busy.push(slow);
                longest_busy = longest_busy.max(longest);
            }
            Ok(())
        })();
        is_over.store(true, SeqCst);
        let replaced = other.join().map_err(|_| anyhow!("the other core failed"))?;
        measured.and(replaced)
    })?;
    let above: Vec<f64> = busy.iter().zip(&quiet).map(|(b, q)| b - q).collect();
    let floor = median(&quiet);
    let count = replacements.load(SeqCst);
    Ok(Record::of(name, "us", &above, Some(floor)).noted(format!(
        "system call included, one packet of {ONE_OF} takes longer than the floor, and than so much above \
         it while another core replaced the tables {count} times; the longest took {longest_busy:.0} us, \
         without replacements {longest_quiet:.0} us"
    )))
}

/// Runs packets for so long, each by a system call of its own: several at once would have the
/// kernel replace a piece of its own code first. Returns the time in microseconds that one of
/// [`ONE_OF`] exceeds, and the longest.
pub(crate) fn slow_packets(program: &mut Xdp, time: Duration) -> Result<(f64, f64)> {
    let frame = frames::flow4(0xc633_6401, [53, 5000], Direction::Inbound);
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let begun = Instant::now();
        let options = TestRunOptions {
            data_in: Some(&frame),
            ..TestRunOptions::new()
        };
        program.test_run(options).context("running the program")?;
        times.push(begun.elapsed().as_nanos() as f64 / 1e3);
    }
    times.sort_by(f64::total_cmp);
    let slow = times.len() - 1 - times.len() / ONE_OF;
    Ok((times[slow], times[times.len() - 1]))
}
