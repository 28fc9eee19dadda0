//! The log of `run`: each change once, with its reason and how much it matters, as JSON and in the
//! journal.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use serde_json::Value;

use super::run::{Running, lines_of, policy};
use super::world::{World, file, run};

/// The log of a `run --log-format json`.
pub(super) struct Log {
    running: Running,
    lines: std::sync::mpsc::Receiver<String>,
    seen: Vec<Value>,
}

impl Log {
    fn start(world: &World, words: &[&str]) -> Log {
        Self::start_with(world, words, &[])
    }

    /// Starts it with these variables.
    pub(super) fn start_with(world: &World, words: &[&str], variables: &[(&str, &str)]) -> Log {
        let mut command = world.command(&["run", "--iface", "nic"]);
        command
            .args(words)
            .args(["--log-format", "json", "--interval", "0.5"])
            .envs(variables.iter().copied());
        let mut running = Running::of(&mut command);
        let stderr = running.child.stderr.take().unwrap();
        Log {
            running,
            lines: lines_of(stderr),
            seen: Vec::new(),
        }
    }

    /// Waits for a change of this name, and returns it.
    #[track_caller]
    pub(super) fn says(&mut self, event: &str) -> Value {
        let bound = Duration::from_secs(60);
        while let Ok(line) = self.lines.recv_timeout(bound) {
            let value: Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            self.seen.push(value.clone());
            if value["event"] == event {
                return value;
            }
        }
        panic!("`{event}` was not said, only {:#?}", self.seen);
    }

    /// As [`Self::says`], for a change that may have come while another one was waited for.
    #[track_caller]
    pub(super) fn has_said(&mut self, event: &str) -> Value {
        let said = self.seen.iter().find(|it| it["event"] == event).cloned();
        said.unwrap_or_else(|| self.says(event))
    }

    /// Each change with its level, in their order.
    pub(super) fn said(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let seen = self.seen.iter();
        seen.map(|it| (text(&it["event"]), text(&it["level"])))
            .collect()
    }

    /// Ends it with `signal`, and checks that it has said these changes, the last one `detached`,
    /// and nothing more.
    #[track_caller]
    pub(super) fn ends(mut self, signal: Signal, expected: &[(&str, &str)]) {
        self.running.signal(signal);
        self.says("detached");
        assert_eq!(self.running.child.wait().unwrap().code(), Some(0));
        assert!(self.lines.recv().is_err(), "nothing follows");
        let said = self.said();
        let said: Vec<(&str, &str)> = said.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(said, expected);
    }
}

/// Proves A4: with `--log-format json` each change is said once, as an object on standard error
/// that has its reason, and standard output has packets and counters for people.
#[test]
fn each_change_is_said_once_and_why() {
    let world = World::new();
    let text = policy(1) + "log-no-match: inbound\n";
    let path = file(world.dir.path(), "p.yaml", &text);
    // An editor's way, so that no half of a file is read.
    let write = |text: &str| {
        let new = file(world.dir.path(), "p.new", text);
        std::fs::rename(new, &path).unwrap();
    };
    let mut log = Log::start(&world, &[&path]);
    let applied = log.says("applied");
    assert_eq!(applied["policy"]["generation"], 1, "{applied:#}");
    let message = applied["message"].as_str().unwrap();
    assert!(
        message.starts_with("applied p1 on nic, generation 1"),
        "{message}"
    );
    assert_eq!(applied["interface"], "nic");
    world.ping_node(1);
    let packet = log.running.line("no-match");
    assert!(packet.contains("drop in  icmp"), "{packet}");

    write("inbound: [{protocol: tpc, from: any, action: accept}]\n");
    let failed = log.says("reload_failed");
    assert_eq!(failed["errors"][0]["location"]["line"], 1, "{failed:#}");
    write(&text);
    log.says("unchanged");
    write(&(policy(2) + "log-no-match: inbound\n"));
    let reloaded = log.says("reloaded");
    let why = reloaded["why"].as_str().unwrap();
    assert_eq!(why, format!("{path} has changed"), "{reloaded:#}");
    let message = reloaded["message"].as_str().unwrap();
    assert!(message.contains(&format!(": {why}")), "{message}");
    let other = file(world.dir.path(), "other.yaml", &policy(3));
    world.run(&["apply", &other, "--iface", "nic"]).ok();
    let replaced = log.says("replaced");
    assert_eq!(replaced["replaced"], 2, "{replaced:#}");
    log.running.signal(Signal::SIGHUP);
    assert_eq!(log.says("reloaded")["why"], "SIGHUP has come");
    log.running.signal(Signal::SIGTERM);
    assert_eq!(log.says("detached")["why"], "terminated");
    assert_eq!(log.running.child.wait().unwrap().code(), Some(0));
    assert!(log.lines.recv().is_err(), "nothing follows");

    let said = log.said();
    let said: Vec<(&str, &str)> = said.iter().map(|(a, b)| (&a[..], &b[..])).collect();
    let expected = [
        ("applied", "info"),
        ("reload_failed", "error"),
        ("unchanged", "info"),
        ("reloaded", "info"),
        ("replaced", "warning"),
        ("reloaded", "info"),
        ("detached", "info"),
    ];
    assert_eq!(said, expected);
    for line in log.running.lines.iter() {
        let is_data = line.contains("packets (") || line.contains("no-match");
        assert!(is_data, "a change is not on standard output too: {line}");
    }
    world.assert_untouched();
}

/// Proves A4: what ends a `run` is in its log, and an error before it begins has the form of all
/// errors.
#[test]
fn a_failure_is_a_line_of_the_log() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut log = Log::start(&world, &[&path]);
    log.says("applied");
    world.run(&["detach", "--iface", "nic"]).ok();
    let detached = log.says("detached");
    assert_eq!(detached["level"], "warning", "{detached:#}");
    let failed = log.says("failed");
    assert_eq!(failed["level"], "error");
    assert_eq!(failed["errors"][0]["code"], "not-attached", "{failed:#}");
    assert_eq!(failed["message"], failed["errors"][0]["message"]);
    assert_eq!(log.running.child.wait().unwrap().code(), Some(1));
    assert!(log.lines.recv().is_err(), "nothing follows");

    let bad = file(world.dir.path(), "bad.yaml", "inbound: 7\n");
    let in_json = ["--log-format", "json"];
    let ran = world.run(&[&["run", &bad, "--iface", "nic"], &in_json[..]].concat());
    let usage = run(&[&["run"], &in_json[..]].concat());
    let equals = run(&["run", "--log-format=json"]);
    for (ran, code) in [(ran, 1), (usage, 2), (equals, 2)] {
        assert_eq!(ran.code, code, "{}", ran.all());
        let error: Value = serde_json::from_str(ran.err.lines().next().unwrap())
            .unwrap_or_else(|e| panic!("{e}: {}", ran.all()));
        assert_eq!(error["severity"], "error", "{error:#}");
    }
}

/// In a service each line has its priority, errors of several lines on each. A stream that is not
/// the journal's has none, though the variable is inherited.
#[test]
fn the_journal_gets_priorities() {
    let world = World::new();
    let text = policy(1) + "log-no-match: inbound\n";
    let path = file(world.dir.path(), "p.yaml", &text);
    for is_journal in [true, false] {
        let (reader, writer) = std::io::pipe().unwrap();
        let about = fstat(writer.as_fd()).unwrap();
        let inode = match is_journal {
            true => about.st_ino,
            false => about.st_ino + 1,
        };
        let mut command = world.command(&["run", &path, "--iface", "nic", "--interval", "0.5"]);
        let child = command
            .env("JOURNAL_STREAM", format!("{}:{inode}", about.st_dev))
            .stdout(Stdio::from(writer.try_clone().unwrap()))
            .stderr(Stdio::from(writer))
            .spawn()
            .unwrap();
        // It has copies of the pipe's end.
        drop(command);
        let lines = lines_of(reader);
        let mut running = Running { child, lines };
        let of = |priority: u8, words: &str| match is_journal {
            true => format!("<{priority}>{words}"),
            false => words.to_owned(),
        };
        let applied = running.line("applied");
        assert!(
            applied.starts_with(&of(6, "applied p1 on nic")),
            "{applied}"
        );
        world.ping_node(1);
        let packet = running.line("no-match");
        assert_eq!(packet.starts_with("<6>"), is_journal, "{packet}");
        let counters = running.line("nic: inbound ");
        assert!(counters.starts_with(&of(7, "nic: ")), "{counters}");
        let new = file(world.dir.path(), "p.new", "inbound: 7\nfoo: 1\n");
        std::fs::rename(new, &path).unwrap();
        let failed = running.line("reload failed");
        assert_eq!(failed, of(3, "reload failed: generation 1 stays in force"));
        for words in [":1:", ":2:"] {
            let error = running.line(words);
            assert!(error.starts_with(&of(3, "")), "{error}");
            assert_eq!(error.starts_with('<'), is_journal, "{error}");
        }
        world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
        let replaced = running.line("somebody else has put tke in force");
        assert!(replaced.starts_with(&of(4, "somebody")), "{replaced}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
        let rest: Vec<String> = running.lines.iter().collect();
        for line in &rest {
            assert_eq!(line.starts_with('<'), is_journal, "{rest:#?}");
        }
        world.run(&["detach"]).ok();
        std::fs::write(&path, &text).unwrap();
    }
    world.assert_untouched();
}

/// A journal of systemd's own, in folders that nobody else sees.
struct Journald {
    process: Child,
}

impl Journald {
    /// The name of the journal: with one of its own it reads neither the kernel's log nor audits.
    const NAME: &str = "sgctl";

    fn start() -> Journald {
        let script = format!(
            "mount -t tmpfs tmpfs /var/log && mount -t tmpfs tmpfs /run && mkdir /run/systemd && \
             exec /usr/lib/systemd/systemd-journald {}",
            Journald::NAME
        );
        let process = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Journald {
            process: process.expect("the tests need util-linux"),
        }
    }

    /// A path as it sees it.
    fn path(&self, path: &str) -> String {
        format!("/proc/{}/root/{path}", self.process.id())
    }

    /// The stream of a service, as systemd makes it: identifier, unit, usual priority, whether
    /// lines begin with theirs, and where else to send it.
    fn stream(&self) -> UnixStream {
        let path = self.path(&format!("run/systemd/journal.{}/stdout", Journald::NAME));
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) => assert!(
                    Instant::now() < deadline,
                    "{path}: {error}; `cargo xtask setup` installs systemd"
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        stream.write_all(b"sgctl\n\n5\n1\n0\n0\n0\n").unwrap();
        stream
    }

    /// Priority and message of each line, as journalctl reads them.
    fn lines(&self) -> Vec<(String, String)> {
        let folder = self.path("var/log/journal");
        let read = Command::new("sh")
            .args([
                "-c",
                "for at in \"$0\"/*; do journalctl --quiet --output=json --directory=\"$at\"; done",
                &folder,
            ])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&read.stdout).into_owned();
        let lines = text.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let of = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (line["SYSLOG_IDENTIFIER"] == "sgctl").then(|| (of("PRIORITY"), of("MESSAGE")))
        });
        lines.collect()
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// systemd's own journal reads what a service says: each line with its priority and without the
/// mark, as text and as JSON.
#[test]
fn journald_reads_the_priorities() {
    let world = World::new();
    let journald = Journald::start();
    let text = policy(1) + "log-no-match: inbound\n";
    for format in ["text", "json"] {
        let path = file(world.dir.path(), "p.yaml", &text);
        let stream = journald.stream();
        let about = fstat(&stream).unwrap();
        let stream = OwnedFd::from(stream);
        let seen = journald.lines().len();
        let start = || {
            let out = || stream.try_clone().unwrap();
            let mut command = world.command(&["run", &path, "--iface", "nic", "--interval", "0.5"]);
            command
                .args(["--log-format", format])
                .env(
                    "JOURNAL_STREAM",
                    format!("{}:{}", about.st_dev, about.st_ino),
                )
                .stdout(out())
                .stderr(out());
            command.spawn().unwrap()
        };
        let mut run = start();
        let until = |words: &str| {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let lines = journald.lines();
                let lines = &lines[seen..];
                if let Some(line) = lines.iter().find(|(_, message)| message.contains(words)) {
                    return line.clone();
                }
                assert!(Instant::now() < deadline, "{words}: {lines:#?}");
                std::thread::sleep(Duration::from_millis(200));
            }
        };
        let (priority, message) = until("applied");
        assert_eq!(priority, "6", "{message}");
        match format {
            "text" => assert!(message.starts_with("applied p1 on nic"), "{message}"),
            _ => {
                let value: Value = serde_json::from_str(&message).unwrap();
                assert_eq!(value["event"], "applied", "{message}");
            }
        }
        world.ping_node(1);
        assert_eq!(until("drop in  icmp").0, "6");
        assert_eq!(until("nic: inbound ").0, "7");
        let new = file(world.dir.path(), "p.new", "inbound: 7\n");
        std::fs::rename(new, &path).unwrap();
        assert_eq!(until("reload failed").0, "3");
        world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
        assert_eq!(until("somebody else has put tke in force").0, "4");
        let id = nix::unistd::Pid::from_raw(run.id().cast_signed());
        nix::sys::signal::kill(id, Signal::SIGTERM).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(0));
        assert_eq!(until("left as it is").0, "6");
        world.run(&["detach"]).ok();
        // What keeps it from beginning is an error too.
        file(world.dir.path(), "p.yaml", "outbound: 7\n");
        let ended = start().wait().unwrap();
        assert_eq!(ended.code(), Some(1));
        assert_eq!(until("`outbound` ").0, "3");
    }
    world.assert_untouched();
}
