//! `sgctl run`: it reloads when a file changes, however the file is changed, and ends cleanly.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::world::{World, file};

pub(super) fn policy(port: u16) -> String {
    format!(
        "name: p{port}\ninbound: [{{protocol: tcp, ports: {port}, from: any, action: accept}}]\n"
    )
}

/// A `run` in the background and the lines that it prints.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) lines: Receiver<String>,
}

impl Running {
    pub(super) fn start(world: &World, words: &[&str]) -> Running {
        Self::of(world.command(&["run", "--iface", "nic"]).args(words))
    }

    pub(super) fn of(command: &mut Command) -> Running {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Running { child, lines }
    }

    /// Waits for a line that contains `words`.
    #[track_caller]
    pub(super) fn says(&self, words: &str) {
        self.line(words);
    }

    /// Waits for the next line that contains `words`, and returns it.
    #[track_caller]
    pub(super) fn line(&self, words: &str) -> String {
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Ok(line) = self.lines.recv_timeout(left()) {
            if line.contains(words) {
                return line;
            }
            seen.push(line);
        }
        panic!("`{words}` was not said, only {seen:?}");
    }

    /// Checks that for a while only counters are printed.
    #[track_caller]
    pub(super) fn is_quiet(&self) {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(800)) {
            assert!(line.contains("packets ("), "{line}");
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(id), signal).unwrap();
    }

    /// Sends `signal`. Returns the exit code, all lines not read so far, and standard error.
    pub(super) fn end_with_lines(mut self, signal: Signal) -> (Option<i32>, String, String) {
        self.signal(signal);
        let lines: Vec<String> = self.lines.iter().collect();
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), lines.join("\n"), err)
    }

    /// Sends `signal`. Returns the exit code and standard error.
    pub(super) fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        self.signal(signal);
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child is still running only if the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that a process writes, until it closes the pipe.
pub(super) fn lines_of(out: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

pub(super) fn in_force(world: &World) -> (String, u64) {
    let json = world.run(&["status", "--iface", "nic", "--json"]).json();
    let policy = &json[0]["policy"];
    let name = policy["name"].as_str().unwrap_or_default().to_owned();
    (name, policy["generation"].as_u64().unwrap_or_default())
}

#[test]
fn it_reloads_when_the_policy_or_a_set_file_changes_and_detaches_at_the_end() {
    let world = World::new();
    let dir = world.dir.path();
    let set = file(dir, "office.txt", "192.0.2.7\n");
    let text = "name: a\naddress-sets: {office: {file: office.txt}}\n\
                inbound: [{protocol: all, from: office, action: accept}]\n";
    let path = file(dir, "p.yaml", text);
    let running = Running::start(&world, &[&path]);
    running.says("applied a on nic, generation 1");
    assert_eq!(in_force(&world), ("a".to_owned(), 1));

    std::fs::write(&set, "192.0.2.8\n").unwrap();
    running.says("reloaded a on nic, generation 2");
    // Editors save a file this way: they write another one and rename it.
    file(dir, "p.new", &policy(22));
    std::fs::rename(dir.join("p.new"), &path).unwrap();
    running.says("reloaded p22 on nic, generation 3");
    // The new policy does not name the set file, so neither it nor an unrelated file causes a
    // reload.
    std::fs::write(&set, "192.0.2.9\n").unwrap();
    file(dir, "unrelated", "x");
    running.is_quiet();
    std::fs::write(&path, format!("# the same rules\n{}", policy(22))).unwrap();
    running.says("unchanged");
    running.signal(Signal::SIGHUP);
    let said = running.line("unchanged");
    assert!(
        !said.contains("written"),
        "no line names a file as written: {said}"
    );
    assert_eq!(in_force(&world), ("p22".to_owned(), 3));

    let (code, err) = running.end(Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    world.assert_untouched();
}

#[test]
fn a_config_map_volume_that_is_swapped_is_noticed() {
    let world = World::new();
    let volume = world.dir.path().join("volume");
    for (name, port) in [("..one", 1), ("..two", 2)] {
        std::fs::create_dir_all(volume.join(name)).unwrap();
        file(&volume.join(name), "policy.yaml", &policy(port));
    }
    symlink("..one", volume.join("..data")).unwrap();
    symlink("..data/policy.yaml", volume.join("policy.yaml")).unwrap();
    let path = volume.join("policy.yaml").display().to_string();
    let running = Running::start(&world, &[&path]);
    running.says("applied p1");
    let swap = |target: &str| {
        symlink(target, volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    swap("..two");
    running.says("reloaded p2");
    std::fs::remove_dir_all(volume.join("..one")).unwrap();
    // The same once more, through a directory that did not exist at the start.
    std::fs::create_dir(volume.join("..three")).unwrap();
    file(&volume.join("..three"), "policy.yaml", &policy(3));
    swap("..three");
    running.says("reloaded p3");
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
    world.assert_untouched();
}

#[test]
fn a_bad_or_missing_file_keeps_the_policy_in_force() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let running = Running::start(&world, &[&path, "--persist"]);
    running.says("applied p1");
    // The file is replaced by a rename. If it were written in place, `run` might read it while it
    // is empty, which is a different error.
    let replace = |text: &str| {
        let new = file(world.dir.path(), "p.new", text);
        std::fs::rename(new, &path).unwrap();
    };
    replace("inbound: [{protocol: tcp, ports: 70000}]\nfoo: 1\n");
    running.says("reload failed: generation 1 stays in force");
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    std::fs::remove_file(&path).unwrap();
    running.says("reload failed: generation 1 stays in force");
    // The new policy names a file that does not exist yet, in a directory that does not exist
    // either.
    let names = "name: late\naddress-sets: {s: {file: sub/late.txt}}\n\
                 inbound: [{protocol: all, from: s, action: accept}]\n";
    replace(names);
    running.says("reload failed: generation 1 stays in force");
    std::fs::create_dir(world.dir.path().join("sub")).unwrap();
    file(&world.dir.path().join("sub"), "late.txt", "192.0.2.7\n");
    running.says("reloaded late on nic, generation 2");

    let (code, err) = running.end(Signal::SIGTERM);
    assert_eq!(code, Some(0));
    for words in ["p.yaml:1:", "unknown key `foo`", "No such file", "late.txt"] {
        assert!(err.contains(words), "{words}: {err}");
    }
    assert_eq!(in_force(&world), ("late".to_owned(), 2));
}

/// Proves P9: packets of a rule with `log` are printed with the rule's position and policy.
#[test]
fn packets_of_rules_with_log_are_printed() {
    let world = World::new();
    let text = "name: p\n\
                inbound: [{protocol: icmp, from: any, action: drop, log: true, name: no-ping}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path]);
    running.says("applied p on nic");
    world.ping_node(1);
    running.says(
        "drop in  icmp 192.0.2.2         > 192.0.2.1     echo-request 98 B rule 1 no-ping p.yaml:2",
    );
    // Events still arrive after a reload, because the ring outlives the policy.
    std::fs::write(&path, text.replace("name: p", "name: q\n")).unwrap();
    running.says("reloaded q");
    world.ping_node(1);
    running.says("rule 1 no-ping p.yaml:3");
    let text = "name: r\nlog-no-match: inbound\n";
    std::fs::write(&path, text).unwrap();
    running.says("reloaded r");
    world.ping_node(1);
    running.says("echo-request 98 B no-match");
}

/// Proves O2: while the reader sleeps, packets are judged. Each is printed with its own time.
#[test]
fn a_packet_is_printed_with_its_own_time() {
    let world = World::new();
    let text = "inbound: [{protocol: icmp, from: any, action: drop, log: true}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path, "--json"]);
    running.says(r#""event":"applied""#);
    running.signal(Signal::SIGSTOP);
    world.ping_node(1);
    let after = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(1500));
    running.signal(Signal::SIGCONT);
    let line = running.line(r#""event":"packet""#);
    let packet: serde_json::Value = serde_json::from_str(&line).unwrap();
    let at: jiff::Timestamp = packet["at"].as_str().unwrap().parse().unwrap();
    assert!(at <= after, "{at} is after {after}");
    assert!(
        after.duration_since(at) < jiff::SignedDuration::from_secs(60),
        "{at}"
    );
    assert_eq!(
        (&packet["interface"], &packet["generation"]),
        (&"nic".into(), &1.into())
    );
}

/// Proves that the log of the packet path shows every packet: also those of the fast path, in both
/// directions.
#[test]
fn trace_prints_what_the_packet_path_says_of_every_packet() {
    let world = World::new();
    let text = "inbound: [{protocol: icmp, from: any, action: accept}]\n\
                outbound: [{protocol: all, to: any, action: accept}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path, "--trace"]);
    running.says("applied p on nic");
    world.send_udp_to_node(9);
    running.says("direction 0 accept 0 slot 4");
    world.ping_node(1);
    running.says("direction 0 accept 1 slot 32");
    running.says("direction 1 accept 1 slot 33");
    // A new policy has its own programs with a log of their own, and `run` has to open that one.
    std::fs::write(&path, text.replace("icmp", "udp")).unwrap();
    running.says("reloaded p on nic, generation 2");
    world.send_udp_to_node(9);
    running.says("direction 0 accept 1 slot 34");
    assert_eq!(running.end(Signal::SIGINT).0, Some(0));
    world.assert_untouched();
}

/// Proves K9: expired flows leave the table while `run` runs, although no packet arrives.
#[test]
fn expired_flows_are_swept() {
    let world = World::new();
    let text = "timeouts: {icmp: 2s}\noutbound: []\n\
                inbound: [{protocol: icmp, from: any, action: accept}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path]);
    running.says("applied p on nic");
    let half_open = || {
        let flows = world.run(&["flows", "--json"]).json();
        let count = |what: &str| flows[0]["tables"]["half_open"][what].as_u64().unwrap();
        (count("live"), count("entered"), count("evicted"))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut opened = 0;
    loop {
        world.ping_node(3);
        opened += 1;
        // On a busy machine the flow may have expired already.
        match half_open() {
            (1, entered, 0) if entered == opened => break,
            found => assert!(Instant::now() < deadline, "{found:?} of {opened}"),
        }
    }
    while half_open().0 > 0 {
        assert!(Instant::now() < deadline, "it is still there");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(half_open(), (0, opened, 0));
    assert_eq!(running.end(Signal::SIGINT).0, Some(0));
}

#[test]
fn it_ends_when_somebody_else_detaches() {
    let world = World::new();
    let mut running = Running::start(&world, &["builtin:tke", "--interval", "60", "--json"]);
    running.says(r#""event":"applied""#);
    running.says(r#""event":"counters""#);
    world.run(&["detach", "--iface", "nic"]).ok();
    assert_eq!(running.child.wait().unwrap().code(), Some(1));
    let mut err = String::new();
    running
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert!(err.contains("nothing is attached to `nic`"), "{err}");
    world.assert_untouched();
}

/// Proves C11 and K1 for two interfaces: `run` looks after both, attaches one that is made anew,
/// goes on with the other when one is taken out, and at its end returns each to what it was.
#[test]
fn several_interfaces_are_looked_after_together() {
    let world = World::new();
    let words = format!(
        "link add nic1 netns {} type veth peer name nic1 netns {}",
        world.node, world.peer
    );
    let add = || {
        super::world::ip(&words.split(' ').collect::<Vec<_>>());
        super::world::ip(&["-n", &world.node, "link", "set", "nic1", "up"]);
    };
    add();
    let policy = |name: &str| {
        let text =
            format!("name: {name}\ninbound: [{{protocol: icmp, from: any, action: accept}}]\n");
        file(world.dir.path(), "p.yaml", &text)
    };
    let before = file(
        world.dir.path(),
        "before.yaml",
        "name: before\ninbound: []\n",
    );
    world.run(&["apply", &before, "--iface", "nic"]).ok();
    let path = policy("one");
    let running =
        Running::of(&mut world.command(&["run", &path, "--iface", "nic*", "--interval", "0.5"]));
    running.says("applied one on nic, nic1, generation 2");
    running.says("nic1: inbound ");
    world.run(&["status"]).ok();
    world
        .run(&["run", &path, "--iface", "nic1"])
        .fails(1, "looks after `nic1`");

    policy("two");
    running.says("reloaded two on nic, nic1, generation 3");
    super::world::ip(&["-n", &world.node, "link", "del", "nic1"]);
    running.says("nic1 has gone");
    add();
    running.says("nic1 has been made anew");
    world.run(&["status"]).ok();

    let (code, err) = running.end(nix::sys::signal::Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let rows = world.run(&["status", "--json"]).ok().json();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows:#}");
    assert_eq!(
        (&rows[0]["interface"], &rows[0]["policy"]["name"]),
        (&"nic".into(), &"before".into())
    );
    world.run(&["detach"]).ok();
    world.assert_untouched();
}

/// Proves C11 and C12: where the interface is renamed and another one gets its name, both enforce
/// the policy, `status` says so of both, and packets find it so.
#[test]
fn a_new_interface_of_the_name_is_enforced_beside_the_renamed_one() {
    let world = World::new();
    let ip = |words: &str| super::world::ip(&words.split(' ').collect::<Vec<_>>());
    let (node, peer) = (&world.node, &world.peer);
    let add = |end: &str| {
        ip(&format!(
            "link add w3 netns {node} type veth peer name {end} netns {peer}"
        ));
        ip(&format!("-n {node} link set w3 up"));
        ip(&format!("-n {peer} link set {end} up"));
    };
    add("w3a");
    let text = "name: none\ninbound: []\noutbound: [{protocol: all, to: any, action: accept}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let words = ["run", &path, "--iface", "w3", "--interval", "60"];
    let running = Running::of(&mut world.command(&words));
    running.says("applied none on w3");
    ip(&format!("-n {node} link set w3 down"));
    ip(&format!("-n {node} link set w3 name r3"));
    ip(&format!("-n {node} link set r3 up"));
    running.says("w3 is called r3 now");
    ip(&format!("-n {node} address add 203.0.113.1/24 dev r3"));
    let asked = [
        "explain",
        "--iface",
        "r3",
        "tcp",
        "203.0.113.2",
        ":22",
        "--listening",
    ];
    let asked = world.run(&asked);
    assert!(
        asked.out.contains("203.0.113.1:22"),
        "{} {}",
        asked.out,
        asked.err
    );
    add("w3b");
    running.says("none on w3");
    for (name, end, net) in [("r3", "w3a", "203.0.113"), ("w3", "w3b", "198.51.100")] {
        if name == "w3" {
            ip(&format!("-n {node} address add {net}.1/24 dev {name}"));
        }
        ip(&format!("-n {peer} address add {net}.2/24 dev {end}"));
        let row = &world
            .run(&["status", "--iface", name, "--json"])
            .ok()
            .json()[0];
        assert_eq!(
            (&row["interface"], &row["health"]),
            (&name.into(), &"enforcing".into())
        );
        let hook = Command::new("ip")
            .args(["-n", node, "link", "show", name])
            .output()
            .unwrap();
        let hook = String::from_utf8_lossy(&hook.stdout).into_owned();
        assert!(hook.contains("prog/xdp"), "{hook}");
        let ping = [
            "netns",
            "exec",
            peer,
            "ping",
            "-c",
            "2",
            "-W",
            "1",
            &format!("{net}.1"),
        ];
        let ping = Command::new("ip").args(ping).output().unwrap();
        let said = String::from_utf8_lossy(&ping.stdout).into_owned();
        assert!(said.contains("100% packet loss"), "{said}");
        let counted = world
            .run(&["counters", "--iface", name, "--json"])
            .ok()
            .json();
        let totals = counted[0]["totals"].as_array().unwrap();
        let inbound = totals.iter().find(|row| row["direction"] == "inbound");
        let dropped = inbound.and_then(|row| row["dropped"].as_u64());
        assert!(dropped.is_some_and(|packets| packets >= 2), "{counted:#}");
    }
    world.run(&["status", "--live"]).ok();
    // Killed, it has no time to take away what says that it is at work.
    running.end(nix::sys::signal::Signal::SIGKILL);
    let dead = world.run(&["status", "--live"]);
    assert_eq!(dead.code, 1, "{} {}", dead.out, dead.err);
    assert!(
        dead.out.contains("no `sgctl run` looks after it"),
        "{}",
        dead.out
    );
    ip(&format!("-n {node} link del w3"));
    let gone = ["explain", "--iface", "w3", "tcp", "203.0.113.2", ":22"];
    world.run(&gone).fails(1, "no interface `w3`");
    world.run(&["detach"]).ok();
    world.assert_untouched();
}
