//! `sgctl run --wait`: interfaces that appear later, and what the service manager is told.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::{Running, in_force, policy};
use super::world::{World, file, inside, ip};

const NODE: &str = "198.51.100.1";
const PEER: &str = "198.51.100.2";
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(world: &World) -> Manager {
        let path = world.dir.path().join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Manager { socket, path }
    }

    /// `run` with these words, as this manager would start it.
    fn start(&self, world: &World, words: &[&str]) -> Running {
        let mut command = world.command(&["run"]);
        command.args(words).env("NOTIFY_SOCKET", &self.path);
        Running::of(&mut command)
    }

    /// The next message that contains `words`.
    #[track_caller]
    fn is_told(&self, words: &str) -> String {
        let (mut buffer, mut seen) = ([0; 4096], Vec::new());
        loop {
            let Ok(len) = self.socket.recv(&mut buffer) else {
                panic!("`{words}` was not told, only {seen:?}");
            };
            let message = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if message.contains(words) {
                return message;
            }
            seen.push(message);
        }
    }
}

/// Makes the interface `late` of the node, which is not up yet, with the same at the peer.
fn add_late(world: &World) {
    ip(&[
        "-n",
        &world.node,
        "link",
        "add",
        "late",
        "address",
        MACS[0],
        "type",
        "veth",
        "peer",
        "name",
        "late",
        "netns",
        &world.peer,
        "address",
        MACS[1],
    ]);
}

/// Sets both ends up. Each knows the other's address, so that the first datagram can pass.
fn set_late_up(world: &World) {
    for (namespace, own, other, mac) in [
        (&world.peer, PEER, NODE, MACS[0]),
        (&world.node, NODE, PEER, MACS[1]),
    ] {
        ip(&[
            "-n",
            namespace,
            "addr",
            "add",
            &format!("{own}/24"),
            "dev",
            "late",
        ]);
        ip(&["-n", namespace, "link", "set", "late", "up"]);
        ip(&[
            "-n", namespace, "neigh", "replace", other, "lladdr", mac, "dev", "late",
        ]);
    }
}

/// How many datagrams are waiting in the socket.
fn received(socket: &UdpSocket) -> u32 {
    let mut count = 0;
    loop {
        match socket.recv(&mut [0; 16]) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A policy that drops all inbound UDP and takes a while to compile, so that there is time between
/// the appearance of an interface and the policy.
fn slow_policy(world: &World) -> String {
    let mut prefixes = String::new();
    for i in 0..60_000u32 {
        let _ = writeln!(
            prefixes,
            "10.{}.{}.{}/31",
            i >> 12,
            i >> 4 & 255,
            (i & 15) << 4
        );
    }
    file(world.dir.path(), "many.txt", &prefixes);
    let text = "name: late\naddress-sets: {many: {file: many.txt}}\n\
                inbound: [{protocol: tcp, from: many, action: accept}]\n\
                outbound: [{protocol: all, to: any, action: accept}]\n";
    file(world.dir.path(), "late.yaml", text)
}

/// Proves C11: none of the datagrams to the node is received: at first the interface is held, then
/// the policy drops them.
#[test]
fn an_interface_that_appears_passes_nothing_before_the_policy_is_in_force() {
    passes_nothing_before_the_policy("tcx");
}

/// Proves C11 where a hold hangs on filters, as before Linux 6.6.
#[test]
fn an_interface_that_is_held_by_filters_passes_nothing_either() {
    passes_nothing_before_the_policy("clsact");
}

fn passes_nothing_before_the_policy(hook: &str) {
    let world = World::new();
    let manager = Manager::new(&world);
    let path = slow_policy(&world);
    let words = [
        &path,
        "--iface",
        "late",
        "--wait",
        "--persist",
        "--egress-hook",
        hook,
    ];
    let running = manager.start(&world, &words);
    running.says("waiting for late");
    let told = manager.is_told("READY=1");
    assert!(told.contains("STATUS=waiting for late"), "{told}");
    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status, serde_json::json!([]));

    add_late(&world);
    running.says("late has appeared, and nothing passes until");
    // It has time before the policy is in force.
    running.signal(Signal::SIGSTOP);
    let socket = inside(&world.node, || UdpSocket::bind("0.0.0.0:9")).unwrap();
    socket.set_nonblocking(true).unwrap();
    set_late_up(&world);
    let send = |count: u32| {
        inside(&world.peer, || {
            let own = UdpSocket::bind((PEER, 0)).unwrap();
            for _ in 0..count {
                let _ = own.send_to(b"x", (NODE, 9));
            }
        });
    };
    send(100);
    let link = ["-n", &world.node, "link", "show", "dev", "late"];
    let link = Command::new("ip").args(link).output().unwrap();
    let link = String::from_utf8_lossy(&link.stdout).into_owned();
    assert!(
        !link.contains("prog/xdp"),
        "the policy is in force already: {link}"
    );
    assert_eq!(received(&socket), 0, "while it was held");
    running.signal(Signal::SIGCONT);
    println!("{}", running.line("in force on late"));
    send(100);
    assert_eq!(received(&socket), 0);
    let counters = world.run(&["counters", "--iface", "late", "--json"]).json();
    let is_dropped = |row: &&Value| row["reason"] == "no-match" && row["direction"] == "inbound";
    let mut rows = counters[0]["reasons"].as_array().unwrap().iter();
    let dropped = rows.find(is_dropped).unwrap()["packets"].as_u64();
    assert!(dropped >= Some(100), "{counters}");
    manager.is_told("STATUS=late, generation 1, on late");

    // Killed, it leaves the policy, and the next one goes on with it.
    let (code, _) = running.end(Signal::SIGKILL);
    assert_eq!(code, None);
    let running = manager.start(&world, &words);
    running.says("generation 1");
    manager.is_told("READY=1");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    manager.is_told("STOPPING=1");
    send(100);
    assert_eq!(received(&socket), 0);
    // They would be received otherwise.
    world.run(&["detach", "--iface", "late"]).ok();
    let deadline = Instant::now() + Duration::from_secs(20);
    while received(&socket) == 0 {
        assert!(
            Instant::now() < deadline,
            "nothing arrives without a policy"
        );
        send(10);
    }
}

/// Proves C11: the policy is in force on what exists at once, and comes to the others as they
/// appear. What somebody else detaches stays detached.
#[test]
fn interfaces_join_as_they_appear() {
    let world = World::new();
    let manager = Manager::new(&world);
    let path = file(world.dir.path(), "p.yaml", &policy(22));
    let words = [
        &path, "--iface", "nic", "--iface", "la*", "--wait", "--json",
    ];
    let running = manager.start(&world, &words);
    running.says(r#""event":"applied""#);
    let told = manager.is_told("READY=1");
    let expected = "STATUS=p22, generation 1, on nic; waiting for la*";
    assert!(told.contains(expected), "{told}");
    add_late(&world);
    let said: Value = serde_json::from_str(&running.line(r#""event":"attached""#)).unwrap();
    assert_eq!(said["interfaces"], serde_json::json!(["late"]), "{said}");
    assert!(said["milliseconds"].is_number(), "{said}");
    manager.is_told("STATUS=p22, generation 1, on nic, late");
    for name in ["nic", "late"] {
        let status = world
            .run(&["status", "--iface", name, "--json"])
            .ok()
            .json();
        assert_eq!(status[0]["health"], "enforcing", "{status}");
        assert_eq!(status[0]["policy"]["name"], "p22");
    }
    // A reload is for both.
    std::fs::write(&path, policy(23)).unwrap();
    running.says(r#""event":"reloaded""#);
    assert_eq!(in_force(&world).0, "p23");

    world.run(&["detach", "--iface", "late"]).ok();
    running.says(r#""event":"detached""#);
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let found = world.run(&["status", "--iface", "late"]);
        assert_eq!(found.code, 1, "{}", found.all());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(in_force(&world).0, "p23");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    world.assert_untouched();
}

/// Proves C11 and C12: of two interfaces the one that does not exist yet is named once, belongs to
/// this `run`, and is not ready, while the service manager's boot goes on.
#[test]
fn an_interface_that_is_waited_for_is_said_and_not_ready() {
    let world = World::new();
    let manager = Manager::new(&world);
    let path = file(world.dir.path(), "p.yaml", &policy(22));
    let words = [&path, "--iface", "nic", "--iface", "late", "--wait"];
    let running = manager.start(&world, &words);
    running.says("waiting for late, which does not exist yet");
    let told = manager.is_told("READY=1");
    assert!(told.contains("on nic; waiting for late"), "{told}");
    let ready = ["status", "--ready", &path, "--live", "--json"];
    let probed = world.run(&ready);
    assert_eq!(probed.code, 1, "{}", probed.all());
    let rows = probed.json();
    let of = |name: &str| {
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["interface"] == name).unwrap().clone()
    };
    assert_eq!(
        (&of("nic")["ready"], &of("nic")["live"]),
        (&true.into(), &true.into())
    );
    assert_eq!(
        (&of("late")["ready"], &of("late")["live"]),
        (&false.into(), &true.into())
    );
    assert_eq!(of("late")["errors"][0]["code"], "no-interface", "{rows}");
    let other = world.run(&["run", &path, "--iface", "late", "--wait"]);
    other.fails(1, "another `sgctl run` looks after `late`");

    add_late(&world);
    running.says("in force on late");
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.run(&ready).code != 0 {
        let probed = world.run(&ready);
        assert!(Instant::now() < deadline, "{}", probed.all());
    }
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(!lines.contains("waiting for"), "{lines}");
    world.assert_untouched();
}

#[test]
fn a_wait_ends_when_it_is_told_to_and_begins_with_no_bad_policy() {
    let world = World::new();
    let manager = Manager::new(&world);
    let path = file(world.dir.path(), "p.yaml", &policy(22));
    let mut command = world.command(&["run", &path, "--iface", "late", "--wait"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    // Microseconds: a sign of life comes four times as often.
    command.env("WATCHDOG_USEC", "400000");
    let running = Running::of(&mut command);
    running.says("waiting for late");
    for _ in 0..5 {
        manager.is_told("WATCHDOG=1");
    }
    // A probe leaves it alone.
    world.run(&["status", "--live"]).ok();
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(lines.contains("nothing was put in force"), "{lines}");
    manager.is_told("STOPPING=1");
    let bad = file(
        world.dir.path(),
        "bad.yaml",
        "inbound: [{protocol: nonsense}]\n",
    );
    let ran = world.run(&["run", &bad, "--iface", "late", "--wait"]);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.err.contains("nonsense"), "{}", ran.err);
    // Without the flag an interface has to exist.
    let ran = world.run(&["run", &path, "--iface", "late"]);
    ran.fails(1, "there is no interface");
    world.assert_untouched();
}

/// The service manager hears of life also while a policy is in force.
#[test]
fn a_run_is_alive() {
    let world = World::new();
    let manager = Manager::new(&world);
    let path = file(world.dir.path(), "p.yaml", &policy(22));
    let mut command = world.command(&["run", &path, "--iface", "nic"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    command.env("WATCHDOG_USEC", "400000");
    let running = Running::of(&mut command);
    running.says("applied p22");
    for _ in 0..5 {
        manager.is_told("WATCHDOG=1");
    }
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
}
