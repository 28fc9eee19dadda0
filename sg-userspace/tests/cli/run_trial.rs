//! `run --confirm-within`: each policy waits to be confirmed, and what `run` says and does when it
//! is, when it is not, and when `run` is ended meanwhile.

use std::io::Read as _;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::{Running, in_force, policy};
use super::world::{APPLY, World, file};

fn status(world: &World) -> Value {
    world.run(&["status", "--json"]).json()[0].clone()
}

/// Waits for the end of a `run`: its exit code, the lines that were not read, and standard error.
fn end_of(mut running: Running) -> (Option<i32>, String, String) {
    let lines: Vec<String> = running.lines.iter().collect();
    let mut err = String::new();
    let mut stderr = running.child.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut err).expect("it is text");
    let code = running.child.wait().expect("it ends").code();
    (code, lines.join("\n"), err)
}

/// Proves C4 and C11: a first policy that nobody confirms is undone, `run` says so and ends with 1,
/// and what was in force before it is in force, tidied up: a policy, or none.
#[test]
fn a_first_policy_that_nobody_confirms_ends_the_run() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    for is_over in [true, false] {
        if is_over {
            world.run(&APPLY).ok();
        }
        let running = Running::start(&world, &[&mine, "--confirm-within", "2s"]);
        running.says("applied p1 on nic");
        running.says("not confirmed: undone in ");
        let (code, lines, err) = end_of(running);
        let said = match is_over {
            true => {
                "p1, generation 2, was not confirmed and is undone on nic: tke, generation 1, is in force again"
            }
            false => {
                "p1, generation 1, was not confirmed and is undone on nic: nothing is in force, as before it"
            }
        };
        assert_eq!(code, Some(1), "{lines}\n{err}");
        assert!(lines.contains(said), "{lines}\n{err}");
        assert!(
            err.contains(&format!("{} from another session", world.typed("confirm"))),
            "{err}"
        );
        if is_over {
            let now = status(&world);
            assert_eq!(now["policy"]["name"], "tke");
            assert_eq!(now["health"], "enforcing", "{now}");
            assert!(now["decided"].is_null(), "{now}");
            world.run(&["detach"]).ok();
        } else {
            world.assert_untouched();
        }
    }
}

/// Proves C4 and C11: on several interfaces, each has after the undo what it had before: a policy,
/// or none.
#[test]
fn each_interface_returns_to_what_it_had_before() {
    let world = World::new();
    world.add_pair("other", "far");
    world.run(&APPLY).ok();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let words = [
        "run",
        &mine,
        "--iface",
        "nic",
        "--iface",
        "other",
        "--confirm-within",
        "3s",
    ];
    let running = Running::of(&mut world.command(&words));
    running.says("applied p1 on nic, other");
    let (code, lines, err) = end_of(running);
    assert_eq!(code, Some(1), "{lines}\n{err}");
    let said =
        "was not confirmed and is undone on nic, other: tke, generation 1, is in force again";
    assert!(lines.contains(said), "{lines}\n{err}");
    let now = world.run(&["status", "--json"]).ok().json();
    let now: Vec<_> = now.as_array().into_iter().flatten().collect();
    assert_eq!(now.len(), 1, "{now:?}");
    assert_eq!(
        (&now[0]["interface"], &now[0]["policy"]["name"]),
        (&"nic".into(), &"tke".into())
    );
    assert!(now[0]["decided"].is_null(), "{now:?}");
}

/// Proves C4, C11 and C12: a confirmed policy stays and what somebody takes away of it is put back
/// for good; a reloaded one waits by itself, and when it is undone the confirmed one goes on until
/// the files change; at the end what was in force before `run` returns.
#[test]
fn a_reloaded_policy_gives_way_to_the_confirmed_one() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let words = [
        &mine[..],
        "--confirm-within",
        "1h",
        "--interval",
        "60",
        "--egress-hook",
        "clsact",
    ];
    world
        .run(&[
            "apply",
            "builtin:tke",
            "--iface",
            "nic",
            "--egress-hook",
            "clsact",
        ])
        .ok();
    let running = Running::start(&world, &words);
    running.says("applied p1 on nic, generation 2");
    running.says("then tke, generation 1, comes back");
    world.run(&["confirm"]).ok();
    running.says("confirmed p1 on nic, generation 2");
    assert!(status(&world)["unconfirmed"].is_null());

    let deleted = std::process::Command::new("tc")
        .args(["-n", &world.node, "qdisc", "del", "dev", "nic", "clsact"])
        .status();
    assert!(deleted.expect("the tests need tc").success());
    running.says("repaired p1 on nic");
    assert!(
        status(&world)["unconfirmed"].is_null(),
        "{}",
        status(&world)
    );
    let (_, repaired) = in_force(&world);

    file(world.dir.path(), "mine.yaml", &policy(2));
    running.says("reloaded p2 on nic");
    running.says("not confirmed: undone in ");
    world.run(&["rollback"]).ok();
    running.says(&format!(
        "was not confirmed and is undone on nic: p1, generation {repaired}, is in force again"
    ));
    // The same files do not put it in force again, and the confirmed policy is no change.
    file(world.dir.path(), "mine.yaml", &policy(1));
    running.says("unchanged: nic enforces already");
    assert_eq!(in_force(&world), ("p1".to_owned(), repaired));
    file(world.dir.path(), "mine.yaml", &policy(3));
    running.says("reloaded p3 on nic");
    running.says("not confirmed: undone in ");
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    assert!(
        lines.contains("returned to tke on nic, generation 1, as it was before"),
        "{lines}"
    );
    let now = status(&world);
    assert_eq!(now["policy"]["name"], "tke");
    assert_eq!(now["health"], "enforcing", "{now}");
    assert!(
        now["unconfirmed"].is_null() && now["decided"].is_null(),
        "{now}"
    );
}

/// Proves C4 and C11: a `run` that ends while its first policy waits undoes it at once; with
/// `--persist` the policy goes on waiting, and is undone by the kernel.
#[test]
fn a_run_that_ends_undoes_what_waits() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let running = Running::start(&world, &[&mine, "--confirm-within", "1h"]);
    running.says("nic: inbound ");
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    assert!(lines.contains("detached from nic (terminated)"), "{lines}");
    world.assert_untouched();

    world.run(&APPLY).ok();
    let running = Running::start(&world, &[&mine, "--confirm-within", "1h"]);
    running.says("nic: inbound ");
    let (code, lines, err) = running.end_with_lines(Signal::SIGINT);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    let returned = "returned to tke on nic, generation 1, as it was before (interrupted)";
    assert!(lines.contains(returned), "{lines}");
    let now = status(&world);
    assert_eq!(now["health"], "enforcing", "{now}");
    assert!(
        now["unconfirmed"].is_null() && now["decided"].is_null(),
        "{now}"
    );

    let running = Running::start(&world, &[&mine, "--confirm-within", "1h", "--persist"]);
    running.says("nic: inbound ");
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    let unless = format!(
        "undone unless {} comes before its deadline",
        world.typed("confirm")
    );
    assert!(lines.contains(&unless), "{lines}");
    let now = status(&world);
    assert_eq!(now["policy"]["name"], "p1");
    assert_eq!(now["unconfirmed"]["returns_to"]["name"], "tke");
}

/// Proves C4 and A4: the events of a trial in JSON.
#[test]
fn the_events_of_a_trial_are_objects() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let running = Running::start(&world, &[&mine, "--confirm-within", "1h", "--json"]);
    let applied: Value = serde_json::from_str(&running.line("\"applied\"")).expect("an object");
    assert!(
        applied["unconfirmed"]["seconds_left"].is_number(),
        "{applied}"
    );
    world.run(&["confirm"]).ok();
    let confirmed: Value = serde_json::from_str(&running.line("\"confirmed\"")).expect("an object");
    assert_eq!(confirmed["policy"]["generation"], 1);
    assert_eq!(confirmed["interface"], "nic");
    file(world.dir.path(), "mine.yaml", &policy(2));
    running.says("\"reloaded\"");
    world.run(&["rollback"]).ok();
    let undone: Value = serde_json::from_str(&running.line("\"undone\"")).expect("an object");
    assert_eq!(undone["policy"]["name"], "p1");
    assert_eq!(undone["undone"]["name"], "p2");
    assert_eq!(undone["interface"], "nic");
    running.end(Signal::SIGTERM);
}
