//! A real SSH session from the peer of a world to its node.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_testbed::wait_for;

use super::world::{Ran, World, file};

/// How long the server may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An SSH server on the node, and a client with its key on the peer. The server has a passwd file
/// of its own, which gives root another home; nothing of the machine's is touched.
pub(super) struct Ssh<'a> {
    world: &'a World,
    pub(super) home: PathBuf,
    server: Child,
}

impl<'a> Ssh<'a> {
    pub(super) fn new(world: &'a World) -> Ssh<'a> {
        let home = world.dir.path().join("home");
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700).create(&home).expect("a home");
        private.create(home.join(".ssh")).expect("a folder");
        let key = |name: &str| {
            let made = Command::new("dropbearkey")
                .args(["-t", "ed25519", "-f"])
                .arg(home.join(name))
                .output()
                .expect("the tests need dropbear-bin: `cargo xtask setup` installs it");
            let made = Ran::of(&made);
            assert_eq!(made.code, 0, "{}", made.all());
            let public = made
                .out
                .lines()
                .find(|line| line.starts_with("ssh-ed25519"));
            format!("{}\n", public.expect("the public key is printed"))
        };
        key("host");
        let authorized = home.join(".ssh/authorized_keys");
        std::fs::write(&authorized, key("key")).expect("it is writable");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&authorized, private).expect("it is ours");
        let passwd = format!("root:x:0:0:root:{}:/bin/bash\n", home.display());
        let passwd = file(&home, "passwd", &passwd);
        let start = format!(
            "mount --bind {passwd} /etc/passwd && exec dropbear -F -E -s -p 192.0.2.1:22 -r {0}/host -P {0}/pid",
            home.display()
        );
        let server = Command::new("ip")
            .args(["netns", "exec", &world.node, "sh", "-c", &start])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ip starts");
        let ssh = Ssh {
            world,
            home,
            server,
        };
        wait_for("a session", PATIENCE, || ssh.run("true").code == 0);
        ssh
    }

    /// The client with a command for the node's shell.
    pub(super) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.world.peer, "env"])
            .arg(format!("HOME={}", self.home.display()))
            .args(["dbclient", "-y", "-y", "-i"])
            .arg(self.home.join("key"))
            .arg("root@192.0.2.1")
            .arg(script)
            .env("TERM", "xterm")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command in a session of its own. What the client says of keys is left out.
    pub(super) fn run(&self, script: &str) -> Ran {
        let mut ran = Ran::of(&self.command(script).output().expect("the client starts"));
        let lines = ran.err.lines().map(|line| line.trim_end_matches('\r'));
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("dbclient: "));
        ran.err = lines.map(|line| format!("{line}\n")).collect();
        ran
    }

    /// `sgctl` with these words, for the node's shell.
    pub(super) fn sgctl(&self, words: &str) -> String {
        let bpffs = self.world.bpffs.display();
        format!("{} --bpffs {bpffs} {words}", env!("CARGO_BIN_EXE_sgctl"))
    }
}

impl Ssh<'_> {
    /// Kills all that the server has started for its sessions.
    pub(super) fn kill_sessions(&self) {
        let send = |process: u32, signal| {
            let _ = kill(Pid::from_raw(process.cast_signed()), signal);
        };
        let mut todo = vec![self.server.id()];
        let mut all = Vec::new();
        while let Some(process) = todo.pop() {
            let children = format!("/proc/{process}/task/{process}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok())
            {
                // A stopped process starts no more children. Those of a killed one get another
                // parent, and would not be found.
                send(child, Signal::SIGSTOP);
                todo.push(child);
                all.push(child);
            }
        }
        all.into_iter()
            .for_each(|process| send(process, Signal::SIGKILL));
    }
}

impl Drop for Ssh<'_> {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
