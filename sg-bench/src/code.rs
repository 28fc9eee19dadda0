//! Rows measured on one core, by `BPF_PROG_TEST_RUN`: a prologue rewrites the packet before each
//! run and tail-calls the program, or an empty one. Also how large programs are and how long
//! they load.

use anyhow::{Context as _, Result};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use sg_common::verdict::Direction;

use crate::cases::{Case, Inputs, TOUCH};
use crate::cores::{self, Cores};
use crate::enforcer::{Enforcer, Watcher};
use crate::object::{Floors, Writer};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::statistics::{Record, median};

/// Every live row of the enforcer about inbound packets, by its name here.
fn cases() -> impl Iterator<Item = (String, &'static Case)> {
    let is_ours = |case: &&Case| {
        !case.is_peer() && case.name != TOUCH && case.direction == Direction::Inbound
    };
    let cases = crate::cases::cases().filter(is_ours);
    cases.map(|case| (case.name.replacen("live/", "code/", 1), case))
}

pub(crate) fn names() -> impl Iterator<Item = String> {
    cases().map(|(name, _)| name)
}

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let wanted: Vec<_> = cases().filter(|(name, _)| settings.wants(name)).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut floors = Floors::new()?;
    measure_each(wanted, settings, progress, |name, case, inputs| {
        measure(name, case, inputs, &mut floors, settings)
    })
}

/// Has `measure` make the rows of each of `wanted`, by name, on one core and with a folder for set
/// files. Where a row needs data that are not here, it is left out.
pub(crate) fn measure_each<T>(
    wanted: Vec<(String, T)>,
    settings: &Settings,
    progress: &Progress,
    mut measure: impl FnMut(&str, T, &Inputs<'_>) -> Result<Vec<Record>>,
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    if wanted.is_empty() {
        return Ok(records);
    }
    let folder = tempfile::tempdir().context("a folder for set files")?;
    let inputs = Inputs {
        folder: folder.path(),
        data: settings.data.as_deref(),
    };
    if let Ok(cores) = Cores::find() {
        cores::pin(0, cores.receiver)?;
    }
    for (name, one) in wanted {
        progress.say(name.clone());
        let measured = measure(&name, one, &inputs);
        match measured {
            Ok(measured) => records.extend(measured),
            Err(error) => records.push(Record::without(&name, error)?),
        }
    }
    progress.clear();
    Ok(records)
}

fn measure(
    name: &str,
    case: &Case,
    inputs: &Inputs<'_>,
    floors: &mut Floors,
    settings: &Settings,
) -> Result<Vec<Record>> {
    let workload = (case.build)(inputs)?;
    let mut enforcer = Enforcer::load(&workload.policy, case.max_flows)?;
    enforcer.open_flows(Direction::Outbound, case.flows, case.max_flows, |_| ())?;
    const NO_INTERFACE: u32 = 0;
    let mut writer = Writer::new(&workload.traffic, NO_INTERFACE, 0x5eed)?;
    let program = enforcer.inbound()?.fd()?.try_clone()?;
    let floor = floors.drop()?.fd()?.try_clone()?;

    let packets = settings.test_runs();
    let mut above = Vec::new();
    let mut floor_times = Vec::new();
    // A watched row is compared with the same program without a watcher.
    let floor = match case.is_watched {
        true => &program,
        false => &floor,
    };
    for _ in 0..settings.rounds {
        let without = time(&mut writer, floor, packets)?;
        let watcher = case.is_watched.then(|| enforcer.watcher()).transpose()?;
        let whole = time(&mut writer, &program, packets)?;
        watcher.map(Watcher::end);
        floor_times.push(without);
        above.push(whole - without);
    }
    let sizes = enforcer.sizes()?;
    let verified = sizes.iter().map(|size| size.verified);
    let jitted: u32 = sizes.iter().map(|size| size.jitted).sum();
    let note = format!(
        "{} instructions verified, {} at most in one of {} programs, {} B of machine code; compiled in \
         {:.1} ms, loaded in {:.0} ms; {}",
        verified.clone().sum::<u32>(),
        verified.max().unwrap_or(0),
        sizes.len(),
        jitted,
        enforcer.compile_time,
        enforcer.load_time,
        workload.note
    );
    let row = |part: &str, unit: &str, value: f64| Record {
        is_detail: true,
        ..Record::of(&format!("{name}/{part}"), unit, &[value], None)
    };
    let mut records = vec![
        Record::of(name, "ns", &above, Some(median(&floor_times))).noted(note),
        row("compile", "ms", enforcer.compile_time),
        row("load", "ms", enforcer.load_time),
    ];
    for size in sizes {
        let part = |what| format!("{what}/{}", size.program);
        records.push(row(&part("verified"), "insns", size.verified.into()));
        records.push(row(&part("jitted"), "bytes", size.jitted.into()));
    }
    Ok(records)
}

/// Nanoseconds that a packet takes through prologue and `program`.
pub(crate) fn time(writer: &mut Writer, program: &ProgramFd, packets: u32) -> Result<f64> {
    let frame = writer.frame.clone();
    let prologue = writer.prologue(program)?;
    let run = |repeat| {
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat,
            ..TestRunOptions::new()
        };
        prologue.test_run(options).context("running the program")
    };
    run(packets / 4)?;
    // In whole nanoseconds, which is why the packets are many runs and not one.
    Ok(run(packets)?.duration.as_nanos() as f64)
}
