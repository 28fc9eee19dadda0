//! Who may load programs into the kernel: root, or somebody who may become it.
//! Carries the error, and its exit code, for those who may not.

use std::{fmt, fs, path::PathBuf, process::ExitCode};

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
    if is_root() {
        return Way::Already;
    }
    shell::which("sudo").map_or(Way::Closed, Way::Sudo)
}

fn is_root() -> bool {
    // A system without procfs cannot show its user here; sudo is then asked for needlessly.
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_user(&status) == Some(0))
}

/// The second number of the `Uid:` line is the effective user.
fn effective_user(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_counts() {
        let status = "Name:\tsudo\nUid:\t1000\t0\t0\t0\nGid:\t1000\t1000\t1000\t1000\n";
        assert_eq!(effective_user(status), Some(0));
        assert_eq!(effective_user("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_user("Name:\tx\n"), None);
        assert_eq!(effective_user("Uid:\tzero\n"), None);
    }
}
