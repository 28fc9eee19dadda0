//! Runs `sgctl` under strace, which counts its system calls or makes one fail, and finds the
//! programs and maps that it leaves in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::CALLS;
use crate::world::{Ran, World};

/// The bound for every wait, generous because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The call that fails: the `nth` call of this kind in each thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) call: &'static str,
    pub(super) nth: u32,
    pub(super) error: &'static str,
}

/// What strace has recorded.
#[derive(Debug)]
pub(super) struct Calls {
    /// For each kind of call the number that the busiest thread has made.
    counts: BTreeMap<String, u32>,
    pub(super) injected: bool,
}

impl Calls {
    fn of(log: &str) -> Calls {
        let mut by_thread: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for line in log.lines() {
            let Some((thread, rest)) = line.split_once(' ') else {
                continue;
            };
            if let Some((call, _)) = rest.trim_start().split_once('(') {
                *by_thread.entry((thread, call)).or_default() += 1;
            }
        }
        let mut counts = BTreeMap::new();
        for ((_, call), count) in by_thread {
            let most: &mut u32 = counts.entry(call.to_owned()).or_default();
            *most = count.max(*most);
        }
        Calls {
            counts,
            injected: log.contains("(INJECTED)"),
        }
    }

    pub(super) fn count(&self, call: &str) -> u32 {
        self.counts.get(call).copied().unwrap_or(0)
    }
}

/// Runs `sgctl` in the node's namespace under strace. A `run` is sent SIGTERM once it has applied
/// its policy.
pub(super) fn traced(
    world: &World,
    words: &[String],
    fault: Option<Fault>,
    is_run: bool,
) -> Result<(Ran, Calls), String> {
    // The log must not be in the directory of the policy, which `run` watches.
    let place = tempfile::tempdir().map_err(|e| e.to_string())?;
    let log = place.path().join(LOG);
    let sgctl = world.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-qq", "-o"]).arg(&log);
    trace(&mut command, fault);
    command
        .arg(sgctl.get_program())
        .args(sgctl.get_args())
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| no_strace(&e))?;
    let ran = finish(child, is_run)?;
    Ok((ran, read(&log)?))
}

/// An strace that was attached to a running process.
pub(super) struct Tracer {
    strace: Child,
    place: tempfile::TempDir,
}

impl Tracer {
    /// Attaches strace to the process. From then on calls are counted, and one fails if `fault`
    /// says so.
    pub(super) fn attach(process: u32, fault: Option<Fault>) -> Result<Tracer, String> {
        let place = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-o"])
            .arg(place.path().join(LOG));
        trace(&mut command, fault);
        command
            .arg(format!("--attach={process}"))
            .stdin(Stdio::null());
        let strace = command.spawn().map_err(|e| no_strace(&e))?;
        let tracer = Tracer { strace, place };
        let deadline = Instant::now() + PATIENCE;
        while !is_traced(process) {
            if Instant::now() > deadline {
                return Err("strace does not begin".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(tracer)
    }

    /// Detaches strace; the process goes on.
    pub(super) fn stop(mut self) -> Result<Calls, String> {
        let id = Pid::from_raw(self.strace.id().cast_signed());
        kill(id, Signal::SIGINT).map_err(|e| e.to_string())?;
        self.strace.wait().map_err(|e| e.to_string())?;
        read(&self.place.path().join(LOG))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // strace is still running only if the test has failed.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Whether a tracer is attached to each thread of the process.
fn is_traced(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    threads.is_ok_and(|mut threads| {
        threads.all(|thread| {
            let status = thread.and_then(|t| std::fs::read_to_string(t.path().join("status")));
            status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        })
    })
}

const LOG: &str = "strace.log";

/// Sets the arguments of strace: to trace all kinds of calls, or to make one fail.
fn trace(strace: &mut Command, fault: Option<Fault>) {
    match fault {
        None => strace.arg(format!("--trace={}", CALLS.join(","))),
        Some(Fault { call, nth, error }) => strace
            .arg(format!("--trace={call}"))
            .arg(format!("--inject={call}:error={error}:when={nth}")),
    };
}

fn no_strace(error: &std::io::Error) -> String {
    format!("strace: {error}; `cargo xtask setup` installs it")
}

fn read(log: &Path) -> Result<Calls, String> {
    let log = std::fs::read_to_string(log).map_err(|e| format!("strace has left no log: {e}"))?;
    Ok(Calls::of(&log))
}

/// Waits for the end of strace's child. A `run` does not end by itself and is sent SIGTERM.
fn finish(mut child: Child, is_run: bool) -> Result<Ran, String> {
    let (sender, lines) = channel();
    let out = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut errors = child.stderr.take().expect("standard error is piped");
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let deadline = Instant::now() + PATIENCE;
    let (mut said, mut is_asked) = (String::new(), !is_run);
    loop {
        while let Ok(line) = lines.try_recv() {
            if !is_asked && line.contains("applied") {
                // `sgctl` is strace's only child.
                let tracee = tracee(&child);
                // In this time `run` reads counters and events, whose calls are counted as well.
                std::thread::sleep(Duration::from_millis(300));
                for pid in tracee {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
                is_asked = true;
            }
            said.push_str(&line);
            said.push('\n');
        }
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            let _ = reader.join();
            said.extend(lines.try_iter().flat_map(|line| [line, "\n".into()]));
            return Ok(Ran {
                code: status.code().unwrap_or(-1),
                out: said,
                err: errors.join().unwrap_or_default(),
            });
        }
        if Instant::now() > deadline {
            for pid in tracee(&child) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it does not end; it has said {said}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn tracee(strace: &Child) -> Vec<i32> {
    let path = format!("/proc/{0}/task/{0}/children", strace.id());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Runs `tc` in the node's namespace.
pub(super) fn tc(world: &World, words: &[&str]) -> String {
    let output = Command::new("tc")
        .args(["-n", &world.node])
        .args(words)
        .output();
    let output = output.expect("the tests need iproute2");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The beginning of the error about objects that are not freed.
pub(super) const LEFT: &str = "left in the kernel";

/// Ids of programs and maps in the kernel.
#[derive(Debug, Default)]
pub(super) struct Objects {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

/// The objects of the world's attachment: all that is pinned, every program that uses one of these
/// maps, and the maps of those programs.
pub(super) fn attached_objects(world: &World) -> Objects {
    let mut found = Objects::default();
    for pin in world.pins().iter().filter(|path| path.is_file()) {
        match MapInfo::from_pin(pin) {
            Ok(map) => found.maps.extend([map.id()]),
            Err(_) => found.programs.extend(program_of_link(pin)),
        }
    }
    for program in loaded_programs().flatten() {
        let maps = program.map_ids().ok().flatten().unwrap_or_default();
        let is_ours = |id: &u32| found.maps.contains(id);
        if found.programs.contains(&program.id()) || maps.iter().any(is_ours) {
            found.programs.insert(program.id());
            found.maps.extend(maps);
        }
    }
    found
}

fn program_of_link(pin: &Path) -> Option<u32> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    Some(link.info().ok()?.program_id())
}

impl Objects {
    pub(super) fn join(mut self, other: Objects) -> Objects {
        self.programs.extend(other.programs);
        self.maps.extend(other.maps);
        self
    }

    /// Waits until all are freed, which the kernel does some milliseconds after the last reference
    /// is gone.
    pub(super) fn wait_until_gone(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let programs = &ids(PROGRAMS) & &self.programs;
            let maps = &ids(MAPS) & &self.maps;
            if programs.is_empty() && maps.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{LEFT}: programs {programs:?}, maps {maps:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `BPF_PROG_GET_NEXT_ID` and `BPF_MAP_GET_NEXT_ID` (include/uapi/linux/bpf.h).
const PROGRAMS: libc::c_long = 11;
const MAPS: libc::c_long = 12;

/// All ids of a kind. The objects are not opened, because the kernel does not clear a program array
/// that another process has open.
fn ids(kind: libc::c_long) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    // The call reads the first number, an id, and writes the next larger id to the second.
    let mut attributes = [0u32; 4];
    loop {
        // SAFETY: the attributes have the length that is passed, and live during the call.
        let result = unsafe {
            let pointer = attributes.as_mut_ptr();
            libc::syscall(libc::SYS_bpf, kind, pointer, size_of_val(&attributes))
        };
        if result != 0 {
            return found;
        }
        found.insert(attributes[1]);
        attributes[0] = attributes[1];
    }
}
