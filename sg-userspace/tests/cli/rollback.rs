//! `sgctl rollback` where no policy waits to be confirmed: an earlier one is applied again.

use std::time::Duration;

use serde_json::Value;
use sg_testbed::wait_for;

use super::run::policy;
use super::world::{World, file};

/// The name and the generation of the policy in force, and its digest.
fn in_force(world: &World) -> (String, u64, String) {
    let status = world.run(&["status", "--json"]).ok().json();
    let policy = &status[0]["policy"];
    let text = |key: &str| policy[key].as_str().expect("it is a text").to_owned();
    let generation = policy["generation"].as_u64().expect("a number");
    assert_eq!(status[0]["health"], "enforcing", "{status}");
    (text("name"), generation, text("digest"))
}

fn apply(world: &World, port: u16) -> String {
    let path = file(world.dir.path(), "p.yaml", &policy(port));
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    in_force(world).2
}

/// Proves C4: an earlier policy comes back from the text that is kept of it, as a new generation
/// with the same digest; and with a time it is undone unless it is confirmed, as any other.
#[test]
fn an_earlier_policy_is_applied_again() {
    let world = World::new();
    let digests = [1, 2, 3].map(|port| apply(&world, port));
    let ran = world.run(&["rollback"]).ok();
    assert!(ran.out.starts_with("applying p2 to nic\n"), "{}", ran.out);
    let expected = "\napplied p2 on nic, generation 4, in place of generation 3";
    assert!(ran.out.contains(expected), "{}", ran.out);
    assert_eq!(in_force(&world), ("p2".into(), 4, digests[1].clone()));
    let rows = world.run(&["rollback", "--to", "1", "--json"]).ok().json();
    assert_eq!(rows[0]["interface"], "nic");
    assert_eq!(rows[0]["policy"]["generation"], 4);
    assert_eq!(rows[0]["returned_to"]["name"], "p1");
    assert_eq!(in_force(&world), ("p1".into(), 5, digests[0].clone()));

    let words = ["rollback", "--to", "3", "--confirm-within", "1h"];
    let ran = world.run(&words).ok();
    assert!(
        ran.out.contains("then p1, generation 5, comes back"),
        "{}",
        ran.out
    );
    assert_eq!(in_force(&world), ("p3".into(), 6, digests[2].clone()));
    let ran = world.run(&["rollback"]).ok();
    assert!(
        ran.out.starts_with("undone p3 on nic, generation 6"),
        "{}",
        ran.out
    );
    assert_eq!(in_force(&world), ("p1".into(), 5, digests[0].clone()));

    let history = world.run(&["history", "--json"]).ok().json();
    let ended: Vec<&Value> = history[0]["policies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["ended"]["how"])
        .collect();
    assert_eq!(ended[0], &Value::Null, "{history}");
    assert!(ended[1..].iter().all(|how| !how.is_null()), "{history}");
    assert!(ended.iter().any(|how| **how == "rolled-back"), "{history}");
}

/// Proves C4: a second `rollback`, and one after the deadline, do not apply the undone policy
/// again.
#[test]
fn a_policy_that_was_undone_is_not_returned_to() {
    let world = World::new();
    let digest = apply(&world, 1);
    let bad = file(world.dir.path(), "bad.yaml", &policy(2));
    let words = ["apply", &bad, "--iface", "nic", "--confirm-within"];
    for by_hand in [true, false] {
        let window = if by_hand { "1h" } else { "1s" };
        world.run(&[&words[..], &[window]].concat()).ok();
        if by_hand {
            world.run(&["rollback"]).ok();
        } else {
            let is_back = || {
                let status = world.run(&["status", "--json"]).json();
                status[0]["policy"]["digest"] == digest
            };
            wait_for("the end of the trial", Duration::from_secs(30), is_back);
            // Somebody else's command has tidied up.
            let ran = world.run(&["confirm", "--iface", "nic"]);
            assert_eq!(ran.code, 1, "{}", ran.all());
        }
        let before = in_force(&world);
        let again = world.run(&["rollback"]);
        again.fails(1, "was undone, and p1, generation 1, is in force again");
        assert_eq!(in_force(&world), before);
        assert_eq!(before.2, digest);
    }
    world.run(&["rollback", "--to", "2"]).ok();
    assert_eq!(in_force(&world).0, "p2");
}

/// Proves C4: where there is nothing to return to, nothing changes.
#[test]
fn there_may_be_nothing_to_return_to() {
    let world = World::new();
    world.run(&["rollback"]).fails(1, "nothing is attached to");
    apply(&world, 1);
    let before = in_force(&world);
    world
        .run(&["rollback"])
        .fails(1, "no policy before the one in force is kept");
    world
        .run(&["rollback", "--to", "7"])
        .fails(1, "generation 7");
    assert_eq!(in_force(&world), before);
}
