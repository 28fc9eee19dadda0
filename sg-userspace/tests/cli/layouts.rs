//! Pins of another layout version, older or newer, that are in force: every command says so,
//! changes nothing and does not say that nothing is attached.

use std::fs;
use std::path::{Path, PathBuf};

use sg_common::LAYOUT_VERSION;

use super::world::{APPLY, EXPLAIN, World, file};

/// The directory of a version's pins.
fn of_version(world: &World, version: u32) -> PathBuf {
    world.bpffs.join(format!("sgctl/v{version}"))
}

/// Everything below a directory, with its inode: what was made anew has another.
fn tree(dir: &Path) -> Vec<(PathBuf, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let about = entry.metadata().unwrap();
        found.push((entry.path(), about.ino()));
        if about.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}

/// The link's line, with the program's id.
fn attached(world: &World) -> String {
    let shown = std::process::Command::new("ip")
        .args(["-n", &world.node, "link", "show", "dev", "nic"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

/// Proves C13.
#[test]
fn another_layout_in_force_is_named_by_every_command_and_touched_by_none() {
    let world = World::new();
    let policy = file(world.dir.path(), "p.yaml", "name: p\ninbound: []\n");
    let textfile = world.dir.path().join("m.prom").display().to_string();
    world.run(&APPLY).ok();
    world.ping_node(3);
    let counted = world.run(&["counters", "--json"]).ok().json();
    let ours = of_version(&world, LAYOUT_VERSION);
    let iface = ["--iface", "nic"];
    let commands: Vec<Vec<&str>> = vec![
        APPLY.to_vec(),
        vec!["apply", &policy, "--iface", "nic", "--dry-run"],
        vec!["apply", &policy, "--iface", "nic", "--force"],
        vec![
            "apply",
            &policy,
            "--iface",
            "nic",
            "--confirm-within",
            "60s",
        ],
        vec!["apply", "--candidate", &policy, "--iface", "nic"],
        vec!["run", &policy, "--iface", "nic"],
        vec!["run", &policy, "--iface", "nic", "--wait", "--persist"],
        EXPLAIN.to_vec(),
        vec!["diff", "--iface", "nic", &policy],
        vec!["metrics", "--textfile", &textfile],
        vec!["log", "--last", "1"],
        vec!["status"],
        vec!["counters"],
        vec!["counters", "--reset"],
        vec!["flows"],
        vec!["show"],
        vec!["history"],
        vec!["confirm"],
        vec!["rollback"],
        vec!["promote"],
        vec!["detach"],
    ];
    for version in [LAYOUT_VERSION - 1, LAYOUT_VERSION + 1] {
        let theirs = of_version(&world, version);
        fs::rename(&ours, &theirs).unwrap();
        let (pins, link) = (tree(&world.bpffs), attached(&world));
        assert!(link.contains("prog/xdp"), "{link}");
        let words = format!(
            "holds pins of layout version {version}, this sgctl speaks version {LAYOUT_VERSION}"
        );
        for command in &commands {
            let can_name_it = !command.contains(&"--iface") && command[0] != "diff";
            let named = [&command[..], &iface].concat();
            for command in [Some(command), can_name_it.then_some(&named)] {
                let Some(command) = command else { continue };
                let ran = world.run(command);
                assert_eq!(ran.code, 1, "{command:?}: {}", ran.all());
                // Lines are broken where they are too long.
                let said = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
                let said = said.replace("│ ", "");
                assert!(said.contains(&words), "{command:?}: {}", ran.all());
                assert!(
                    said.contains("nothing enforced in between"),
                    "{}",
                    ran.all()
                );
                assert!(!ran.out.contains("nothing"), "{command:?}: {}", ran.all());
                assert_eq!(tree(&world.bpffs), pins, "{command:?}");
                assert_eq!(attached(&world), link, "{command:?}");
            }
        }
        // What was in force is in force, and the sgctl that made it goes on with it.
        fs::rename(&theirs, &ours).unwrap();
        let status = world.run(&["status", "--json"]).ok().json();
        assert_eq!(status[0]["health"], "enforcing", "{status}");
        let now = world.run(&["counters", "--json"]).ok().json();
        assert_eq!(now[0]["policy"], counted[0]["policy"]);
        assert_eq!(now[0]["rules"], counted[0]["rules"]);
    }
    world.run(&["detach"]).ok();
    world.assert_untouched();
}
