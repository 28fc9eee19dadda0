//! The rows about several interfaces under one policy: a node with two uplinks opens flows by one
//! and gets the replies by both, against a node that does all of it by one interface.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sg_testbed::Mount;

use crate::cores::Cores;
use crate::missing::Missing;
use crate::object::{Floors, Traffic, Writer};
use crate::progress::Progress;
use crate::rig::{self, Rig, World};
use crate::settings::Settings;
use crate::sockets;
use crate::statistics::{Record, median};
use crate::windows::{Patience, Tally};

/// One interface, and two.
const NAMES: [&str; 2] = ["live/uplinks/1", "live/uplinks/2"];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

const FLOWS: u32 = 65_536;
/// Opened flows are half-open, of which the table holds a quarter as many as of established ones.
/// This size holds all that are opened at once.
const MAX_FLOWS: u32 = 8 * FLOWS;

/// The rules accept what the node opens, and no reply.
const POLICY: &str = "name: uplinks\n\
    inbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n\
    outbound: [{protocol: all, to: any, action: accept}]\n";

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    if !NAMES.iter().any(|name| settings.wants(name)) {
        return Ok(Vec::new());
    }
    let Some(sgctl) = &settings.sgctl else {
        let left_out = |name| Record::left_out(name, Missing::Sgctl);
        return Ok(NAMES.map(left_out).into());
    };
    progress.say(format!("{}: attaching and opening flows", NAMES[1]));
    let patience = Patience::new(settings.patience / 4);
    let world = World::enter()?;
    let pins = tempfile::tempdir().context("a folder for the BPF file system")?;
    let bpffs = Mount::bpffs(pins.path()).context("mounting a BPF file system")?;
    let folder = tempfile::tempdir().context("a folder for the policy")?;
    let policy = folder.path().join("uplinks.yaml");
    std::fs::write(&policy, POLICY).context("writing the policy")?;
    let mut floors = Floors::new()?;
    let mut lines = Lines::new(&world, &patience, &mut floors)?;
    let node = Node {
        sgctl,
        bpffs: bpffs.path(),
        policy: &policy,
    };
    lines.enforce(&node)?;
    lines.measure(settings, progress)
}

/// The interfaces that are measured, each beside one of its core with an empty program.
struct Lines {
    empty: [Line; 2],
    single: Line,
    pair: [Line; 2],
}

impl Lines {
    fn new(world: &World, patience: &Patience, floors: &mut Floors) -> Result<Lines> {
        let cores = Cores::find()?;
        let swapped = Cores {
            sender: cores.receiver,
            receiver: cores.sender,
        };
        let line = |cores, letter: &str| Line::new(world, cores, patience, letter);
        // The second one of each kind is received by the core that sends to the first one.
        let mut lines = Lines {
            empty: [line(cores, "e")?, line(swapped, "f")?],
            single: line(cores, "s")?,
            pair: [line(cores, "p")?, line(swapped, "q")?],
        };
        let Lines {
            empty,
            single,
            pair,
        } = &lines;
        for line in empty.iter().chain([single]).chain(pair) {
            line.rig.end_in(floors.sink()?)?;
        }
        for line in &mut lines.empty {
            line.rig.attach(floors.pass()?)?;
        }
        Ok(lines)
    }

    /// Puts the policy in force, and opens the flows.
    fn enforce(&mut self, node: &Node<'_>) -> Result<()> {
        let [first, second] = &mut self.pair;
        node.apply(&[&self.single])?;
        node.apply(&[first, second])?;
        establish(&mut [&mut self.single])?;
        // Opened by the first uplink; the replies come by both.
        establish(&mut [first, second])
    }

    fn measure(&mut self, settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
        let Lines {
            empty,
            single,
            pair,
        } = self;
        let packets = crate::live::calibrate(&empty[0].rig, &mut empty[0].writer, settings.window)?;
        let bar = progress.bar(settings.rounds as u64);
        bar.at(NAMES[1]);
        let mut above = [const { Vec::new() }; NAMES.len()];
        let mut floor = Vec::new();
        let mut tally = Tally::default();
        for _ in 0..settings.rounds {
            let mut window = |line: &mut Line| -> Result<f64> {
                let window = line
                    .rig
                    .warm_window(&mut line.writer, packets, &mut tally)?;
                Ok(window.nanoseconds)
            };
            let without = window(&mut empty[0])?;
            above[0].push(window(single)? - without);
            let mut of_pair = 0.0;
            for (empty, uplink) in empty.iter_mut().zip(pair.iter_mut()) {
                let without = window(empty)?;
                of_pair += (window(uplink)? - without) / 2.0;
                floor.push(without);
            }
            above[1].push(of_pair);
            bar.step();
        }
        bar.finish();
        for line in [&*single].into_iter().chain(&*pair) {
            line.check()?;
        }
        let notes = [
            format!("UDP replies in {FLOWS} flows at random, by the interface that opened them"),
            "the same by two interfaces in turn, each on a core of its own; opened by one"
                .to_owned(),
        ];
        let records = NAMES
            .iter()
            .zip(above)
            .zip(notes)
            .map(|((name, above), note)| {
                let note = format!("{note}; {}", tally.describe());
                Record::of(name, "ns", &above, Some(median(&floor))).noted(note)
            });
        Ok(records.collect())
    }
}

/// A receiving interface, and who sends to it.
struct Line {
    rig: Rig,
    writer: Writer,
}

impl Line {
    fn new(world: &World, cores: Cores, patience: &Patience, letter: &str) -> Result<Self> {
        const SEED: u64 = 0x5eed;
        let rig = Rig::new(world, cores, patience, letter)?;
        let traffic = Traffic::Reply4 { flows: FLOWS };
        Ok(Line {
            writer: Writer::new(&traffic, rig.sender(), SEED)?,
            rig,
        })
    }

    /// Checks that nearly all packets were in flows: XDP has dropped few.
    fn check(&self) -> Result<()> {
        let text = rig::read("ethtool", &format!("-S {}", self.rig.receiver()))?;
        let (packets, drops) = xdp_counts(&text)?;
        if packets == 0 || drops * 100 > packets {
            let interface = self.rig.receiver();
            bail!("{interface}: {drops} of {packets} packets were dropped: they were in no flow");
        }
        Ok(())
    }
}

/// Packets that XDP has seen and dropped, in what `ethtool -S` prints of a veth interface.
fn xdp_counts(text: &str) -> Result<(u64, u64)> {
    let of = |name: &str| -> Result<u64> {
        let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
        let mut found = lines.filter(|(key, _)| {
            key.strip_prefix("rx_queue_")
                .is_some_and(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()) == name)
        });
        let (_, count) = found
            .next()
            .with_context(|| format!("ethtool prints no count that ends in {name}"))?;
        Ok(count.trim().parse()?)
    };
    Ok((of("_xdp_packets")?, of("_drops")? + of("_xdp_drops")?))
}

/// Opens all flows through the first interface. Once they are old enough that a reply establishes
/// them, replies come in through every interface.
fn establish(lines: &mut [&mut Line]) -> Result<()> {
    /// A little more than it takes a flow to last: see `flow_entry::LASTING_AGE`.
    const LASTS: Duration = Duration::from_millis(2100);
    /// At random, so that hardly any flow is without one.
    const REPLIES: u32 = 32 * FLOWS;
    let first = lines
        .first()
        .context("no interface")?
        .rig
        .receiver()
        .to_owned();
    sockets::open_flows(FLOWS, &first)?;
    sockets::leave(&first)?;
    std::thread::sleep(LASTS);
    for line in lines {
        line.rig.send(&mut line.writer, REPLIES)?;
    }
    Ok(())
}

struct Node<'a> {
    sgctl: &'a Path,
    bpffs: &'a Path,
    policy: &'a Path,
}

impl Node<'_> {
    fn apply(&self, lines: &[&Line]) -> Result<()> {
        let mut command = Command::new(self.sgctl);
        command
            .arg("--bpffs")
            .arg(self.bpffs)
            .arg("apply")
            .arg(self.policy);
        command.args(["--max-flows", &MAX_FLOWS.to_string()]);
        for line in lines {
            command.args(["--iface", line.rig.receiver()]);
        }
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", self.sgctl.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`sgctl apply` by {} interfaces failed\n{said}", lines.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xdp_dropped_is_read_from_ethtool() {
        let text = "NIC statistics:\n     peer_ifindex: 3\n     rx_queue_0_xdp_packets: 70\n     \
                    rx_queue_0_xdp_bytes: 4200\n     rx_queue_0_drops: 2\n     \
                    rx_queue_0_xdp_drops: 5\n     tx_queue_0_xdp_xmit: 1\n";
        assert_eq!(xdp_counts(text).unwrap(), (70, 7));
        assert!(xdp_counts("NIC statistics:\n").is_err());
    }
}
