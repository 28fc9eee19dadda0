//! A first `apply` that ends while both directions run the remembering programs: nothing is
//! enforced, and no command claims that it is.

use crate::world::{Ran, World, file};

/// For each outbound hook, the fault points at which a first `apply` can end before the policy is
/// in force in both directions.
const POINTS: [(&str, &[&str]); 2] = [
    (
        "tcx",
        &[
            "before making the inbound link",
            "after pinning inbound_link",
            "before updating the outbound link",
            "after updating the outbound link",
        ],
    ),
    (
        "clsact",
        &[
            "before making the inbound link",
            "after pinning inbound_link",
            "before replacing the clsact filter",
            "after replacing the clsact filter",
        ],
    ),
];

/// Runs `apply`, with a fault at one point or with none.
fn apply(world: &World, policy: &str, hook: &str, fault: Option<String>) -> Ran {
    let arguments = ["apply", policy, "--iface", "nic", "--egress-hook", hook];
    let mut command = world.command(&arguments);
    if let Some(fault) = fault {
        command.env("SG_FAULT", fault);
    }
    Ran::of(&command.output().expect("sgctl starts"))
}

fn has_seen_reply(world: &World) -> bool {
    let ping = [
        "netns",
        "exec",
        &world.peer,
        "ping",
        "-c1",
        "-W5",
        "192.0.2.1",
    ];
    let pinged = std::process::Command::new("ip").args(ping).output();
    pinged
        .expect("the tests need iputils-ping")
        .status
        .success()
}

/// A policy under which the replies to the node's pings need a flow entry.
fn policy(world: &World) -> String {
    let text = "name: p\ninbound: [{protocol: icmp, from: any, action: accept}]\n";
    file(world.dir.path(), "p.yaml", text)
}

/// Proves C1 and K12: if `apply` is killed while the remembering programs run, the interface is
/// open, and `status` reports that.
#[test]
fn an_apply_that_is_killed_while_programs_remember_is_not_enforcing() {
    for (hook, points) in POINTS {
        for point in points {
            let world = World::new();
            let policy = policy(&world);
            let about = |ran: &Ran| format!("{hook}, {point}: {}", ran.all());
            for goes_on_with in ["apply", "detach"] {
                let killed = apply(&world, &policy, hook, Some(format!("kill:{point}")));
                assert_eq!(killed.code, -1, "{}", about(&killed));
                assert!(has_seen_reply(&world), "{hook}, {point}");
                let status = world.run(&["status"]);
                assert_eq!(status.code, 1, "{}", about(&status));
                let health = &world.run(&["status", "--json"]).json()[0]["health"];
                assert_ne!(health, "enforcing", "{}", about(&status));
                assert!(status.all().contains("was cut short"), "{}", about(&status));
                if goes_on_with == "apply" {
                    let applied = apply(&world, &policy, hook, None);
                    assert_eq!(applied.code, 0, "{}", about(&applied));
                    let status = world.run(&["status"]);
                    assert_eq!(status.code, 0, "{}", about(&status));
                    assert!(has_seen_reply(&world), "{hook}, {point}");
                }
                let detached = world.run(&["detach"]);
                assert_eq!(detached.code, 0, "{}", about(&detached));
                world.assert_untouched();
            }
        }
    }
}

/// Proves C1: if `apply` fails there, it leaves nothing behind, and says that nothing is attached.
#[test]
fn an_apply_that_fails_while_programs_remember_leaves_nothing() {
    for (hook, points) in POINTS {
        for point in points {
            let world = World::new();
            let policy = policy(&world);
            let failed = apply(&world, &policy, hook, Some(format!("fail:{point}")));
            assert_eq!(failed.code, 3, "{hook}, {point}: {}", failed.all());
            assert!(
                failed.err.contains("nothing is attached"),
                "{hook}, {point}: {}",
                failed.all()
            );
            world.assert_untouched();
            assert!(has_seen_reply(&world), "{hook}, {point}");
        }
    }
}
