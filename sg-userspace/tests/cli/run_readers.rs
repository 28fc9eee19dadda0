//! `sgctl run` and who reads it: a terminal that closes, a reader that goes away or stalls.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_testbed::wait_for;

use super::pty::take_terminal;
use super::run::{Running, in_force, lines_of, policy};
use super::world::{World, file};

/// How long a process may take for what the tests wait for.
const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_for_the_first_policy(world: &World) {
    wait_for("the first policy", PATIENCE, || {
        world.has_xdp() && in_force(world).1 == 1
    });
}

/// Waits for the end of the process, and returns its exit code.
#[track_caller]
fn exit_code(child: &mut Child) -> Option<i32> {
    let mut code = None;
    wait_for("the end of the process", PATIENCE, || {
        let ended = child.try_wait().unwrap();
        code = ended.and_then(|status| status.code());
        ended.is_some()
    });
    code
}

/// A `run` on its own pseudo-terminal, started as a shell would.
struct OnTerminal {
    child: Child,
    master: Option<PtyMaster>,
}

impl OnTerminal {
    fn start(world: &World, words: &[&str]) -> OnTerminal {
        Self::start_with(world, words, libc::SIG_DFL)
    }

    /// Starts it with this disposition of SIGHUP: `nohup` starts a command with `SIG_IGN`.
    fn start_with(world: &World, words: &[&str], hangup: libc::sighandler_t) -> OnTerminal {
        // The descriptor is close-on-exec: while a child has the master open, the terminal is never
        // hung up.
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
        // SAFETY: all three calls are async-signal-safe, so they may be made between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // The tests themselves may run under `nohup`, and a child inherits an ignored
                // SIGHUP.
                libc::signal(libc::SIGHUP, hangup);
                take_terminal()
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
        // The child is still running only if the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Proves C11: `run` ends when the reader of its standard output ends, as it does when its terminal
/// closes.
#[test]
fn a_reader_that_goes_away_ends_it() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut command = world.command(&["run", &path, "--iface", "nic", "--interval", "3600"]);
    // The tests themselves may run under `nohup`, and a child inherits an ignored SIGHUP.
    // SAFETY: the call is async-signal-safe, so it may be made between fork and exec.
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
    wait_for_the_first_policy(&world);
    drop(out);
    assert_eq!(exit_code(&mut child), Some(0));
    world.assert_untouched();
}

/// Proves C11: a `run` that was started by `nohup` goes on when its terminal closes.
#[test]
fn what_ignores_hangups_outlives_its_terminal() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut run = OnTerminal::start_with(&world, &[&path], libc::SIG_IGN);
    wait_for_the_first_policy(&world);
    drop(run.master.take());
    // `run` looks every two seconds whether its terminal still exists.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(run.child.try_wait().unwrap(), None, "it has ended");
    assert!(world.has_xdp());
    run.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut run.child), Some(0));
    world.assert_untouched();
}

/// Proves C11: when its terminal closes, `run` ends as with Ctrl-C. SIGHUP while the terminal
/// exists reloads.
#[test]
fn a_lost_terminal_is_an_end_and_no_reload() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut run = OnTerminal::start(&world, &[&path]);
    wait_for_the_first_policy(&world);
    std::fs::write(&path, policy(2)).unwrap();
    run.signal(Signal::SIGHUP);
    wait_for("the reload", PATIENCE, || {
        in_force(&world) == ("p2".to_owned(), 2)
    });
    assert!(
        run.child.try_wait().unwrap().is_none(),
        "a reload is no end"
    );
    // Closing the master is what a terminal emulator does at its end: the kernel then hangs up the
    // terminal and sends SIGHUP to the session's leader.
    drop(run.master.take());
    assert_eq!(exit_code(&mut run.child), Some(0));
    world.assert_untouched();
}

/// Proves C11: while nothing reads its output, `run` still replaces policies, logs packets, and
/// ends when it is asked to. A reader that comes back gets the newest packets, and the number of
/// those that are missing.
#[test]
fn a_reader_that_stalls_holds_up_nothing() {
    stalls(&[], ":7777", "more packets were to be logged");
}

/// Proves C11: the same for a reader of JSON.
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
    // Two rules, since each has a limit of its own.
    let logging = |port: u16| {
        let rule = "protocol: udp, ports: 10, from: any, action: drop, log: true";
        policy(port).replace("inbound: [", &format!("inbound: [{{{rule}}}, "))
            + "outbound: []\nlog-no-match: inbound\n"
    };
    let path = file(world.dir.path(), "p.yaml", &logging(1));
    let mut child = world
        .command(&["run", "--iface", "nic", "--interval", "60", &path])
        .args(format)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    wait_for_the_first_policy(&world);
    // More packets than the pipe and the queue hold, and more than the limits let through.
    for _ in 0..7 {
        world.send_udp_times(9, 2000);
        world.send_udp_times(10, 2000);
        std::thread::sleep(Duration::from_millis(400));
    }
    std::fs::write(&path, logging(2)).unwrap();
    wait_for("the reload", PATIENCE, || {
        in_force(&world) == ("p2".to_owned(), 2)
    });
    world.send_udp_to_node(7777);
    // From now on the output is read: first what was buffered, then the newest packets, with the
    // number of those that were left out.
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
            // The packet may have been lost, so it is sent again.
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

/// Proves C11: `run` ends although its output is not read.
#[test]
fn it_ends_although_its_output_is_not_read() {
    let world = World::new();
    let text = format!("{}log-no-match: inbound\n", policy(1));
    let path = file(world.dir.path(), "p.yaml", &text);
    let mut child = world
        .command(&["run", "--iface", "nic", "--interval", "60", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_the_first_policy(&world);
    world.send_udp_times(9, 3000);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(exit_code(&mut child), Some(0));
    world.assert_untouched();
}
