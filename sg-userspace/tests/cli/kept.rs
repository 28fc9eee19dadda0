//! `show` and `history`: what is in force can be read back and applied again, what was in force is
//! kept, and both are true.

use std::fmt::Write as _;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::{Running, policy};
use super::world::{Ran, World, file, ip};

impl World {
    fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        use std::io::Write as _;
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A reader that ends early says why itself.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Ran::of(&child.wait_with_output().unwrap())
    }

    /// The policies that `history` lists for `nic`.
    #[track_caller]
    fn past(&self) -> Vec<Value> {
        let words = ["history", "--iface", "nic", "--json"];
        let listed = self.run(&words).ok().json();
        listed[0]["policies"].as_array().unwrap().clone()
    }

    /// The generations and how they ended.
    #[track_caller]
    fn ends(&self) -> Vec<(u64, String)> {
        let of = |past: &Value| {
            let how = past["ended"]["how"].as_str().unwrap_or("in force");
            (past["generation"].as_u64().unwrap(), how.to_owned())
        };
        self.past().iter().map(of).collect()
    }

    #[track_caller]
    fn apply(&self, words: &[&str]) -> Value {
        let words = [&["apply", "--iface", "nic", "--json"], words].concat();
        self.run(&words).ok().json()
    }
}

fn ended(list: &[(u64, &str)]) -> Vec<(u64, String)> {
    list.iter()
        .map(|(number, how)| (*number, (*how).to_owned()))
        .collect()
}

/// A policy with a set of 100,000 addresses from a file, in its directory.
fn large(world: &World) -> String {
    let mut list = String::new();
    for i in 0..100_000u32 {
        let _ = writeln!(list, "{}", std::net::Ipv4Addr::from(0x0b00_0000 + i * 977));
    }
    file(world.dir.path(), "list.txt", &list);
    file(
        world.dir.path(),
        "large.yaml",
        "address-sets: {blocked: {file: list.txt}}\n\
         inbound: [{protocol: all, from: blocked, action: drop}, {protocol: all, from: any, action: accept}]\n",
    )
}

/// Proves C3: applying what `show` prints, by a pipe and from files, is the same policy: as a
/// template, with `--set`, without a name, of several files, and with 100,000 addresses.
#[test]
fn what_show_prints_applies_as_unchanged() {
    let world = World::new();
    let dir = world.dir.path();
    let unnamed = file(
        dir,
        "node.yaml",
        "description: 'of a file'\nlog-no-match: inbound\naddress-sets: {admin: [192.0.2.0/24]}\n\
         inbound: [{protocol: tcp, ports: 22, from: admin, action: accept, log: true}]\n",
    );
    let other = file(
        dir,
        "team.yaml",
        "address-sets: {admin: [198.51.100.7]}\n\
         inbound: [{protocol: tcp, ports: 80, from: admin, action: accept, description: web},\n\
         {protocol: all, from: any, action: drop}]\n",
    );
    let large = large(&world);
    for (number, words) in [
        &["builtin:tke"][..],
        &[
            "builtin:tke-minimal",
            "--set",
            "admin=203.0.113.7,2001:db8::/48",
            "--set",
            "node-ports=",
        ],
        &[&unnamed],
        &[&other, &unnamed],
        &[&large],
    ]
    .into_iter()
    .enumerate()
    {
        let applied = world.apply(words);
        assert_eq!(applied["unchanged"], false, "{words:?}");
        let shown = world.run(&["show", "--iface", "nic"]).ok();
        let digest = applied["policy"]["digest"].as_str().unwrap();
        let generation = format!(", generation {}, in force\n", number + 1);
        let head: Vec<&str> = shown.out.lines().take(3).collect();
        assert!(head.iter().all(|line| line.starts_with("# ")), "{head:?}");
        assert!(
            shown.out.contains(digest) && shown.out.contains(&generation),
            "{head:?}"
        );
        let again = ["apply", "-", "--iface", "nic", "--json"];
        let again = world.run_with(&again, &shown.out).ok().json();
        assert_eq!(
            again["unchanged"],
            true,
            "{words:?}: {}",
            &shown.out[..500.min(shown.out.len())]
        );

        let folder = dir.join(format!("out-{number}"));
        let folder = folder.to_str().unwrap();
        // Only one policy is in force, so that no interface has to be named.
        let wrote = world.run(&["show", "--output", folder]).ok().out;
        let name = wrote
            .lines()
            .last()
            .unwrap()
            .strip_prefix("wrote ")
            .unwrap();
        assert_eq!(wrote.contains("blocked.txt"), words == [&large], "{wrote}");
        assert_eq!(world.apply(&[name])["unchanged"], true, "{words:?}");
        // The same once more is no error, and other contents are not overwritten.
        world.run(&["show", "--output", folder]).ok();
        file(
            folder.as_ref(),
            name.rsplit('/').next().unwrap(),
            "# mine\n",
        );
        let refused = world.run(&["show", "--output", folder]);
        let refused = refused.fails(1, "exists with other contents");
        assert!(refused.err.contains(name), "{}", refused.err);
        let refused = world.run(&["show", "--output", &format!("{name}/below")]);
        let refused = refused.fails(1, "/below: ");
        assert!(refused.err.contains("help: "), "{}", refused.err);
        assert_eq!(std::fs::read_to_string(name).unwrap(), "# mine\n");
    }
    let shown = world
        .run(&["show", "--iface", "nic", "--generation", "4"])
        .ok()
        .out;
    let parts = [
        "name: team+node\n",
        "  - file-name: team\n",
        "admin-2: [192.0.2.0/24]",
        "of a file",
    ];
    assert!(parts.iter().all(|part| shown.contains(part)), "{shown}");
    world.run(&["detach"]).ok();
    world.assert_untouched();
}

/// Proves C3: the last five replaced policies with time, digest and who applied them; those before
/// are gone, and `show` says what is there.
#[test]
fn history_tells_what_was_in_force() {
    let world = World::new();
    let nothing = world.run(&["history"]).ok();
    assert_eq!(nothing.out, "nothing is attached\n");
    world.run(&["show"]).fails(1, "nothing is attached");
    let mut digests = Vec::new();
    for port in 1..=8u16 {
        let path = file(world.dir.path(), "p.yaml", &policy(port));
        let words = ["apply", &path, "--iface", "nic", "--json"];
        let output = world
            .command(&words)
            .env("SUDO_USER", "alice")
            .output()
            .unwrap();
        let applied = Ran::of(&output).ok().json();
        digests.push(applied["policy"]["digest"].clone());
    }
    let past = world.past();
    let numbers: Vec<u64> = past
        .iter()
        .map(|it| it["generation"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [8, 7, 6, 5, 4, 3]);
    for (index, one) in past.iter().enumerate() {
        assert_eq!(one["digest"], digests[7 - index]);
        assert_eq!(one["name"], format!("p{}", 8 - index));
        assert_eq!(one["by"]["uid"], 0);
        assert_eq!(one["by"]["sudo_user"], "alice");
        assert_eq!(one["is_kept"], true);
        match index {
            0 => assert!(one["ended"].is_null()),
            // It ended when the next one came.
            _ => {
                assert_eq!(one["ended"]["how"], "replaced");
                assert_eq!(one["ended"]["at"], past[index - 1]["applied_at"]);
            }
        }
    }
    let show = |generation: &str| world.run(&["show", "--generation", generation]);
    assert!(show("4").ok().out.contains("    ports: 4\n"));
    assert!(show("4").ok().out.contains("generation 4, replaced 2"));
    show("2").fails(1, "generation 2 is not kept");
    // There is a text for each of them, and none for others.
    let texts = world.pins().into_iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("policy_")
    });
    assert_eq!(texts.count(), 6);
    // The same policy again, and a policy that is refused, are no events.
    let path = file(world.dir.path(), "p.yaml", &policy(8));
    world.apply(&[&path]);
    let bad = file(world.dir.path(), "bad.yaml", "inbound: 7\n");
    assert_eq!(world.run(&["apply", &bad, "--iface", "nic"]).code, 1);
    assert_eq!(world.past(), past);
    let text = world.run(&["history", "--iface", "nic"]).ok().out;
    let first = text.lines().nth(1).unwrap();
    assert!(first.contains("in force") && first.contains("p8"), "{text}");
    assert_eq!(text.lines().count(), 7, "{text}");
    world.run(&["detach"]).ok();
    world.assert_untouched();
}

/// Proves C3 and C11: `run` writes it too. What it replaced comes back with its text, however many
/// policies the run had in between.
#[test]
fn a_run_is_in_the_history() {
    let world = World::new();
    let before = file(world.dir.path(), "before.yaml", &policy(1));
    world.apply(&[&before]);
    let path = file(world.dir.path(), "p.yaml", &policy(100));
    let running = Running::start(&world, &[&path]);
    running.says("applied");
    assert_eq!(world.ends(), ended(&[(2, "in force"), (1, "replaced")]));
    for port in 101..=106u16 {
        file(world.dir.path(), "p.yaml", &policy(port));
        running.says(&format!("p{port}"));
    }
    let numbers: Vec<u64> = world.ends().iter().map(|(number, _)| *number).collect();
    assert_eq!(
        numbers,
        [8, 7, 6, 5, 4, 3],
        "the first is not among the last five"
    );
    let (code, err) = running.end(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{err}");
    let ends = world.ends();
    assert_eq!(ends[..2], ended(&[(1, "in force"), (8, "run-ended")]));
    let shown = world.run(&["show"]).ok().out;
    assert!(shown.contains("name: p1\n"), "{shown}");
    assert_eq!(world.apply(&[&before])["unchanged"], true);
}

/// Proves C3 and C4: a policy that was undone, by hand or at its deadline, is in the history as
/// that, and the one before it is in force, whoever tidied up.
#[test]
fn an_undone_policy_is_in_the_history() {
    let world = World::new();
    let a = file(world.dir.path(), "a.yaml", &policy(1));
    let b = file(world.dir.path(), "b.yaml", &policy(2));
    world.apply(&[&a]);
    world.apply(&[&b, "--confirm-within", "1h"]);
    assert_eq!(world.ends(), ended(&[(2, "in force"), (1, "replaced")]));
    world.run(&["rollback"]).ok();
    let by_hand = ended(&[(1, "in force"), (2, "rolled-back")]);
    assert_eq!(world.ends(), by_hand);
    let applied = world.apply(&[&b, "--confirm-within", "1s"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // The policy before it was loaded under a number between the two.
    let second = applied["policy"]["generation"].as_u64().unwrap();
    let undone = ended(&[(1, "in force"), (second, "undone"), (2, "rolled-back")]);
    while world.ends() != undone {
        assert!(std::time::Instant::now() < deadline, "{:?}", world.ends());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(world.past()[1]["ended"]["at"].is_null(), "nobody was there");
    assert!(world.run(&["show"]).ok().out.contains("name: p1\n"));
    // The next command that changes something tidies up, and writes down the time.
    assert_eq!(world.apply(&[&a])["unchanged"], true);
    assert_eq!(world.ends(), undone);
    // The deadline is by a clock that cannot be set; each command tells it by the clock of now.
    let time = |value: &Value| -> jiff::Timestamp { value.as_str().unwrap().parse().unwrap() };
    let ended_at = time(&world.past()[1]["ended"]["at"]);
    let until = time(&applied["unconfirmed"]["until"]);
    let apart = ended_at.duration_since(until).abs();
    assert!(
        apart < jiff::SignedDuration::from_secs(1),
        "{ended_at} {until}"
    );
    let applied = world.apply(&[&b, "--confirm-within", "1h"]);
    let third = applied["policy"]["generation"].as_u64().unwrap();
    world.run(&["confirm"]).ok();
    let past = world.ends();
    let confirmed = [(third, "in force"), (1, "replaced"), (second, "undone")];
    assert_eq!(past[..3], ended(&confirmed));
}

/// Interfaces under one policy have one history. It stays when one joins, leaves, is renamed, or
/// moves to another namespace.
#[test]
fn an_attachment_has_one_history() {
    let world = World::new();
    let (a, b) = (policy(1), policy(2));
    let a = file(world.dir.path(), "a.yaml", &a);
    let b = file(world.dir.path(), "b.yaml", &b);
    world.add_pair("sg9", "sg8");
    ip(&["-n", &world.node, "link", "set", "sg9", "up"]);
    world.apply(&[&a]);
    world.apply(&[&b]);
    let past = world.past();
    world.apply(&[&b, "--iface", "sg9"]);
    assert_eq!(
        world.past(),
        past,
        "an interface that joins changes nothing"
    );
    let listed = world.run(&["history", "--json"]).ok().json();
    let names = |listed: &Value| -> Vec<String> {
        let all = listed.as_array().unwrap().iter();
        all.map(|one| one["interface"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed[0]["policies"], listed[1]["policies"]);
    let text = world.run(&["history"]).ok().out;
    assert_eq!(text.matches("in force").count(), 1, "{text}");
    assert!(
        text.contains("nic, sg9") || text.contains("sg9, nic"),
        "{text}"
    );
    world.run(&["detach", "--iface", "sg9"]).ok();
    assert_eq!(world.past(), past, "one that leaves changes nothing");

    ip(&["-n", &world.node, "link", "set", "nic", "down"]);
    ip(&["-n", &world.node, "link", "set", "nic", "name", "wan"]);
    ip(&["-n", &world.node, "link", "set", "wan", "up"]);
    let listed = world.run(&["history", "--json"]).ok().json();
    assert_eq!(names(&listed), ["wan"]);
    assert_eq!(listed[0]["policies"], Value::from(past.clone()));

    let third = world.dir.namespace("third").unwrap();
    ip(&["-n", &world.node, "link", "set", "wan", "netns", &third]);
    ip(&["-n", &third, "link", "set", "wan", "up"]);
    let bpffs = world.bpffs.display().to_string();
    let there = |words: &[&str]| {
        super::world::run(&[&["--netns", &third, "--bpffs", &bpffs], words].concat())
    };
    there(&["apply", &a, "--iface", "wan"]).ok();
    let listed = there(&["history", "--iface", "wan", "--json"]).ok().json();
    let of = |index: usize| listed[0]["policies"][index]["generation"].as_u64();
    assert_eq!(
        [of(0), of(1), of(2)],
        [Some(3), Some(2), Some(1)],
        "{listed}"
    );
    there(&["detach", "--iface", "wan"]).ok();
    assert!(world.pins().is_empty(), "{:?}", world.pins());
}

/// What is missing or damaged is said, and never keeps a policy from being replaced.
#[test]
fn a_history_that_is_lost_or_damaged_is_begun_anew() {
    let world = World::new();
    let a = file(world.dir.path(), "a.yaml", &policy(1));
    let b = file(world.dir.path(), "b.yaml", &policy(2));
    world.apply(&[&a]);
    let shared = world.pin_dir().parent().unwrap().to_owned();
    std::fs::remove_file(shared.join("history")).unwrap();
    assert_eq!(world.ends(), ended(&[(1, "in force")]));
    assert!(world.past()[0]["by"].is_null());
    world
        .run(&["show"])
        .fails(1, "its text was not written down");
    world.apply(&[&b]);
    assert_eq!(world.ends(), ended(&[(2, "in force"), (1, "replaced")]));
    // Another blob under its name.
    std::fs::rename(shared.join("policy_2"), shared.join("history")).unwrap();
    world.run(&["history"]).fails(1, "it does not begin as one");
    world.run(&["status"]).ok();
    world.apply(&[&a]);
    assert_eq!(world.ends(), ended(&[(3, "in force"), (2, "replaced")]));
    // The text of another policy.
    world.apply(&[&b]);
    std::fs::rename(shared.join("policy_3"), shared.join("policy_4")).unwrap();
    world
        .run(&["show"])
        .fails(1, "it is the text of another policy");
    let gone = world.run(&["show", "--generation", "3"]);
    gone.fails(1, "generation 3 is not kept");
    world.run(&["detach"]).ok();
    world.assert_untouched();
}

/// Several policies: `show` asks which one is meant.
#[test]
fn show_asks_for_the_interface_where_there_are_several_policies() {
    let world = World::new();
    let a = file(world.dir.path(), "a.yaml", &policy(1));
    world.add_pair("sg9", "sg8");
    world.apply(&[&a]);
    world.run(&["apply", &a, "--iface", "sg9"]).ok();
    world
        .run(&["show"])
        .fails(2, "name the interface with --iface");
    assert!(
        world
            .run(&["show", "--iface", "sg9"])
            .ok()
            .out
            .starts_with("# sg9")
    );
    let json = world.run(&["show", "--iface", "nic", "--json"]).ok().json();
    assert_eq!(json["interface"], "nic");
    assert!(json["text"].as_str().unwrap().starts_with("name: p1\n"));
}
