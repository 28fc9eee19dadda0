//! `sgctl run` beside others: another `run`, an `apply`, a terminal that goes, a reader that
//! stalls, a writer that is slow; and what it leaves behind.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run::{Running, in_force, lines_of, policy};
use super::world::{Ran, World, file, ip};

/// Polls until `done`.
#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The exit code, once it has ended.
#[track_caller]
fn exit_code(child: &mut Child) -> Option<i32> {
    let mut code = None;
    wait_for("the end of the process", || {
        let ended = child.try_wait().unwrap();
        code = ended.and_then(|status| status.code());
        ended.is_some()
    });
    code
}

/// Proves C11: a second one is refused, with the first one's process; a killed one leaves its
/// policy and nothing that keeps the next one out.
#[test]
fn two_on_one_interface_are_refused() {
    let world = World::new();
    let (first, second) = ("first.yaml", "second.yaml");
    let first = file(world.dir.path(), first, &policy(1));
    let second = file(world.dir.path(), second, &policy(2));
    let mut running = Running::start(&world, &[&first]);
    running.says("applied p1");
    let who = format!(
        "another `sgctl run` looks after `nic` (process {})",
        running.child.id()
    );
    world
        .run(&["run", &second, "--iface", "nic"])
        .fails(1, &who);
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    running.signal(Signal::SIGKILL);
    running.child.wait().unwrap();
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    let running = Running::start(&world, &[&second]);
    running.says("applied p2");
    drop(running);
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Proves C11: where the first apply fails, nothing is left of the lock either.
#[test]
fn one_that_cannot_start_leaves_nothing() {
    let world = World::new();
    let bad = file(world.dir.path(), "bad.yaml", "inbound: 7\n");
    world
        .run(&["run", &bad, "--iface", "nic"])
        .fails(1, "`inbound`");
    world.assert_untouched();
}

/// Proves C11: what somebody else puts in force is said at once, and stays.
#[test]
fn a_foreign_apply_is_said_and_stays_at_the_end() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let other = file(world.dir.path(), "other.yaml", &policy(2));
    let running = Running::start(&world, &[&mine, "--interval", "60"]);
    running.says("applied p1 on nic, generation 1");
    world.run(&["apply", &other, "--iface", "nic"]).ok();
    running.says("somebody else has put p2 in force on nic, generation 2");
    // Its own files put it in force again, and somebody else's stays once more.
    std::fs::write(&mine, policy(3)).unwrap();
    running.says("reloaded p3 on nic, generation 3");
    world.run(&["apply", &other, "--iface", "nic"]).ok();
    running.says("somebody else has put p2 in force on nic, generation 4");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    assert_eq!(in_force(&world), ("p2".to_owned(), 4));
    assert!(world.has_xdp());
}

/// Proves C12: what somebody takes away while it runs is said and put back, and a `detach` is
/// said.
#[test]
fn what_somebody_takes_away_is_put_back() {
    let world = World::new();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let words = [&mine[..], "--interval", "60", "--egress-hook", "clsact"];
    let running = Running::start(&world, &words);
    running.says("applied p1 on nic, generation 1");
    let deleted = std::process::Command::new("tc")
        .args(["-n", &world.node, "qdisc", "del", "dev", "nic", "clsact"])
        .status();
    assert!(deleted.expect("the tests need tc").success());
    world.run(&["status"]).fails(1, "");
    running.says("nic is not enforcing: ");
    running.says("repaired p1 on nic, generation 2");
    wait_for("the repair", || world.run(&["status"]).code == 0);
    world.run(&["detach"]).ok();
    running.says("somebody else has detached nic");
    world.assert_untouched();
}

/// A `run` on a pseudo-terminal of its own, as a shell starts one.
struct OnTerminal {
    child: Child,
    master: Option<PtyMaster>,
}

impl OnTerminal {
    fn start(world: &World, words: &[&str]) -> OnTerminal {
        Self::start_with(world, words, libc::SIG_DFL)
    }

    /// With this disposition of SIGHUP: `nohup` starts its command with `SIG_IGN`.
    fn start_with(world: &World, words: &[&str], hangup: libc::sighandler_t) -> OnTerminal {
        // No child may have it open, or it would never be hung up.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(name)
            .unwrap();
        let slave = || Stdio::from(slave.try_clone().unwrap());
        let mut command = world.command(&["run", "--iface", "nic"]);
        command
            .args(words)
            .stdin(slave())
            .stdout(slave())
            .stderr(slave());
        // SAFETY: all three calls may be made between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // Whoever started the tests may have been told to outlive a terminal.
                libc::signal(libc::SIGHUP, hangup);
                nix::unistd::setsid()?;
                // Standard input becomes the terminal of the new session.
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        OnTerminal {
            child: command.spawn().unwrap(),
            master: Some(master),
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // Only when a test has failed is it still there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Proves C11: as the loss of the terminal, so the end of whoever reads standard output ends it.
#[test]
fn a_reader_that_goes_away_ends_it() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut command = world.command(&["run", &path, "--iface", "nic", "--interval", "3600"]);
    // Whoever started the tests may have been told to outlive a terminal.
    // SAFETY: the call may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    wait_for("the first policy", || {
        world.has_xdp() && in_force(&world).1 == 1
    });
    drop(out);
    assert_eq!(exit_code(&mut child), Some(0));
    world.assert_untouched();
}

/// Proves C11: what `nohup` starts outlives its terminal.
#[test]
fn what_ignores_hangups_outlives_its_terminal() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut run = OnTerminal::start_with(&world, &[&path], libc::SIG_IGN);
    wait_for("the first policy", || {
        world.has_xdp() && in_force(&world).1 == 1
    });
    drop(run.master.take());
    // It looks every two seconds whether its terminal is there.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(run.child.try_wait().unwrap(), None, "it has ended");
    assert!(world.has_xdp());
    run.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut run.child), Some(0));
    world.assert_untouched();
}

/// Proves C11: a terminal that goes ends it as Ctrl-C does; a SIGHUP while it is there reloads.
#[test]
fn a_lost_terminal_is_an_end_and_no_reload() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut run = OnTerminal::start(&world, &[&path]);
    wait_for("the first policy", || {
        world.has_xdp() && in_force(&world).1 == 1
    });
    std::fs::write(&path, policy(2)).unwrap();
    run.signal(Signal::SIGHUP);
    wait_for("the reload", || in_force(&world) == ("p2".to_owned(), 2));
    assert!(
        run.child.try_wait().unwrap().is_none(),
        "a reload is no end"
    );
    // The emulator goes: the kernel hangs up the terminal, and tells the session's leader.
    drop(run.master.take());
    assert_eq!(exit_code(&mut run.child), Some(0));
    world.assert_untouched();
}

/// Proves C11: nobody reads any more, and policies are still replaced, packets logged, and the
/// end is an end. Who reads again finds the newest packets, and how many are missing.
#[test]
fn a_reader_that_stalls_holds_up_nothing() {
    stalls(&[], ":7777", "more packets were to be logged");
}

/// Proves C11: nor does one of JSON.
#[test]
fn a_reader_of_json_that_stalls_holds_up_nothing() {
    stalls(
        &["--json"],
        r#""local_port":7777"#,
        r#""event":"not_shown""#,
    );
}

fn stalls(format: &[&str], newest: &str, not_shown: &str) {
    let world = World::new();
    let logging = |port: u16| format!("{}outbound: []\nlog-no-match: inbound\n", policy(port));
    let path = file(world.dir.path(), "p.yaml", &logging(1));
    let mut child = world
        .command(&["run", "--iface", "nic", "--interval", "60", &path])
        .args(format)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    wait_for("the first policy", || {
        world.has_xdp() && in_force(&world).1 == 1
    });
    // More than a pipe and the queue take, and more than may be logged in a second.
    for _ in 0..4 {
        world.send_udp_times(9, 3000);
        std::thread::sleep(Duration::from_millis(1010));
    }
    std::fs::write(&path, logging(2)).unwrap();
    wait_for("the reload", || in_force(&world) == ("p2".to_owned(), 2));
    world.send_udp_to_node(7777);
    // Now somebody reads: what waited, then the newest, and how many were not shown.
    let running = Running {
        lines: lines_of(out),
        child,
    };
    let (mut is_counted, mut read, mut last) = (false, 0, String::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let Ok(line) = running.lines.recv_timeout(Duration::from_secs(2)) else {
            assert!(
                Instant::now() < deadline,
                "the newest packet is not among {read} lines, of which the last is {last}"
            );
            // A packet may have been lost on its way.
            world.send_udp_to_node(7777);
            continue;
        };
        is_counted |= line.contains(not_shown);
        if line.contains(newest) {
            break;
        }
        (read, last) = (read + 1, line);
    }
    if !is_counted {
        running.says(not_shown);
    }
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
    world.assert_untouched();
}

/// Proves C11: an end does not wait for a reader either.
#[test]
fn it_ends_although_nobody_reads() {
    let world = World::new();
    let text = format!("{}log-no-match: inbound\n", policy(1));
    let path = file(world.dir.path(), "p.yaml", &text);
    let mut child = world
        .command(&["run", "--iface", "nic", "--interval", "60", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the first policy", || {
        world.has_xdp() && in_force(&world).1 == 1
    });
    world.send_udp_times(9, 3000);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(exit_code(&mut child), Some(0));
    world.assert_untouched();
}

/// Proves C11: as long as somebody has a file open for writing it is not applied, although what
/// is in it is a policy already.
#[test]
fn a_file_that_is_written_in_pieces_is_applied_when_it_is_whole() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let running = Running::start(&world, &[&path, "--interval", "60"]);
    running.says("applied p1 on nic, generation 1");
    let mut writer = File::create(&path).unwrap();
    for piece in [
        "name: piece\n",
        "inbound:\n",
        "- {protocol: tcp, from: any, action: accept}\n",
    ] {
        writer.write_all(piece.as_bytes()).unwrap();
        writer.flush().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(in_force(&world), ("p1".to_owned(), 1), "after {piece:?}");
    }
    drop(writer);
    running.says("reloaded piece on nic, generation 2");
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
    world.assert_untouched();
}

/// Proves C11: at its end it returns to the policy that was in force before, with its counters,
/// however often it has put another one there meanwhile, and whoever may have used free slots.
#[test]
fn it_returns_to_the_policy_that_was_there() {
    let world = World::new();
    let old = "name: old\ninbound: [{protocol: icmp, from: any, action: drop}]\n";
    let old = file(world.dir.path(), "old.yaml", old);
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    world.ping_node(3);
    let counted = || {
        let json = world.run(&["counters", "--iface", "nic", "--json"]).json();
        let rules = json[0]["rules"].as_array().unwrap().clone();
        let rule = rules.iter().find(|rule| rule["summary"] == "icmp from any");
        rule.map(|rule| (rule["packets"].as_u64().unwrap(), rule["position"].as_u64()))
    };
    assert_eq!(counted(), Some((3, Some(1))));
    let status = || world.run(&["status", "--iface", "nic", "--json"]).json()[0].clone();
    let before = status();
    let running = Running::start(&world, &[&mine, "--interval", "60"]);
    running.says("applied p1 on nic, generation 2");
    for port in 2..5 {
        std::fs::write(&mine, policy(port)).unwrap();
        running.says(&format!("reloaded p{port} on nic"));
        world.ping_node(1);
    }
    assert_eq!(
        counted(),
        Some((3, None)),
        "another policy counts elsewhere"
    );
    running.signal(Signal::SIGTERM);
    running.says("returned to old on nic, generation 1, as it was before (terminated)");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    let after = status();
    for key in ["health", "policy", "xdp_mode", "egress_hook", "attached_at"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    world.ping_node(2);
    assert_eq!(counted(), Some((5, Some(1))));
    // A generation's number is used once.
    world.run(&["apply", &mine, "--iface", "nic"]).ok();
    assert_eq!(in_force(&world), ("p4".to_owned(), 6));
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Of a build with fault points (see `kernel::faults`), which has one.
fn with_fault(world: &World, fault: &str, words: &[&str]) -> Ran {
    let mut command = world.command(&["run", "--iface", "nic", "--interval", "60"]);
    let output = command.args(words).env("SG_FAULT", fault).output();
    Ran::of(&output.expect("sgctl starts"))
}

/// Proves C11 and C1: a first policy that comes into force, and whose attachment then fails, goes
/// again, and that is said; where there was none before, and where there was one.
#[test]
fn a_beginning_that_fails_leaves_what_was_there() {
    let world = World::new();
    let old = file(world.dir.path(), "old.yaml", &policy(1));
    let mine = file(world.dir.path(), "mine.yaml", &policy(2));
    for words in [&[&mine[..]][..], &[&mine, "--persist"]] {
        // What only remembers has gone before, to be pinned anew.
        let ran = with_fault(&world, "fail:before unpinning inbound_targets_0 #2", words);
        assert_eq!(ran.code, 3, "{}", ran.all());
        assert!(
            ran.err.contains("; both directions run generation 1"),
            "{}",
            ran.all()
        );
        assert!(
            ran.out.contains("detached from nic (it could not begin)"),
            "{}",
            ran.all()
        );
        world.assert_untouched();
    }
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    let ran = with_fault(&world, "fail:before unpinning inbound_targets_1", &[&mine]);
    assert_eq!(ran.code, 3, "{}", ran.all());
    assert!(
        ran.err.contains("; both directions run generation 2"),
        "{}",
        ran.all()
    );
    assert!(
        ran.out
            .contains("returned to p1 on nic, generation 1, as it was before (it could not begin)"),
        "{}",
        ran.all()
    );
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    // What could not be put in force at all has nothing to return from.
    let ran = with_fault(&world, "fail:before updating the inbound link", &[&mine]);
    assert!(
        ran.err.contains("; both directions run generation 1") && ran.out.is_empty(),
        "{}",
        ran.all()
    );
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Proves C11 and C1: an end that the kernel refuses is tried again, not for ever, and what stays
/// in force is said.
#[test]
fn an_end_that_is_refused_is_tried_again_and_says_what_stays() {
    let world = World::new();
    let old = file(world.dir.path(), "old.yaml", &policy(1));
    let mine = file(world.dir.path(), "mine.yaml", &policy(2));
    let ended = |fault: &str, format: &[&str]| {
        let mut command = world.command(&["run", "--iface", "nic", "--interval", "60", &mine]);
        let running = Running::of(command.args(format).env("SG_FAULT", fault));
        // By then all that belongs to the beginning is done.
        running.says(if format.is_empty() {
            "nic: inbound "
        } else {
            "counters"
        });
        running.end_with_lines(Signal::SIGTERM)
    };
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    // The first time it was its own policy that it put there.
    let at = "before updating the inbound link #2";
    let (code, lines, err) = ended(&format!("fail:{at}"), &[]);
    assert_eq!(code, Some(0), "{lines} {err}");
    assert!(
        lines.contains("returning to p1 has failed, and is tried again:"),
        "{lines}"
    );
    assert!(
        lines.contains("returned to p1 on nic, generation 1"),
        "{lines}"
    );
    assert_eq!(err.matches("error: ").count(), 1, "{err}");
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));

    let (code, lines, err) = ended(&format!("refuse:{at}"), &[]);
    assert_eq!(code, Some(3), "{lines} {err}");
    assert!(
        lines.contains("left as it is on nic, for returning to p1 has failed 5 times"),
        "{lines}"
    );
    let (name, generation) = in_force(&world);
    assert_eq!(name, "p2");
    let standing = format!("; both directions run generation {generation}");
    assert!(err.contains(&standing), "{err}");
    world.run(&["status"]).ok();

    // Where nothing was there before.
    world.run(&["detach", "--iface", "nic"]).ok();
    let at = "before detaching the outbound link";
    let (code, lines, err) = ended(&format!("refuse:{at}"), &["--json"]);
    assert_eq!(code, Some(3), "{lines} {err}");
    let event = |name: &str| {
        let line = lines.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {lines}"));
        serde_json::from_str::<serde_json::Value>(line).unwrap()
    };
    let retrying = event(r#""event":"retrying""#);
    assert_eq!(retrying["step"], "detaching", "{retrying}");
    assert_eq!(retrying["errors"][0]["severity"], "error", "{retrying}");
    assert_eq!(event(r#""event":"left""#)["why"], "detaching has failed");
    assert!(
        err.contains("inbound runs nothing, outbound generation 1"),
        "{err}"
    );
    world.run(&["status"]).fails(1, "");
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Proves C11: what is the same as what was there is no reason to take it away, and `--persist`
/// leaves what it has put there.
#[test]
fn what_was_there_before_and_what_is_to_stay_stays() {
    let world = World::new();
    let old = file(world.dir.path(), "old.yaml", &policy(1));
    let mine = file(world.dir.path(), "mine.yaml", &policy(2));
    world.run(&["apply", &old, "--iface", "nic"]).ok();
    let running = Running::start(&world, &[&old, "--interval", "60"]);
    running.says("p1 on nic");
    assert_eq!(running.end(Signal::SIGINT).0, Some(0));
    assert_eq!(in_force(&world).0, "p1");
    let running = Running::start(&world, &[&mine, "--persist", "--interval", "60"]);
    running.says("applied p2");
    assert_eq!(running.end(Signal::SIGINT).0, Some(0));
    assert_eq!(in_force(&world).0, "p2");
    assert!(world.has_xdp());
    world.run(&["detach", "--iface", "nic"]).ok();
    world.assert_untouched();
}

/// Proves C11 and A2 for an interface that is deleted and made anew under its name: it is
/// attached again at once, and counters go on.
#[test]
fn an_interface_that_is_made_anew_is_attached_again() {
    let world = World::new();
    let text = "name: p\ninbound: [{protocol: icmp, from: any, action: drop}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path, "--interval", "60", "--json"]);
    running.says(r#""event":"applied""#);
    world.ping_node(3);
    // Under traffic, which has its own counter.
    let flood = "for i in $(seq 20000); do echo x > /dev/udp/192.0.2.1/9; sleep 0.001; done";
    let mut flood = std::process::Command::new("ip")
        .args(["netns", "exec", &world.peer, "bash", "-c", flood])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut quickest = f64::MAX;
    let started = Instant::now();
    let mut round = 0;
    // One of some, on a machine that may do much else.
    while round < 3 || quickest >= 100.0 {
        round += 1;
        let is_late = started.elapsed() > Duration::from_secs(120);
        assert!(!is_late, "never quicker than {quickest} ms");
        ip(&["-n", &world.node, "link", "del", "nic"]);
        world.add_veth();
        let line = running.line(r#""event":"reattached""#);
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        quickest = quickest.min(said["milliseconds"].as_f64().unwrap());
        assert!(world.has_xdp());
        let status = world.run(&["status", "--iface", "nic", "--json"]).json();
        assert_eq!(status[0]["health"], "enforcing", "{status}");
        world.ping_node(2);
        let counters = world.run(&["counters", "--iface", "nic", "--json"]).json();
        assert_eq!(
            counters[0]["rules"][0]["packets"],
            3 + 2 * round,
            "round {round}"
        );
    }
    let _ = flood.kill();
    let _ = flood.wait();
    let counters = world.run(&["counters", "--iface", "nic", "--json"]).json();
    let reasons = counters[0]["reasons"].as_array().unwrap();
    let dropped = reasons
        .iter()
        .find(|row| row["reason"] == "no-match" && row["direction"] == "inbound");
    assert!(dropped.unwrap()["packets"].as_u64() > Some(0), "{counters}");
    // It goes on: a file that changes is applied to the new one.
    std::fs::write(&path, text.replace("name: p", "name: q")).unwrap();
    running.says(r#""event":"reloaded""#);
    assert_eq!(in_force(&world).0, "q");
    assert_eq!(running.end(Signal::SIGTERM), (Some(0), String::new()));
    world.assert_untouched();
}
