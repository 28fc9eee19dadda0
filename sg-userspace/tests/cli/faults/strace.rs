//! Runs `sgctl` under strace, which counts its system calls or makes one fail, and finds the
//! programs and maps that it leaves in the kernel.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_testbed::objects::Objects;

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

/// The objects of the world's attachment.
pub(super) fn attached_objects(world: &World) -> Objects {
    Objects::below(&world.bpffs, [])
}

/// Waits until all are freed.
pub(super) fn wait_until_gone(objects: &Objects) -> Result<(), String> {
    let gone = objects.wait_until_gone(Duration::from_secs(20));
    gone.map_err(|left| format!("{LEFT}: {left}"))
}
