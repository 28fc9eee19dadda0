//! Rows about `sgctl flows` as a whole process, on a table that holds a million flows: how long the
//! lists take, the memory of the process, and what packets notice of it on another core.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use sg_common::flow::{FlowKind, FlowValue, Timeout};
use sg_common::verdict::Direction;
use sg_policy::compile::Budget;
use sg_policy::compile_policy;
use sg_policy::policy::{PolicyInput, load};
use sg_userspace::kernel::flow_tables::{FlowTable, key_of, monotonic_now};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;
use sg_userspace::observe::attached::attached_to;

use crate::apply::Node;
use crate::cores::{Cores, pin};
use crate::missing::Missing;
use crate::progress::Progress;
use crate::replace::slow_packets;
use crate::rig::BareNode;
use crate::settings::Settings;
use crate::statistics::{Record, median};

const NAME: &str = "flows/1m";
const FLOWS: u32 = 1_000_000;
const INTERFACE: &str = "bench0";
const ROUNDS: usize = 5;

/// No outbound rule accepts anything, so that every flow needs its entry.
const POLICY: &str = "name: p\ninbound: [{protocol: udp, from: any, action: accept}]\n";

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(NAME)
}

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    if !settings.wants(NAME) {
        return Ok(Vec::new());
    }
    let Some(sgctl) = &settings.sgctl else {
        return Ok(vec![Record::left_out(NAME, Missing::Sgctl)]);
    };
    progress.say(NAME.to_owned());
    // Before this thread is pinned to one core: afterwards that would be the only one found.
    let cores = Cores::find()?;
    let bare = BareNode::enter(INTERFACE)?;
    let folder = tempfile::tempdir().context("a folder for the policy")?;
    let policy = folder.path().join("p.yaml");
    std::fs::write(&policy, POLICY).context("writing a policy")?;
    let node = Node {
        sgctl,
        bpffs: bare.bpffs(),
        more: Path::new(""),
    };
    let (text, most) = (policy.display().to_string(), FLOWS.to_string());
    node.sgctl(&["apply", &text, "--iface", INTERFACE, "--max-flows", &most])?;
    fill(bare.bpffs())?;
    let mut records = Vec::new();
    let mut peaks = Vec::new();
    for (part, words, note) in [
        ("text", &["--limit", "0"][..], "all flows as lines"),
        ("json", &["--json"], "all flows as JSON"),
        (
            "top",
            &["--sort", "age", "--top", "20"],
            "the twenty oldest",
        ),
        (
            "filter",
            &["--port", "53", "--from", "10.0.0.0/16"],
            "those of one network",
        ),
    ] {
        let mut seconds = Vec::new();
        for _ in 0..ROUNDS {
            let took = node.sgctl(&[&["flows", "--iface", INTERFACE], words].concat())?;
            seconds.push(took.seconds);
            peaks.push(took.peak_mib);
        }
        let row = Record::of(&format!("{NAME}/{part}"), "s", &seconds, None);
        records.push(row.noted(note));
    }
    let row = Record::of(&format!("{NAME}/peak"), "MiB", &peaks, None);
    records.push(
        row.noted("resident memory of the process at its highest, with what it maps of the table"),
    );
    records.push(packets(&node, &policy, cores, settings)?);
    node.sgctl(&["detach", "--iface", INTERFACE])?;
    progress.clear();
    Ok(records)
}

/// Enters a million established flows from as many addresses.
fn fill(bpffs: &Path) -> Result<()> {
    let one = attached_to(bpffs, INTERFACE)?;
    let state = one.state()?;
    let slot = state.rules.first().context("a rule")?.slot;
    let table = FlowTable::open(&one.pins, &state.timeouts)?;
    let local = "192.0.2.1".parse().context("an address")?;
    let mut entered = 0;
    for number in 0..FLOWS {
        let now = monotonic_now();
        let value = FlowValue {
            created: now - u64::from(number) * 1_000,
            last_seen: now,
            slot,
            generation: state.epoch,
            originator: Direction::Inbound as u8,
            state: Timeout::UdpStream as u8,
            flags: FlowValue::SEEN_REPLY,
            ..FlowValue::EMPTY
        };
        let remote = std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
        let port = 1024 + (number % 60_000) as u16;
        let key = key_of(local, remote, (53, port), 17);
        let written = table.enter(&key, &value, FlowKind::Established, now);
        entered += u32::from(written.is_new && !written.evicted);
    }
    if entered < FLOWS / 100 * 99 {
        bail!("only {entered} of {FLOWS} flows fit into the table");
    }
    Ok(())
}

/// How much later packets of these flows come through while the flows are listed on another core,
/// timed one by one as in `replace`.
fn packets(node: &Node<'_>, policy: &Path, cores: Cores, settings: &Settings) -> Result<Record> {
    let one = attached_to(node.bpffs, INTERFACE)?;
    let loaded = load(&[PolicyInput::File(policy.to_owned())], &[]);
    let policy = loaded.map_err(|errors| anyhow!("{errors}"))?.policy;
    let slots: Vec<u32> = one.state()?.rules.iter().map(|owner| owner.slot).collect();
    let tables = compile_policy(&policy, &slots, Budget::default());
    let tables = tables.map_err(|error| anyhow!("{error}"))?;
    let shared = SharedMaps {
        pins: Some(one.pins.clone()),
        counter_map: 0,
        counter_slots: 0,
        max_flows: FLOWS,
    };
    let generation = Generation::of(&policy, one.state()?.policy.generation);
    let mut programs = Programs::load(&tables, &generation, &shared)?;
    let (is_busy, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let lists = AtomicU32::new(0);
    let list = || -> Result<()> {
        pin(0, cores.sender)?;
        while !is_over.load(SeqCst) {
            if is_busy.load(SeqCst) {
                node.sgctl(&["flows", "--iface", INTERFACE, "--limit", "0"])?;
                lists.fetch_add(1, SeqCst);
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    };
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| -> Result<()> {
        let other = scope.spawn(list);
        let measured = (|| {
            pin(0, cores.receiver)?;
            for _ in 0..ROUNDS {
                quiet.push(slow_packets(programs.inbound()?, 5 * settings.window)?.0);
                is_busy.store(true, SeqCst);
                busy.push(slow_packets(programs.inbound()?, 5 * settings.window)?.0);
                is_busy.store(false, SeqCst);
            }
            Ok(())
        })();
        is_over.store(true, SeqCst);
        let listed = other.join().map_err(|_| anyhow!("the other core failed"))?;
        measured.and(listed)
    })?;
    let above: Vec<f64> = busy.iter().zip(&quiet).map(|(b, q)| b - q).collect();
    let count = lists.load(SeqCst);
    let row = Record::of(
        &format!("{NAME}/packets"),
        "us",
        &above,
        Some(median(&quiet)),
    );
    Ok(row.noted(format!(
        "one packet of 10,000 takes longer than the floor, and than so much above it while another core \
         listed all flows {count} times"
    )))
}
