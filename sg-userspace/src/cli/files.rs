//! The failure to write a file, or to listen at an address: with its name, and with what to do
//! about it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::units::clean;

/// What has failed at a file, a directory or an address.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{what}: {place}: {reason}")]
#[diagnostic(help("{help}"))]
pub(super) struct IoAt {
    pub(super) what: &'static str,
    pub(super) place: String,
    pub(super) help: String,
    pub(super) reason: io::Error,
}

/// The failure to write at `path`; `what` was being done.
pub(super) fn not_written(what: &'static str, path: &Path, reason: io::Error) -> IoAt {
    IoAt {
        what,
        place: shown(path),
        help: help(path, reason.kind()),
        reason,
    }
}

fn shown(path: &Path) -> String {
    clean(&path.display().to_string())
}

fn help(path: &Path, kind: ErrorKind) -> String {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    let parent = parent.map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = shown(&parent);
    match kind {
        ErrorKind::NotFound => format!("`mkdir -p {directory}`, or name another path"),
        ErrorKind::PermissionDenied => {
            format!("name a path that this user may write: `ls -ld {directory}` says who may")
        }
        ErrorKind::AlreadyExists => "remove it, or name another directory".to_owned(),
        ErrorKind::AddrInUse => {
            "it is there and no socket of a `run` that has ended: name another path".to_owned()
        }
        ErrorKind::IsADirectory => "it is a directory: name a file in it".to_owned(),
        ErrorKind::NotADirectory => {
            "what should be a directory is a file: name another path".to_owned()
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("make room there (`df {directory}`), or name a path on another file system")
        }
        ErrorKind::ReadOnlyFilesystem => {
            "that file system is mounted read-only: name a path on another one".to_owned()
        }
        _ => format!("look at {directory} and at its file system, or name another path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_path_and_a_remedy() {
        for (kind, path, expected) in [
            (ErrorKind::NotFound, "/a/b", "`mkdir -p /a`"),
            (ErrorKind::NotFound, "b", "`mkdir -p .`"),
            (ErrorKind::PermissionDenied, "/a/b", "`ls -ld /a`"),
            (ErrorKind::IsADirectory, "/a", "a file in it"),
            (ErrorKind::StorageFull, "/a/b", "`df /a`"),
            (ErrorKind::TimedOut, "/a/b", "look at /a"),
        ] {
            let failed = not_written("writing", Path::new(path), kind.into());
            let begin = format!("writing: {path}: ");
            assert!(failed.to_string().starts_with(&begin), "{failed}");
            let help = &failed.help;
            assert!(help.contains(expected), "{help}");
        }
    }
}
