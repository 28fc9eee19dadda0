//! `sgctl run` beside other processes: a second `run`, an `apply`, an editor that writes slowly.
//! And what `run` leaves behind when it ends.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sg_testbed::wait_for;

use super::run::{Running, in_force, policy};
use super::world::{Ran, World, file, ip};

/// Proves C11: a second `run` on the interface is refused, and the message names the process of the
/// first. If the first is killed, its policy stays, and the next `run` can start.
#[test]
fn two_on_one_interface_are_refused() {
    let world = World::new();
    let (first, second) = ("first.yaml", "second.yaml");
    let first = file(world.dir.path(), first, &policy(1));
    let second = file(world.dir.path(), second, &policy(2));
    let mut running = Running::start(&world, &[&first]);
    running.says("applied p1");
    let who = format!(
        "another `sgctl run` looks after `nic` (process {})",
        running.child.id()
    );
    world
        .run(&["run", &second, "--iface", "nic"])
        .fails(1, &who);
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    running.signal(Signal::SIGKILL);
    running.child.wait().unwrap();
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    let running = Running::start(&world, &[&second]);
    running.says("applied p2");
    drop(running);
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Proves C11: if the first apply of a `run` fails, the run lock is removed as well.
#[test]
fn one_that_cannot_start_leaves_nothing() {
    let world = World::new();
    let bad = file(world.dir.path(), "bad.yaml", "inbound: 7\n");
    world
        .run(&["run", &bad, "--iface", "nic"])
        .fails(1, "`inbound`");
    world.assert_untouched();
}

/// Proves C11: `run` reports at once that another process has applied a policy, and leaves that
/// policy in force at its end.
#[test]
fn an_apply_of_another_process_is_reported_and_stays_at_the_end() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let other = file(world.dir.path(), "other.yaml", &policy(2));
    let running = Running::start(&world, &[&mine, "--interval", "60"]);
    running.says("applied p1 on nic, generation 1");
    world.run(&["apply", &other, "--iface", "nic"]).ok();
    running.says("somebody else has put p2 in force on nic, generation 2");
    // A change of `run`'s own files puts its policy in force again. After that another apply stays
    // as before.
    std::fs::write(&mine, policy(3)).unwrap();
    running.says("reloaded p3 on nic, generation 3");
    world.run(&["apply", &other, "--iface", "nic"]).ok();
    running.says("somebody else has put p2 in force on nic, generation 4");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    assert_eq!(in_force(&world), ("p2".to_owned(), 4));
    assert!(world.has_xdp());
}

/// An `apply` that has nothing to do says so if what it leaves as it is ends with a `run`.
#[test]
fn an_apply_of_the_same_policy_says_that_it_ends_with_the_run() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let running = Running::start(&world, &[&mine, "--interval", "60"]);
    running.says("applied p1 on nic, generation 1");
    let apply = || world.run(&["apply", &mine, "--iface", "nic"]).ok().all();
    let said = apply();
    let note = "`sgctl run` is at work on nic: what it has put in force ends with it";
    assert!(said.contains("unchanged p1 on nic"), "{said}");
    assert!(said.contains(note), "{said}");
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
    world.assert_untouched();
    let said = apply();
    assert!(!said.contains("sgctl run"), "{said}");
    let said = apply();
    assert!(said.contains("unchanged p1 on nic"), "{said}");
    assert!(!said.contains("sgctl run"), "{said}");
    world.run(&["detach", "--iface", "nic"]).ok();
}

/// Proves C12: `run` reports and repairs what another process removes. A `detach` ends it with a
/// message.
#[test]
fn what_somebody_takes_away_is_put_back() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let words = [&mine[..], "--interval", "60", "--egress-hook", "clsact"];
    let running = Running::start(&world, &words);
    running.says("applied p1 on nic, generation 1");
    let deleted = std::process::Command::new("tc")
        .args(["-n", &world.node, "qdisc", "del", "dev", "nic", "clsact"])
        .status();
    assert!(deleted.expect("the tests need tc").success());
    world.run(&["status"]).fails(1, "");
    running.says("nic is not enforcing: ");
    running.says("repaired p1 on nic, generation 2");
    let patience = Duration::from_secs(60);
    wait_for("the repair", patience, || world.run(&["status"]).code == 0);
    world.run(&["detach"]).ok();
    running.says("somebody else has detached nic");
    world.assert_untouched();
}

/// Proves C11: a policy file is not applied while a process has it open for writing, even if its
/// content is a valid policy already.
#[test]
fn a_file_that_is_written_in_pieces_is_applied_when_it_is_whole() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let running = Running::start(&world, &[&path, "--interval", "60"]);
    running.says("applied p1 on nic, generation 1");
    let mut writer = File::create(&path).unwrap();
    for piece in [
        "name: piece\n",
        "inbound:\n",
        "- {protocol: tcp, from: any, action: accept}\n",
    ] {
        writer.write_all(piece.as_bytes()).unwrap();
        writer.flush().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(in_force(&world), ("p1".to_owned(), 1), "after {piece:?}");
    }
    drop(writer);
    running.says("reloaded piece on nic, generation 2");
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
    world.assert_untouched();
}

/// Proves C11: at its end `run` returns to the policy that was in force before it, with its
/// counters. It may have reloaded any number of times, and other policies may have taken free
/// counter slots.
#[test]
fn it_returns_to_the_policy_that_was_there() {
    let world = World::new();
    let old = "name: old\ninbound: [{protocol: icmp, from: any, action: drop}]\n";
    let old = file(world.dir.path(), "old.yaml", old);
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    world.ping_node(3);
    let counted = || {
        let json = world.run(&["counters", "--iface", "nic", "--json"]).json();
        let rules = json[0]["rules"].as_array().unwrap().clone();
        let rule = rules.iter().find(|rule| rule["summary"] == "icmp from any");
        rule.map(|rule| (rule["packets"].as_u64().unwrap(), rule["position"].as_u64()))
    };
    assert_eq!(counted(), Some((3, Some(1))));
    let status = || world.run(&["status", "--iface", "nic", "--json"]).json()[0].clone();
    let before = status();
    let running = Running::start(&world, &[&mine, "--interval", "60"]);
    running.says("applied p1 on nic, generation 2");
    for port in 2..5 {
        std::fs::write(&mine, policy(port)).unwrap();
        running.says(&format!("reloaded p{port} on nic"));
        world.ping_node(1);
    }
    assert_eq!(
        counted(),
        Some((3, None)),
        "another policy counts elsewhere"
    );
    running.signal(Signal::SIGTERM);
    running.says("returned to old on nic, generation 1, as it was before (terminated)");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    let after = status();
    for key in ["health", "policy", "xdp_mode", "egress_hook", "attached_at"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    world.ping_node(2);
    assert_eq!(counted(), Some((5, Some(1))));
    // The number of a generation is never used again, nor is the one of the epoch that the return
    // began.
    world.run(&["apply", &mine, "--iface", "nic"]).ok();
    assert_eq!(in_force(&world), ("p4".to_owned(), 7));
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Starts a `run` with one fault. That takes a build with fault points (see `kernel::faults`).
fn with_fault(world: &World, fault: &str, words: &[&str]) -> Ran {
    let mut command = world.command(&["run", "--iface", "nic", "--interval", "60"]);
    let output = command.args(words).env("SG_FAULT", fault).output();
    Ran::of(&output.expect("sgctl starts"))
}

/// Proves C11 and C1: if the first policy of a `run` is in force and a later step of the attachment
/// fails, `run` undoes it and says so, with or without a policy before it.
#[test]
fn a_beginning_that_fails_leaves_what_was_there() {
    let world = World::new();
    let old = file(world.dir.path(), "old.yaml", &policy(1));
    let mine = file(world.dir.path(), "mine.yaml", &policy(2));
    for words in [&[&mine[..]][..], &[&mine, "--persist"]] {
        // The first time this pin is removed belongs to the remembering programs; the second time
        // is the step that fails.
        let ran = with_fault(&world, "fail:before unpinning inbound_targets_0 #2", words);
        assert_eq!(ran.code, 3, "{}", ran.all());
        assert!(
            ran.err.contains("; both directions run generation 1"),
            "{}",
            ran.all()
        );
        assert!(
            ran.out.contains("detached from nic (it could not begin)"),
            "{}",
            ran.all()
        );
        world.assert_untouched();
    }
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    let ran = with_fault(&world, "fail:before unpinning inbound_targets_1", &[&mine]);
    assert_eq!(ran.code, 3, "{}", ran.all());
    assert!(
        ran.err.contains("; both directions run generation 2"),
        "{}",
        ran.all()
    );
    assert!(
        ran.out
            .contains("returned to p1 on nic, generation 1, as it was before (it could not begin)"),
        "{}",
        ran.all()
    );
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    // If the policy did not come into force at all, there is nothing to undo, and nothing is
    // reported.
    let ran = with_fault(&world, "fail:before updating the inbound link", &[&mine]);
    assert!(
        ran.err.contains("; both directions run generation 1") && ran.out.is_empty(),
        "{}",
        ran.all()
    );
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Proves C11 and C1: if the kernel refuses the last steps of a `run`, they are tried again a
/// limited number of times, and `run` says what stays in force.
#[test]
fn an_end_that_is_refused_is_tried_again_and_says_what_stays() {
    let world = World::new();
    let old = file(world.dir.path(), "old.yaml", &policy(1));
    let mine = file(world.dir.path(), "mine.yaml", &policy(2));
    let ended = |fault: &str, format: &[&str]| {
        let mut command = world.command(&["run", "--iface", "nic", "--interval", "60", &mine]);
        let running = Running::of(command.args(format).env("SG_FAULT", fault));
        // The first counters are printed when all steps of the beginning are done.
        running.says(if format.is_empty() {
            "nic: inbound "
        } else {
            "counters"
        });
        running.end_with_lines(Signal::SIGTERM)
    };
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    // The link is updated twice: first to the policy of this `run`, then back to the old one.
    let at = "before updating the inbound link #2";
    let (code, lines, err) = ended(&format!("fail:{at}"), &[]);
    assert_eq!(code, Some(0), "{lines} {err}");
    assert!(
        lines.contains("returning to p1 has failed, and is tried again:"),
        "{lines}"
    );
    assert!(
        lines.contains("returned to p1 on nic, generation 1"),
        "{lines}"
    );
    assert_eq!(err.matches("error: ").count(), 1, "{err}");
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));

    let (code, lines, err) = ended(&format!("refuse:{at}"), &[]);
    assert_eq!(code, Some(3), "{lines} {err}");
    assert!(
        lines.contains("left as it is on nic, for returning to p1 has failed 5 times"),
        "{lines}"
    );
    let (name, generation) = in_force(&world);
    assert_eq!(name, "p2");
    let standing = format!("; both directions run generation {generation}");
    assert!(err.contains(&standing), "{err}");
    world.run(&["status"]).ok();

    // The same where nothing was attached before the `run`.
    world.run(&["detach", "--iface", "nic"]).ok();
    let at = "before detaching the outbound link";
    let (code, lines, err) = ended(&format!("refuse:{at}"), &["--json"]);
    assert_eq!(code, Some(3), "{lines} {err}");
    let event = |name: &str| {
        let line = lines.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {lines}"));
        serde_json::from_str::<serde_json::Value>(line).unwrap()
    };
    let retrying = event(r#""event":"retrying""#);
    assert_eq!(retrying["step"], "detaching", "{retrying}");
    assert_eq!(retrying["errors"][0]["severity"], "error", "{retrying}");
    assert_eq!(event(r#""event":"left""#)["why"], "detaching has failed");
    assert!(
        err.contains("inbound runs nothing, outbound generation 1"),
        "{err}"
    );
    world.run(&["status"]).fails(1, "");
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Proves C11: `run` leaves a policy in force if it was in force before with the same content, or
/// if it was started with `--persist`.
#[test]
fn what_was_there_before_and_what_is_to_stay_stays() {
    let world = World::new();
    let old = file(world.dir.path(), "old.yaml", &policy(1));
    let mine = file(world.dir.path(), "mine.yaml", &policy(2));
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    let running = Running::start(&world, &[&old, "--interval", "60"]);
    running.says("p1 on nic");
    assert_eq!(running.end(Signal::SIGINT).0, Some(0));
    assert_eq!(in_force(&world).0, "p1");
    let running = Running::start(&world, &[&mine, "--persist", "--interval", "60"]);
    running.says("applied p2");
    assert_eq!(running.end(Signal::SIGINT).0, Some(0));
    assert_eq!(in_force(&world).0, "p2");
    assert!(world.has_xdp());
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Tells the peer the hardware address of the node's interface for good.
fn know_the_node(world: &World) {
    let address = "cat /sys/class/net/nic/address";
    let words = ["netns", "exec", &world.node, "sh", "-c", address];
    let address = sg_testbed::run("ip", &words);
    let words = ["-n", &world.peer, "neigh", "replace", "192.0.2.1", "lladdr"];
    let more = [address.trim(), "nud", "permanent", "dev", "nic"];
    ip(&[&words[..], &more].concat());
}

/// Proves C11 and A2: if the interface is deleted and created again under its name, `run` attaches
/// to the new one at once, and the counters go on.
#[test]
fn an_interface_that_is_made_anew_is_attached_again() {
    let world = World::new();
    let text = "name: p\ninbound: [{protocol: icmp, from: any, action: drop}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path, "--interval", "60", "--json"]);
    running.says(r#""event":"applied""#);
    world.ping_node(3);
    // Traffic flows all the time, and is counted by another rule than the pings.
    let flood = "for i in $(seq 20000); do echo x > /dev/udp/192.0.2.1/9; sleep 0.001; done";
    let mut flood = std::process::Command::new("ip")
        .args(["netns", "exec", &world.peer, "bash", "-c", flood])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut quickest = f64::MAX;
    let started = Instant::now();
    let mut round = 0;
    // The machine may be busy, so only the quickest of several rounds has to be quick.
    while round < 3 || quickest >= 100.0 {
        round += 1;
        let is_late = started.elapsed() > Duration::from_secs(120);
        assert!(!is_late, "never quicker than {quickest} ms");
        ip(&["-n", &world.node, "link", "del", "nic"]);
        world.add_veth();
        let line = running.line(r#""event":"reattached""#);
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        quickest = quickest.min(said["milliseconds"].as_f64().unwrap());
        assert!(world.has_xdp());
        // Without it, what the flood leaves waiting for the neighbour could push the pings out.
        know_the_node(&world);
        let status = world.run(&["status", "--iface", "nic", "--json"]).json();
        assert_eq!(status[0]["health"], "enforcing", "{status}");
        world.ping_node(2);
        let counters = world.run(&["counters", "--iface", "nic", "--json"]).json();
        assert_eq!(
            counters[0]["rules"][0]["packets"],
            3 + 2 * round,
            "round {round}"
        );
    }
    let _ = flood.kill();
    let _ = flood.wait();
    let counters = world.run(&["counters", "--iface", "nic", "--json"]).json();
    let reasons = counters[0]["reasons"].as_array().unwrap();
    let dropped = reasons
        .iter()
        .find(|row| row["reason"] == "no-match" && row["direction"] == "inbound");
    assert!(dropped.unwrap()["packets"].as_u64() > Some(0), "{counters}");
    // `run` goes on with the new interface: a changed file is applied to it.
    std::fs::write(&path, text.replace("name: p", "name: q")).unwrap();
    running.says(r#""event":"reloaded""#);
    assert_eq!(in_force(&world).0, "q");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    world.assert_untouched();
}
