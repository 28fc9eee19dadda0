//! An operator who works over SSH applies a policy that cuts the own connection, and gets the
//! machine back without touching anything.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sg_testbed::wait_for;

use super::confirm::MISTAKE;
use super::run::in_force;
use super::ssh::Ssh;
use super::world::{APPLY, World, file};

const PATIENCE: Duration = Duration::from_secs(60);

/// Applies a policy that lets the session in. Returns what cuts it off until the deadline, for the
/// node's shell.
fn cut_off(world: &World, ssh: &Ssh, within: Duration) -> String {
    world.run(&APPLY).ok();
    let mistake = file(world.dir.path(), "mistake.yaml", MISTAKE);
    let within = within.as_secs();
    ssh.sgctl(&format!(
        "apply {mistake} --iface nic --confirm-within {within}s"
    ))
}

/// Proves C4 and C6: the session stands still while the policy is in force, and then goes on where
/// it was, with what `apply` has printed.
#[test]
fn a_session_that_cuts_itself_off_goes_on() {
    const WITHIN: Duration = Duration::from_secs(4);
    let world = World::new();
    let ssh = Ssh::new(&world);
    let apply = cut_off(&world, &ssh, WITHIN);
    let started = Instant::now();
    let ran = ssh.run(&format!("{} && echo still here", apply));
    assert_eq!(ran.code, 0, "{}", ran.all());
    for words in [
        "lock-out guard: off, although your connection from 192.0.2.2",
        "applied mistake on nic",
        "still here",
    ] {
        assert!(ran.out.contains(words), "`{words}` is not in {}", ran.all());
    }
    assert!(started.elapsed() >= WITHIN, "the session was never cut off");
    assert_eq!(in_force(&world).0, "tke");
}

/// Proves C4: with the client, the session and everything in it killed, a new session is let in
/// after the deadline, and none before.
#[test]
fn a_new_session_is_let_in_when_the_old_one_is_gone() {
    const WITHIN: Duration = Duration::from_secs(8);
    let world = World::new();
    let ssh = Ssh::new(&world);
    let apply = cut_off(&world, &ssh, WITHIN);
    let mut client = ssh
        .command(&format!("{}; sleep 1000", apply))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the client starts");
    wait_for("the mistake", PATIENCE, || in_force(&world).0 == "mistake");
    client.kill().expect("it is ours");
    client.wait().expect("it ends");
    ssh.kill_sessions();
    let mut attempt = ssh.command("true");
    attempt.stdout(Stdio::null()).stderr(Stdio::null());
    let mut attempt = attempt.spawn().expect("the client starts");
    std::thread::sleep(Duration::from_secs(1));
    let is_over = in_force(&world).0 != "mistake";
    let is_let_in = attempt.try_wait().expect("it is ours").is_some();
    assert!(
        is_over || !is_let_in,
        "a session was let in before the deadline"
    );
    let _ = attempt.kill();
    attempt.wait().expect("it ends");
    wait_for("somebody to be let in", WITHIN + PATIENCE, || {
        ssh.run("true").code == 0
    });
    assert_eq!(in_force(&world).0, "tke");
}
