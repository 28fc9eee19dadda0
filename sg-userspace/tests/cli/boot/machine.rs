//! A machine that boots: systemd as the first process of namespaces of its own. A *small* one has
//! the programs of this machine and few units, and keeps its `/etc`; one *of a system* has all that
//! is in an archive, and keeps everything. Network namespace and BPF file system are new with each
//! boot, as after a restart of a real machine.
//!
//! Nothing of this machine is written: of a small one `/usr` is an overlay without an upper layer,
//! and what else reaches the kernel, such as `/sys` and `/proc/sys`, is read-only.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sg_testbed::{Scratch, require_root, wait_for};

use super::scripts::{INNER, NETWORK, OUTER};
use crate::world::{Ran, ip};

/// Where systemd has its units.
const UNITS: &str = "/usr/lib/systemd/system";

/// The units of the machine, as they are on this one.
const COPIED: [&str; 21] = [
    "basic.target",
    "exit.target",
    "final.target",
    "local-fs-pre.target",
    "local-fs.target",
    "multi-user.target",
    "network-pre.target",
    "network.target",
    "paths.target",
    "poweroff.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "sysinit.target",
    "systemd-exit.service",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-poweroff.service",
    "timers.target",
    "umount.target",
];

/// In a machine's folder: the system of one that has its own.
pub(super) const SYSTEM: &str = "system";

/// A machine that is not running.
pub(super) struct Machine {
    scratch: Scratch,
    boots: u32,
}

/// A machine that is running. Dropping it pulls the plug.
pub(super) struct Running<'a> {
    machine: &'a Machine,
    /// The process that has made the namespaces.
    outer: Child,
    /// The first process, as seen from here.
    first: u32,
    cgroup: PathBuf,
    pub(super) node: String,
    pub(super) peer: String,
    pub(super) bpffs: PathBuf,
}

impl Machine {
    /// A machine without anything on it.
    fn empty() -> Machine {
        require_root();
        let scratch = Scratch::new("sgboot").expect("root may make names and folders");
        let machine = Machine { scratch, boots: 0 };
        for dir in ["root", "bpf", "out"] {
            fs::create_dir_all(machine.path(dir)).unwrap();
        }
        // What a service's own file systems are mounted over has to be open to it.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(machine.scratch.path(), open).unwrap();
        machine
    }

    /// One with all that is in the archive, which has systemd.
    ///
    /// # Panics
    /// Without root.
    pub(super) fn of_system(archive: &Path) -> Machine {
        let machine = Machine::empty();
        fs::create_dir(machine.path(SYSTEM)).unwrap();
        let mut unpack = Command::new("tar");
        unpack
            .args([
                "--extract",
                "--numeric-owner",
                "--exclude=./dev/*",
                "--file",
            ])
            .arg(archive)
            .arg("--directory")
            .arg(machine.path(SYSTEM));
        let ran = Ran::of(&unpack.output().expect("tar starts"));
        assert_eq!(ran.code, 0, "{}", ran.all());
        machine
    }

    /// # Panics
    /// Without root, and without systemd.
    pub(super) fn small() -> Machine {
        assert!(
            Path::new("/lib/systemd/systemd").exists(),
            "this test boots systemd, Debian's package of that name"
        );
        let machine = Machine::empty();
        for dir in [
            "etc/systemd/system",
            "etc/sgctl",
            "over/bin",
            "over/lib/systemd/system",
            "over/lib/sgctl-test/multi-user.target.wants",
            "over/lib/sgctl-test/sockets.target.wants",
        ] {
            fs::create_dir_all(machine.path(dir)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_sgctl"), machine.path("over/bin/sgctl")).unwrap();
        machine.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        machine.write("etc/group", "root:x:0:\nsystemd-journal:x:101:\n");
        machine.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        machine.write("etc/os-release", "ID=test\n");
        let ours = "over/lib/sgctl-test";
        for unit in COPIED {
            let from = Path::new(UNITS).join(unit);
            fs::copy(&from, machine.path(ours).join(unit))
                .unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        }
        machine.write(&format!("{ours}/sg-network.service"), NETWORK);
        let link = |target: &str, name: &str| {
            symlink(target, machine.path(ours).join(name)).unwrap();
        };
        link("multi-user.target", "default.target");
        link(
            "../sg-network.service",
            "multi-user.target.wants/sg-network.service",
        );
        for socket in ["systemd-journald.socket", "systemd-journald-dev-log.socket"] {
            link(
                &format!("../{socket}"),
                &format!("sockets.target.wants/{socket}"),
            );
        }
        let unit = super::unit_file();
        let installed = machine.path(ours).join("sgctl@.service");
        fs::copy(unit, installed).unwrap();
        machine
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Boots with these interfaces, each a veth whose other end is at the peer and has the same
    /// name. Returns when everything has been started.
    pub(super) fn boot(&mut self, interfaces: &[&str]) -> Running<'_> {
        self.boots += 1;
        let number = self.boots.to_string();
        let namespace = |what| self.scratch.namespace(&format!("{what}{number}")).unwrap();
        let (node, peer) = (namespace("node"), namespace("peer"));
        let bpffs = self.scratch.bpffs(&format!("bpf-{number}")).unwrap();
        let cgroup = cgroup2().join(format!("{}-{number}", self.scratch_name()));
        let mut running = Running {
            machine: self,
            outer: self.start(&node, &cgroup, &number),
            first: 0,
            cgroup,
            node,
            peer,
            bpffs,
        };
        for name in interfaces {
            running.add(name);
        }
        running.wait_for_start();
        running
    }

    fn scratch_name(&self) -> String {
        let name = self.scratch.path().file_name().unwrap().to_string_lossy();
        format!("sgboot{name}")
    }

    fn start(&self, node: &str, cgroup: &Path, number: &str) -> Child {
        let log = fs::File::create(self.path(&format!("console-{number}"))).unwrap();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{node}"))
            .args(["unshare", "--mount", "sh", "-c", OUTER, "outer"])
            .arg(self.scratch.path())
            .arg(cgroup)
            .args([number, INNER])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command.spawn().expect("the tests need util-linux")
    }
}

/// Where the second version of control groups is mounted.
fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next() == Some("cgroup2")).then(|| PathBuf::from(path))
    });
    found.expect("systemd needs control groups of the second version")
}

/// The child of a process, if it has one.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

impl Running<'_> {
    fn wait_for_start(&mut self) {
        let patience = Duration::from_secs(90);
        let number = self.machine.boots;
        let outer = self.outer.id();
        let console = || self.machine.read(&format!("console-{number}"));
        let deadline = std::time::Instant::now() + patience;
        loop {
            assert!(
                std::time::Instant::now() < deadline,
                "it does not boot:\n{}",
                console()
            );
            if let Some(first) = child_of(outer) {
                self.first = first;
                let state = self.try_run(&["systemctl", "is-system-running"]).out;
                if matches!(state.trim(), "running" | "degraded") {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Adds an interface, which is not up.
    pub(super) fn add(&self, name: &str) {
        ip(&[
            "-n", &self.node, "link", "add", name, "type", "veth", "peer", "name", name, "netns",
            &self.peer,
        ]);
    }

    /// A command on the machine.
    pub(super) fn try_run(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.first))
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(words);
        Ran::of(&command.output().expect("the tests need util-linux"))
    }

    /// One that has to succeed. Returns what it printed.
    #[track_caller]
    pub(super) fn run(&self, words: &[&str]) -> String {
        let ran = self.try_run(words);
        assert_eq!(ran.code, 0, "{words:?}: {}\n{}", ran.all(), self.journal());
        ran.out
    }

    #[track_caller]
    pub(super) fn systemctl(&self, words: &[&str]) -> String {
        self.run(&[&["systemctl"], words].concat())
    }

    /// A property of a unit.
    #[track_caller]
    pub(super) fn property(&self, unit: &str, name: &str) -> String {
        let words = ["show", "--value", "-p", name, unit];
        self.systemctl(&words).trim().to_owned()
    }

    /// What the units have said, for a message.
    pub(super) fn journal(&self) -> String {
        self.try_run(&["journalctl", "--no-pager", "-o", "short-precise"])
            .out
    }

    /// The id of the XDP program on an interface, if there is one.
    pub(super) fn xdp(&self, name: &str) -> Option<u32> {
        let shown = Command::new("ip")
            .args(["-n", &self.node, "link", "show", "dev", name])
            .output()
            .expect("ip starts");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let (_, id) = shown.split_once("prog/xdp id ")?;
        id.split_whitespace().next()?.parse().ok()
    }

    /// What `sgctl status` says of an interface.
    #[track_caller]
    pub(super) fn status(&self, name: &str) -> serde_json::Value {
        let words = ["sgctl", "status", "--iface", name, "--json"];
        let ran = self.try_run(&words);
        assert_eq!(ran.code, 0, "{}\n{}", ran.all(), self.journal());
        ran.json()[0].clone()
    }

    /// Shuts the machine down as its operator would.
    pub(super) fn power_off(mut self) {
        self.systemctl(&["start", "--no-block", "poweroff.target"]);
        let outer = &mut self.outer;
        wait_for("the machine is off", Duration::from_secs(90), || {
            matches!(outer.try_wait(), Ok(Some(_)))
        });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // The first process is killed with it, and all others with that.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        if std::thread::panicking() {
            let number = self.machine.boots;
            eprintln!("{}", self.machine.read(&format!("console-{number}")));
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while self.cgroup.exists() && std::time::Instant::now() < deadline {
            remove_cgroup(&self.cgroup);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes a control group and those in it. Processes that are just ending keep theirs for a
/// moment.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}
