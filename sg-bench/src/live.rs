//! Rows measured over a veth pair: each takes turns with what it is compared with. That is an empty
//! program, and for a watched row the same program without a watcher.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sg_common::verdict::Direction;

use crate::cases::{Case, Floor, GROUPS, Inputs, TOUCH};
use crate::cores::Cores;
use crate::enforcer::{Enforcer, Fates, Watcher};
use crate::missing::Missing;
use crate::nftables;
use crate::object::{Floors, Turn, Writer};
use crate::policies::Peer;
use crate::progress::Progress;
use crate::rig::{Exit, Rig, Window, World};
use crate::settings::Settings;
use crate::sockets;
use crate::statistics::{Record, median};
use crate::windows::{Patience, Tally};
use crate::xdp_filter::{self, XdpFilter};

/// What is measured: where packets are dropped or passed.
enum Filter {
    Enforcer(Box<Enforcer>),
    /// A ruleset on the ingress hook of a veth pair of its own.
    Nftables(Rig),
    /// xdp-filter, on a veth pair of its own too.
    Neighbour(Rig, XdpFilter),
    /// See [`TOUCH`].
    Touch,
}

/// A row under measurement.
struct Loaded {
    case: &'static Case,
    filter: Filter,
    writer: Writer,
    /// Sends the same packets to the empty program.
    floor_writer: Writer,
    windows: Vec<Window>,
    floors: Vec<Window>,
    tally: Tally,
    fates: Fates,
    note: String,
    /// Events that watchers got.
    events: u64,
}

impl Loaded {
    /// Begins to watch what is dropped.
    fn watcher(&self) -> Result<Watcher> {
        match &self.filter {
            Filter::Enforcer(enforcer) => enforcer.watcher(),
            _ => bail!("only the enforcer can be watched"),
        }
    }
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

/// Where a group is measured: the XDP hook of the receiver, or the tc hook by which outbound
/// packets leave.
struct Hook {
    floors: Floors,
    rig: Rig,
    exit: Option<(Exit, Turn)>,
}

impl Hook {
    fn new(bench: &Bench<'_>, world: &World, cases: &[&Case]) -> Result<Hook> {
        let mut floors = Floors::new()?;
        let rig = Rig::new(world, bench.cores, &bench.patience, "")?;
        let mut directions = cases.iter().map(|case| case.direction);
        let exit = match directions.all(|direction| direction == Direction::Outbound) {
            true => {
                let out = Exit::new(world, floors.sink()?)?;
                let mut turn = Turn::new(out.index())?;
                rig.send_on(&out, &mut turn)?;
                Some((out, turn))
            }
            false => {
                rig.end_in(floors.sink()?)?;
                None
            }
        };
        Ok(Hook { floors, rig, exit })
    }

    fn attach_floor(&mut self, floor: Floor) -> Result<()> {
        let Hook { floors, rig, exit } = self;
        match (exit, floor) {
            (None, Floor::Drop) => rig.attach(floors.drop()?),
            (None, Floor::Pass) => rig.attach(floors.pass()?),
            (Some((exit, _)), floor) => {
                rig.attach(floors.pass()?)?;
                exit.attach(match floor {
                    Floor::Drop => floors.tc_drop()?,
                    Floor::Pass => floors.tc_pass()?,
                })
            }
        }
    }

    /// Attaches what is measured, and returns the rig that sends to it.
    fn attach<'a>(&'a mut self, filter: &'a mut Filter) -> Result<&'a Rig> {
        let Hook { floors, rig, exit } = self;
        match filter {
            Filter::Enforcer(enforcer) => match exit {
                None => rig.attach(enforcer.inbound()?)?,
                Some((exit, _)) => exit.attach(enforcer.outbound()?)?,
            },
            Filter::Touch => rig.attach(floors.touch()?)?,
            Filter::Nftables(own) | Filter::Neighbour(own, _) => return Ok(own),
        }
        Ok(rig)
    }

    /// Measures what a row is compared with, and then the row.
    fn round(&mut self, variant: &mut Loaded, packets: u32) -> Result<()> {
        let is_watched = variant.case.is_watched;
        let floor = if is_watched {
            let rig = self.attach(&mut variant.filter)?;
            rig.warm_window(&mut variant.writer, packets, &mut variant.tally)?
        } else {
            self.attach_floor(variant.case.floor)?;
            let writer = &mut variant.floor_writer;
            self.rig.warm_window(writer, packets, &mut variant.tally)?
        };
        variant.floors.push(floor);
        let watcher = is_watched.then(|| variant.watcher()).transpose()?;
        let rig = self.attach(&mut variant.filter)?;
        let window = rig.warm_window(&mut variant.writer, packets, &mut variant.tally)?;
        variant.windows.push(window);
        variant.events += watcher.map_or(0, Watcher::end);
        Ok(())
    }
}

struct Bench<'a> {
    cores: Cores,
    patience: Patience,
    folder: tempfile::TempDir,
    settings: &'a Settings,
    progress: &'a Progress,
}

impl Bench<'_> {
    /// Measures rows in turn, each beside its empty program.
    fn group(&self, cases: &[&'static Case]) -> Result<Vec<Record>> {
        let world = World::enter()?;
        let mut hook = Hook::new(self, &world, cases)?;
        let mut records = Vec::new();
        let mut loaded = Vec::new();
        for case in cases {
            self.progress
                .say(format!("{}: compiling and loading", case.name));
            match self.load(case, &world, &hook.rig, loaded.len()) {
                Ok(variant) => loaded.push(variant),
                Err(error) => records.push(Record::without(case.name, error)?),
            }
        }
        let Some(first) = loaded.first_mut() else {
            return Ok(records);
        };

        hook.rig.attach(hook.floors.drop()?)?;
        let packets = calibrate(&hook.rig, &mut first.floor_writer, self.settings.window)?;
        let rounds = |case: &Case| match (case.direction, case.floor) {
            // What a watcher adds is far less than the windows differ by.
            _ if case.is_watched => 4 * self.settings.rounds,
            (Direction::Inbound, Floor::Drop) => self.settings.rounds,
            // What the network stack takes of each packet varies.
            _ => 2 * self.settings.rounds,
        };
        let most = cases.iter().map(|case| rounds(case)).max().unwrap_or(0);
        let steps: usize = loaded.iter().map(|variant| rounds(variant.case)).sum();
        let bar = self.progress.bar(steps as u64);
        for round in 0..most {
            for variant in loaded.iter_mut().filter(|v| round < rounds(v.case)) {
                bar.at(variant.case.name);
                hook.round(variant, packets)?;
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
                    sockets::open_flows(case.flows, own.receiver())?;
                }
                sender = own.sender();
                Filter::Nftables(own)
            }
            Some(Peer::XdpFilter(addresses)) => {
                if !xdp_filter::is_installed() {
                    return Err(Missing::XdpFilter.into());
                }
                let own = own_rig()?;
                let installed = XdpFilter::install(&addresses, own.receiver())?;
                sender = own.sender();
                Filter::Neighbour(own, installed)
            }
            None if case.name == TOUCH => Filter::Touch,
            None => {
                let candidate = case.candidate.map(|load| load()).transpose()?;
                let candidate = candidate.as_ref();
                let policy = &workload.policy;
                let mut enforcer = match case.trial {
                    Some(stage) => Enforcer::load_on_trial(policy, case.max_flows, stage)?,
                    None => Enforcer::load_beside(policy, candidate, case.max_flows)?,
                };
                if case.flows > 0 {
                    let originator = case.direction.opposite();
                    enforcer.open_flows(originator, case.flows, case.max_flows, |done| {
                        let (name, flows) = (case.name, case.flows);
                        self.progress
                            .say(format!("{name}: opening flows, {done} of {flows}"));
                    })?;
                    note = format!("{note}, tables for {}", case.max_flows);
                }
                fates = enforcer.fates(case.direction)?;
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
            events: 0,
        })
    }
}

/// How many packets are sent in the time of a window.
pub(crate) fn calibrate(rig: &Rig, writer: &mut Writer, window: Duration) -> Result<u32> {
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
    let after = enforcer.fates(variant.case.direction)?;
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
    if variant.case.is_watched {
        match variant.events {
            0 => bail!("the watcher got no event"),
            events => note = format!("{note}; {events} events read"),
        }
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
