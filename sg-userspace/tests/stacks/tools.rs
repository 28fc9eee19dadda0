//! Runs tools of other projects on a host, for a limited time.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use sg_testbed::Host;

/// The time limit of a tool. It also ends tools that the tests have left running.
const SECONDS: &str = "50";

fn bounded(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", SECONDS, program]);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The output of a tool, and whether its exit code was 0.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) is_success: bool,
    pub(crate) text: String,
}

/// Runs a tool to its end. Standard output and standard error are returned together.
#[track_caller]
pub(crate) fn tool(host: &Host, program: &str, arguments: &[&str]) -> Said {
    let output = host.inside(|| bounded(program, arguments).output());
    let output = output.unwrap_or_else(|e| panic!("timeout: {e}"));
    assert_is_there(program, output.status.code());
    let said = [output.stdout, output.stderr].concat();
    Said {
        is_success: output.status.success(),
        text: String::from_utf8_lossy(&said).into_owned(),
    }
}

/// `timeout` exits with this code if the program does not exist.
#[track_caller]
fn assert_is_there(program: &str, code: Option<i32>) {
    let is_missing = code == Some(127);
    assert!(!is_missing, "no {program}: `cargo xtask setup` installs it");
}

/// A tool that runs until it is dropped. If the test has failed by then, its output is printed.
pub(crate) struct Daemon {
    program: &'static str,
    child: Child,
    said: File,
}

impl Daemon {
    pub(crate) fn start(host: &Host, program: &'static str, arguments: &[&str]) -> Daemon {
        let said = tempfile::tempfile().expect("a file for its output");
        let copy = || said.try_clone().expect("a descriptor");
        let child = host.inside(|| {
            let mut command = bounded(program, arguments);
            command.stdout(copy()).stderr(copy()).spawn()
        });
        let child = child.unwrap_or_else(|e| panic!("timeout: {e}"));
        Daemon {
            program,
            child,
            said,
        }
    }

    /// Starts dnsmasq on `eth0` of a host, with none of the machine's settings, for what these
    /// arguments ask for.
    pub(crate) fn dnsmasq(host: &Host, arguments: &[&str]) -> Daemon {
        let of_each = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file=",
            "--log-facility=-",
            "--port=0",
            "--interface=eth0",
        ];
        Daemon::start(host, "dnsmasq", &[&of_each[..], arguments].concat())
    }

    /// The output so far. Fails the test if the tool has ended.
    #[track_caller]
    pub(crate) fn said(&mut self) -> String {
        if let Some(status) = self
            .child
            .try_wait()
            .expect("the state of the child can be read")
        {
            assert_is_there(self.program, status.code());
            panic!("{} ended too early, with {status}", self.program);
        }
        self.read()
    }

    fn read(&mut self) -> String {
        let mut said = String::new();
        let rewound = self.said.rewind();
        let read = rewound.and_then(|()| self.said.read_to_string(&mut said));
        read.expect("the output is valid UTF-8");
        said
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The signal goes to `timeout`, which passes it on to the tool.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.read();
            println!("{} said:\n{said}", self.program);
        }
    }
}
