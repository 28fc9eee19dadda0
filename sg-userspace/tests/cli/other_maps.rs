//! A pin may lead to another map than its name says. Commands report an error then: none uses the
//! bytes of that map, and none lets the kernel write past the end of a buffer.

use std::fs;
use std::path::PathBuf;

use super::run::policy;
use super::world::{World, file};

/// A policy is in force, and one is on trial.
fn on_trial() -> World {
    let world = World::new();
    let [first, second] = ["a", "b"].map(|name| {
        let port = u16::from(name.as_bytes()[0]);
        file(world.dir.path(), name, &policy(port))
    });
    world.run(&["apply", &first, "--iface", "nic"]).ok();
    let words = ["apply", &second, "--iface", "nic", "--confirm-within", "1h"];
    world.run(&words).ok();
    world
}

/// The pinned maps that the interfaces of an attachment share, and behind `OWN/` those of one.
fn maps(world: &World) -> Vec<String> {
    let own = world.pin_dir();
    let shared = own.parent().expect("it is in a directory").to_owned();
    let name = |path: &PathBuf| {
        let (before, name) = match path.strip_prefix(&own) {
            Ok(name) => ("OWN/", name),
            Err(_) => ("", path.strip_prefix(&shared).ok()?),
        };
        let name = name.to_str()?;
        let is_map = path.is_file() && !name.ends_with("_link") && !name.contains("program");
        is_map.then(|| format!("{before}{name}"))
    };
    world.pins().iter().filter_map(name).collect()
}

/// Proves C1: the other maps are a frozen array of pages, one with a value for each CPU, and a
/// hash.
#[test]
fn a_pin_that_leads_to_another_map_is_an_error_and_no_crash() {
    let all = maps(&on_trial());
    assert!(all.len() > 20, "{all:?}");
    for (i, name) in all.iter().enumerate() {
        let others = ["history", "OWN/counters_0", "fragments4"];
        // Only frozen arrays are copied where memory is asked for.
        let other = match &**name {
            "trial_2" | "flow_ledger" => "history",
            _ => others[i % others.len()],
        };
        if other == name {
            continue;
        }
        let world = on_trial();
        let own = world.pin_dir();
        let shared = own.parent().expect("it is in a directory");
        let path = |name: &str| match name.strip_prefix("OWN/") {
            Some(name) => own.join(name),
            None => shared.join(name),
        };
        fs::remove_file(path(name)).expect("the pin goes");
        fs::hard_link(path(other), path(name)).expect("the other map is pinned there");
        for words in [
            &["status"][..],
            &["counters"],
            &["flows"],
            &["log", "--last", "3"],
            &["rollback"],
            &["detach", "--iface", "nic"],
        ] {
            let ran = world.run(words);
            let said = format!("{other} as {name}: {words:?}: {}", ran.all());
            assert!((0..=3).contains(&ran.code), "{said}");
            // `status` has what it finds in its report.
            let is_said = words == ["status"] || ran.err.contains("error: ");
            assert!(ran.code == 0 || is_said, "{said}");
            if name == "trial_2" && words == ["rollback"] {
                assert!(ran.err.contains("it is another map"), "{said}");
                assert_eq!(ran.out, "", "{said}");
            }
        }
        assert!(!world.has_xdp(), "{other} as {name}");
    }
}
