//! What a step of the set-up finds, and what it says of what it could not install.

use crate::term::{self, Colour};

/// How much a command needs.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Needs {
    /// The nightly toolchain and the BPF linker.
    Build,
    /// And the programs that make and probe test networks.
    Tools,
    /// And what boots older kernels.
    Kernels,
    /// What looks at manual pages and runs a binary in a namespace, without the programs of tests.
    Dist,
    /// And what makes a Debian system and reads packages.
    Packages,
    /// And what builds and runs a cluster.
    Kubernetes,
}

/// What a step found, in a few words, and whether it had to install it.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) installed: bool,
}

/// What a step could not install.
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) why: String,
    pub(super) by_hand: Vec<String>,
}

impl Missing {
    pub(super) fn print(&self) {
        term::say(Colour::Red, "missing", &self.what);
        let mut why = self.why.lines();
        term::say(Colour::Red, "because", why.next().unwrap_or_default());
        why.for_each(term::more);
        for (n, line) in self.by_hand.iter().enumerate() {
            if n == 0 {
                term::say(Colour::Yellow, "do", line);
            } else {
                term::more(line);
            }
        }
    }
}
