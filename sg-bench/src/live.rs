//! Rows measured over a veth pair: floor and variants in turn, several times.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cores::Cores;
use crate::enforcer::{Enforcer, Fates};
use crate::nftables;
use crate::object::{Floors, Writer};
use crate::policies::{self, Peer, Workload};
use crate::progress::Progress;
use crate::rig::{Patience, Rig, Tally, Window, World};
use crate::settings::Settings;
use crate::statistics::{Record, median};
use crate::xdp_filter::{self, XdpFilter};

/// With what a row is compared: an empty program that drops or passes every packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floor {
    Drop,
    Pass,
}

/// One row.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    floor: Floor,
    pub(crate) build: fn(&Inputs<'_>) -> Result<Workload>,
    /// Flows that are opened before, and entries of the tables they are opened in.
    pub(crate) flows: u32,
    pub(crate) max_flows: u32,
}

impl Case {
    /// Whether something else than the enforcer is measured.
    pub(crate) fn is_peer(&self) -> bool {
        ["live/nft/", "live/xdp-filter/"]
            .iter()
            .any(|begin| self.name.starts_with(begin))
    }
}

pub(crate) struct Inputs<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) data: Option<&'a Path>,
}

impl Inputs<'_> {
    /// The folder of real data.
    pub(crate) fn data(&self) -> Result<&Path> {
        self.data.context(NO_DATA)
    }
}

/// Why a row is left out.
pub(crate) const NO_DATA: &str = "SG_DATA is not set";

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

const fn nft_flows(
    name: &'static str,
    flows: u32,
    build: fn(&Inputs<'_>) -> Result<Workload>,
) -> Case {
    Case {
        name,
        floor: Floor::Drop,
        build,
        flows,
        max_flows: 0,
    }
}

/// The row of a program that does nothing but look at the packet: what every other one pays too.
pub(crate) const TOUCH: &str = "live/touch";

/// Rows that are measured in turn, since they are compared with each other.
const GROUPS: &[&[Case]] = &[
    &[
        case(TOUCH, Floor::Drop, |_| policies::tke_drop()),
        case("live/tke/drop", Floor::Drop, |_| policies::tke_drop()),
        case("live/tke/accept", Floor::Pass, |_| policies::tke_accept()),
    ],
    &[
        case("live/rules/10", Floor::Drop, |_| policies::rules(10)),
        case("live/rules/100", Floor::Drop, |_| policies::rules(100)),
        case("live/rules/1k", Floor::Drop, |_| policies::rules(1000)),
        case("live/rules/10k", Floor::Drop, |_| policies::rules(10_000)),
        case("live/xdp-filter/10", Floor::Drop, |_| {
            policies::xdp_filter(10)
        }),
        case("live/xdp-filter/1k", Floor::Drop, |_| {
            policies::xdp_filter(1000)
        }),
        case("live/xdp-filter/10k", Floor::Drop, |_| {
            policies::xdp_filter(10_000)
        }),
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
        case("live/flow/new", Floor::Pass, |_| policies::new_flows()),
    ],
    &[
        case("live/nft/tke/drop", Floor::Drop, |_| {
            policies::nft_tke_drop()
        }),
        case("live/nft/rules/10", Floor::Drop, |_| {
            policies::nft_rules(10)
        }),
        case("live/nft/rules/100", Floor::Drop, |_| {
            policies::nft_rules(100)
        }),
        case("live/nft/rules/1k", Floor::Drop, |_| {
            policies::nft_rules(1000)
        }),
        case("live/nft/rules/10k", Floor::Drop, |_| {
            policies::nft_rules(10_000)
        }),
        case("live/nft/prefixes/10", Floor::Drop, |i| {
            policies::nft_prefixes(10, i.folder)
        }),
        case("live/nft/prefixes/1k", Floor::Drop, |i| {
            policies::nft_prefixes(1000, i.folder)
        }),
        case("live/nft/prefixes/100k", Floor::Drop, |i| {
            policies::nft_prefixes(100_000, i.folder)
        }),
        case("live/nft/prefixes/1m", Floor::Drop, |i| {
            policies::nft_prefixes(1_000_000, i.folder)
        }),
        case("live/nft/ipsum", Floor::Drop, |i| {
            policies::nft_ipsum(i.data()?, i.folder)
        }),
    ],
    // Each in a namespace of its own, since connection tracking has one table in each.
    &[nft_flows("live/nft/flow/1k", 1000, |_| {
        policies::nft_flow(1000)
    })],
    &[nft_flows("live/nft/flow/64k", 65_536, |_| {
        policies::nft_flow(65_536)
    })],
    &[Case {
        name: "live/flood/syn",
        floor: Floor::Drop,
        build: |_| policies::flood(),
        flows: 65_536,
        max_flows: 131_072,
    }],
];

pub(crate) fn cases() -> impl Iterator<Item = &'static Case> {
    GROUPS.iter().flat_map(|group| group.iter())
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    cases().map(|case| case.name)
}

/// What stands between generator and sink.
enum Filter {
    Enforcer(Box<Enforcer>),
    /// A ruleset on the ingress hook of a line of its own.
    Nftables(Rig),
    /// On a line of its own too.
    Neighbour(Rig, XdpFilter),
    /// See [`TOUCH`].
    Touch,
}

/// A row under measurement.
struct Loaded {
    case: &'static Case,
    filter: Filter,
    writer: Writer,
    /// Sends the same through the floor.
    floor_writer: Writer,
    windows: Vec<Window>,
    floors: Vec<Window>,
    tally: Tally,
    fates: Fates,
    note: String,
}

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let wanted = |case: &&'static Case| settings.wants(case.name);
    let is_wanted = |group: &&&'static [Case]| group.iter().any(|case| wanted(&case));
    let groups: Vec<_> = GROUPS.iter().filter(is_wanted).collect();
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let bench = Bench {
        cores: Cores::find()?,
        patience: Patience::new(settings.patience),
        folder: tempfile::tempdir().context("a folder for set files")?,
        settings,
        progress,
    };
    let mut records = Vec::new();
    for group in groups {
        let cases: Vec<&'static Case> = group.iter().filter(wanted).collect();
        records.extend(bench.group(&cases)?);
    }
    Ok(records)
}

struct Bench<'a> {
    cores: Cores,
    patience: Patience,
    folder: tempfile::TempDir,
    settings: &'a Settings,
    progress: &'a Progress,
}

impl Bench<'_> {
    /// Measures rows in turn, each beside its floor.
    fn group(&self, cases: &[&'static Case]) -> Result<Vec<Record>> {
        let mut floors = Floors::new()?;
        let world = World::enter()?;
        let mut rig = Rig::new(&world, self.cores, &self.patience, "")?;
        rig.end_in(floors.sink()?)?;
        let mut records = Vec::new();
        let mut loaded = Vec::new();
        for case in cases {
            self.progress
                .say(format!("{}: compiling and loading", case.name));
            match self.load(case, &world, &rig, loaded.len()) {
                Err(e) if is_left_out(&e) => {
                    records.push(Record::left_out(case.name, &e.to_string()));
                }
                variant => loaded.push(variant.with_context(|| case.name)?),
            }
        }
        let Some(first) = loaded.first_mut() else {
            return Ok(records);
        };

        rig.attach(floors.drop()?)?;
        let packets = calibrate(&rig, &mut first.floor_writer, self.settings.window)?;
        let rounds = |case: &Case| match case.floor {
            Floor::Drop => self.settings.rounds,
            // The network stack's part of it varies.
            Floor::Pass => 2 * self.settings.rounds,
        };
        let steps: usize = loaded.iter().map(|variant| rounds(variant.case)).sum();
        let bar = self.progress.bar(steps as u64);
        for round in 0..2 * self.settings.rounds {
            for variant in loaded.iter_mut().filter(|v| round < rounds(v.case)) {
                bar.at(variant.case.name);
                rig.attach(match variant.case.floor {
                    Floor::Drop => floors.drop()?,
                    Floor::Pass => floors.pass()?,
                })?;
                let tally = &mut variant.tally;
                let floor = rig.warm_window(&mut variant.floor_writer, packets, tally)?;
                variant.floors.push(floor);
                let rig = match &mut variant.filter {
                    Filter::Enforcer(enforcer) => {
                        rig.attach(enforcer.inbound()?)?;
                        &rig
                    }
                    Filter::Touch => {
                        rig.attach(floors.touch()?)?;
                        &rig
                    }
                    Filter::Nftables(own) | Filter::Neighbour(own, _) => own,
                };
                let window = rig.warm_window(&mut variant.writer, packets, tally)?;
                variant.windows.push(window);
                bar.step();
            }
        }
        bar.finish();
        for mut variant in loaded {
            records.push(record(&mut variant).with_context(|| variant.case.name)?);
        }
        records.sort_by_key(|record| cases.iter().position(|case| case.name == record.name));
        Ok(records)
    }

    fn load(&self, case: &'static Case, world: &World, rig: &Rig, index: usize) -> Result<Loaded> {
        let inputs = Inputs {
            folder: self.folder.path(),
            data: self.settings.data.as_deref(),
        };
        const SEED: u64 = 0x5eed;
        let workload = (case.build)(&inputs)?;
        let mut note = workload.note;
        let mut fates = Fates::default();
        let mut sender = rig.sender();
        let own_rig = || {
            let letter = char::from(b'a' + index as u8);
            Rig::new(world, self.cores, &self.patience, &letter.to_string())
        };
        let filter = match workload.peer {
            Some(Peer::Nftables(ruleset)) => {
                let own = own_rig()?;
                nftables::install(&ruleset, own.receiver(), self.folder.path())?;
                if case.flows > 0 {
                    nftables::open_flows(case.flows, own.receiver())?;
                }
                sender = own.sender();
                Filter::Nftables(own)
            }
            Some(Peer::XdpFilter(addresses)) => {
                if !xdp_filter::is_installed() {
                    bail!(xdp_filter::NOT_INSTALLED);
                }
                let own = own_rig()?;
                let installed = XdpFilter::install(&addresses, own.receiver())?;
                sender = own.sender();
                Filter::Neighbour(own, installed)
            }
            None if case.name == TOUCH => Filter::Touch,
            None => {
                let mut enforcer = Enforcer::load(&workload.policy, case.max_flows)?;
                if case.flows > 0 {
                    enforcer.open_flows(case.flows, case.max_flows, |done| {
                        let (name, flows) = (case.name, case.flows);
                        self.progress
                            .say(format!("{name}: opening flows, {done} of {flows}"));
                    })?;
                    note = format!("{note}, tables for {}", case.max_flows);
                }
                fates = enforcer.fates()?;
                Filter::Enforcer(Box::new(enforcer))
            }
        };
        Ok(Loaded {
            case,
            writer: Writer::new(&workload.traffic, sender, SEED)?,
            floor_writer: Writer::new(&workload.traffic, rig.sender(), SEED)?,
            filter,
            windows: Vec::new(),
            floors: Vec::new(),
            tally: Tally::default(),
            fates,
            note,
        })
    }
}

/// Whether a row cannot be measured here, and the others can.
fn is_left_out(error: &anyhow::Error) -> bool {
    [NO_DATA, xdp_filter::NOT_INSTALLED].contains(&error.to_string().as_str())
}

/// How many packets fill a window.
fn calibrate(rig: &Rig, writer: &mut Writer, window: Duration) -> Result<u32> {
    const FEW: u32 = 400_000;
    rig.send(writer, FEW)?;
    let started = Instant::now();
    rig.send(writer, FEW)?;
    let a_second = f64::from(FEW) / started.elapsed().as_secs_f64();
    Ok((a_second * window.as_secs_f64()) as u32)
}

fn record(variant: &mut Loaded) -> Result<Record> {
    let above = variant.windows.iter().zip(&variant.floors);
    let above: Vec<f64> = above
        .map(|(window, floor)| window.nanoseconds - floor.nanoseconds)
        .collect();
    let floors: Vec<f64> = variant.floors.iter().map(|w| w.nanoseconds).collect();
    let rates: Vec<f64> = variant.windows.iter().map(|w| w.rate / 1e6).collect();
    let checked = check(variant)?;
    let note = format!(
        "{:.1} Mpps; {}{checked}; {}",
        median(&rates),
        variant.note,
        variant.tally.describe()
    );
    Ok(Record::of(variant.case.name, "ns", &above, Some(median(&floors))).noted(note))
}

/// Checks that the row measured what its name says, and says by how much it did not.
fn check(variant: &mut Loaded) -> Result<String> {
    let enforcer = match &mut variant.filter {
        Filter::Enforcer(enforcer) => enforcer,
        Filter::Nftables(rig) if variant.case.flows > 0 => {
            let share = nftables::established_share(rig.receiver())? * 100.0;
            if share < 80.0 {
                bail!("only {share:.1} % of the packets belonged to a flow");
            }
            return Ok(format!("; {share:.2} % in flows"));
        }
        Filter::Neighbour(_, installed) => {
            let share = installed.dropped_share()? * 100.0;
            if share < 99.9 {
                bail!("only {share:.1} % of the packets were dropped");
            }
            return Ok(String::new());
        }
        Filter::Nftables(_) | Filter::Touch => return Ok(String::new()),
    };
    let before = variant.fates;
    let after = enforcer.fates()?;
    let accepted = (after.accepted - before.accepted) as f64;
    let dropped = (after.dropped - before.dropped) as f64;
    let (right, fate) = match variant.case.floor {
        Floor::Drop => (dropped, "dropped"),
        Floor::Pass => (accepted, "accepted"),
    };
    let share = right / (accepted + dropped).max(1.0);
    if share < 0.8 {
        bail!("only {:.1} % of the packets were {fate}", share * 100.0);
    }
    let mut note = String::new();
    if share < 0.9999 {
        note = format!("; {:.2} % {fate}", share * 100.0);
    }
    if variant.case.floor == Floor::Drop && variant.case.flows > 0 {
        let flows = variant.case.flows;
        let lost = enforcer.lost_flows(flows)?;
        if lost > 0 {
            bail!("{lost} of {flows} flows were lost in the flood");
        }
        note = format!("{note}; all {flows} flows still there");
    }
    Ok(note)
}
