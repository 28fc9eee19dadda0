//! Who may load programs into the kernel: root, or somebody who may become it.
//! Carries the error, and its exit code, for those who may not.

use std::{fmt, path::PathBuf, process::ExitCode};

use crate::shell;

/// Leads to exit code 3, as `sgctl` itself does when it is not permitted something.
#[derive(Debug)]
pub(crate) struct NotPermitted(pub(crate) String);

impl fmt::Display for NotPermitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotPermitted {}

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<NotPermitted>() {
        Some(_) => ExitCode::from(3),
        None => ExitCode::FAILURE,
    }
}

/// How a command gets the rights of root.
#[derive(Debug, PartialEq)]
pub(crate) enum Way {
    /// This process has them.
    Already,
    /// Through this program.
    Sudo(PathBuf),
    Closed,
}

pub(crate) fn way() -> Way {
    if nix::unistd::geteuid().is_root() {
        return Way::Already;
    }
    shell::which("sudo").map_or(Way::Closed, Way::Sudo)
}
