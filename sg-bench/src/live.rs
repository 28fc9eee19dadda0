//! Rows measured over a veth pair: floor and variants in turn, several times.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::cores::Cores;
use crate::enforcer::{Enforcer, Fates};
use crate::object::{Floors, Writer};
use crate::policies::{self, Workload};
use crate::progress::Progress;
use crate::rig::{Rig, Window, World};
use crate::settings::Settings;
use crate::statistics::{Record, median};

/// With what a row is compared: an empty program that drops or passes every packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floor {
    Drop,
    Pass,
}

/// One row.
struct Case {
    name: &'static str,
    floor: Floor,
    build: fn(&Inputs<'_>) -> Result<Workload>,
    /// Flows that are opened before, and entries of the tables they are opened in.
    flows: u32,
    max_flows: u32,
}

struct Inputs<'a> {
    folder: &'a Path,
    data: Option<&'a Path>,
}

impl Inputs<'_> {
    fn data(&self) -> Result<&Path> {
        self.data.context(NO_DATA)
    }
}

const NO_DATA: &str = "SG_DATA is not set";

const fn case(
    name: &'static str,
    floor: Floor,
    build: fn(&Inputs<'_>) -> Result<Workload>,
) -> Case {
    Case {
        name,
        floor,
        build,
        flows: 0,
        max_flows: 65_536,
    }
}

const fn flows(
    name: &'static str,
    flows: u32,
    max_flows: u32,
    build: fn(&Inputs<'_>) -> Result<Workload>,
) -> Case {
    Case {
        name,
        floor: Floor::Pass,
        build,
        flows,
        max_flows,
    }
}

/// Rows that are measured in turn, since they are compared with each other.
const GROUPS: &[&[Case]] = &[
    &[
        case("live/tke/drop", Floor::Drop, |_| policies::tke_drop()),
        case("live/tke/accept", Floor::Pass, |_| policies::tke_accept()),
    ],
    &[
        case("live/rules/10", Floor::Drop, |_| policies::rules(10)),
        case("live/rules/100", Floor::Drop, |_| policies::rules(100)),
        case("live/rules/1k", Floor::Drop, |_| policies::rules(1000)),
        case("live/rules/10k", Floor::Drop, |_| policies::rules(10_000)),
    ],
    &[
        case("live/prefixes/10", Floor::Drop, |i| {
            policies::prefixes(10, i.folder)
        }),
        case("live/prefixes/1k", Floor::Drop, |i| {
            policies::prefixes(1000, i.folder)
        }),
        case("live/prefixes/100k", Floor::Drop, |i| {
            policies::prefixes(100_000, i.folder)
        }),
        case("live/prefixes/1m", Floor::Drop, |i| {
            policies::prefixes(1_000_000, i.folder)
        }),
        case("live/hosts/1m", Floor::Drop, |i| {
            policies::hosts(1_000_000, i.folder)
        }),
    ],
    &[
        case("live/prefixes6/10", Floor::Drop, |i| {
            policies::prefixes6(10, i.folder)
        }),
        case("live/prefixes6/1k", Floor::Drop, |i| {
            policies::prefixes6(1000, i.folder)
        }),
        case("live/prefixes6/100k", Floor::Drop, |i| {
            policies::prefixes6(100_000, i.folder)
        }),
    ],
    &[
        case("live/ipsum", Floor::Drop, |i| {
            policies::ipsum(i.data()?, i.folder)
        }),
        case("live/classbench/acl1_1k", Floor::Drop, |i| {
            policies::classbench("acl1_1k", i.data()?)
        }),
        case("live/classbench/acl1_8k", Floor::Drop, |i| {
            policies::classbench("acl1_8k", i.data()?)
        }),
        case("live/classbench/ipc1_8k", Floor::Drop, |i| {
            policies::classbench("ipc1_8k", i.data()?)
        }),
    ],
    &[
        flows("live/flow/1k", 1000, 2048, |_| policies::flow(1000)),
        flows("live/flow/64k", 65_536, 131_072, |_| policies::flow(65_536)),
        flows("live/flow/1m", 1_000_000, 2_097_152, |_| {
            policies::flow(1_000_000)
        }),
    ],
    &[Case {
        name: "live/flood/syn",
        floor: Floor::Drop,
        build: |_| policies::flood(),
        flows: 65_536,
        max_flows: 131_072,
    }],
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    GROUPS
        .iter()
        .flat_map(|group| group.iter())
        .map(|case| case.name)
}

/// A row under measurement.
struct Loaded {
    case: &'static Case,
    enforcer: Enforcer,
    writer: Writer,
    windows: Vec<Window>,
    fates: Fates,
    note: String,
}

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let wanted = |case: &&'static Case| settings.wants(case.name);
    if !GROUPS
        .iter()
        .any(|group| group.iter().any(|case| wanted(&case)))
    {
        return Ok(Vec::new());
    }
    let cores = Cores::find()?;
    let world = World::enter()?;
    let mut floors = Floors::new()?;
    let folder = tempfile::tempdir().context("a folder for set files")?;
    let inputs = Inputs {
        folder: folder.path(),
        data: settings.data.as_deref(),
    };
    let mut records = Vec::new();
    for group in GROUPS {
        let cases: Vec<&'static Case> = group.iter().filter(wanted).collect();
        if cases.is_empty() {
            continue;
        }
        let mut rig = Rig::new(&world, cores, &mut floors)?;
        records.extend(run_group(
            &mut rig,
            &mut floors,
            &cases,
            &inputs,
            settings,
            progress,
        )?);
    }
    Ok(records)
}

fn run_group(
    rig: &mut Rig,
    floors: &mut Floors,
    cases: &[&'static Case],
    inputs: &Inputs<'_>,
    settings: &Settings,
    progress: &Progress,
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut loaded = Vec::new();
    for case in cases {
        progress.say(format!("{}: compiling and loading", case.name));
        let workload = match (case.build)(inputs) {
            Err(e) if e.to_string() == NO_DATA => {
                records.push(Record::left_out(case.name, NO_DATA));
                continue;
            }
            built => built.with_context(|| case.name)?,
        };
        let variant = load(case, workload, rig.sender(), progress).with_context(|| case.name)?;
        loaded.push(variant);
    }
    if loaded.is_empty() {
        return Ok(records);
    }

    let mut plain = Writer::new(&policies::uniform(), rig.sender(), 1)?;
    let packets = calibrate(rig, floors, &mut plain, settings)?;
    let mut drops = Vec::new();
    let mut passes = Vec::new();
    let steps = settings.rounds as u64 * (loaded.len() as u64 + 1);
    let bar = progress.bar(steps);
    for _ in 0..settings.rounds {
        if loaded
            .iter()
            .any(|variant| variant.case.floor == Floor::Drop)
        {
            bar.at("floor: XDP_DROP");
            rig.attach(floors.drop()?)?;
            drops.push(warm_window(rig, &mut plain, packets)?);
        }
        if loaded
            .iter()
            .any(|variant| variant.case.floor == Floor::Pass)
        {
            bar.at("floor: XDP_PASS");
            rig.attach(floors.pass()?)?;
            passes.push(warm_window(rig, &mut plain, packets)?);
        }
        bar.step();
        for variant in &mut loaded {
            bar.at(variant.case.name);
            rig.attach(variant.enforcer.inbound()?)?;
            let window = warm_window(rig, &mut variant.writer, packets)?;
            variant.windows.push(window);
            bar.step();
        }
    }
    bar.finish();

    let tally = rig.tally();
    let mut thrown = format!("; cores {:.0} ns apart", median(&tally.distances));
    match (tally.far, tally.kept_far) {
        (0, 0) => {}
        (far, 0) => thrown += &format!(", {far} far windows thrown away"),
        (far, kept) => thrown += &format!(", {far} far windows thrown away, {kept} kept"),
    }
    for (name, floor) in [("live/floor/drop", &drops), ("live/floor/pass", &passes)] {
        if !floor.is_empty() {
            let values: Vec<f64> = floor.iter().map(|window| window.nanoseconds).collect();
            let note = format!("beside {}; {}{thrown}", cases[0].name, rate(floor));
            records.push(Record::of(name, "ns", &values, None).noted(note));
        }
    }
    for mut variant in loaded {
        let floor = match variant.case.floor {
            Floor::Drop => &drops,
            Floor::Pass => &passes,
        };
        let above = variant.windows.iter().zip(floor);
        let above: Vec<f64> = above
            .map(|(window, floor)| window.nanoseconds - floor.nanoseconds)
            .collect();
        let floor: Vec<f64> = floor.iter().map(|window| window.nanoseconds).collect();
        let note = finish(&mut variant)?;
        records.push(Record::of(variant.case.name, "ns", &above, Some(median(&floor))).noted(note));
    }
    Ok(records)
}

fn load(
    case: &'static Case,
    workload: Workload,
    sender: u32,
    progress: &Progress,
) -> Result<Loaded> {
    let mut enforcer = Enforcer::load(workload.policy, case.max_flows)?;
    let mut note = workload.note;
    if case.flows > 0 {
        enforcer.open_flows(case.flows, |done| {
            progress.say(format!(
                "{}: opening flows, {done} of {}",
                case.name, case.flows
            ));
        })?;
        note = format!("{note}, tables for {}", case.max_flows);
    }
    Ok(Loaded {
        case,
        writer: Writer::new(&workload.traffic, sender, 0x5eed)?,
        windows: Vec::new(),
        fates: enforcer.fates()?,
        enforcer,
        note,
    })
}

/// How many packets fill a window.
fn calibrate(
    rig: &mut Rig,
    floors: &mut Floors,
    plain: &mut Writer,
    settings: &Settings,
) -> Result<u32> {
    rig.attach(floors.drop()?)?;
    const FEW: u32 = 400_000;
    rig.send(plain, FEW)?;
    let started = std::time::Instant::now();
    rig.send(plain, FEW)?;
    let a_second = f64::from(FEW) / started.elapsed().as_secs_f64();
    Ok((a_second * settings.window.as_secs_f64()) as u32)
}

/// A window after which code and tables are as warm as they get.
fn warm_window(rig: &mut Rig, writer: &mut Writer, packets: u32) -> Result<Window> {
    rig.send(writer, packets / 4)?;
    rig.window(writer, packets)
}

/// Checks that the row measured what its name says, and says what there is to say about it.
fn finish(variant: &mut Loaded) -> Result<String> {
    let name = variant.case.name;
    let before = variant.fates;
    let after = variant.enforcer.fates()?;
    let accepted = (after.accepted - before.accepted) as f64;
    let dropped = (after.dropped - before.dropped) as f64;
    let share = match variant.case.floor {
        Floor::Drop => dropped,
        Floor::Pass => accepted,
    } / (accepted + dropped).max(1.0);
    let fate = match variant.case.floor {
        Floor::Drop => "dropped",
        Floor::Pass => "accepted",
    };
    if share < 0.8 {
        bail!(
            "{name}: only {:.1} % of the packets were {fate}",
            share * 100.0
        );
    }
    let mut note = format!("{}; {}", variant.note, rate(&variant.windows));
    if share < 0.9999 {
        note = format!("{note}; {:.2} % {fate}", share * 100.0);
    }
    if variant.case.floor == Floor::Drop && variant.case.flows > 0 {
        let lost = variant.enforcer.lost_flows(variant.case.flows)?;
        if lost > 0 {
            bail!(
                "{name}: {lost} of {} flows were lost in the flood",
                variant.case.flows
            );
        }
        note = format!("{note}; all {} flows still there", variant.case.flows);
    }
    Ok(note)
}

fn rate(windows: &[Window]) -> String {
    let rates: Vec<f64> = windows.iter().map(|window| window.rate / 1e6).collect();
    format!("{:.1} Mpps", median(&rates))
}
