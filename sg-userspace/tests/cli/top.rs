//! `sgctl top` on a pseudo-terminal, started by a shell, over a real attachment with real traffic.
//! What the terminal shows is read by an emulator of one.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZero;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use super::pty;
use super::world::{World, file, run};

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal on which a shell runs one command and says how that ended.
pub(super) struct Tty {
    shell: Child,
    master: File,
    /// Kept open, as by the shell of a real terminal.
    slave: OwnedFd,
    written: Receiver<Vec<u8>>,
    /// All that was written.
    bytes: Vec<u8>,
    emulator: vt100::Parser,
    /// The modes before the command.
    modes: Termios,
}

/// With job control, as where people type.
const SHELL: &str = "set -m; \"$@\"; echo \"ended $?\"";

impl Tty {
    fn start(command: &Command, columns: u16, lines: u16, environment: &[(&str, &str)]) -> Tty {
        Tty::start_by(SHELL, command, columns, lines, environment)
    }

    /// `script` is what the shell does with the command, which are its arguments.
    fn start_by(
        script: &str,
        command: &Command,
        columns: u16,
        lines: u16,
        environment: &[(&str, &str)],
    ) -> Tty {
        let pty = openpty(&pty::size(columns, lines), None).unwrap();
        let modes = tcgetattr(&pty.slave).unwrap();
        let mut shell = Command::new("bash");
        shell
            .args(["-c", script, "-"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied());
        let (child, written) = pty::start(shell, &pty);
        let master = File::from(pty.master);
        Tty {
            shell: child,
            master,
            slave: pty.slave,
            written,
            bytes: Vec::new(),
            emulator: vt100::Parser::new(positive(lines), positive(columns), 0),
            modes,
        }
    }

    pub(super) fn top(world: &World, words: &[&str], environment: &[(&str, &str)]) -> Tty {
        let words = [&["top", "--interval", "0.2"], words].concat();
        Tty::start(&world.command(&words), 80, 24, environment)
    }

    fn contents(&self) -> String {
        self.emulator.screen().contents()
    }

    /// The first line with these words on the screen.
    pub(super) fn line(&self, words: &str) -> Option<String> {
        let contents = self.contents();
        let line = contents.lines().find(|line| line.contains(words));
        line.map(str::to_owned)
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, is_so: impl Fn(&Tty) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .written
                .recv_timeout(left.min(Duration::from_millis(100)))
            {
                Ok(bytes) => {
                    self.emulator.process(&bytes);
                    self.bytes.extend(bytes);
                }
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(_) => panic!("{what}; the terminal shows:\n{}", self.contents()),
            }
        }
    }

    #[track_caller]
    fn until_shown(&mut self, words: &str) {
        self.until(words, |tty| tty.contents().contains(words));
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&mut self, columns: u16, lines: u16) {
        let size = pty::size(columns, lines);
        // SAFETY: the pointer is to a complete `Winsize`, and the descriptor is open.
        let done =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0);
        self.emulator
            .screen_mut()
            .set_size(positive(lines), positive(columns));
    }

    /// The process that waits, and the one that draws.
    fn processes(&self) -> [Pid; 2] {
        let waits = child_of(self.shell.id()).expect("the shell has started it");
        let draws = child_of(waits).expect("it has started the other one");
        [waits, draws].map(|pid| Pid::from_raw(pid.cast_signed()))
    }

    /// Waits for the end of the command, and checks that the terminal is as it was before. What the
    /// shell says at the end need not stay on the screen: where the process that waits is killed,
    /// the other one restores the screen after it.
    #[track_caller]
    fn assert_restored(&mut self, code: i32) {
        let end = format!("ended {code}");
        self.until(&end, |tty| {
            let mut pieces = tty.bytes.windows(end.len());
            pieces.any(|piece| piece == end.as_bytes())
        });
        self.until_restored();
    }

    #[track_caller]
    fn until_restored(&mut self) {
        self.until("the terminal is restored", |tty| {
            let screen = tty.emulator.screen();
            let is_as_before = tcgetattr(tty.slave.as_fd()).is_ok_and(|now| now == tty.modes);
            is_as_before && !screen.alternate_screen() && !screen.hide_cursor()
        });
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // Whatever the shell has started ends with its terminal.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn positive(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

fn child_of(parent: u32) -> Option<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(path).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

const POLICY: &str = "\
name: shop
inbound:
  - {protocol: tcp, ports: 22, from: 198.51.100.0/24, action: accept, name: ssh}
  - {protocol: udp, ports: 5001, from: any, action: accept, description: the game}
  - {protocol: udp, ports: 5002, from: any, action: drop, description: the old game}
outbound: [{protocol: all, to: any, action: accept}]
";

fn world() -> World {
    let (world, _) = World::enforcing("p.yaml", POLICY);
    world
}

/// What is sent is what the screen shows: the count of the rule that was typed, the reason of what
/// no rule matches, a policy that is put in force meanwhile, and that nothing is attached any more.
#[test]
fn a_rule_is_found_by_typing_and_has_the_count_of_what_was_sent() {
    let world = world();
    let mut tty = Tty::top(&world, &[], &[]);
    tty.until_shown("generation 1");
    tty.until_shown("4 rules, by rate");
    world.send_from_one_socket(5001, 37);
    world.send_from_one_socket(5002, 11);
    world.send_from_one_socket(5003, 5);
    tty.until("the reason is shown", |tty| {
        let line = tty.line("no-match").unwrap_or_default();
        line.starts_with("in ") && line.split_whitespace().any(|word| word == "5")
    });
    tty.press("/udp 5001");
    tty.until_shown("1 of 4 rules");
    let row = |tty: &Tty| tty.line("udp 5001 from any").unwrap_or_default();
    tty.until("its count is shown", |tty| {
        row(tty).split_whitespace().any(|word| word == "37")
    });
    let json = world.run(&["counters", "--iface", "nic", "--json"]).json();
    let rules = json[0]["rules"].as_array().unwrap();
    let of = |summary: &str| {
        let rule = rules.iter().find(|rule| rule["summary"] == summary);
        rule.unwrap()["packets"].clone()
    };
    assert_eq!(
        (of("udp 5001 from any"), of("udp 5002 from any")),
        (37.into(), 11.into())
    );
    // Esc ends the filter.
    tty.press("\x1b");
    tty.until_shown("─ 4 rules, by rate");
    tty.press("z");
    tty.until_shown("zeros hidden");
    assert_eq!(tty.line("tcp 22 from"), None, "{}", tty.contents());

    let changed = POLICY.replace("5002", "6002");
    let path = file(world.dir.path(), "q.yaml", &changed);
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    tty.until_shown("generation 2");
    tty.until("the removed rule is marked", |tty| {
        tty.line("udp 5002 from any")
            .is_some_and(|line| line.contains(" gone "))
    });
    assert!(
        row(&tty).split_whitespace().any(|word| word == "37"),
        "{}",
        tty.contents()
    );
    tty.press("p");
    world.send_from_one_socket(5003, 2);
    tty.until("the source and the port that were dropped", |tty| {
        let line = tty.line("192.0.2.2").unwrap_or_default();
        line.contains("udp 5003") || tty.line("udp 5003").is_some()
    });
    tty.press("p");
    tty.until("what was in force", |tty| tty.line("replaced").is_some());

    tty.resize(200, 50);
    tty.until("all panels", |tty| {
        tty.line("no-match").is_some() && tty.line("replaced").is_some()
    });
    world.run(&["detach", "--iface", "nic"]).ok();
    tty.until_shown("nothing is attached");
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    tty.until_shown("4 rules");
    tty.press("q");
    tty.assert_restored(0);
}

/// What a note says to type works there: it has the options that the screen was started with.
#[test]
fn its_commands_have_the_options_that_they_need() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", POLICY);
    let words = ["apply", &path, "--iface", "nic", "--confirm-within", "10m"];
    world.run(&words).ok();
    let mut tty = Tty::top(&world, &[], &[]);
    let typed = world.typed("confirm");
    tty.until("the command", |tty| {
        let contents = tty.contents();
        let lines: Vec<&str> = contents.lines().map(str::trim_end).collect();
        lines.join(" ").contains(&typed)
    });
    tty.press("q");
    tty.assert_restored(0);
}

/// However it ends, the terminal has its modes, its cursor and its screen again.
#[test]
fn the_terminal_is_restored_after_any_end() {
    let world = world();
    let begin = |environment: &[(&str, &str)]| {
        let mut tty = Tty::top(&world, &["--iface", "nic"], environment);
        tty.until("the screen is shown", |tty| {
            tty.emulator.screen().alternate_screen() && tty.contents().contains("by rate")
        });
        assert_ne!(tcgetattr(tty.slave.as_fd()).unwrap(), tty.modes, "raw");
        tty
    };
    for (keys, code) in [("q", 0), ("\x03", 0), ("/q\x03", 0)] {
        let mut tty = begin(&[]);
        tty.press(keys);
        tty.assert_restored(code);
    }
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        // Sent to the one that waits, which is the one that the shell knows, and to the other.
        for which in [0, 1] {
            let mut tty = begin(&[]);
            kill(tty.processes()[which], signal).unwrap();
            tty.assert_restored(code);
        }
    }
    let mut tty = begin(&[]);
    kill(tty.processes()[0], Signal::SIGINT).unwrap();
    tty.until_restored();
    // A script ends by a SIGINT that its command ends by.
    assert!(!tty.shell.wait().unwrap().success());
    let mut tty = begin(&[]);
    kill(tty.processes()[1], Signal::SIGKILL).unwrap();
    tty.until_shown("its process was ended by SIGKILL");
    tty.assert_restored(1);
    let mut tty = begin(&[]);
    let [waits, draws] = tty.processes();
    kill(waits, Signal::SIGKILL).unwrap();
    tty.assert_restored(137);
    let deadline = Instant::now() + PATIENCE;
    while kill(draws, None).is_ok() {
        assert!(Instant::now() < deadline, "the other one ends too");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A panic restores the terminal before it says what happened.
#[test]
fn a_panic_is_said_on_a_restored_terminal() {
    let world = world();
    let mut tty = Tty::top(&world, &[], &[("SG_FAULT", "panic:top")]);
    tty.until_shown("SG_FAULT asks for it");
    tty.assert_restored(101);
}

/// Ctrl-Z gives the terminal to the shell, and it is shown again afterwards.
#[test]
fn a_stopped_screen_leaves_the_terminal_and_comes_back() {
    let world = world();
    let command = world.command(&["top", "--interval", "0.2"]);
    let script = format!("{SHELL}; fg > /dev/null; echo \"ended $?\"");
    let mut tty = Tty::start_by(&script, &command, 80, 24, &[]);
    tty.until_shown("by rate");
    tty.press("\x1a");
    // Stopped by SIGTSTP, and then continued by `fg`.
    tty.until("it was stopped", |tty| {
        String::from_utf8_lossy(&tty.bytes).contains("ended 148")
    });
    let before = tty.bytes.len();
    tty.until("it is shown again", |tty| {
        let screen = tty.emulator.screen();
        screen.alternate_screen() && tty.contents().contains("by rate")
    });
    let left = String::from_utf8_lossy(&tty.bytes[..before]).into_owned();
    assert!(left.contains("\x1b[?1049l"), "{left:?}");
    tty.press("q");
    tty.assert_restored(0);
}

/// Without colours and in a C locale, the terminal gets ASCII and no colours.
#[test]
fn no_colour_and_a_c_locale_are_obeyed() {
    let world = world();
    let mut tty = Tty::top(&world, &[], &[("NO_COLOR", "1"), ("LC_ALL", "C")]);
    tty.until_shown("by rate");
    world.send_from_one_socket(5001, 3);
    tty.until("a trend is shown", |tty| {
        tty.line("udp 5001")
            .is_some_and(|line| line.trim_end().ends_with(['#', '.']))
    });
    tty.press("q");
    tty.assert_restored(0);
    let written = String::from_utf8(std::mem::take(&mut tty.bytes)).unwrap();
    assert!(written.is_ascii());
    for code in 30..=37 {
        for form in [
            format!("[{code}m"),
            format!(";{code}m"),
            format!("[{code};"),
        ] {
            assert!(!written.contains(&form), "{form} in {written:?}");
        }
    }
}

/// Where there is no terminal, the error names what there is instead.
#[test]
fn without_a_terminal_the_error_names_what_there_is() {
    run(&["top"]).fails(2, "sgctl counters --watch");
    let mut tty = Tty::start(&super::world::sgctl(&["top"]), 80, 24, &[("TERM", "dumb")]);
    tty.until_shown("sgctl counters --watch");
    tty.assert_restored(2);
}

/// Reading ten thousand rules each second, and drawing them, takes a small part of one core. The
/// figure is printed; the bound leaves room for a build without optimisation.
#[test]
fn ten_thousand_rules_cost_little() {
    let world = World::new();
    let rules: String = (1..=10_000)
        .map(|n| {
            format!(
                "  - {{protocol: tcp, ports: {n}, from: 10.{}.{}.0/24, action: accept}}\n",
                n / 250,
                n % 250
            )
        })
        .collect();
    let path = file(world.dir.path(), "p.yaml", &format!("inbound:\n{rules}"));
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let mut tty = Tty::start(&world.command(&["top"]), 200, 50, &[]);
    tty.until_shown("10,000 rules");
    let [_, draws] = tty.processes();
    let (began, before) = (Instant::now(), ticks(draws));
    while began.elapsed() < Duration::from_secs(5) {
        let deadline = began + Duration::from_secs(5);
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(bytes) = tty.written.recv_timeout(left) {
            tty.emulator.process(&bytes);
        }
    }
    let used = (ticks(draws) - before) as f64 / 100.0 / began.elapsed().as_secs_f64();
    println!("10,000 rules: {:.1} % of one core", used * 100.0);
    assert!(used < 0.2, "{used}");
    tty.press("q");
    tty.assert_restored(0);
}

/// The processor time of a process, in hundredths of a second (proc_pid_stat(5)).
fn ticks(process: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    [fields[11], fields[12]]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum()
}
