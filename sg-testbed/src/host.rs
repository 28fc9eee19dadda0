//! A network namespace as tests use it: what cannot be done fails the test and says why.

use std::panic::Location;
use std::time::{Duration, Instant};

use crate::command::{ip, require_root};
use crate::interfaces;
use crate::namespace::Namespace;
use crate::sysctl::{self, set_sysctl};

/// How long tests wait for what takes a moment: a busy machine may be slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host of a test's network.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
}

impl Host {
    /// A host with no interface but its loopback, which sends nothing of its own accord.
    #[track_caller]
    pub fn new() -> Host {
        let host = Host::bare();
        host.hush();
        host
    }

    /// A host as the kernel makes it: with a loopback that is down.
    #[track_caller]
    pub fn bare() -> Host {
        require_root();
        Host::of(Namespace::new())
    }

    /// The host that the calling thread is in.
    #[track_caller]
    pub fn here() -> Host {
        Host::of(Namespace::current())
    }

    /// The one that the machine's own interfaces are in.
    #[track_caller]
    pub fn of_the_machine() -> Host {
        Host::of(Namespace::open("/proc/1/ns/net"))
    }

    #[track_caller]
    fn of(namespace: std::io::Result<Namespace>) -> Host {
        let namespace = namespace.unwrap_or_else(|e| panic!("a network namespace: {e}"));
        Host { namespace }
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Quiet unless asked, with IPv6 addresses that can be used at once; the loopback is up.
    #[track_caller]
    pub fn hush(&self) {
        self.done(|| {
            sysctl::make_quiet()?;
            interfaces::set_up("lo")
        });
    }

    /// Runs `act` on a thread that is inside; the sockets it makes belong to the host.
    #[track_caller]
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let inside = self.namespace.inside(act);
        inside.unwrap_or_else(|e| panic!("entering a network namespace: {e}"))
    }

    /// Does inside what must succeed.
    #[track_caller]
    fn done<T: Send>(&self, act: impl FnOnce() -> std::io::Result<T> + Send) -> T {
        let caller = Location::caller();
        self.inside(act).unwrap_or_else(|e| panic!("{caller}: {e}"))
    }

    /// Runs `ip` with these words.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.inside(|| ip(words))
    }

    /// Sets what `sysctl` sets; the path is below /proc/sys.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        self.done(|| set_sysctl(name, value));
    }

    /// Joins an interface of this host and one of another by a veth pair. Both stay down.
    #[track_caller]
    pub fn join(&self, name: &str, other: &Host, other_name: &str) {
        interfaces::add_veth((&self.namespace, name), (&other.namespace, other_name))
            .unwrap_or_else(|e| panic!("a veth pair {name}, {other_name}: {e}"));
    }

    /// Joins the calling thread's namespace and this host by a veth pair, whose ends are up.
    #[track_caller]
    pub fn connect(&self, here: &str, there: &str) {
        let caller = Host::here();
        caller.join(here, self, there);
        caller.done(|| interfaces::set_up(here));
        self.done(|| interfaces::set_up(there));
    }

    /// Moves an interface of the calling thread's namespace here.
    #[track_caller]
    pub fn take(&self, interface: &str) {
        interfaces::move_to(interface, &self.namespace)
            .unwrap_or_else(|e| panic!("moving {interface}: {e}"));
    }

    /// Waits until an interface is in operation: until then the kernel throws away what is sent.
    #[track_caller]
    pub fn wait_for_carrier(&self, interface: &str) {
        let is_up = self.done(|| interfaces::wait_for_carrier(interface, PATIENCE));
        assert!(is_up, "waited {PATIENCE:?} for the carrier of {interface}");
    }
}

impl Default for Host {
    fn default() -> Host {
        Host::new()
    }
}

/// Waits until `is_so`, and fails the test when that takes too long.
#[track_caller]
pub fn wait_for(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
