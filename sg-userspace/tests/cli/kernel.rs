//! The commands that touch the kernel, from `apply` to `detach`, on a veth pair of each test's own.

use std::net::UdpSocket;

use sg_userspace::kernel::netns::Netns;

use super::run::lines_of;
use super::world::{Ran, World, assert_shown, file, ip};

const DROP_PING: &str = "\
name: quiet
inbound:
  - {protocol: tcp, ports: 22, from: any, action: accept, description: shell}
  - {protocol: icmp, from: 192.0.2.0/24, action: drop, description: no echo}
outbound: [{protocol: all, to: any, action: accept}]
";

#[test]
fn apply_status_counters_and_detach_tell_one_story() {
    let world = World::new();
    assert_shown!("status_nothing", world.run(&["status"]).all());
    assert_eq!(
        world.run(&["status", "--json"]).ok().json(),
        serde_json::json!([])
    );
    assert_shown!("detach_nothing", world.run(&["detach"]).all());
    world.run(&["counters"]).fails(1, "nothing is attached");
    world
        .run(&["flows", "--json"])
        .fails(1, "nothing is attached");

    let policy = file(world.dir.path(), "quiet.yaml", DROP_PING);
    let applied = world.run(&["apply", &policy, "--iface", "nic"]).ok();
    assert_shown!("apply", applied.out);
    assert!(world.has_xdp());
    world.ping_node(3);
    assert_shown!("status", world.run(&["status"]).ok().out);
    assert_shown!("status_json", world.run(&["status", "--json"]).ok().out);

    let counters = world.run(&["counters", "--json"]).ok().json();
    assert_eq!(counters[0]["interface"], "nic");
    assert_eq!(counters[0]["rules"][1]["packets"], 3, "{counters}");
    let human = world.run(&["counters"]).ok().out;
    let line = human
        .lines()
        .find(|line| line.contains("no echo"))
        .unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let expected = [
        "inbound",
        "2",
        "drop",
        "icmp",
        "from",
        "192.0.2.0/24",
        "no",
        "echo",
        "3",
        "294",
        "B",
        "0",
    ];
    assert_eq!(words, expected, "{human}");
    assert!(!human.contains("malformed"), "{human}");
    let all = world.run(&["counters", "--all"]).ok().out;
    assert!(all.contains("malformed"), "{all}");

    let detached = world.run(&["detach"]).ok();
    assert_shown!("detach", detached.out);
    world.assert_untouched();
    world
        .run(&["detach", "--iface", "nic"])
        .fails(1, "nothing is attached to `nic`");
}

#[test]
fn a_second_apply_replaces_and_keeps_counting() {
    let (world, policy) = World::enforcing("quiet.yaml", DROP_PING);
    world.ping_node(2);
    let ran = world
        .run(&["apply", &policy, "builtin:tke", "--iface", "nic", "--json"])
        .ok();
    let json = ran.json();
    assert_eq!(json["replaced"], true);
    assert_eq!(json["policy"]["generation"], 2);
    assert_eq!(json["policy"]["name"], "quiet+tke");
    world.ping_node(2);
    let counters = world
        .run(&["counters", "--iface", "nic", "--json"])
        .ok()
        .json();
    assert_eq!(counters[0]["rules"][1]["packets"], 4, "{counters}");
    // With two groups the table needs a column for the group.
    let human = world.run(&["counters"]).ok().out;
    assert!(
        human.lines().nth(1).is_some_and(|l| l.contains("GROUP")),
        "{human}"
    );
    let asked = world.run(&[
        "explain",
        "--iface",
        "nic",
        "in",
        "icmp",
        "192.0.2.2",
        "192.0.2.1",
    ]);
    assert_shown!("explain_iface", asked.ok().out);
}

/// Proves K12: `apply` reports how many flows it has kept, and with `--cut-existing` keeps none.
#[test]
fn apply_says_what_it_keeps() {
    let world = World::new();
    let namespace = Netns::from(world.node.as_str());
    let connected = std::thread::spawn(move || {
        namespace.enter().expect("the node's namespace");
        let socket = UdpSocket::bind("192.0.2.1:5000").expect("a socket");
        socket.connect("192.0.2.2:53").expect("a connected socket");
        socket
    });
    let _socket = connected.join().expect("a socket of the node");
    let policy = file(world.dir.path(), "empty.yaml", "name: empty\ninbound: []\n");
    let apply = ["apply", &policy, "--iface", "nic"];
    let kept = "kept 1 flow that the node had, as far as they go by nic (1 that no rule admits)";
    let said = world.run(&apply).ok().out;
    assert_eq!(said.matches(kept).count(), 1, "{said}");
    let again = world.run(&apply).ok().out;
    assert!(!again.contains("kept"), "{again}");
    // The flow goes by nic, and nobody says that it was kept on the other interface.
    world.add_pair("other", "end");
    let other = world.run(&["apply", &policy, "--iface", "other"]).ok().out;
    let on_other = "kept 1 flow that the node had, as far as they go by other (1 that";
    assert_eq!(other.matches(on_other).count(), 1, "{other}");
    world.run(&["detach", "--iface", "other"]).ok();
    let seeded = |more: &[&str]| {
        world.run(&["detach"]).ok();
        let arguments = [&apply[..], &["--json"], more].concat();
        world.run(&arguments).ok().json()["seeded"].take()
    };
    let mut first = seeded(&[]);
    let unseen = first["unseen"].take();
    let expected = serde_json::json!({
        "entered": 1, "without_rule": 1, "left_out": 0, "unseen": null
    });
    assert_eq!(first, expected);
    // No rule set in this namespace makes the kernel track connections, so requests under way are
    // reported as unseen.
    let unseen = unseen.as_array().expect("a list");
    assert!(
        unseen.iter().any(|u| u["kind"] == "untracked"),
        "{unseen:?}"
    );
    assert_eq!(said.matches("could not see requests").count(), 1, "{said}");
    assert_eq!(seeded(&["--cut-existing"]), serde_json::Value::Null);
    // `--cut-existing` is only valid for a first attachment, and is refused for a replacement.
    let cuts = [&apply[..], &["--cut-existing"]].concat();
    world.run(&cuts).fails(1, "leave out --cut-existing");
    world
        .run(&[&apply[..], &["--max-flows", "4096"]].concat())
        .fails(1, "leave out --max-flows");
}

/// Proves K12: `apply --cut-existing` reports how many connections it has cut, and cuts none where
/// the rules admit them.
#[test]
fn apply_says_what_it_cuts() {
    let world = World::new();
    let namespace = |name: &str| Netns::from(name);
    let (node, peer) = (namespace(&world.node), namespace(&world.peer));
    let listening = std::thread::spawn(move || {
        node.enter().expect("the node's namespace");
        std::net::TcpListener::bind("192.0.2.1:7000").expect("a socket")
    });
    let listener = listening.join().expect("a socket of the node");
    let connected = std::thread::spawn(move || {
        peer.enter().expect("the peer's namespace");
        let to = "192.0.2.1:7000";
        [to; 3].map(|to| std::net::TcpStream::connect(to).expect("a connection"))
    });
    let _connections = connected.join().expect("connections of the peer");
    let _accepted = [(); 3].map(|()| listener.accept().expect("one of them"));
    let policy = file(world.dir.path(), "empty.yaml", "name: empty\ninbound: []\n");
    let open = "inbound: [{protocol: all, from: any, action: accept}]\n\
                outbound: [{protocol: all, to: any, action: accept}]\n";
    let open = file(world.dir.path(), "open.yaml", open);
    let apply = |policy: &str, more: &[&str]| {
        let words = ["apply", policy, "--iface", "nic", "--cut-existing"];
        let ran = world.run(&[&words[..], more].concat()).ok();
        world.run(&["detach"]).ok();
        ran
    };
    let said = apply(&policy, &[]).out;
    assert!(
        said.contains("cut 3 TCP connections that the node had, as far as they go by nic"),
        "{said}"
    );
    let json = apply(&policy, &["--json"]).json();
    assert_eq!(
        json["cut"],
        serde_json::json!({"connections": 3, "left_out": 0})
    );
    let said = apply(&open, &[]).out;
    assert!(said.contains("cut no TCP connection"), "{said}");
    let kept = world
        .run(&["apply", &policy, "--iface", "nic", "--json"])
        .ok()
        .json();
    assert_eq!(kept["cut"], serde_json::Value::Null);
}

/// `apply` reports that it has added a qdisc, because adding one can lose frames.
#[test]
fn apply_says_when_it_adds_a_qdisc() {
    let world = World::new();
    let apply = |hook, more: &[&str]| {
        let words = [
            "apply",
            "builtin:tke",
            "--iface",
            "nic",
            "--egress-hook",
            hook,
        ];
        world.run(&[&words[..], more].concat()).ok()
    };
    let note = "added a clsact qdisc: the kernel may have dropped frames";
    assert!(!apply("tcx", &[]).out.contains(note));
    assert!(apply("clsact", &[]).out.contains(note));
    // The clsact qdisc exists by now, and is not added again.
    world
        .run(&["apply", "builtin:tke-minimal", "--iface", "nic"])
        .ok();
    world.run(&["detach"]).ok();
    let json = |hook| apply(hook, &["--json"]).json()["added_clsact"].take();
    assert_eq!(
        (json("clsact"), json("clsact")),
        (true.into(), false.into())
    );
    world.run(&["detach"]).ok();
    ip(&[
        "netns",
        "exec",
        &world.node,
        "tc",
        "qdisc",
        "add",
        "dev",
        "nic",
        "clsact",
    ]);
    assert_eq!(json("clsact"), false);
}

/// Proves P2: a policy without rules drops everything.
#[test]
fn a_policy_without_rules_drops_all() {
    let (world, _) = World::enforcing("empty.yaml", "name: empty\ninbound: []\n");
    world.ping_node(2);
    let counters = world.run(&["counters", "--all"]).ok().out;
    let line = counters
        .lines()
        .find(|line| line.contains("no-match"))
        .unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        words[..4],
        ["inbound", "-", "drop", "no-match"],
        "{counters}"
    );
    assert!(
        words
            .iter()
            .any(|word| word.parse::<u32>().is_ok_and(|n| n >= 2)),
        "{counters}"
    );
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
}

#[test]
fn several_interfaces_are_an_array_and_detach_takes_all() {
    let world = World::new();
    world.add_pair("second", "third");
    for name in ["nic", "second"] {
        world
            .run(&[
                "apply",
                "builtin:tke",
                "--iface",
                name,
                "--egress-hook",
                "clsact",
            ])
            .ok();
    }
    let json = world.run(&["counters", "--json"]).ok().json();
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    // Without --netns these commands act on everything in the BPF file system.
    let bpffs = world.bpffs.display().to_string();
    let status = super::world::run(&["status", "--bpffs", &bpffs]).ok();
    assert_eq!(status.out.matches("clsact").count(), 2, "{}", status.out);
    let detached = super::world::run(&["detach", "--bpffs", &bpffs]).ok();
    assert_eq!(
        detached.out.matches("detached").count(),
        2,
        "{}",
        detached.out
    );
    world.assert_untouched();
}

/// What a message says to type works as it stands, and what is said of a `run` that is not there is
/// true where nothing is in force either.
#[test]
fn commands_of_messages_work_as_they_stand() {
    let world = World::new();
    let live = |interface: &str| world.run(&["status", "--iface", interface, "--live"]);
    for (interface, says, command) in [
        (
            "nic",
            "no policy is in force there, and no `sgctl run` looks after it",
            "run POLICY --iface nic",
        ),
        (
            "lost",
            "there is no such interface, and no `sgctl run` waits for it",
            "run POLICY --iface lost --wait",
        ),
    ] {
        let dead = live(interface);
        let said = format!("{interface}: not live\n  {says}; ");
        assert_eq!(dead.code, 1, "{}", dead.all());
        assert!(dead.out.starts_with(&said), "{}", dead.all());
        assert!(dead.out.contains(&world.typed(command)), "{}", dead.all());
    }
    let json = ["status", "--iface", "nic", "--live", "--json"];
    let help = world.run(&json).json()[0]["errors"][0]["help"].take();
    let help = help.as_str().unwrap();
    assert!(
        help.contains(&world.typed("run POLICY --iface nic")),
        "{help}"
    );

    let typed = |text: &str, end: &str| {
        let is_it = |part: &&str| part.starts_with("sgctl ") && part.ends_with(end);
        let command = text.split('`').find(is_it);
        let command = command.unwrap_or_else(|| panic!("no `{end}` in {text}"));
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        super::world::run(&words).ok()
    };
    let tried = [&super::world::APPLY[..], &["--confirm-within", "1h"]].concat();
    world.run(&tried).ok();
    let reset = world.run(&["counters", "--reset"]).ok();
    let since = typed(&reset.out, "--since-reset");
    assert!(since.out.contains("nic"), "{}", since.out);
    // Seen from outside, a command names the namespace that it is about.
    let bpffs = world.bpffs.display().to_string();
    let status = super::world::run(&["--bpffs", &bpffs, "status"]).ok();
    let confirmed = typed(&status.out, " confirm");
    assert!(
        confirmed.out.contains("confirmed tke on nic"),
        "{}",
        confirmed.out
    );
}

/// Proves C12: the remedy for an interface that was deleted names it, and ends nothing elsewhere.
#[test]
fn what_is_left_of_a_deleted_interface_is_removed_alone() {
    let world = World::new();
    world.add_pair("second", "third");
    let both = ["--iface", "nic", "--iface", "second"];
    let apply = [&["apply", "builtin:tke"][..], &both].concat();
    world.run(&apply).ok();
    ip(&["-n", &world.node, "link", "del", "second"]);

    let status = world.run(&["status"]);
    assert_eq!(status.code, 1, "{}", status.all());
    let remedy = "detach --iface second";
    assert!(status.out.contains(&world.typed(remedy)), "{}", status.out);
    world.run(&remedy.split(' ').collect::<Vec<_>>()).ok();
    let status = world.run(&["status"]).ok();
    assert!(
        status.out.contains("enforcing") && !status.out.contains("second"),
        "{}",
        status.out
    );
    world.run(&["detach"]).ok();
    world.assert_untouched();
}

#[test]
fn a_damaged_record_is_shown_and_detached() {
    let world = World::new();
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    // Puts another kind of map in the place of the state record.
    let dir = world.pin_dir();
    std::fs::remove_file(dir.join("state")).unwrap();
    std::fs::rename(dir.join("../flow_tags"), dir.join("state")).unwrap();

    let status = world.run(&["status"]);
    assert_shown!("status_damaged", status.all());
    let json = world.run(&["status", "--json"]);
    assert_eq!(
        (json.code, &json.json()[0]["health"]),
        (1, &"damaged".into())
    );
    world.run(&["counters"]).fails(1, "is damaged");
    world
        .run(&["apply", "builtin:tke", "--iface", "nic"])
        .fails(1, "is damaged");
    assert!(world.has_xdp(), "enforcement goes on");
    let detached: Ran = world.run(&["detach", "--iface", "nic"]).ok();
    assert!(
        detached.out.contains("a damaged attachment from nic"),
        "{}",
        detached.out
    );
    world.assert_untouched();
}

#[test]
fn watching_prints_a_block_or_a_line_each_time() {
    let world = World::new();
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    let watch = |more: &[&str]| {
        let mut words = vec!["counters", "--watch", "0.2"];
        words.extend(more);
        let mut child = world
            .command(&words)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        (child, lines)
    };
    let patience = std::time::Duration::from_secs(60);
    let (mut child, lines) = watch(&[]);
    let mut blocks = 0;
    while blocks < 4 {
        let line = lines.recv_timeout(patience).expect("another block");
        blocks += line.matches("PKT/S").count();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, lines) = watch(&["--json"]);
    for _ in 0..3 {
        let line = lines.recv_timeout(patience).expect("another line");
        let json = serde_json::from_str::<serde_json::Value>(&line);
        assert!(json.is_ok(), "{line}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
