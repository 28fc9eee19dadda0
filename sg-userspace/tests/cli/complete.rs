//! What bash, zsh and fish complete, with a policy in force: each shell itself is asked, with the
//! script that `sgctl completions` prints.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::pty;
use super::world::{World, file, run};

/// Longer than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

const POLICY: &str = "\
inbound:
  - {protocol: tcp, ports: 22, from: 198.51.100.7, action: accept, name: ssh-of-admins}
  - {protocol: tcp, ports: 443, from: any, action: accept}
";

/// What is typed, and the word that it becomes. Each has one way to go on.
fn questions(world: &World) -> Vec<(String, String)> {
    let bpffs = world.bpffs.display();
    let place = format!("--netns {} --bpffs {bpffs}", world.node);
    let short = &world.node[..world.node.len() - 1];
    let asked = |typed: &str, becomes: &str| (typed.to_owned(), becomes.to_owned());
    vec![
        asked("sgctl coun", "counters"),
        asked("sgctl counters --wat", "--watch"),
        asked("sgctl check --format sa", "sarif"),
        asked(&format!("sgctl --netns {short}"), &world.node),
        asked(&format!("sgctl {place} counters --iface ni"), "nic"),
        asked(&format!("sgctl {place} counters --iface=ni"), "--iface=nic"),
        asked(&format!("sgctl {place} flows --rule ssh"), "ssh-of-admins"),
        asked(&format!("sgctl {place} flows --rule inbound:"), "inbound:2"),
        asked("sgctl apply builtin:tke-m", "builtin:tke-minimal"),
        asked("sgctl check pol", "policy.yaml"),
        asked("sgctl templates show web --set clie", "clients="),
        asked("sgctl lab builtin:tke-minimal --set peer", "peer-clusters="),
        asked("sgctl explain builtin:tke outb", "outbound"),
        asked("sgctl log --reason malf", "malformed"),
        asked("sgctl flows --state half", "half-open"),
        asked("sgctl flows --sort rem", "remote"),
    ]
}

fn world() -> World {
    let (world, _) = World::enforcing("policy.yaml", POLICY);
    world
}

/// The shell, in the folder of the policy, which finds this sgctl by its name.
fn shell(program: &str, world: &World) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_sgctl"));
    let folder = binary.parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", format!("{folder}:{path}"))
        .env("HOME", world.dir.path())
        .env("TERM", "vt100")
        .env("LC_ALL", "C.UTF-8")
        .current_dir(world.dir.path());
    command
}

#[test]
fn fish_completes() {
    let world = world();
    let script = run(&["completions", "fish"]).ok().out;
    let script = file(world.dir.path(), "sgctl.fish", &script);
    for (typed, becomes) in questions(&world) {
        let asked = format!("source {script}; complete --do-complete '{typed}'");
        let output = shell("fish", &world)
            .args(["--no-config", "--command", &asked])
            .stdin(Stdio::null())
            .output()
            .expect("the tests need fish: `cargo xtask setup` installs it");
        let said = String::from_utf8_lossy(&output.stdout);
        let values: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        assert_eq!(values, [becomes], "{typed}: {output:?}");
    }
}

#[test]
fn bash_completes() {
    let world = world();
    let script = run(&["completions", "bash"]).ok().out;
    file(world.dir.path(), "sgctl.bash", &script);
    let mut bash = shell("bash", &world);
    bash.args(["--norc", "--noprofile", "-i"]);
    let mut typist = Typist::start(bash);
    typist.line("bind 'set bell-style none'; bind 'set enable-bracketed-paste off'");
    typist.line("source ./sgctl.bash; PS1='ready '");
    for (typed, becomes) in questions(&world) {
        typist.completes(&typed, &becomes);
    }
}

/// As it is installed: a file of a folder where zsh looks for functions, which is loaded when it is
/// needed first.
#[test]
fn zsh_completes() {
    let world = world();
    let script = run(&["completions", "zsh"]).ok().out;
    std::fs::create_dir(world.dir.path().join("functions")).unwrap();
    file(world.dir.path(), "functions/_sgctl", &script);
    let mut zsh = shell("zsh", &world);
    zsh.args(["--no-rcs", "-i"]);
    let mut typist = Typist::start(zsh);
    typist.line("unsetopt prompt_sp beep list_beep; fpath=($PWD/functions $fpath)");
    typist.line("autoload -U compinit; compinit -u -D; PS1='ready '");
    for (typed, becomes) in questions(&world) {
        typist.completes(&typed, &becomes);
    }
}

fn positive(number: u16) -> std::num::NonZero<u16> {
    std::num::NonZero::new(number).expect("a screen has some size")
}

/// Types into a shell on a terminal, and reads its screen.
struct Typist {
    child: std::process::Child,
    keyboard: std::fs::File,
    written: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

impl Typist {
    const COLUMNS: u16 = 240;

    fn start(command: Command) -> Typist {
        let name = command.get_program().to_owned();
        let size = pty::size(Self::COLUMNS, 50);
        let pty = nix::pty::openpty(&size, None).expect("a pseudo-terminal");
        let (child, written) = pty::start(command, &pty);
        assert!(!name.is_empty());
        Typist {
            child,
            keyboard: pty.master.into(),
            written,
            screen: vt100::Parser::new(positive(50), positive(Self::COLUMNS), 0),
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn line(&mut self, text: &str) {
        self.type_in(text);
        self.type_in("\r");
    }

    /// The line that the cursor is in, once it is this one.
    #[track_caller]
    fn shows(&mut self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Ok(bytes) = self.written.recv_timeout(Duration::from_millis(20)) {
                self.screen.process(&bytes);
            }
            let screen = self.screen.screen();
            let row = screen.cursor_position().0;
            let shown = screen.rows(0, Self::COLUMNS).nth(row.into()).unwrap();
            if shown.trim_end() == line.trim_end() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "expected `{line}`, and the screen is\n{}",
                screen.contents().trim_end()
            );
        }
    }

    /// Typed, and then Tab: the last word becomes another one.
    #[track_caller]
    fn completes(&mut self, typed: &str, becomes: &str) {
        self.shows("ready");
        self.type_in(typed);
        self.shows(&format!("ready {typed}"));
        self.type_in("\t");
        let before = typed.rsplit_once(' ').map_or("", |(before, _)| before);
        self.shows(&format!("ready {before} {becomes}"));
        // Ctrl-U takes the line away.
        self.type_in("\x15");
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
