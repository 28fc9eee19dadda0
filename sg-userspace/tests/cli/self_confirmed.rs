//! `run --confirm-if-reachable` and the probes of `status`: a policy under which the node still
//! reaches what it must confirms itself; one that cuts it off is undone, is not tried again, and
//! keeps the node from being ready until the files mean another one.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::{Running, in_force};
use super::world::{Ran, World, file, inside};

/// What stands for the API server: it listens at the peer.
const API: &str = "192.0.2.2:6443";

/// A policy under which [`API`] can be reached. What differs between two is `port`.
fn good(name: &str, port: u16) -> String {
    format!(
        "name: {name}\n\
         inbound: [{{protocol: tcp, ports: {port}, from: any, action: accept}}]\n\
         outbound: [{{protocol: tcp, ports: 6443, to: any, action: accept}}]\n"
    )
}

/// One under which it cannot.
const BAD: &str = "name: bad\n\
                   inbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n\
                   outbound: [{protocol: udp, to: any, action: accept}]\n";

/// Connections are completed by the kernel, nobody has to accept them.
fn api(world: &World) -> TcpListener {
    inside(&world.peer, || TcpListener::bind(API)).expect("the port is free")
}

fn start(world: &World, policy: &str, within: &str) -> Running {
    let words = [
        policy,
        "--persist",
        "--interval",
        "60",
        "--confirm-within",
        within,
        "--confirm-if-reachable",
        API,
    ];
    Running::start(world, &words)
}

fn ready(world: &World, policy: &str) -> Ran {
    world.run(&["status", "--ready", policy])
}

/// Proves C4: a policy under which everything is reachable is confirmed at once by the `run` that
/// has applied it, and so is each reloaded one; only then a node is ready.
#[test]
fn a_policy_that_leaves_the_node_connected_is_confirmed() {
    let world = World::new();
    let _api = api(&world);
    let path = file(world.dir.path(), "p.yaml", &good("one", 1));
    ready(&world, &path).fails(
        1,
        "no `sgctl run` looks after an interface of the network namespace",
    );
    // Nobody waits so long.
    let running = start(&world, &path, "1h");
    running.says("applied one on nic");
    running.says("confirmed one on nic, generation 1");
    assert_eq!(ready(&world, &path).ok().out, "nic: ready\n");
    let live = world.run(&["status", "--live", "--json"]).ok().json();
    assert_eq!(live[0]["live"], true, "{live}");
    // The files are ahead of what is in force.
    let next = file(world.dir.path(), "next.yaml", &good("two", 2));
    let ran = ready(&world, &next);
    assert_eq!(ran.code, 1, "{}", ran.all());
    let said = "one, generation 1, is in force, and not two as its files are now";
    assert!(ran.out.contains(said), "{}", ran.all());

    std::fs::rename(&next, &path).expect("it is there");
    running.says("reloaded two on nic");
    running.says("confirmed two on nic, generation 2");
    ready(&world, &path).ok();
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    // It is in force without a process, and nobody looks after it.
    let named = ["status", "--iface", "nic", "--ready", &path];
    world.run(&named).ok();
    let ran = world.run(&["status", "--iface", "nic", "--live"]);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(
        ran.out
            .contains("nic: not live\n  no `sgctl run` looks after it"),
        "{}",
        ran.all()
    );
}

/// Proves C4 and C11: a policy that cuts the node off is undone, by a reload and at the start; what
/// was in force before goes on, the node is not ready, and starting `run` again does not try the
/// policy again. Another policy is tried.
#[test]
fn a_policy_that_cuts_the_node_off_is_undone_and_not_tried_again() {
    let world = World::new();
    let _api = api(&world);
    let path = file(world.dir.path(), "p.yaml", &good("one", 1));
    let replace = |text: &str| {
        let new = file(world.dir.path(), "p.new", text);
        std::fs::rename(new, &path).expect("it is there");
    };
    let running = start(&world, &path, "3s");
    running.says("confirmed one on nic, generation 1");
    replace(BAD);
    running.says("reloaded bad on nic, generation 2");
    let waits = ready(&world, &path);
    assert_eq!(waits.code, 1, "{}", waits.all());
    running.says("not confirmed yet: under bad, generation 2, 192.0.2.2:6443 cannot be reached");
    running.says("was not confirmed and is undone on nic: one, generation 1, is in force again");
    let not_ready = |what: &str| {
        let ran = ready(&world, &path);
        let said =
            "bad, generation 2, was not confirmed and is undone: one, generation 1, is in force";
        assert_eq!(ran.code, 1, "{what}: {}", ran.all());
        assert!(ran.out.contains(said), "{what}: {}", ran.all());
        world.run(&["status", "--live"]).ok();
        assert_eq!(in_force(&world), ("one".to_owned(), 1), "{what}");
    };
    not_ready("the run that has tried it");
    drop(running);

    let running = start(&world, &path, "3s");
    running.says("not tried again: bad, generation 2, was not confirmed here and is undone: one, generation 1, goes on");
    not_ready("another run");
    replace(&good("three", 3));
    running.says("reloaded three on nic");
    running.says("confirmed three on nic");
    ready(&world, &path).ok();
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));

    // The same at the start of a run, as a container begins whose policy is another file.
    let next = file(world.dir.path(), "next.yaml", BAD);
    let running = start(&world, &next, "3s");
    running.says("applied bad on nic");
    running.says("is undone on nic: three, ");
    let ran = ready(&world, &next);
    assert_eq!(ran.code, 1, "{}", ran.all());
    std::fs::write(&next, good("five", 5)).expect("it is writable");
    running.says("confirmed five on nic");
    ready(&world, &next).ok();
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    assert_eq!(in_force(&world).0, "five");
}

/// Proves C4: a policy that was undone is tried again by hand, on trial too, while the `run` that
/// does not try it again goes on. When it is confirmed the node is ready.
#[test]
fn an_undone_policy_is_tried_again_by_hand() {
    let world = World::new();
    let _api = api(&world);
    let path = file(world.dir.path(), "p.yaml", &good("one", 1));
    let running = start(&world, &path, "2s");
    running.says("confirmed one on nic, generation 1");
    file(world.dir.path(), "p.yaml", BAD);
    running.says("was not confirmed and is undone on nic: one, generation 1, is in force again");
    let apply = ["apply", &path, "--iface", "nic", "--confirm-within"];
    world.run(&[&apply[..], &["1h"]].concat()).ok();
    let waits = ready(&world, &path);
    assert_eq!(waits.code, 1, "{}", waits.all());
    assert!(
        waits.out.contains("waits to be confirmed"),
        "{}",
        waits.all()
    );
    world.run(&["confirm"]).ok();
    ready(&world, &path).ok();
    world.run(&["status", "--live"]).ok();
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
    assert_eq!(in_force(&world).0, "bad");
}

/// Proves C4 and C11: a `run` that ends while its policy is checked undoes it, with `--persist`
/// too, since nobody else would confirm it. That was no failed check: the next one tries it.
#[test]
fn a_run_that_ends_meanwhile_undoes_what_it_alone_would_confirm() {
    let world = World::new();
    let _api = api(&world);
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    let path = file(world.dir.path(), "p.yaml", BAD);
    for _ in 0..2 {
        let running = start(&world, &path, "1h");
        running.says("applied bad on nic");
        running.says("not confirmed yet: under bad");
        let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
        assert_eq!(code, Some(0), "{lines}\n{err}");
        assert!(
            lines.contains("left as it is on nic (terminated)"),
            "{lines}"
        );
        assert_eq!(in_force(&world), ("tke".to_owned(), 1));
        world.run(&["status"]).ok();
    }
}

/// Proves C4: where nothing was in force before, nothing is after the undo. The `run` stays, so
/// that nobody starts it again with the same policy, and ends when the files change.
#[test]
fn a_first_policy_that_cuts_the_node_off_waits_for_another_one() {
    let world = World::new();
    let _api = api(&world);
    let path = file(world.dir.path(), "p.yaml", BAD);
    let running = start(&world, &path, "2s");
    running.says("applied bad on nic, generation 1");
    running.says("is undone on nic: nothing is in force, as before it");
    running.says("waiting: the same policy is not tried again until its files change");
    let ran = ready(&world, &path);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.out.contains("nic: not ready"), "{}", ran.all());
    world.run(&["status", "--live"]).ok();
    assert!(!world.has_xdp(), "nothing is in force");
    std::fs::write(&path, good("two", 2)).expect("it is writable");
    let mut running = running;
    let code = running.child.wait().expect("it ends").code();
    assert_eq!(code, Some(1));
    world.assert_untouched();
}

/// Proves C4 and C6: what cannot be reached before a policy says nothing of the policy, so that it
/// is not put in force; neither is one that drops what its guard names, since nobody looks.
#[test]
fn what_could_not_be_checked_is_not_put_in_force() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &good("one", 1));
    let words = |policy: &str| {
        let confirm = ["--confirm-within", "60s", "--confirm-if-reachable", API];
        let run = ["run", "--iface", "nic", policy];
        world.run(&[&run[..], &confirm].concat())
    };
    let ran = words(&path).fails(
        1,
        "one is not put in force: 192.0.2.2:6443 cannot be reached",
    );
    assert!(ran.err.contains("already now"), "{}", ran.all());
    world.assert_untouched();

    let _api = api(&world);
    let guarded = format!(
        "{}guard: [{{protocol: tcp, ports: 10250, from: 192.0.2.0/24}}]\n",
        good("two", 2)
    );
    let guarded = file(world.dir.path(), "guarded.yaml", &guarded);
    let ran = words(&guarded);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.err.contains("10250"), "{}", ran.all());
    world.assert_untouched();

    // By a reload the same: the policy in force stays, and the next one is tried when it can be.
    let running = start(&world, &path, "60s");
    running.says("confirmed one on nic, generation 1");
    drop(_api);
    file(world.dir.path(), "p.yaml", &good("two", 2));
    running.says("reload failed: generation 1 stays in force");
    assert_eq!(in_force(&world), ("one".to_owned(), 1));
    let _api = api(&world);
    running.says("reloaded two on nic, generation 2");
    running.says("confirmed two on nic, generation 2");
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    assert!(err.contains("two is not put in force"), "{err}");
}

/// Proves C4: `run` confirms its own policy only. One that another process has put on trial
/// meanwhile waits for whoever did that.
#[test]
fn a_policy_on_trial_of_somebody_else_is_not_confirmed() {
    let world = World::new();
    let _api = api(&world);
    let path = file(world.dir.path(), "p.yaml", &good("one", 1));
    let running = start(&world, &path, "1h");
    running.says("confirmed one on nic, generation 1");
    let theirs = [
        "apply",
        "builtin:tke",
        "--iface",
        "nic",
        "--confirm-within",
        "1h",
    ];
    world.run(&theirs).ok();
    running.says("somebody else has put tke in force on nic, generation 2");
    let status: Value = world.run(&["status", "--json"]).json();
    assert!(status[0]["unconfirmed"].is_object(), "{status}");
    let ran = ready(&world, &path);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(
        ran.out.contains("tke, generation 2, is in force"),
        "{}",
        ran.all()
    );
    let ran = ready(&world, "builtin:tke");
    assert!(
        ran.out.contains("tke, generation 2, waits to be confirmed"),
        "{}",
        ran.all()
    );
    assert_eq!(ran.code, 1, "{}", ran.all());
}

/// Proves C12: what does not enforce is not ready, and says why.
#[test]
fn what_does_not_enforce_is_not_ready() {
    let world = World::new();
    let _api = api(&world);
    let path = file(world.dir.path(), "p.yaml", &good("one", 1));
    let ready = || world.run(&["status", "--iface", "nic", "--ready", &path]);
    assert_eq!(ready().code, 1);
    world
        .run(&["apply", &path, "--iface", "nic", "--egress-hook", "clsact"])
        .ok();
    ready().ok();
    let deleted = std::process::Command::new("tc")
        .args(["-n", &world.node, "qdisc", "del", "dev", "nic", "clsact"])
        .status();
    assert!(deleted.expect("the tests need tc").success());
    let ran = ready();
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.out.contains("nic: not ready"), "{}", ran.all());
    // What is audited by its own text is what was asked for.
    let audited = good("one", 1).replace("action: accept}", "action: drop, audit: true}");
    let audited = file(world.dir.path(), "audited.yaml", &audited);
    world
        .run(&[
            "apply",
            &audited,
            "--iface",
            "nic",
            "--egress-hook",
            "clsact",
        ])
        .ok();
    let ran = world
        .run(&["status", "--iface", "nic", "--ready", &audited, "--json"])
        .ok();
    assert_eq!(ran.json()[0]["ready"], true);
    let ran = world.run(&["status", "--iface", "none", "--ready", &audited]);
    assert_eq!(ran.code, 1, "{}", ran.all());
}
