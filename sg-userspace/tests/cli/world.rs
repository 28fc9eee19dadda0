//! Runs `sgctl`, and makes the small world that a privileged test runs it in: two network
//! namespaces joined by a veth, and a BPF file system. Everything goes when the test ends.

use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sg_testbed::{Namespace, Scratch, interfaces, require_root};

/// What a command printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// All of it, for a snapshot.
    pub(crate) fn all(&self) -> String {
        let mut all = format!("exit {}\n", self.code);
        for (name, text) in [("stdout", &self.out), ("stderr", &self.err)] {
            if !text.is_empty() {
                all.push_str(&format!("--- {name}\n{text}"));
            }
        }
        all
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{}", self.all());
        assert_eq!(self.err, "", "nothing on standard error");
        self
    }

    /// Fails with `code` and says `words`, once and on standard error.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &str) -> Ran {
        assert_eq!(self.code, code, "{}", self.all());
        assert_eq!(self.err.matches(words).count(), 1, "{}", self.all());
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in {}", self.all()))
    }
}

/// `sgctl` with nothing of the environment that changes what it prints.
pub(crate) fn sgctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sgctl"));
    command
        .args(arguments)
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Ran {
    Ran::of(&sgctl(arguments).output().expect("sgctl starts"))
}

/// Runs `sgctl` with `input` on its standard input.
pub(crate) fn run_with(arguments: &[&str], input: &str) -> Ran {
    let mut child = sgctl(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sgctl starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("sgctl reads it");
    drop(stdin);
    Ran::of(&child.wait_with_output().expect("sgctl ends"))
}

/// A file in `dir`.
pub(crate) fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("the directory is writable");
    path.display().to_string()
}

/// Puts a policy in force on a world's interface.
pub(crate) const APPLY: [&str; 4] = ["apply", "builtin:tke", "--iface", "nic"];

/// Asks what is in force there.
pub(crate) const EXPLAIN: [&str; 7] = [
    "explain",
    "--iface",
    "nic",
    "in",
    "tcp",
    "198.51.100.9",
    "192.0.2.1:22",
];

/// Two namespaces, `node` with the interface `nic` (192.0.2.1) and `peer` (192.0.2.2), and a BPF
/// file system.
pub(crate) struct World {
    pub(crate) node: String,
    pub(crate) peer: String,
    pub(crate) bpffs: PathBuf,
    pub(crate) dir: Scratch,
}

impl World {
    /// # Panics
    /// Without root: a test that cannot run has not passed.
    pub(crate) fn new() -> World {
        require_root();
        let dir = Scratch::new("sgcli").expect("root may make names and folders");
        let namespace = |name| dir.namespace(name).unwrap_or_else(|e| panic!("{e}"));
        let world = World {
            node: namespace("node"),
            peer: namespace("peer"),
            bpffs: dir.bpffs("bpf").expect("the kernel has BPF file systems"),
            dir,
        };
        world.add_veth();
        world
    }

    /// A world on whose interface a policy is in force. Also the path of the policy's file, which
    /// has this name.
    #[track_caller]
    pub(crate) fn enforcing(name: &str, policy: &str) -> (World, String) {
        let world = World::new();
        let path = file(world.dir.path(), name, policy);
        world.run(&["apply", &path, "--iface", "nic"]).ok();
        (world, path)
    }

    /// Adds another pair to the node, both ends of which are there and down.
    pub(crate) fn add_pair(&self, name: &str, end: &str) {
        let words = ["-n", &self.node, "link", "add", name, "type", "veth"];
        ip(&[&words[..], &["peer", "name", end]].concat());
    }

    pub(crate) fn add_veth(&self) {
        let ends = [(&self.node, 1), (&self.peer, 2)]
            .map(|(name, last)| (namespace(name), Ipv4Addr::new(192, 0, 2, last)));
        let [node, peer] = &ends;
        interfaces::add_veth((&node.0, "nic"), (&peer.0, "nic")).expect("a veth pair");
        for (namespace, address) in &ends {
            let set_up = || {
                interfaces::add_address("nic", (*address).into(), 24)?;
                interfaces::set_up("nic")
            };
            namespace.inside(set_up).flatten().expect("an interface");
        }
    }

    /// Datagrams from the peer to the node, whatever becomes of them: an unconnected socket hears
    /// of no refusal.
    pub(crate) fn send_from_one_socket(&self, port: u16, times: u32) {
        let bind = || UdpSocket::bind("192.0.2.2:0");
        let socket = inside(&self.peer, bind).expect("a free port");
        for _ in 0..times {
            let sent = socket.send_to(b"x", ("192.0.2.1", port));
            sent.expect("it takes datagrams");
        }
    }

    /// `sgctl` in the node's namespace.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sgctl(&["--netns", &self.node, "--bpffs"]);
        command.arg(&self.bpffs).args(arguments);
        command
    }

    /// The same, which has come into the namespace without --netns.
    pub(crate) fn entered(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.node))
            .arg(env!("CARGO_BIN_EXE_sgctl"))
            .arg("--bpffs")
            .arg(&self.bpffs)
            .args(arguments);
        command
    }

    /// A command as messages name it here.
    pub(crate) fn typed(&self, command: &str) -> String {
        let (node, bpffs) = (&self.node, self.bpffs.display());
        format!("`sgctl --netns {node} --bpffs {bpffs} {command}`")
    }

    /// A file system for pins that nobody who uses the world's own knows of, and a policy that is
    /// pinned there in force on an interface of the node's.
    pub(crate) fn apply_elsewhere(&self, interface: &str) -> PathBuf {
        let other = self.dir.bpffs("other").expect("another BPF file system");
        let elsewhere = other.display().to_string();
        let place = ["--netns", &self.node, "--bpffs", &elsewhere];
        let words = ["apply", "builtin:tke", "--iface", interface];
        run(&[&place[..], &words].concat()).ok();
        other
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().expect("sgctl starts"))
    }

    /// Echo requests to the node from outside.
    pub(crate) fn ping_node(&self, count: u32) {
        let count = count.to_string();
        // Whether they are answered is the policy's business.
        let _ = Command::new("ip")
            .args([
                "netns", "exec", &self.peer, "ping", "-q", "-i", "0.01", "-W", "0.1",
            ])
            .args(["-c", &count, "192.0.2.1"])
            .output();
    }

    /// A datagram to the node from outside, to a port at which nobody listens.
    pub(crate) fn send_udp_to_node(&self, port: u16) {
        self.send_udp_times(port, 1);
    }

    /// Sends `times` datagrams to a port of the node, as fast as it goes.
    pub(crate) fn send_udp_times(&self, port: u16, times: u32) {
        let send = format!(
            "exec 3> /dev/udp/192.0.2.1/{port}; for i in $(seq {times}); do echo x >&3; done"
        );
        let ran = Command::new("ip")
            .args(["netns", "exec", &self.peer, "bash", "-c", &send])
            .output();
        let ran = Ran::of(&ran.expect("the tests need iproute2"));
        assert_eq!(ran.code, 0, "{}", ran.all());
    }

    /// True when the node's interface runs an XDP program.
    pub(crate) fn has_xdp(&self) -> bool {
        let shown = Command::new("ip")
            .args(["-n", &self.node, "link", "show", "dev", "nic"])
            .output()
            .expect("ip starts");
        String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
    }

    /// Everything pinned; the file system itself has two files that end in `.debug`.
    pub(crate) fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.bpffs.clone()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).expect("it is readable").flatten() {
                if entry.path().extension().is_none() {
                    found.push(entry.path());
                }
                if entry.path().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    /// The directory of the pins of `nic`.
    pub(crate) fn pin_dir(&self) -> PathBuf {
        let state = self
            .pins()
            .into_iter()
            .find(|path| path.ends_with("inbound_link"))
            .expect("nic is attached");
        state.parent().expect("it is in a directory").to_owned()
    }

    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        assert!(!self.has_xdp(), "an XDP program is attached");
        assert_eq!(self.pins(), Vec::<PathBuf>::new());
    }
}

/// A network namespace of the world.
pub(crate) fn namespace(name: &str) -> Namespace {
    let path = Path::new("/run/netns").join(name);
    Namespace::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Does something in a network namespace of the world.
pub(crate) fn inside<T: Send>(name: &str, act: impl FnOnce() -> T + Send) -> T {
    let done = namespace(name).inside(act);
    done.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Runs `ip`.
#[track_caller]
pub(crate) fn ip(words: &[&str]) {
    sg_testbed::run("ip", words);
}

/// Compares with a snapshot in which times, digests and numbers of the moment are named.
macro_rules! assert_shown {
    ($name:expr, $text:expr) => {
        insta::with_settings!({
            filters => vec![
                // A container hides some of its host's namespaces.
                (r"  could not see all connections of pods[^\n]*\n", ""),
                (r"[0-9a-f]{64}", "[digest]"),
                (r"\b[0-9a-f]{12}\b", "[digest]"),
                (r"just now|\d+ (s|min) ago", "[ago]"),
                (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
                (r"\d+\.\d+ ms", "[ms]"),
                (r"[\d.]+ [KM]iB of lookup", "[size] of lookup"),
                (r#""(bytes|ifindex|netns_cookie)": [1-9]\d*"#, r#""$1": [number]"#),
                (r"sgcli-\d+-\d+", "[netns]"),
                (r"/tmp/\.tmp\w+", "[dir]"),
                (r"/v\d+/\d+/\d+/\d+", "/[pins]"),
                (r" +\n", "\n"),
                (r"  +", "  "),
            ],
            omit_expression => true,
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!($name, $text);
        })
    };
}
pub(crate) use assert_shown;
