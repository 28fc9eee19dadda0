//! Rows about `sgctl apply` as a whole process: how long it takes on a bare interface and in place
//! of a policy, the memory it needs meanwhile, and the memory that the kernel keeps.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use sg_testbed::objects::{Kind, ids};

use crate::cases::Inputs;
use crate::missing::Missing;
use crate::policies;
use crate::progress::Progress;
use crate::rig::BareNode;
use crate::settings::Settings;
use crate::statistics::Record;

/// A row, and the file or name of its policy, as sgctl takes it.
struct Case {
    name: &'static str,
    policy: fn(&Inputs<'_>) -> Result<PathBuf>,
}

const CASES: &[Case] = &[
    Case {
        name: "apply/tke",
        policy: |_| Ok("builtin:tke".into()),
    },
    Case {
        name: "apply/classbench_8k",
        policy: |i| policies::classbench_file("acl1_8k", i.data()?, i.folder),
    },
    Case {
        name: "apply/ipsum",
        policy: |i| {
            policies::ipsum(i.data()?, i.folder)?;
            Ok(i.folder.join("ipsum.yaml"))
        },
    },
    Case {
        name: "apply/1m",
        policy: |i| {
            policies::prefixes(1_000_000, i.folder)?;
            Ok(i.folder.join("prefixes-1000000.yaml"))
        },
    },
    Case {
        name: "apply/hosts_1m",
        policy: |i| {
            policies::hosts(1_000_000, i.folder)?;
            Ok(i.folder.join("hosts-1000000.yaml"))
        },
    },
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name)
}

const INTERFACE: &str = "bench0";

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let wanted: Vec<&Case> = CASES
        .iter()
        .filter(|case| settings.wants(case.name))
        .collect();
    let mut records = Vec::new();
    if wanted.is_empty() {
        return Ok(records);
    }
    let Some(sgctl) = &settings.sgctl else {
        return Ok(wanted
            .iter()
            .map(|case| Record::left_out(case.name, Missing::Sgctl))
            .collect());
    };
    let bare = BareNode::enter(INTERFACE)?;
    let folder = tempfile::tempdir().context("a folder for set files")?;
    let inputs = Inputs {
        folder: folder.path(),
        data: settings.data.as_deref(),
    };
    let more = folder.path().join("one-rule.yaml");
    fs::write(
        &more,
        "inbound: [{protocol: udp, ports: 1, from: 192.0.2.1, action: drop}]\n",
    )
    .context("writing a policy")?;
    for case in wanted {
        progress.say(case.name.to_owned());
        let node = Node {
            sgctl,
            bpffs: bare.bpffs(),
            more: &more,
        };
        let policy = (case.policy)(&inputs);
        let measured = policy.and_then(|policy| node.measure(case.name, &policy, settings));
        match measured {
            Ok(measured) => records.extend(measured),
            Err(error) => records.push(Record::without(case.name, error)?),
        }
    }
    progress.clear();
    Ok(records)
}

pub(crate) struct Node<'a> {
    pub(crate) sgctl: &'a Path,
    pub(crate) bpffs: &'a Path,
    /// A policy of one rule.
    pub(crate) more: &'a Path,
}

/// What one run of sgctl took.
pub(crate) struct Took {
    pub(crate) seconds: f64,
    pub(crate) peak_mib: f64,
}

impl Node<'_> {
    fn measure(&self, name: &str, policy: &Path, settings: &Settings) -> Result<Vec<Record>> {
        let mut first = Vec::new();
        let mut replacement = Vec::new();
        let mut peaks = Vec::new();
        let mut kernel = Vec::new();
        let mut kernel_tables = Vec::new();
        for _ in 0..settings.rounds.div_ceil(4).max(2) {
            let before = ids(Kind::Map);
            let policy = policy.display().to_string();
            let took = self.sgctl(&["apply", &policy, "--iface", INTERFACE])?;
            first.push(took.seconds);
            peaks.push(took.peak_mib);
            let made = maps(&ids(Kind::Map) - &before)?;
            kernel.push(mebibytes(made.iter().map(|map| map.bytes).sum()));
            let tables = made.iter().filter(|map| !map.is_shared);
            kernel_tables.push(mebibytes(tables.map(|map| map.bytes).sum()));
            // The same policy alone would be left as it is.
            let more = self.more.display().to_string();
            let took = self.sgctl(&["apply", &policy, &more, "--iface", INTERFACE])?;
            replacement.push(took.seconds);
            peaks.push(took.peak_mib);
            self.sgctl(&["detach", "--iface", INTERFACE])?;
        }
        let row = |part: &str, unit: &str, values: &[f64], note: &str| {
            Record::of(&format!("{name}/{part}"), unit, values, None).noted(note)
        };
        Ok(vec![
            row("first", "s", &first, "on a bare interface"),
            row(
                "replace",
                "s",
                &replacement,
                "in place of the same policy without one rule",
            ),
            row(
                "peak",
                "MiB",
                &peaks,
                "resident memory of the process at its highest",
            ),
            row(
                "kernel",
                "MiB",
                &kernel,
                "all maps, tables for 131072 flows among them",
            ),
            row("tables", "MiB", &kernel_tables, "the policy's own maps"),
        ])
    }

    pub(crate) fn sgctl(&self, words: &[&str]) -> Result<Took> {
        let mut command = Command::new(self.sgctl);
        command
            .arg("--bpffs")
            .arg(self.bpffs)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.sgctl.display()))?;
        let status = format!("/proc/{}/status", child.id());
        let is_over = AtomicBool::new(false);
        // What the kernel tells of a child that has ended includes our own memory, of which it was
        // a copy before it became sgctl.
        let (output, seconds, peak) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut peak = 0;
                while !is_over.load(Ordering::Relaxed) {
                    peak = resident_peak(&status).unwrap_or(0).max(peak);
                    std::thread::sleep(Duration::from_millis(1));
                }
                peak
            });
            let output = child.wait_with_output();
            let seconds = started.elapsed().as_secs_f64();
            is_over.store(true, Ordering::Relaxed);
            (output, seconds, watch.join().unwrap_or(0))
        });
        let output = output.context("waiting for sgctl")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`sgctl {}` failed\n{said}", words.join(" "));
        }
        Ok(Took {
            seconds,
            peak_mib: peak as f64 / 1024.0,
        })
    }
}

/// KiB of memory that the process has had at once, if it is still there and is sgctl already.
fn resident_peak(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let mut lines = text.lines();
    (lines.next()? == "Name:\tsgctl").then_some(())?;
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Memory of a BPF map, as the kernel accounts for it.
struct MapMemory {
    bytes: u64,
    /// It outlives policies.
    is_shared: bool,
}

/// The maps with these ids. No others are opened: see `sg_testbed::objects`.
fn maps(ids: BTreeSet<u32>) -> Result<Vec<MapMemory>> {
    let mut maps = Vec::new();
    for id in ids {
        // A map may be gone since it was listed.
        let Ok(map) = MapData::from_id(id) else {
            continue;
        };
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).context(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes = line
            .and_then(|bytes| bytes.trim().parse().ok())
            .unwrap_or(0);
        let info = map.info().context("asking about a map")?;
        let name = String::from_utf8_lossy(info.name()).into_owned();
        const SHARED: [&str; 5] = [
            "sg_counters",
            "sg_flow",
            "sg_half_open",
            "sg_fragments",
            "sg_event",
        ];
        let is_shared = SHARED.iter().any(|shared| name.starts_with(shared));
        maps.push(MapMemory { bytes, is_shared });
    }
    Ok(maps)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
