//! All views of one interval: known packets are sent, and each view is read back.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::Running;
use super::top::Tty;
use super::world::{Ran, World, file};

/// What is sent to 1001 opens a flow and passes, what is sent to 1002 is dropped by a rule and
/// logged, and what is sent to 1003 matches no rule.
const POLICY: &str = "\
name: seen
inbound:
  - {protocol: udp, ports: 1001, from: any, action: accept, name: open}
  - {protocol: udp, ports: 1002, from: any, action: drop, name: shut, log: true}
outbound: []
";

/// How many packets are sent before the interval, and within it: too few to be suppressed.
const BEFORE: [u64; 3] = [3, 4, 5];
const WITHIN: [u64; 3] = [37, 29, 23];

/// Packets of the two rules, and of those that no rule matches.
type Seen = [u64; 3];

fn send(world: &World, counts: [u64; 3]) {
    for (port, count) in (1001..).zip(counts) {
        world.send_from_one_socket(port, count as u32);
    }
}

fn sum(counts: [Seen; 2]) -> Seen {
    [0, 1, 2].map(|at| counts[0][at] + counts[1][at])
}

/// Reads until a view shows what it should: it is read a moment after a packet at times.
#[track_caller]
fn shows<T: PartialEq + Debug>(view: &str, expected: &T, mut read: impl FnMut() -> T) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = read();
        if found == *expected {
            return;
        }
        let is_over = Instant::now() > deadline;
        assert!(!is_over, "{view} shows {found:?} and not {expected:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The rows of `counters` in JSON.
fn of_json(counters: &Value) -> Seen {
    let rules = counters["rules"].as_array().expect("a list");
    let of_rule = |name: &str| {
        let rule = rules.iter().find(|rule| rule["name"] == name);
        rule.and_then(|rule| rule["packets"].as_u64())
    };
    let reasons = counters["reasons"].as_array().expect("a list").iter();
    let no_match = reasons.filter(|row| {
        row["reason"] == "no-match" && row["action"] == "drop" && row["direction"] == "inbound"
    });
    let no_match: u64 = no_match.filter_map(|row| row["packets"].as_u64()).sum();
    [of_rule("open"), of_rule("shut"), Some(no_match)].map(|it| it.expect("a number"))
}

/// How many packets a capture has, by destination port, as tshark reads it.
fn captured(path: &str) -> BTreeMap<String, u64> {
    let words = ["-n", "-r", path, "-T", "fields", "-e", "udp.dstport"];
    let ran = Command::new("tshark").args(words).output();
    let ran = ran.expect("the tests need tshark: `cargo xtask setup` installs it");
    let mut counts = BTreeMap::new();
    for port in Ran::of(&ran).out.lines() {
        *counts.entry(port.to_owned()).or_default() += 1;
    }
    counts
}

/// Proves A1, O1 and O5: `counters` in all its forms, `top`, `metrics`, `run`, `log` and a capture
/// show the same packets for the same interval, to the packet.
#[test]
fn all_views_show_the_same_packets() {
    let world = World::new();
    let path = file(world.dir.path(), "seen.yaml", POLICY);
    let run = Running::start(&world, &[&path, "--json", "--interval", "0.5"]);
    run.says(r#""event":"applied""#);
    let read = |words: &[&str]| world.run(&[&["counters"], words].concat()).ok();
    let json = |words: &[&str]| of_json(&read(&[words, &["--json"]].concat()).json()[0]);

    // The watchers have begun when they see what nothing else counts: datagrams to port 1004.
    let probes = std::cell::Cell::new(0);
    let probe = || {
        probes.set(probes.get() + 1);
        world.send_from_one_socket(1004, 1);
    };
    send(&world, BEFORE);
    shows("counters", &BEFORE, || json(&[]));
    let log = Running::following(&world, &["--json"], r#""local_port":1004"#, probe);
    let capture = world.dir.path().join("drops.pcapng").display().to_string();
    let writing = Running::of(&mut world.command(&["log", "--write", &capture]));
    while !std::fs::metadata(&capture).is_ok_and(|about| about.len() > 200) {
        assert!(probes.get() < 300, "the capture does not begin");
        probe();
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut top = Tty::top(&world, &[], &[]);
    top.until("the rules are shown", |top| top.line("[shut]").is_some());
    let before = sum([BEFORE, [0, 0, probes.get()]]);
    shows("counters", &before, || json(&[]));
    read(&["--reset"]);

    send(&world, WITHIN);
    let all = sum([before, WITHIN]);
    shows("counters", &all, || json(&[]));
    shows("counters --since-reset", &WITHIN, || {
        json(&["--since-reset"])
    });
    let csv = read(&["--csv"]).out;
    let of_csv = |row: &str, at: usize| {
        let row = csv.lines().find(|line| line.contains(row));
        let fields: Vec<&str> = row
            .unwrap_or_else(|| panic!("{row:?}: {csv}"))
            .split(',')
            .collect();
        fields[at].parse::<u64>().expect("a number")
    };
    // Packets are the 13th of the columns.
    let from_csv =
        [",open,", ",shut,", "inbound,reason,,,,drop,no-match,"].map(|it| of_csv(it, 12));
    assert_eq!(from_csv, all, "{csv}");
    // As people read it: among the words of the row.
    let has = |text: &str, row: &str, number: u64| {
        let line = text
            .lines()
            .find(|line| line.contains(row))
            .unwrap_or_default();
        line.split_whitespace()
            .any(|word| word == number.to_string())
    };
    let rows = ["[open]", "[shut]", "no-match"];
    let text = read(&[]).out;
    for (row, number) in rows.into_iter().zip(all) {
        assert!(has(&text, row, number), "{row} {number}: {text}");
        top.until(row, |top| {
            let line = top.line(row).unwrap_or_default();
            has(&line, row, number)
        });
    }

    let metrics = world.run(&["metrics"]).ok().out;
    let series = |name: &str, with: &str| {
        let line = metrics.lines().find(|line| {
            line.starts_with(name) && line.contains("\"inbound\"") && line.contains(with)
        });
        let line = line.unwrap_or_else(|| panic!("{name} {with}: {metrics}"));
        let number = line.rsplit(' ').next().unwrap_or_default();
        number.parse::<u64>().unwrap_or_else(|_| panic!("{line}"))
    };
    let from_metrics = [
        series("sgctl_rule_packets_total{", "[open]"),
        series("sgctl_rule_packets_total{", "[shut]"),
        series("sgctl_reason_packets_total{", "\"no-match\""),
    ];
    assert_eq!(from_metrics, all, "{metrics}");

    // `run` prints counters, and each packet of the rule that logs.
    let (mut counted, mut logged) = ([0; 3], 0);
    shows("run", &(all, BEFORE[1] + WITHIN[1]), || {
        while let Ok(line) = run.lines.try_recv() {
            let value: Value = serde_json::from_str(&line).expect("JSON");
            match value["event"].as_str() {
                Some("counters") => counted = of_json(&value),
                Some("packet") if value["local_port"] == 1002 => logged += 1,
                _ => {}
            }
        }
        (counted, logged)
    });

    let ended = |watcher: Running| {
        let (code, lines, err) = watcher.end_with_lines(Signal::SIGINT);
        assert_eq!(code, Some(0), "{err}");
        lines
    };
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for line in ended(log).lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        if value["event"] == "packet" {
            let port = value["local_port"].as_u64().unwrap_or_default();
            *found.entry(port).or_default() += 1;
        }
    }
    found.remove(&1004);
    // What passes and is not logged is no event.
    assert_eq!(
        found,
        BTreeMap::from([(1002, WITHIN[1]), (1003, WITHIN[2])])
    );
    ended(writing);
    let mut found = captured(&capture);
    found.remove("1004");
    let expected = [
        ("1002".to_owned(), WITHIN[1]),
        ("1003".to_owned(), WITHIN[2]),
    ];
    assert_eq!(found, BTreeMap::from(expected));
    assert_eq!(run.end(Signal::SIGTERM).0, Some(0));
}

/// In a pipe, with NO_COLOR and a C locale no view writes an escape code or a character that is not
/// ASCII, and each says the same as elsewhere. `top`, which draws, is tried in `top`.
#[test]
fn views_in_a_pipe_and_a_c_locale() {
    let (world, _) = World::enforcing("seen.yaml", POLICY);
    send(&world, BEFORE);
    shows("counters", &BEFORE, || {
        of_json(&world.run(&["counters", "--json"]).ok().json()[0])
    });
    let views: [&[&str]; 8] = [
        &["counters"],
        &["status"],
        &["flows"],
        &["log", "--last", "5"],
        &["history"],
        &["show"],
        &["metrics"],
        &["explain", "--iface", "nic", "udp", "192.0.2.2", ":1002"],
    ];
    for words in views {
        let shown = |environment: &[(&str, &str)]| {
            let mut command = world.command(words);
            let ran = command.envs(environment.iter().copied()).output();
            let text = Ran::of(&ran.expect("sgctl starts")).ok().out;
            assert!(!text.is_empty() && !text.contains('\x1b'), "{text:?}");
            text
        };
        // Without what is another each time: how long ago it was.
        let shape = |text: &str| {
            let text = text.replace("just now", "0 s ago").replace('→', ">");
            let digits = text.chars().filter(|c| !c.is_ascii_digit());
            let text: String = digits.collect();
            let words: Vec<&str> = text.split_whitespace().collect();
            words.join(" ")
        };
        // Between the two a packet of the link itself may come.
        shows(words[0], &true, || {
            let plain = shown(&[("LC_ALL", "C"), ("NO_COLOR", "1"), ("TERM", "dumb")]);
            assert!(plain.is_ascii(), "{plain}");
            let other = shown(&[("LC_ALL", "C.UTF-8"), ("TERM", "xterm-256color")]);
            shape(&plain) == shape(&other)
        });
    }
}

/// Proves C12: each view says that an interface of its attachment is not enforced any more, also
/// where it is about another one, whose flows it shares, and while somebody follows.
#[test]
fn every_view_says_that_an_interface_is_not_enforced() {
    let world = World::new();
    world.add_pair("second", "other");
    let policy = file(world.dir.path(), "seen.yaml", POLICY);
    let words = ["apply", &policy, "--iface", "nic", "--iface", "second"];
    world.run(&words).ok();
    let says = "second is not enforcing (interface gone)";
    for command in ["flows", "log", "counters"] {
        let all = world.run(&[command]).all();
        assert!(!all.contains("not enforcing"), "{command}: {all}");
    }
    let following = Running::following(&world, &[], "192.0.2.1:1003", || {
        world.send_udp_to_node(1003);
    });
    super::world::ip(&["-n", &world.node, "link", "del", "second"]);
    for command in ["flows", "log", "counters"] {
        let all = world.run(&[command]).all();
        assert!(all.contains(says), "{command}: {all}");
    }
    let listed = world.run(&["flows", "--iface", "nic"]).ok().out;
    assert!(listed.contains(says), "{listed}");
    let listed = world.run(&["flows", "--json"]).ok().json();
    let interfaces = &listed[0]["interfaces"];
    assert_eq!(interfaces[0]["interface"], "nic", "{listed}");
    assert_eq!(interfaces[0]["health"], "enforcing", "{listed}");
    assert_eq!(interfaces[1]["interface"], "second", "{listed}");
    assert_eq!(interfaces[1]["health"], "interface-gone", "{listed}");
    assert_eq!(
        interfaces[1]["faults"][0]["code"], "interface-gone",
        "{listed}"
    );
    // Only what is asked for: `log` is about the events of this one.
    let all = world.run(&["log", "--iface", "nic"]).all();
    assert!(!all.contains("not enforcing"), "{all}");
    // It looks every few seconds.
    std::thread::sleep(Duration::from_secs(4));
    let (code, err) = following.end(Signal::SIGINT);
    assert_eq!(code, Some(0));
    assert_eq!(err.matches(says).count(), 1, "{err}");
}

/// Proves O3: that no event fits is not said as if nothing was dropped, for what nobody logs and
/// nobody watches leaves none.
#[test]
fn an_empty_log_does_not_say_that_nothing_was_dropped() {
    let (world, _) = World::enforcing("seen.yaml", POLICY);
    let why = "what is dropped leaves one where the policy logs it (`log: true` of its rule, \
               `log-no-match`) or while somebody watches (--follow)";
    let none = world.run(&["log"]);
    assert_eq!(none.out, "");
    assert!(
        none.err.contains(&format!("no event is there: {why}")),
        "{}",
        none.err
    );
    // Another event is there, and of this drop there is none.
    send(&world, [0, 1, 1]);
    shows("counters", &1, || {
        of_json(&world.run(&["counters", "--json"]).ok().json()[0])[2]
    });
    let none = world.run(&["log", "--port", "1003"]);
    assert_eq!(none.out, "");
    let said = format!("no event that is there fits the filter: {why}");
    assert!(none.err.contains(&said), "{}", none.err);
}
