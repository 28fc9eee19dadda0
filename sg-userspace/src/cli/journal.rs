//! Whether the journal of systemd reads standard output and standard error, and the priorities that
//! lines have there.

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// The priorities of syslog(3) that lines have in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

/// Which of the two streams the journal reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Journal {
    pub(super) out: bool,
    pub(super) err: bool,
}

impl Journal {
    /// `JOURNAL_STREAM` names the journal's stream by device and inode, both decimal
    /// (systemd.exec(5)). A process whose output was redirected since inherits the variable, so
    /// the descriptors are compared with it.
    pub(super) fn find() -> Journal {
        let Ok(named) = std::env::var("JOURNAL_STREAM") else {
            return Journal::default();
        };
        Journal {
            out: is_stream(io::stdout(), &named),
            err: is_stream(io::stderr(), &named),
        }
    }
}

fn is_stream(stream: impl AsFd, named: &str) -> bool {
    fstat(stream).is_ok_and(|about| named == format!("{}:{}", about.st_dev, about.st_ino))
}

/// Lines as the journal takes them: each begins with its priority (sd-daemon(3)).
pub(super) fn with_priority(text: &str, priority: Priority) -> String {
    let lines = text.lines();
    lines
        .map(|line| format!("<{}>{line}\n", priority as u8))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority() {
        let text = "error: one\n  help: two\n";
        assert_eq!(
            with_priority(text, Priority::Error),
            "<3>error: one\n<3>  help: two\n"
        );
    }

    /// A stream is the journal's only if it is the one that is named: a shell passes the variable
    /// on to commands whose output goes elsewhere.
    #[test]
    fn a_stream_is_recognized_by_device_and_inode() {
        let (mine, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let about = fstat(&mine).unwrap();
        let named = format!("{}:{}", about.st_dev, about.st_ino);
        assert!(is_stream(&mine, &named));
        assert!(!is_stream(&other, &named));
        assert!(!is_stream(&mine, ""));
    }
}
