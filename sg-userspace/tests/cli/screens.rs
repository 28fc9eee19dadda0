//! Output on terminals of several sizes: it never exceeds the width or height, and says what it
//! leaves out.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::pty::openpty;

use super::pty;
use super::world::{Ran, World, file, ip};

/// A command on its own pseudo-terminal, with all that it writes there.
struct OnTerminal {
    child: Child,
    master: File,
    written: Receiver<Vec<u8>>,
    seen: String,
}

impl OnTerminal {
    fn start(mut command: Command, columns: u16, lines: u16) -> OnTerminal {
        let pty = openpty(&pty::size(columns, lines), None).unwrap();
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        let (child, written) = pty::start(command, &pty);
        // The reader sees the end of the output only if no other descriptor of the terminal is
        // open.
        drop(pty.slave);
        let master = File::from(pty.master);
        OnTerminal {
            child,
            master,
            written,
            seen: String::new(),
        }
    }

    /// Reads until `done` returns true, or to the end.
    #[track_caller]
    fn read(&mut self, done: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done(&self.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.written.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("the output so far: {}", self.seen),
            }
        }
    }

    /// Reads all output to the end of the command.
    fn all(mut self) -> String {
        self.read(|_| false);
        self.child.wait().unwrap();
        std::mem::take(&mut self.seen)
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text without escape sequences for colours and the cursor.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut is_code = false;
    for c in text.chars() {
        match c {
            '\x1b' => is_code = true,
            _ if is_code => is_code = !c.is_ascii_alphabetic(),
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

/// What a command shows on a terminal of so many columns.
pub(super) fn shown(world: &World, words: &[&str], columns: u16) -> String {
    plain(&OnTerminal::start(world.command(words), columns, 40).all())
}

#[track_caller]
fn assert_fits(text: &str, columns: u16) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= usize::from(columns),
            "{columns}: {line}\n{text}"
        );
    }
}

const POLICY: &str = "\
name: the-policy-of-the-web-frontend
inbound:
  - {protocol: tcp, ports: 22, from: 198.51.100.0/24, action: accept, description: shells of administrators}
  - {protocol: icmp, from: any, action: accept, description: pings}
  - {protocol: icmpv6, from: any, action: accept}
outbound: [{protocol: udp, to: any, action: accept}]
";

fn with_flows() -> World {
    let world = World::new();
    let (ours, theirs) = (
        "2001:db8:1234:5678:9abc::1",
        "2001:db8:1234:5678:9abc:def0:1234:5678",
    );
    for (netns, nic, address) in [(&world.node, "nic", ours), (&world.peer, "nic", theirs)] {
        let address = format!("{address}/64");
        ip(&["-n", netns, "addr", "add", &address, "dev", nic, "nodad"]);
    }
    let path = file(world.dir.path(), "p.yaml", POLICY);
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    world.ping_node(2);
    for to in ["192.0.2.2", theirs] {
        let send = format!("exec 3> /dev/udp/{to}/65000; echo x >&3");
        ip(&["netns", "exec", &world.node, "bash", "-c", &send]);
    }
    world
}

/// No row is wider than the terminal, no number is cut, nor an address but in the text of a rule,
/// and columns that do not fit are named.
#[test]
fn tables_fit_the_terminal() {
    let world = with_flows();
    for columns in [60, 80, 100, 132] {
        for command in ["status", "counters", "flows"] {
            let text = shown(&world, &[command], columns);
            assert_fits(&text, columns);
            match command {
                "status" => {
                    assert!(text.contains("nic") && text.contains("enforcing"), "{text}");
                    let heading = text.lines().next().unwrap();
                    let has_all = heading.contains("EGRESS") && heading.contains("APPLIED");
                    assert_eq!(text.contains("no room for"), !has_all, "{text}");
                }
                "counters" => {
                    let heading = text.lines().nth(1).unwrap();
                    // Numbers come before text.
                    for column in ["PACKETS", "BYTES", "REPLIES"] {
                        assert!(heading.contains(column), "{text}");
                    }
                    let is_whole = text.contains("tcp 22 from 198.51.100.0/24");
                    assert_eq!(is_whole, columns >= 80, "{text}");
                    let has_all = ["DESCRIPTION", "BYTES", "REPLIES"];
                    let note = text.lines().find(|line| line.starts_with("no room for"));
                    for column in has_all {
                        let is_named = note.is_some_and(|note| note.contains(column));
                        assert_ne!(heading.contains(column), is_named, "{column}: {text}");
                    }
                }
                _ => {
                    let v6 = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65000";
                    assert!(
                        text.contains(v6) && text.contains("192.0.2.2:65000"),
                        "{text}"
                    );
                }
            }
        }
    }
}

/// A long name gives way to what `status` knows of the interface, and is not cut on a wide
/// terminal.
#[test]
fn a_long_policy_name_gives_way() {
    let world = World::new();
    let name = "a-name-of-fifty-letters-that-says-where-it-belongs";
    let policy = format!("name: {name}\ninbound: []\n");
    let path = file(world.dir.path(), "long.yaml", &policy);
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let text = shown(&world, &["status"], 80);
    assert_fits(&text, 80);
    let heading = text.lines().next().unwrap();
    for column in ["HEALTH", "XDP", "EGRESS", "SINCE", "POLICY", "GEN"] {
        assert!(heading.contains(column), "{column}: {text}");
    }
    assert!(text.contains(&name[..8]), "{text}");
    assert!(shown(&world, &["status"], 200).contains(name), "{text}");
}

/// At any width, the table marks what rules counted that are no longer in the policy, in one row
/// or with --all in one for each, so that none is mistaken for one in force.
#[test]
fn removed_rules_are_marked() {
    let world = with_flows();
    let path = file(
        world.dir.path(),
        "q.yaml",
        &POLICY.replace("protocol: icmp,", "protocol: gre,"),
    );
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    for columns in [60, 80, 160] {
        for (words, what) in [
            (&["counters"][..], "removed rules"),
            (&["counters", "--all"], "icmp from any"),
        ] {
            let text = shown(&world, words, columns);
            let mut rows = text.lines().filter(|line| line.contains(" gone "));
            let row = rows.next().unwrap_or_else(|| panic!("{text}"));
            let words: Vec<&str> = row.split_whitespace().take(3).collect();
            assert!(matches!(words[0], "in" | "inbound"), "{columns}: {text}");
            assert_eq!(words[1..], ["gone", "accept"], "{columns}: {text}");
            assert!(row.contains(what), "{columns}: {text}");
            assert!(rows.next().is_none(), "{columns}: {text}");
            let described = "(no longer in the policy)";
            let has_room = columns == 160 && what != "removed rules";
            assert_eq!(row.contains(described), has_room, "{columns}: {text}");
        }
    }
}

/// If a table is higher than the terminal, the rows with the highest counts are shown, and a line
/// says how to see the others.
#[test]
fn a_frame_fits_the_terminal() {
    let world = World::new();
    let rules: String = (1..=40)
        .map(|port| format!("  - {{protocol: tcp, ports: {port}, from: any, action: accept}}\n"))
        .collect();
    let ping = "  - {protocol: icmp, from: any, action: accept}\n";
    let path = file(
        world.dir.path(),
        "p.yaml",
        &format!("inbound:\n{rules}{ping}"),
    );
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    world.ping_node(2);
    let watch = ["counters", "--iface", "nic", "--watch", "0.1"];
    let run = [
        "run",
        &path,
        "--iface",
        "nic",
        "--persist",
        "--interval",
        "0.1",
    ];
    for (columns, lines, words) in [(60, 12, &watch[..]), (80, 24, &watch), (80, 16, &run)] {
        let mut on = OnTerminal::start(world.command(words), columns, lines);
        // Waits for the second frame, because the first one is complete then.
        on.read(|text| text.matches("DIR ").count() >= 2 && text.ends_with("\x1b[J"));
        let frames = plain(&on.seen);
        let first = frames.split("nic in ").nth(1).unwrap();
        assert_fits(first, columns);
        assert!(first.lines().count() < usize::from(lines), "{first}");
        let said: Vec<&str> = first.split_whitespace().collect();
        let said = said.join(" ");
        assert!(said.contains(" 41 accept icmp from any"), "{first}");
        assert_eq!(said.matches(" total ").count(), 2, "{first}");
        // There is no room for the command with its options.
        let more = "more rows: `counters --iface nic`";
        assert!(first.contains(more), "{first}");
        // The `^C` that the terminal echoes is erased again.
        on.master.write_all(b"\x03").unwrap();
        on.read(|_| false);
        let behind = on.seen.rsplit_once("^C").expect("it is echoed").1;
        assert!(behind.contains("\r\x1b[K"), "{behind:?}");
        let ended = on.child.wait().unwrap();
        match words[0] {
            "run" => assert_eq!(ended.code(), Some(0)),
            _ => assert_eq!(ended.signal(), Some(libc::SIGINT)),
        }
    }
}

/// A line of the policy is cut at the width of the terminal, but the part with the error stays
/// visible.
#[test]
fn an_error_fits_the_terminal() {
    let world = World::new();
    let rule =
        "{protocol: tcp, ports: 70000, from: [192.0.2.1, 192.0.2.2, 192.0.2.3], action: accept}";
    let path = file(
        world.dir.path(),
        "p.yaml",
        &format!("inbound:\n  - {rule}\n"),
    );
    for columns in [60, 80] {
        let said = shown(&world, &["check", &path], columns);
        assert!(said.contains("ports: 70000"), "{said}");
        let quoted = said.lines().filter(|line| line.contains(" │ "));
        for line in quoted {
            assert!(
                line.chars().count() <= usize::from(columns),
                "{line}\n{said}"
            );
        }
    }
}

/// The lab prints one line for each attempt and each counter.
#[test]
fn the_lab_fits_the_terminal() {
    for (columns, has_bytes) in [(60, false), (80, true)] {
        let lab = OnTerminal::start(super::world::sgctl(&["lab"]), columns, 40).all();
        let text = plain(&lab);
        let text = text.split_once("Policy tke").expect("its report").1;
        assert_fits(text, columns);
        for (row, rule) in [
            ("✓ tcp 22     accepted  inbound #6", "tcp 22 from 0.0.0.0/0"),
            ("✓ tcp 443    accepted  outbound #1", "all to 0.0.0.0/0"),
        ] {
            let row = text.lines().find(|line| line.contains(row));
            let row = row.unwrap_or_else(|| panic!("{text}"));
            assert!(
                row.ends_with("↩ rules") || row.ends_with("↩ flows"),
                "{text}"
            );
            assert_eq!(row.contains(rule), has_bytes, "{text}");
        }
        let counted = text
            .lines()
            .find(|line| line.starts_with("  inbound   1  accept"));
        let counted = counted.unwrap_or_else(|| panic!("{text}"));
        assert!(
            counted.ends_with("tcp 30000-32768 from 0.0.0.0/0"),
            "{counted}"
        );
        assert_ne!(
            text.contains("no room for bytes, replies"),
            has_bytes,
            "{text}"
        );
    }
}

/// What `run` says is broken between words, and goes on below in the next line.
#[test]
fn lines_of_run_fit_the_terminal() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", POLICY);
    let names = [
        "nic",
        "an-interface-1",
        "an-interface-2",
        "an-interface-3",
        "an-interface-4",
    ];
    let mut words = vec!["run", &path, "--wait"];
    words.extend(names.iter().flat_map(|name| ["--iface", name]));
    let mut on = OnTerminal::start(world.command(&words), 60, 24);
    on.read(|text| text.contains("DIR "));
    on.master.write_all(b"\x03").unwrap();
    let said = plain(&on.all());
    let (above, _) = said
        .split_once("nic in ")
        .unwrap_or_else(|| panic!("{said}"));
    assert_fits(above, 60);
    let joined: Vec<&str> = above.split_whitespace().collect();
    let joined = joined.join(" ");
    assert!(joined.contains("waiting for an-interface-1,"), "{above}");
    assert!(
        joined.contains("an-interface-4, which do not exist yet"),
        "{above}"
    );
}

/// In a C locale there is nothing but ASCII, on a terminal and in a pipe. What programs read stays
/// as it is.
#[test]
fn a_c_locale_shows_ascii_alone() {
    let world = with_flows();
    let described = POLICY.replace("pings", "größer → kleiner");
    let path = file(world.dir.path(), "ü.yaml", &described);
    let bad = file(
        world.dir.path(),
        "bad.yaml",
        "inbound: [{protocol: ü, from: any}]\n",
    );
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let packet = ["in", "udp", "192.0.2.2", ":65000"];
    let explain = [&["explain", "--iface", "nic"][..], &packet].concat();
    for words in [
        &["status"][..],
        &["counters"],
        &["counters", "--sort", "packets"],
        &["flows"],
        &["log"],
        &["history"],
        &["check", &path],
        &["check", &bad],
        &["diff", &path, "builtin:tke"],
        &["apply", "builtin:tke", "--iface", "nic", "--dry-run"],
        &["apply", &bad, "--iface", "nic"],
        &["apply", "--set", "ü", "builtin:tke", "--iface", "nic"],
        &explain,
        &["templates"],
        &["flows", "--rule", "ü"],
    ] {
        let mut command = world.command(words);
        command.env("LC_ALL", "C");
        let piped = Ran::of(&command.output().unwrap());
        assert!(
            piped.out.is_ascii() && piped.err.is_ascii(),
            "{}",
            piped.all()
        );
        let text = OnTerminal::start(command, 80, 40).all();
        assert!(text.is_ascii() && !text.is_empty(), "{words:?}: {text}");
        assert_fits(&plain(&text), 80);
    }
    for words in [
        &["show"][..],
        &["counters", "--json"],
        &["counters", "--csv"],
    ] {
        let output = world.command(words).env("LC_ALL", "C").output().unwrap();
        let text = Ran::of(&output).ok().out;
        assert!(text.contains("größer → kleiner"), "{words:?}: {text}");
    }
    let mut lab = super::world::sgctl(&["lab"]);
    lab.env("LC_ALL", "C");
    let text = OnTerminal::start(lab, 80, 40).all();
    let text = plain(&text);
    assert!(text.is_ascii() && text.contains("+ tcp 22"), "{text}");
}
