//! What the commands that print a policy say about an interface that does not enforce it or was
//! moved to another namespace.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;

use super::run::Running;
use super::world::{APPLY, EXPLAIN, Ran, World, ip};

const COMMANDS: [&[&str]; 3] = [
    &["counters", "--iface", "nic"],
    &["flows", "--iface", "nic"],
    &EXPLAIN,
];

/// The object that `--json` prints, or the only element of its list.
fn only(ran: &Ran) -> Value {
    let mut json = ran.json();
    match &mut json {
        Value::Array(all) if all.len() == 1 => all[0].take(),
        Value::Array(all) => panic!("{} of them", all.len()),
        _ => json,
    }
}

#[track_caller]
fn assert_said(world: &World, health: &str, words: &str) {
    for command in COMMANDS {
        let said = world.run(command).ok().out;
        assert!(
            said.lines().take(2).any(|line| line.contains(words)),
            "{command:?}: {said}"
        );
        let json = only(&world.run(&[command, &["--json"]].concat()).ok());
        let status = only(&world.run(&["status", "--iface", "nic", "--json"]));
        assert_eq!(json["health"], health, "{command:?}");
        assert_eq!(json["health"], status["health"], "{command:?}");
        assert_eq!(json["faults"], status["faults"], "{command:?}");
        assert_eq!(json["interface"], status["interface"], "{command:?}");
    }
}

/// Proves C12: all commands that print a policy say so if it is not enforced.
#[test]
fn what_is_not_enforced_is_not_printed_as_if_it_were() {
    let world = World::new();
    world.run(&APPLY).ok();
    for command in COMMANDS {
        let said = world.run(command).ok().out;
        assert!(
            !said.contains("warning") && !said.contains("note"),
            "{said}"
        );
        let json = only(&world.run(&[command, &["--json"]].concat()).ok());
        assert_eq!(
            (&json["health"], &json["faults"]),
            (&"enforcing".into(), &Value::Array(vec![]))
        );
    }
    // The outbound link is removed.
    let pin = world.pin_dir().join("outbound_link");
    std::fs::remove_file(&pin).unwrap();
    assert_said(
        &world,
        "incomplete",
        "warning: nic is not enforcing (incomplete): ",
    );
    world.run(&APPLY).ok();
    ip(&["-n", &world.node, "link", "del", "nic"]);
    assert_said(
        &world,
        "interface-gone",
        "(interface gone): the interface was deleted",
    );
    world.add_pair("nic", "other");
    assert_said(
        &world,
        "unprotected",
        "(unprotected): the interface was deleted, and the present nic",
    );
    world.run(&APPLY).ok();
    assert_eq!(
        only(&world.run(&["counters", "--json"]).ok())["health"],
        "enforcing"
    );
}

/// Moves the node's interface to the peer's namespace and keeps its name.
fn move_away(world: &World) {
    let World { node, peer, .. } = world;
    ip(&["-n", peer, "link", "set", "nic", "down"]);
    ip(&["-n", peer, "link", "set", "nic", "name", "theirs"]);
    ip(&["-n", node, "link", "set", "nic", "netns", peer]);
}

/// An interface that was moved is reported with the namespace that it is in now, from both
/// namespaces.
#[test]
fn an_interface_that_was_moved_is_where_it_is() {
    let world = World::new();
    world.run(&APPLY).ok();
    move_away(&world);
    let there = |words: &[&str]| {
        let mut command = super::world::sgctl(&["--netns", &world.peer, "--bpffs"]);
        Ran::of(&command.arg(&world.bpffs).args(words).output().unwrap())
    };
    let note = format!("note: nic is now in the network namespace {}", world.peer);
    assert_said(&world, "enforcing", &note);
    for command in [&["counters"][..], &["flows"], &["status"]] {
        let said = there(command).ok().out;
        assert!(said.contains(&world.peer), "{said}");
        assert!(
            !said.contains("note") && !said.contains(&world.node),
            "{said}"
        );
        for from in [&there as &dyn Fn(&[&str]) -> Ran, &|words: &[&str]| {
            world.run(words)
        }] {
            let words = [command, &["--iface", "nic", "--json"]].concat();
            assert_eq!(
                only(&from(&words).ok())["netns"],
                world.peer.as_str(),
                "{command:?}"
            );
        }
    }
    let moved = format!("`nic` was moved to the network namespace {}", world.peer);
    for command in ["apply", "run"] {
        let ran = world.run(&[command, "builtin:tke", "--iface", "nic"]);
        let remedy = format!(" --netns {} apply", world.peer);
        assert!(ran.fails(1, &moved).err.contains(&remedy));
    }
    let detached = world.run(&["detach", "--iface", "nic"]).ok().out;
    let named = format!("from nic in namespace {}", world.peer);
    assert!(detached.contains(&named), "{detached}");
}

/// Proves C12: while policies are replaced and confirmed, `status` finds no fault.
#[test]
fn a_policy_that_is_being_replaced_has_no_fault() {
    let world = World::new();
    world.run(&APPLY).ok();
    let is_over = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(Relaxed) {
                let status = world.run(&["status"]);
                assert_eq!(status.code, 0, "{}", status.all());
                looks += 1;
            }
            looks
        });
        for policy in ["builtin:web", "builtin:tke", "builtin:web", "builtin:tke"] {
            let words = ["apply", policy, "--iface", "nic", "--confirm-within", "1h"];
            world.run(&words).ok();
            world.run(&["confirm"]).ok();
        }
        is_over.store(true, Relaxed);
        looking.join().unwrap()
    });
    assert!(looks > 4, "{looks} are too few to tell");
}

/// An interface whose first apply was killed before it had attached anything is not called damaged,
/// and keeps nobody from reading the others.
#[test]
fn an_interface_that_was_to_join_does_not_hide_the_others() {
    let world = World::new();
    world.add_pair("second", "far");
    world.run(&APPLY).ok();
    let both = ["--iface", "nic", "--iface", "second"];
    let join = [&["apply", "builtin:web"], &both[..]].concat();
    let mut joining = world.command(&join);
    joining.env("SG_FAULT", "kill:after pinning array_tables_0");
    let killed = Ran::of(&joining.output().expect("sgctl runs"));
    assert_eq!(killed.code, -1, "{}", killed.all());

    let status = world.run(&["status"]);
    assert_eq!(status.code, 1, "{}", status.all());
    let row = |name: &str| status.out.lines().find(|line| line.starts_with(name));
    assert!(row("nic ").is_some_and(|row| row.contains("enforcing")));
    assert!(row("second ").is_some_and(|row| row.contains("interrupted")));
    let words = "nothing is attached to second, but there are maps";
    assert!(status.err.contains(words), "{}", status.all());
    assert!(!status.all().contains("one policy"), "{}", status.all());
    let json = world.run(&["status", "--json"]).json();
    let health = |name| {
        json.as_array()?
            .iter()
            .find(|row| row["interface"] == name)?["health"]
            .as_str()
    };
    assert_eq!(health("second"), Some("interrupted"), "{json}");
    assert_eq!(health("nic"), Some("enforcing"), "{json}");
    for command in ["counters", "flows", "log"] {
        let ran = world.run(&[command]);
        assert_eq!(ran.code, 0, "{}", ran.all());
        assert!(!ran.all().contains("damaged"), "{}", ran.all());
        let ran = world.run(&[command, "--iface", "second"]);
        ran.fails(1, words);
    }
    world.run(&join).ok();
    let status = world.run(&["status"]).ok().out;
    assert!(status.contains("nic, second: under one policy"), "{status}");
    world.run(&["detach"]).ok();
    world.assert_untouched();
}

/// When its interface is moved away, `run` says where it is. The policy stays in force.
#[test]
fn run_says_where_its_interface_went() {
    let world = World::new();
    let running = Running::start(&world, &["builtin:tke", "--persist"]);
    running.says("applied tke on nic");
    move_away(&world);
    running.says(&format!(
        "nic was moved to the network namespace {}",
        world.peer
    ));
    assert_eq!(running.end(nix::sys::signal::Signal::SIGTERM).0, Some(0));
}

/// A namespace is shown by its name even if `apply` ran inside it and was not given the name.
#[test]
fn a_namespace_that_has_a_name_is_called_by_it() {
    let world = World::new();
    let mut entered = Command::new("nsenter");
    entered.arg(format!("--net=/run/netns/{}", world.node));
    entered.arg(env!("CARGO_BIN_EXE_sgctl"));
    entered.arg("--bpffs").arg(&world.bpffs);
    let applied = entered.args(APPLY).output().expect("util-linux is there");
    Ran::of(&applied).ok();
    let bpffs = world.bpffs.display().to_string();
    let status = super::world::run(&["status", "--bpffs", &bpffs]).ok().out;
    assert!(
        status.contains(&world.node) && !status.contains("cookie"),
        "{status}"
    );
    for (command, key) in [
        ("status", "netns"),
        ("counters", "netns"),
        ("flows", "netns"),
    ] {
        let json = only(&world.run(&[command, "--json"]).ok());
        assert_eq!(json[key], world.node.as_str(), "{command}");
    }
    let detached = super::world::run(&["detach", "--bpffs", &bpffs]).ok().out;
    assert!(detached.contains(&world.node), "{detached}");
}
