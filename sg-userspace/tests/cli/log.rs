//! `sgctl log`: beside `run` and beside others, with filters, and how it ends.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::run::Running;
use super::world::{World, file, ip};

/// Lets port 22 in, drops port 53 and logs nothing.
const POLICY: &str = "name: web
inbound:
  - {protocol: tcp, ports: 22, from: any, action: accept, name: ssh}
  - {protocol: udp, ports: 53, from: any, action: drop, name: dns}
";

fn applied() -> World {
    let (world, _) = World::enforcing("web.yaml", POLICY);
    world
}

/// A datagram from the node, over whichever interface leads to the address.
pub(super) fn send_udp_from_node(world: &World, address: &str, port: u16) {
    let send = format!("echo x > /dev/udp/{address}/{port}");
    let sent = Command::new("ip")
        .args(["netns", "exec", &world.node, "bash", "-c", &send])
        .output();
    assert!(sent.is_ok(), "the tests need iproute2");
}

impl Running {
    /// `sgctl log --follow`, once it sees what `send` sends, of which it shows `words`.
    pub(super) fn following(world: &World, words: &[&str], sees: &str, send: impl Fn()) -> Running {
        let running = Running::of(world.command(&["log", "--follow"]).args(words));
        running.sees(sees, send);
        running
    }

    /// Sends again and again, until it is shown.
    #[track_caller]
    pub(super) fn sees(&self, words: &str, send: impl Fn()) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "{words} was not shown");
            send();
            let until = Instant::now() + Duration::from_millis(400);
            while let Ok(line) = self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                if line.contains(words) {
                    return;
                }
            }
        }
    }
}

/// Proves O3: what is dropped is shown live beside `run`, though no rule logs; `run` shows what its
/// policy logs and nothing else, and each of several watchers all of it.
#[test]
fn drops_are_shown_beside_run_and_other_watchers() {
    let world = World::new();
    let path = file(world.dir.path(), "web.yaml", POLICY);
    let run = Running::start(&world, &[&path, "--interval", "60"]);
    run.says("applied web on nic");
    let no_match = "drop in  udp 192.0.2.2:";
    let dropped = || world.send_udp_to_node(99);
    let first = Running::following(&world, &[], "192.0.2.1:99", dropped);
    let other = Running::following(&world, &["--json"], r#""local_port":99"#, dropped);
    world.send_udp_to_node(53);
    let line = first.line("192.0.2.1:53");
    assert!(line.contains(no_match), "{line}");
    assert!(line.ends_with("44 B rule 2 dns web.yaml:4"), "{line}");
    other.says(r#""local_port":53"#);
    world.send_udp_to_node(98);
    let line = first.line("192.0.2.1:98");
    assert!(line.ends_with("44 B no-match"), "{line}");
    let (code, err) = first.end(Signal::SIGINT);
    assert_eq!(code, Some(0));
    assert!(err.contains(" shown"), "{err}");
    assert_eq!(other.end(Signal::SIGTERM).0, Some(0));
    let (code, lines, _) = run.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0));
    assert!(!lines.contains("192.0.2.1:53"), "{lines}");
    world.assert_untouched();
}

/// Proves O1: what was shown is counted as delivered, and nothing else as lost, although the
/// interface is made anew meanwhile, and detached and attached again.
#[test]
fn what_was_shown_is_counted_whatever_happens_to_the_interface() {
    let world = applied();
    let path = world.dir.path().join("web.yaml");
    let apply = || {
        world
            .run(&["apply", path.to_str().unwrap(), "--iface", "nic"])
            .ok()
    };
    let sees = |running: &Running, port: u16| {
        let words = format!(r#""local_port":{port}"#);
        running.sees(&words, || world.send_udp_to_node(port));
    };
    // Counted before anybody watched, and so nothing to any watcher.
    let earlier = Running::following(&world, &["--json"], r#""local_port":98"#, || {
        world.send_udp_to_node(98);
    });
    assert_eq!(earlier.end(Signal::SIGINT).0, Some(0));
    let log = Running::following(&world, &["--json"], r#""local_port":99"#, || {
        world.send_udp_to_node(99);
    });
    sees(&log, 53);
    ip(&["-n", &world.node, "link", "del", "nic"]);
    world.add_veth();
    apply();
    sees(&log, 97);
    sees(&log, 53);
    world.run(&["detach", "--iface", "nic"]).ok();
    apply();
    sees(&log, 96);
    let (code, lines, err) = log.end_with_lines(Signal::SIGINT);
    assert_eq!(code, Some(0), "{err}");
    let end: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    let rows = end["tally"].as_array().unwrap();
    let sum = |of: &str| {
        rows.iter()
            .map(|row| row[of].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(Some(sum("delivered")), end["shown"].as_u64(), "{end}");
    assert_eq!(
        sum("produced"),
        sum("delivered") + sum("suppressed"),
        "{end}"
    );
    assert_eq!(sum("lost"), 0, "{end}");
    // A row for each rule and reason that was seen.
    let decided: Vec<_> = rows
        .iter()
        .map(|row| row["reason"].as_str().unwrap())
        .collect();
    assert_eq!(decided, ["no-match", "rule"], "{end}");
}

/// Proves O3: a watcher follows an interface that is renamed, and shows what is attached later if
/// it was asked for, each line with its interface.
#[test]
fn a_watcher_follows_interfaces_that_are_renamed_or_come() {
    let world = World::new();
    let path = file(world.dir.path(), "web.yaml", POLICY);
    let node = |words: &str| {
        let all: Vec<&str> = words.split(' ').collect();
        ip(&[&["-n", world.node.as_str()][..], &all].concat());
    };
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let dropped = || world.send_udp_to_node(99);
    let all = Running::following(&world, &[], "192.0.2.1:99", dropped);
    let chosen = Running::following(&world, &["--iface", "nic*"], "192.0.2.1:99", dropped);
    node("link set nic name nic9");
    for log in [&all, &chosen] {
        log.sees("nic9 drop in  udp", dropped);
    }
    node("link add nic7 type veth peer name end7");
    node("link set nic7 up");
    node("link set end7 up");
    node("addr add 203.0.113.1/24 dev nic7");
    node("neigh replace 203.0.113.2 lladdr 02:00:00:00:00:07 nud permanent dev nic7");
    let send = || send_udp_from_node(&world, "203.0.113.2", 9);
    // In an attachment of its own.
    world.run(&["apply", &path, "--iface", "nic7"]).ok();
    for log in [&all, &chosen] {
        log.sees("nic7 drop out udp", send);
    }
    let named = world.run(&["log", "--iface", "nic9", "--last", "1"]);
    assert!(named.out.contains("192.0.2.1:99"), "{}", named.all());
    let (code, err) = all.end(Signal::SIGINT);
    assert_eq!(code, Some(0));
    assert!(err.contains("nic7: attached; shown from now on"), "{err}");
    assert!(chosen.end(Signal::SIGINT).1.contains("nic7: attached"));
}

/// Proves O3: the newest events are still there when somebody asks later, and filters choose.
#[test]
fn the_newest_events_are_still_there_and_filters_choose() {
    let world = applied();
    let none = world.run(&["log"]);
    assert_eq!((none.code, none.out.as_str()), (0, ""));
    assert!(none.err.contains("no event is there"), "{}", none.err);
    let watching = Running::following(&world, &[], "192.0.2.1:97", || world.send_udp_to_node(97));
    world.send_udp_to_node(53);
    watching.says("> 192.0.2.1:53 ");
    world.ping_node(1);
    watching.says("icmp");
    send_udp_from_node(&world, "192.0.2.2", 7);
    watching.says("> 192.0.2.2:7 ");
    watching.end(Signal::SIGINT);

    let shown = |words: &[&str]| {
        let ran = world.run(&[&["log", "--last", "1000"], words].concat());
        assert_eq!(ran.code, 0, "{}", ran.all());
        ran.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // The whole of an end: a port from which something was sent may begin with the same digits.
    let all = shown(&[]);
    assert!(all.len() >= 4, "{all:?}");
    for (words, is_it) in [
        (&["--rule", "dns"][..], "> 192.0.2.1:53 "),
        (&["--rule", "2"], "> 192.0.2.1:53 "),
        (&["--reason", "rule"], "> 192.0.2.1:53 "),
        (&["--port", "53"], "> 192.0.2.1:53 "),
        (&["--proto", "icmp"], "icmp"),
        (&["--to", "192.0.2.2"], "> 192.0.2.2:7 "),
        (
            &["--from", "192.0.2.1/32", "--verdict", "drop"],
            "> 192.0.2.2:7 ",
        ),
    ] {
        let chosen = shown(words);
        let expected: Vec<_> = all.iter().filter(|line| line.contains(is_it)).collect();
        // The columns are as wide as what is shown.
        let count = (chosen.len(), chosen.iter().all(|line| line.contains(is_it)));
        assert_eq!(count, (expected.len(), true), "{words:?}: {chosen:?}");
    }
    for words in [
        &["--reason", "malformed"][..],
        &["--verdict", "accept"],
        &["--from", "203.0.113.0/24"],
        &["--rule", "ssh"],
    ] {
        assert_eq!(shown(words), Vec::<String>::new(), "{words:?}");
    }
    // The newest come last, and no more than was asked for.
    let last = world.run(&["log", "--last", "1"]);
    assert_eq!((last.code, last.out.lines().count()), (0, 1));
    assert!(last.out.contains("> 192.0.2.2:7 "), "{}", last.out);
    assert!(last.err.contains("older"), "{}", last.err);
}

/// Proves O1: what a flood held back is said, in all and by what decided it.
#[test]
fn what_is_not_shown_is_said() {
    let world = applied();
    let watching = Running::following(&world, &[], ":97", || world.send_udp_to_node(97));
    world.send_udp_times(53, 3000);
    watching.says("more packets were to be logged, over the rate limit");
    let (code, err) = watching.end(Signal::SIGINT);
    assert_eq!(code, Some(0));
    assert!(err.contains("nic inbound rule 2 dns web.yaml:4: "), "{err}");
    assert!(err.contains(" of 3,000 not shown"), "{err}");
}

/// Proves O3: what `nohup` starts goes on when its terminal closes, and is ended by SIGTERM.
#[test]
fn it_outlives_its_terminal_if_it_is_to() {
    let world = applied();
    let mut command = world.command(&["log", "--follow"]);
    // SAFETY: signal(2) may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let log = Running::of(&mut command);
    log.sees("192.0.2.1:98", || world.send_udp_to_node(98));
    log.signal(Signal::SIGHUP);
    log.sees("192.0.2.1:99", || world.send_udp_to_node(99));
    assert_eq!(log.end(Signal::SIGTERM).0, Some(0));
}

/// Proves O2: a watcher names the rules of the policy that has come back when another one was not
/// confirmed, and its filter finds them at their places.
#[test]
fn a_policy_that_comes_back_has_its_rules_again() {
    let world = applied();
    let dropped = |port| world.send_udp_to_node(port);
    let all = Running::following(&world, &[], "rule 2 dns web.yaml:4", || dropped(53));
    let second = Running::following(&world, &["--rule", "inbound:2"], "rule 2 dns", || {
        dropped(53);
    });
    let words = ["--iface", "nic", "--confirm-within", "3s"];
    let policy = file(world.dir.path(), "mistake.yaml", super::confirm::MISTAKE);
    world
        .run(&[&["apply", policy.as_str()], &words[..]].concat())
        .ok();
    all.sees("44 B no-match", || dropped(53));
    super::confirm::wait_until_undone(&world);
    // What it has shown before.
    second.lines.try_iter().for_each(drop);
    all.sees("44 B rule 2 dns web.yaml:4", || dropped(53));
    second.sees("rule 2 dns web.yaml:4", || dropped(53));
}

/// Proves O3: it ends when nobody reads what it prints any more.
#[test]
fn it_ends_with_its_reader() {
    let world = applied();
    let mut child = world
        .command(&["log", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let deadline = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it still runs");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), Some(0));
}

/// Proves O3: a rule that there is not would choose nothing for ever.
#[test]
fn an_unknown_rule_is_refused_with_one_that_is_near() {
    let world = applied();
    for command in [
        &["flows"][..],
        &["log"],
        &["log", "--follow"],
        &["log", "--write", "-"],
    ] {
        let refused = |rule: &str, says: &str| {
            let ran = world.run(&[command, &["--rule", rule]].concat());
            let said =
                format!("no rule of the policy in force has the name or position `{rule}`{says}");
            ran.fails(2, &said);
        };
        refused("shs", "; did you mean `ssh`?");
        refused("inbound:dsn", "; did you mean `dns`?");
        let list = format!(": {} lists them", world.typed("counters"));
        for rule in ["outbound:dns", "3", "frobnicate"] {
            refused(rule, &list);
        }
    }
    world
        .run(&["log", "--rule", "inbound:2"])
        .fails(0, "no event is there");
    world
        .run(&["flows", "--iface", "nci"])
        .fails(1, "there is no interface `nci` in");
    world
        .run(&["log", "--reason", "nomatch"])
        .fails(2, "did you mean `no-match`");
    world.run(&["log", "--last", "0"]).fails(2, "at least 1");
}

/// Proves O3: where nothing is attached it says so.
#[test]
fn without_an_attachment_there_is_nothing_to_show() {
    let world = World::new();
    world
        .run(&["log", "--follow"])
        .fails(1, "nothing is attached");
    world
        .run(&["log", "--write", "-", "--json"])
        .fails(2, "--write -");
    world.run(&["log", "--reason", "bad"]).fails(2, "no-match");
}
