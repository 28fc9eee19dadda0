//! Where the commands of a page are run: a node with a client beside it, or a machine on which the
//! page makes nodes of its own. In a network, a mount namespace and a folder of its own, so that
//! nothing is left.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sg_testbed::{Host, Mount, Namespace, mounts};

use super::page::Step;
use super::{Page, Place};
use crate::pty;

/// The addresses of the node and of the host at the other end of its eth0, which know each other,
/// so that no packet is sent but by the commands.
const NODE: &str = "192.0.2.10";
const CLIENT: &str = "192.0.2.99";

/// The terminal that the commands write to. What they print has to fit there.
const COLUMNS: u16 = 80;
const LINES: u16 = 50;

pub(super) struct World {
    client: Host,
    folder: tempfile::TempDir,
    path: String,
    /// Of the last command.
    pub(super) code: i32,
    /// The shells that were started, whose commands may go on in the background.
    started: Vec<Pid>,
    _listening: Vec<TcpListener>,
    server: Option<Child>,
    /// In the reverse order of their making.
    _mounts: Vec<Mount>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        for shell in &self.started {
            // Mostly nothing of it is left.
            let _ = killpg(*shell, Signal::SIGKILL);
        }
    }
}

impl World {
    /// Made on a thread whose namespaces are its own: the node's, or the machine's.
    pub(super) fn enter(page: Page) -> World {
        Namespace::enter_new().expect("root may have a network of its own");
        mounts::make_private().expect("root may have mounts of its own");
        let mut all = vec![Mount::bpffs(USUAL).expect("a BPF file system of our own")];
        let folder = tempfile::tempdir().expect("a folder");
        let deploy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        std::os::unix::fs::symlink(deploy, folder.path().join("deploy")).expect("our own folder");
        let path = sgctl(folder.path());
        let (node, client) = (Host::here(), Host::new());
        node.hush();
        let (mut listening, mut server) = (Vec::new(), None);
        match page.place {
            Place::Node { ports, serves } => {
                join(&node, &client);
                let listen = |port: &u16| TcpListener::bind(("::", *port)).expect("a free port");
                listening = ports.iter().map(listen).collect();
                server =
                    serves.map(|(name, port)| serve(&folder.path().join(".bin").join(name), port));
            }
            // Where namespaces have their names.
            Place::Machine => all.insert(0, Mount::small("/run", 1 << 20).expect("a mount")),
        }
        World {
            client,
            path,
            code: 0,
            started: Vec::new(),
            _listening: listening,
            server,
            folder,
            _mounts: all,
        }
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("the folder is our own");
    }

    /// Runs a command as a shell does, and returns what it prints on a terminal.
    pub(super) fn run(&mut self, step: &Step) -> String {
        let before = self.code;
        let command = format!("(exit {before}); {}", step.command);
        let (printed, code) = match step.is_clients {
            true => {
                let command = format!("{AT_ONCE}; {command}");
                self.client.inside(|| self.on_a_terminal(&command))
            }
            false => self.on_a_terminal(&command),
        };
        self.started.push(printed.shell);
        self.code = code;
        printed.text
    }

    fn on_a_terminal(&self, command: &str) -> (Printed, i32) {
        let pty = openpty(&pty::size(COLUMNS, LINES), None).expect("a terminal");
        for end in [&pty.master, &pty.slave] {
            let close = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
            fcntl(end, close).expect("our own descriptor");
        }
        let no_wait = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        fcntl(&pty.master, no_wait).expect("our own descriptor");
        let slave = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let shell = Command::new("bash")
            .args(["-c", command])
            .current_dir(self.folder.path())
            .env("PATH", &self.path)
            .env("SHELL", "/bin/bash")
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .env_remove("COLUMNS")
            .env_remove("SSH_CONNECTION")
            .stdin(Stdio::null())
            .stdout(slave())
            .stderr(slave())
            .process_group(0)
            .spawn();
        let mut shell = shell.expect("the tests need bash");
        drop(pty.slave);
        let mut terminal = fs::File::from(pty.master);
        let mut written = Vec::new();
        let code = loop {
            // What goes on in the background may keep the terminal open, so that the end of what is
            // written is not waited for: when the shell has ended, all of it is there.
            let ended = shell.try_wait().expect("our own child");
            // An error is the end, or that there is nothing now.
            let _ = terminal.read_to_end(&mut written);
            match ended {
                Some(status) => break status.code().unwrap_or(-1),
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let printed = Printed {
            text: String::from_utf8_lossy(&written).replace("\r\n", "\n"),
            shell: Pid::from_raw(shell.id() as i32),
        };
        (printed, code)
    }
}

struct Printed {
    text: String,
    shell: Pid,
}

/// Lets a shell run before all others, if it may: `nc -w 1` gives up just before the kernel sends
/// its SYN again, and one that runs late is counted twice.
const AT_ONCE: &str = "chrt --fifo --pid 1 $$ 2> /dev/null";

/// Joins the node and the client by a link on which nothing is sent by itself.
fn join(node: &Host, client: &Host) {
    node.join("eth0", client, "eth0");
    let ends = [(node, NODE, 1), (client, CLIENT, 2)];
    for (host, address, number) in ends {
        host.set("net/ipv6/conf/eth0/disable_ipv6", "1");
        host.ip(&format!(
            "link set eth0 address 02:00:00:00:00:0{number} up"
        ));
        host.ip(&format!("address add {address}/24 dev eth0"));
        let (_, other, other_number) = ends[2 - number];
        host.ip(&format!(
            "neighbour add {other} dev eth0 lladdr 02:00:00:00:00:0{other_number}"
        ));
    }
    node.wait_for_carrier("eth0");
    client.wait_for_carrier("eth0");
}

/// Where everybody pins. Messages do not name it.
const USUAL: &str = "/sys/fs/bpf";

/// The same place in other words: by its own it is refused in mounts that end with the process.
const ON_PURPOSE: &str = "/sys/fs/bpf/../bpf";

/// Puts a `sgctl` that pins into the world's own file system at the head of the PATH.
fn sgctl(folder: &Path) -> String {
    let programs = folder.join(".bin");
    fs::create_dir(&programs).expect("a folder");
    let program = programs.join("sgctl");
    let binary = env!("CARGO_BIN_EXE_sgctl");
    let script = format!("#!/bin/sh\nLC_ALL=C.UTF-8 exec {binary} --bpffs {ON_PURPOSE} \"$@\"\n");
    fs::write(&program, script).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", programs.display())
}

/// A server that listens at a port under the name of this path, and answers nothing.
fn serve(path: &Path, port: u16) -> Child {
    let programs = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&programs).map(|folder| folder.join("nc"));
    let netcat = found.find(|path| path.exists());
    let netcat = netcat.expect("the tests need netcat: `cargo xtask setup` installs it");
    std::os::unix::fs::symlink(netcat, path).expect("the folder is our own");
    let server = Command::new(path)
        .args(["-dlk", NODE, &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    server.expect("it starts")
}
