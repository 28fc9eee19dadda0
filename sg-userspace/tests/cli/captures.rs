//! Captures of `sgctl log --write`, read by others: capinfos and tshark.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::Signal;

use super::log::send_udp_from_node;
use super::pty::{size, start};
use super::run::Running;
use super::world::{Ran, World};

const POLICY: &str = "name: web
inbound:
  - {protocol: udp, ports: 53, from: any, action: drop, name: dns}
";

fn applied() -> World {
    let (world, _) = World::enforcing("web.yaml", POLICY);
    world
}

/// What a program of Wireshark's prints.
#[track_caller]
fn read(program: &str, words: &[&str]) -> String {
    let ran = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output();
    let ran = ran.unwrap_or_else(|e| panic!("{program}: {e}; `cargo xtask setup` installs it"));
    // It says on standard error that it runs as root.
    let ran = Ran::of(&ran);
    assert_eq!(ran.code, 0, "{}", ran.all());
    ran.out
}

/// These fields of the packets that a filter of tshark's finds.
#[track_caller]
fn found(path: &str, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut words = vec!["-n", "-r", path, "-Y", filter, "-T", "fields"];
    for field in fields {
        words.extend(["-e", field]);
    }
    let out = read("tshark", &words);
    out.lines().map(str::to_owned).collect()
}

/// Waits until a capture has a packet, which the watcher flushes as it comes.
fn until_captured(path: &Path, send: impl Fn()) {
    let is_there = || std::fs::metadata(path).is_ok_and(|file| file.len() > 200);
    for _ in 0..200 {
        if is_there() {
            return;
        }
        send();
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("{} has no packet", path.display());
}

/// Proves O2: on a full disk the error says so, and the capture up to there can be read.
#[test]
fn a_capture_that_finds_no_more_room_can_be_read() {
    let world = applied();
    let disk = world.dir.small("disk", 64 << 10).expect("a small disk");
    // Leaves one page.
    std::fs::write(disk.join("filler"), [0; 60 << 10]).expect("there is room yet");
    let path = disk.join("drops.pcapng");
    let name = path.to_str().unwrap();
    let mut watching = world.command(&["log", "--write", name]);
    let mut watching = watching.stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while watching.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on");
        world.send_udp_to_node(53);
    }
    let ran = Ran::of(&watching.wait_with_output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.err.contains("No space left"), "{}", ran.all());
    let packets = found(name, "udp.dstport == 53", &["frame.number"]).len();
    assert!(packets > 5, "{packets}");
    let infos = read("capinfos", &["-M", "-c", name]);
    let said = packets.to_string();
    let count = |line: &str| line.strip_prefix("Number of packets:").map(str::trim) == Some(&said);
    assert!(infos.lines().any(count), "{packets}: {infos}");
}

/// Proves O2: a capture has the packets as they were sent, with the verdict of the hook, what
/// decided, direction and interface; capinfos accepts it and tshark's filters find them.
#[test]
fn a_capture_is_read_by_wireshark() {
    let world = applied();
    let path = world.dir.path().join("drops.pcapng");
    let name = path.to_str().unwrap();
    let watching = Running::of(&mut world.command(&["log", "--write", name, "--snap", "60"]));
    until_captured(&path, || world.send_udp_to_node(97));
    for _ in 0..3 {
        world.send_udp_to_node(53);
    }
    send_udp_from_node(&world, "192.0.2.2", 7);
    // The packets are judged by now, and the last reading takes them.
    let (code, err) = watching.end(Signal::SIGINT);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("written to"), "{err}");

    let infos = read("capinfos", &[name]);
    assert!(infos.contains("pcapng"), "{infos}");
    assert!(infos.contains("Ethernet"), "{infos}");
    assert!(infos.contains("Name = nic"), "{infos}");
    assert!(infos.contains("Number of stat entries = 1"), "{infos}");

    let port = |filter: &str| found(name, filter, &["udp.dstport"]);
    // XDP_DROP is 1, TC_ACT_SHOT is 2.
    let inbound = port("frame.verdict.ebpf_xdp == 1");
    assert_eq!(inbound.iter().filter(|port| *port == "53").count(), 3);
    assert!(inbound.iter().all(|port| port == "53" || port == "97"));
    assert_eq!(port("frame.verdict.ebpf_tc == 2"), ["7"]);
    assert_eq!(
        port(r#"frame.comment contains "rule 1 dns web.yaml:3""#),
        ["53"; 3]
    );
    let no_match = port(r#"frame.comment contains "no-match""#);
    assert!(no_match.contains(&"97".to_owned()) && no_match.contains(&"7".to_owned()));
    // 1 is inbound and 2 is outbound; sent to one receiver.
    assert_eq!(port("frame.packet_flags_direction == 2"), ["7"]);
    assert_eq!(port("frame.packet_flags_direction == 1"), inbound);
    let fields = [
        "frame.comment",
        "frame.interface_name",
        "frame.len",
        "frame.cap_len",
        "ip.src",
    ];
    let first = &found(name, "udp.dstport == 53", &fields)[0];
    // `x` and a line feed behind the headers, filled up by nobody.
    let expected = "drop inbound: rule 1 dns web.yaml:3, generation 1\tnic\t44\t44\t192.0.2.2";
    assert_eq!(first, expected);
}

/// Proves O2: a capture goes to a pipe, as to a Wireshark that shows it live.
#[test]
fn a_capture_is_read_from_a_pipe() {
    let world = applied();
    let path = world.dir.path().join("piped.pcapng");
    let out = std::fs::File::create(&path).unwrap();
    let mut watching = world
        .command(&["log", "--write", "-"])
        .stdout(out)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_captured(&path, || world.send_udp_to_node(53));
    let id = nix::unistd::Pid::from_raw(i32::try_from(watching.id()).unwrap());
    nix::sys::signal::kill(id, Signal::SIGINT).unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    let ports = found(
        path.to_str().unwrap(),
        "frame.verdict.ebpf_xdp == 1",
        &["udp.dstport"],
    );
    assert!(
        !ports.is_empty() && ports.iter().all(|port| port == "53"),
        "{ports:?}"
    );
}

/// Proves O2: a capture can be read before a packet has come, however it ends.
#[test]
fn a_capture_without_packets_is_read() {
    let world = applied();
    let path = world.dir.path().join("none.pcapng");
    let name = path.to_str().unwrap();
    let watching = Running::of(&mut world.command(&["log", "--write", name]));
    let begun = Instant::now();
    while std::fs::metadata(&path).map_or(0, |file| file.len()) == 0 {
        assert!(begun.elapsed().as_secs() < 60, "it has no head");
        std::thread::sleep(Duration::from_millis(20));
    }
    watching.end(Signal::SIGKILL);
    assert_eq!(found(name, "udp", &["frame.number"]), Vec::<String>::new());
    let infos = read("capinfos", &[name]);
    assert!(infos.contains("Name = nic"), "{infos}");
}

/// What was written is said, also of events that were there already; what cannot be written is
/// named with what to do.
#[test]
fn a_capture_of_what_is_there_says_what_it_wrote() {
    let world = applied();
    let sees = "192.0.2.1:53";
    let watching = Running::following(&world, &[], sees, || world.send_udp_to_node(53));
    watching.end(Signal::SIGINT);
    let path = world.dir.path().join("last.pcapng");
    let name = path.to_str().unwrap();
    let wrote = world.run(&["log", "--write", name, "--last", "1"]);
    wrote.fails(0, &format!("1 packet written to {name}\n"));
    assert_eq!(found(name, "udp.dstport == 53", &["frame.number"]), ["1"]);

    let nowhere = world.dir.path().join("nowhere/a.pcapng");
    let nowhere = nowhere.to_str().unwrap();
    let failed = world.run(&["log", "--write", nowhere]);
    let failed = failed.fails(1, &format!("writing the capture: {nowhere}: No such file"));
    assert!(failed.err.contains("help: `mkdir -p "), "{}", failed.err);
    let small = world.run(&["log", "--write", name, "--rotate-size", "1"]);
    small.fails(2, "at least 1K");
    // Without --rotate-size or --rotate-time there is one file.
    let several = world.run(&["log", "--write", name, "--files", "3"]);
    several.fails(
        2,
        "not provided:\n  <--rotate-size <SIZE>|--rotate-time <TIME>>\n",
    );
}

/// Proves O2: a capture goes on in further files, of which so many stay.
#[test]
fn a_capture_goes_on_in_further_files() {
    let world = applied();
    let path = world.dir.path().join("turns.pcapng");
    let name = path.to_str().unwrap();
    let words = [
        "log",
        "--write",
        name,
        "--rotate-size",
        "1K",
        "--files",
        "2",
    ];
    let watching = Running::of(&mut world.command(&words));
    let numbered = |n: usize| world.dir.path().join(format!("turns-{n:05}.pcapng"));
    let files = || -> Vec<_> {
        let files = std::fs::read_dir(world.dir.path()).unwrap().flatten();
        let mut files: Vec<_> = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "pcapng"))
            .collect();
        files.sort();
        files
    };
    let begun = Instant::now();
    while files().last().is_none_or(|last| *last < numbered(4)) {
        assert!(begun.elapsed().as_secs() < 60, "there is no fourth file");
        world.send_udp_times(53, 20);
    }
    let (code, err) = watching.end(Signal::SIGINT);
    assert_eq!(code, Some(0), "{err}");
    let first = files();
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(!numbered(1).exists());
    for file in &first {
        let len = std::fs::metadata(file).unwrap().len();
        assert!(len < 1024 + 512, "{}: {len}", file.display());
        let file = file.to_str().unwrap();
        assert!(!found(file, "udp.dstport == 53", &["frame.number"]).is_empty());
    }
    // The next capture goes on behind them, and they count as its own.
    let begun = Instant::now();
    let watching = Running::of(&mut world.command(&words));
    while files().iter().any(|file| first.contains(file)) {
        assert!(begun.elapsed().as_secs() < 60, "{:?}", files());
        world.send_udp_times(53, 20);
    }
    assert_eq!(watching.end(Signal::SIGINT).0, Some(0));
    let second = files();
    assert_eq!(second.len(), 2, "{second:?}");
    assert!(second > first, "{second:?} after {first:?}");
}

/// A capture is not written to a terminal.
#[test]
fn a_capture_is_not_for_a_terminal() {
    let world = applied();
    let pty = openpty(&size(80, 24), None).unwrap();
    let (mut child, _) = start(world.command(&["log", "--write", "-"]), &pty);
    assert_eq!(child.wait().unwrap().code(), Some(2));
}
