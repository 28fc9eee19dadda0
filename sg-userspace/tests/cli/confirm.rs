//! `apply --confirm-within`, `confirm` and `rollback` as processes: what they print, how they exit,
//! and that a policy is undone at its deadline with none of them alive.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::{Running, policy};
use super::world::{EXPLAIN, Ran, World, assert_shown, file, run};

/// Keeps everybody out.
pub(super) const MISTAKE: &str = "name: mistake\ninbound: []\noutbound: []\n";

/// The bound of every wait.
const PATIENCE: Duration = Duration::from_secs(30);

fn status(world: &World) -> Value {
    world.run(&["status", "--json"]).json()[0].clone()
}

/// Applies the recommended policy, and then a mistake that is to be confirmed.
fn mistake(world: &World, within: &str) -> Ran {
    world.run(&super::world::APPLY).ok();
    let policy = file(world.dir.path(), "mistake.yaml", MISTAKE);
    let words = [
        "apply",
        &policy,
        "--iface",
        "nic",
        "--confirm-within",
        within,
    ];
    world.run(&words)
}

/// Whether a connection from outside to port 22 of the node is answered, which takes both
/// directions. Nobody listens there.
fn lets_in(world: &World, patience: &str) -> bool {
    let connect = "exec 3<> /dev/tcp/192.0.2.1/22";
    let ran = Command::new("ip")
        .args([
            "netns",
            "exec",
            &world.peer,
            "timeout",
            patience,
            "bash",
            "-c",
            connect,
        ])
        .output()
        .expect("the tests need iproute2");
    match ran.status.code() {
        Some(1) => true,
        // What `timeout` ends with.
        Some(124) => false,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&ran.stderr)),
    }
}

/// Waits until `status` has no policy that waits.
pub(super) fn wait_until_undone(world: &World) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = status(world);
        if found["unconfirmed"].is_null() {
            return found;
        }
        assert!(Instant::now() < deadline, "{found}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Proves C4: what is printed while a policy waits, when it is confirmed, and when nothing waits.
#[test]
fn a_policy_waits_and_is_confirmed_by_another_process() {
    let world = World::new();
    let applied = mistake(&world, "1h").ok();
    assert_shown!("confirm_applied", applied.out);
    let shown = world.run(&["status"]).ok();
    assert!(shown.out.contains("nic: unconfirmed, "), "{}", shown.out);
    assert!(
        shown.out.contains("then tke, generation 1, comes back"),
        "{}",
        shown.out
    );
    let waits = status(&world);
    assert_eq!(waits["health"], "enforcing");
    assert_eq!(waits["unconfirmed"]["returns_to"]["name"], "tke");
    let left = waits["unconfirmed"]["seconds_left"].as_f64();
    assert!(
        left.is_some_and(|left| left > 3000.0 && left <= 3600.0),
        "{waits}"
    );
    assert_shown!("confirm_confirmed", world.run(&["confirm"]).ok().out);
    let now = status(&world);
    assert!(
        now["unconfirmed"].is_null() && now["decided"].is_null(),
        "{now}"
    );
    assert_eq!(now["policy"]["name"], "mistake");
    let nothing = world.run(&["confirm", "--iface", "nic"]);
    assert_eq!((nothing.code, &*nothing.out), (1, ""));
    assert_shown!("confirm_nothing", nothing.err);
}

/// Proves C4 and C12: the mistake of an operator who is cut off undoes itself, and nobody has to do
/// anything. What is said of it is true before any command has tidied up.
#[test]
fn a_mistake_undoes_itself() {
    let world = World::new();
    world.run(&super::world::APPLY).ok();
    let before = world.run(&EXPLAIN).ok().out;
    let applied = mistake(&world, "2s").ok();
    assert!(
        applied.out.contains("not confirmed: undone in "),
        "{}",
        applied.out
    );
    let found = wait_until_undone(&world);
    assert_eq!(found["health"], "enforcing");
    assert_eq!(found["policy"]["name"], "tke");
    assert_eq!(found["decided"]["confirmed"], false);
    assert_eq!(found["decided"]["policy"]["name"], "mistake");
    assert_eq!(world.run(&EXPLAIN).ok().out, before);
    let shown = world.run(&["status"]).ok().out;
    assert!(
        shown.contains(
            "nic: mistake, generation 2, was not confirmed and is undone\n  tke, generation 1, is in force again"
        ),
        "{shown}"
    );
    let late = world.run(&["confirm"]);
    assert_eq!(late.code, 1);
    assert_shown!("confirm_too_late", late.err);
    let shown = world.run(&["status"]).ok().out;
    assert!(!shown.contains("mistake"), "{shown}");
    // Where nothing was in force before, nothing is.
    world.run(&["detach"]).ok();
    let policy = file(world.dir.path(), "mistake.yaml", MISTAKE);
    let words = ["apply", &policy, "--iface", "nic", "--confirm-within", "1s"];
    world.run(&words).ok();
    let found = wait_until_undone(&world);
    assert_eq!(found["health"], "undone");
    let shown = world.run(&["status"]);
    assert_eq!(shown.code, 1, "{}", shown.all());
    let next = world.run(&super::world::APPLY).ok();
    assert_shown!("confirm_tidied", next.out);
}

/// Proves C4: by hand at once, in JSON.
#[test]
fn a_rollback_returns_at_once() {
    let world = World::new();
    mistake(&world, "1h").ok();
    let ran = world.run(&["rollback", "--json"]).ok();
    let rows = ran.json();
    assert_eq!(rows[0]["interface"], "nic");
    assert_eq!(rows[0]["confirmed"], false);
    assert_eq!(rows[0]["policy"]["name"], "mistake");
    assert_eq!(rows[0]["returned_to"]["name"], "tke");
    assert_eq!(status(&world)["policy"]["name"], "tke");
    mistake(&world, "1h").ok();
    assert_shown!("rollback", world.run(&["rollback"]).ok().out);
}

/// Proves C4: the deadline is on a clock that nobody can set, and a process that sees this clock
/// moved, in a time namespace, sets it right.
#[test]
fn a_time_namespace_does_not_move_the_deadline() {
    let world = World::new();
    world.run(&super::world::APPLY).ok();
    let policy = file(world.dir.path(), "mistake.yaml", MISTAKE);
    let inner = world.command(&["apply", &policy, "--iface", "nic", "--confirm-within", "2s"]);
    let mut outer = Command::new("unshare");
    outer.args(["--time", "--boottime", "1000000", "--fork", "--"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    let started = Instant::now();
    Ran::of(&outer.output().expect("the tests need unshare")).ok();
    let found = wait_until_undone(&world);
    assert_eq!(found["policy"]["name"], "tke");
    assert!(started.elapsed() >= Duration::from_secs(2));
}

/// Proves C4: what is not a time of 1 second to 24 hours is a usage error.
#[test]
fn the_time_has_bounds() {
    for wrong in ["0s", "25h", "2d", "soon", "-1s", "1.5s"] {
        let words = [
            "apply",
            "builtin:tke",
            "--iface",
            "nic",
            &format!("--confirm-within={wrong}"),
        ];
        let ran = run(&words);
        assert_eq!(ran.code, 2, "{wrong}: {}", ran.all());
        assert!(ran.err.contains("from 1s to 24h"), "{}", ran.err);
    }
}

/// Proves C4 and C11: a `run` does not start while a policy waits, for it could not return to it.
#[test]
fn a_run_does_not_start_while_a_policy_waits() {
    let world = World::new();
    mistake(&world, "1h").ok();
    let refused = world.run(&["run", "builtin:tke", "--iface", "nic"]);
    assert_eq!(refused.code, 1, "{}", refused.all());
    assert!(
        refused.err.contains("waits to be confirmed"),
        "{}",
        refused.err
    );
    assert_eq!(status(&world)["policy"]["name"], "mistake");
}

/// Proves C4: in 10 of 10 tries (in 100 of 100 with SG_THOROUGH=1) `apply --confirm-within` is
/// killed at a random moment; in a third of them `confirm` is begun at a random moment of the time
/// that is left and killed at one of its own, in another third `rollback`. Within a second of the
/// deadline the old policy decides in both directions, unless the other one was confirmed before
/// that.
#[test]
fn a_kill_at_any_moment_does_not_keep_the_policy() {
    let tries = match std::env::var_os("SG_THOROUGH") {
        Some(_) => 100,
        None => 10,
    };
    let mut random = fastrand::Rng::with_seed(17);
    let world = World::new();
    world.run(&super::world::APPLY).ok();
    let policy = file(world.dir.path(), "mistake.yaml", MISTAKE);
    let words = ["apply", &policy, "--iface", "nic", "--confirm-within", "1s"];
    // How long it takes undisturbed, so that kills meet all of it.
    let started = Instant::now();
    world.run(&words).ok();
    let usual = started.elapsed();
    let started = Instant::now();
    world.run(&["rollback"]).ok();
    let usual_end = started.elapsed();
    let (mut killed, mut begun, mut confirmed) = (0, 0, 0);
    let mut ended_by_hand = [0; 2];
    for number in 0..tries {
        let kill = |words: &[&str], waits_for_trial: bool, after: Duration| {
            let mut child = world
                .command(words)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("sgctl starts");
            if waits_for_trial {
                let has_trial = || {
                    let pins = world.pins();
                    pins.iter()
                        .any(|pin| pin.to_string_lossy().contains("/trial_"))
                };
                while !has_trial() && child.try_wait().expect("it is ours").is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            std::thread::sleep(after);
            let _ = child.kill();
            child.wait().expect("it ends").signal().is_some()
        };
        // Most of the time goes into what comes before the first change, which is over when the
        // word of the trial is there.
        let is_late = number % 4 != 0;
        let after = usual.mul_f64(random.f64() * if is_late { 0.8 } else { 1.2 });
        killed += usize::from(kill(&words, is_late, after));
        let ended = Instant::now();
        let end = ["confirm", "rollback"].get(number % 3);
        if let Some(end) = end {
            std::thread::sleep(Duration::from_secs_f64(random.f64()));
            let after = usual_end.mul_f64(random.f64() * 1.2);
            ended_by_hand[number % 3] += usize::from(kill(&[*end], false, after));
        }
        let found = status(&world);
        begun += usize::from(!found["unconfirmed"].is_null());
        // The deadline is a second after the last moment at which it can have begun.
        let until = ended + Duration::from_secs(2);
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        let found = status(&world);
        let was_confirmed = found["decided"]["confirmed"] == true
            || found["decided"].is_null() && found["policy"]["name"] == "mistake";
        confirmed += usize::from(was_confirmed);
        // What must not come is not waited for as long as what must.
        let is_open = lets_in(&world, if was_confirmed { "1" } else { "20" });
        assert!(
            !was_confirmed || end == Some(&"confirm"),
            "try {number}: nobody has confirmed {found}"
        );
        assert_eq!(
            is_open, !was_confirmed,
            "try {number}, killed after {after:?}: {found}"
        );
        // Whatever is left is put right by the next command.
        world.run(&super::world::APPLY).ok();
        assert_eq!(status(&world)["health"], "enforcing");
        assert_eq!(status(&world)["policy"]["name"], "tke");
    }
    let [confirms, rollbacks] = ended_by_hand;
    println!(
        "{killed} of {tries} were killed, {begun} had begun, {confirmed} were confirmed; {confirms} confirms and \
         {rollbacks} rollbacks were killed"
    );
    assert!(killed > 0, "no apply was killed before its end");
}

/// Proves C4 and C11: a `run` whose policy is replaced by one that nobody confirms says so, goes on
/// when its own policy comes back, and returns at its end to what was in force before it.
#[test]
fn a_run_goes_on_when_its_policy_comes_back() {
    let world = World::new();
    world.run(&super::world::APPLY).ok();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let running = Running::start(&world, &[&mine]);
    running.says("applied p1");
    running.says("nic: inbound ");
    let mistake = file(world.dir.path(), "mistake.yaml", MISTAKE);
    let words = [
        "apply",
        &mistake,
        "--iface",
        "nic",
        "--confirm-within",
        "2s",
    ];
    world.run(&words).ok();
    let line = running.line("somebody else has put mistake in force on nic, generation 3");
    let unless = format!("it is undone unless {}", world.typed("confirm"));
    assert!(line.contains(&unless), "{line}");
    running.says("was not confirmed and is undone: p1, generation 2, is in force again");
    assert_eq!(status(&world)["policy"]["name"], "p1");
    let (code, lines, err) = running.end_with_lines(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{lines}\n{err}");
    assert!(
        lines.contains("returned to tke on nic, generation 1"),
        "{lines}"
    );
    let now = status(&world);
    assert_eq!(now["policy"]["name"], "tke");
    assert_eq!(now["health"], "enforcing", "{now}");
    assert!(now["decided"].is_null(), "{now}");
}
