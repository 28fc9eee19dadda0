//! `sgctl diff --iface`: the policy in force, or an earlier one, against a file.

use super::world::{World, file, run};

fn policy(world: &World, name: &str, port: u16) -> String {
    let text = format!(
        "name: p\ninbound:\n  - {{protocol: tcp, ports: {port}, from: 192.0.2.0/24, action: accept}}\n"
    );
    file(world.dir.path(), name, &text)
}

/// Proves C7: what is in force is compared by what it means, and so is what was.
#[test]
fn what_is_in_force_is_compared_with_a_file() {
    let world = World::new();
    let [ssh, web] =
        [("ssh.yaml", 22), ("web.yaml", 80)].map(|(name, port)| policy(&world, name, port));
    let diff = |words: &[&str]| world.run(&[&["diff", "--iface", "nic", "--json"], words].concat());
    diff(&[&ssh]).fails(1, "nothing is attached to `nic`");
    world.run(&["apply", &ssh, "--iface", "nic"]).ok();
    let same = diff(&[&ssh]).ok().json();
    assert_eq!(
        (&same["same"], &same["old"]["interface"]),
        (&true.into(), &"nic".into())
    );
    let changed = diff(&[&web]);
    assert_eq!(changed.code, 1);
    let changed = changed.json();
    assert_eq!(
        (&changed["change"], &changed["old"]["generation"]),
        (&"both".into(), &1.into())
    );
    for (row, port) in changed["rows"].as_array().unwrap().iter().zip([80, 22]) {
        assert_eq!(row["witness"]["port"], port, "{changed:#}");
        // The tables in the kernel say the same.
        let question = row["explain"].as_str().unwrap();
        let words = ["explain", "--iface", "nic", "--json"].into_iter();
        let words: Vec<&str> = words.chain(question.split(' ')).collect();
        let explained = world.run(&words).ok().json();
        assert_eq!(explained["verdict"], row["old"]["action"], "{changed:#}");
    }
    // What was in force before.
    world.run(&["apply", &web, "--iface", "nic"]).ok();
    diff(&[&web]).ok();
    diff(&[&ssh, "--generation", "1"]).ok();
    assert_eq!(diff(&[&web, "--generation", "1"]).code, 1);
    diff(&[&web, "--generation", "7"]).fails(1, "generation 7 is not kept");
}

/// The place of a rule in a text that is kept is a line of what `show` writes.
#[test]
fn places_in_kept_texts_are_lines_of_what_show_writes() {
    let world = World::new();
    let [ssh, web] =
        [("ssh.yaml", 22), ("web.yaml", 80)].map(|(name, port)| policy(&world, name, port));
    let line_of = |port: &str| {
        let shown = world.run(&["show", "--iface", "nic"]).ok().out;
        let port = format!("    ports: {port}");
        // The rule begins in the line before that of its ports.
        shown.lines().position(|line| line == port).expect("a rule")
    };
    world.run(&["apply", &ssh, "--iface", "nic"]).ok();
    let line = line_of("22");
    let compared = world.run(&["diff", "--iface", "nic", &web]);
    let place = format!("(generation 1:{line})");
    assert!(compared.out.contains(&place), "{place}: {}", compared.all());

    let candidate = ["apply", &web, "--iface", "nic", "--candidate", &ssh];
    world.run(&candidate).ok();
    world.run(&["promote", "--iface", "nic"]).ok();
    let question = [
        "explain",
        "--iface",
        "nic",
        "tcp",
        "192.0.2.2",
        ":22",
        "--json",
    ];
    let explained = world.run(&question).ok().json();
    let location = &explained["rule"]["location"];
    assert_eq!(location["file"], "candidate p", "{explained:#}");
    assert_eq!(location["line"], line_of("22"), "{explained:#}");
}

/// A rule whose packets several rules of the other policy decide is named once as no longer logged.
#[test]
fn a_rule_that_is_no_longer_logged_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let old = "inbound: [{name: seen, protocol: udp, from: any, action: drop, log: true}]\n";
    let new = "inbound:\n  - {protocol: udp, ports: 53, from: any, action: drop}\n  \
               - {protocol: udp, ports: 54, from: any, action: drop}\n";
    let [old, new] =
        [("old.yaml", old), ("new.yaml", new)].map(|(name, text)| file(dir.path(), name, text));
    let ran = run(&["diff", &old, &new]);
    assert_eq!(
        ran.out
            .matches("no longer logged: inbound drop by rule 1")
            .count(),
        1,
        "{}",
        ran.all()
    );
}
