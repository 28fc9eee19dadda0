//! A host is a network namespace. It has no name and no process: it is gone when the last
//! descriptor and socket in it are.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use crate::sandbox::run;
use crate::service::PATIENCE;

pub(crate) struct Host {
    netns: File,
}

impl Host {
    /// The host that the calling thread is in.
    pub(crate) fn here() -> Host {
        Host {
            netns: File::open("/proc/thread-self/ns/net").expect("a thread has a namespace"),
        }
    }

    /// Another host: no interfaces but its own loopback, and nothing that it says unasked.
    pub(crate) fn new() -> Host {
        let made = scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may have namespaces of its own");
                Host::here()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        made.hush();
        made
    }

    /// Quiet unless asked, and nothing to wait for: settings that later interfaces begin with.
    pub(crate) fn hush(&self) {
        for (name, value) in [
            ("accept_ra", "0"),
            ("router_solicitations", "0"),
            ("dad_transmits", "0"),
            ("mldv2_unsolicited_report_interval", "10"),
        ] {
            self.set(&format!("net/ipv6/conf/default/{name}"), value);
        }
        self.ip("link set lo up");
    }

    /// Runs `act` on a thread that is inside; the sockets it makes belong to the host.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.netns, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                act()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs `ip` with these words.
    pub(crate) fn ip(&self, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.inside(|| run("ip", &words))
    }

    /// Sets what `sysctl` sets; the path is below /proc/sys and follows whoever reads it.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys").join(name);
        self.inside(|| std::fs::write(&path, value))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Joins an interface of this host and one of another by a virtual cable. Both stay down.
    pub(crate) fn join(&self, name: &str, other: &Host, other_name: &str) {
        // By a thread of the other: `ip` takes the namespace of a process or thread.
        let (tell, told) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope(|scope| {
            scope.spawn(move || {
                setns(&other.netns, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                let _ = tell.send(nix::unistd::gettid());
                let _ = wait.recv();
            });
            let thread = told.recv().expect("the other host's thread lives");
            self.ip(&format!(
                "link add {name} type veth peer name {other_name} netns {thread}"
            ));
            drop(done);
        });
    }

    /// Waits until an interface is in operation: until then the kernel throws away what is sent.
    pub(crate) fn wait_for_carrier(&self, interface: &str) {
        let state = || self.ip(&format!("-o link show dev {interface}"));
        wait_for("the cable", PATIENCE, || state().contains("state UP"));
    }
}

/// Waits until `is_so`, and fails the test when that takes too long.
#[track_caller]
pub(crate) fn wait_for(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        sleep(Duration::from_millis(10));
    }
}
