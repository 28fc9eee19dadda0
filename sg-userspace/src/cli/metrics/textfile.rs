//! A file for node_exporter's textfile collector, which reads whatever is there at any moment: a
//! new file takes the place of the old one when it is whole.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::cli::files;

/// The collector runs as another user.
const MODE: u32 = 0o644;

pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = check(path).and_then(|()| replace(path, text));
    written.map_err(|source| files::not_written("writing the file of metrics", path, source).into())
}

/// Nothing but a file is replaced: a device or a pipe would be gone for all others who use it. A
/// link is not followed: whoever may write to the collector's directory could point it at any file.
fn check(path: &Path) -> io::Result<()> {
    let words = match fs::symlink_metadata(path).map(|found| found.file_type()) {
        Ok(kind) if kind.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(kind) if kind.is_symlink() => "it is a link: name the file itself",
        Ok(kind) if !kind.is_file() => {
            "it is no file; without --textfile, metrics go to standard output"
        }
        // What keeps it from being looked at keeps it from being written.
        _ => return Ok(()),
    };
    Err(io::Error::new(ErrorKind::InvalidInput, words))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = beside(path);
    let written = fill(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // If it is not there, there is nothing to remove.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// The name of the new file until it is whole, in the same directory and so on the same file
/// system. The collector does not read it, since it does not end in `.prom`.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

fn fill(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sgctl.prom");
        for text in ["first\n", "second\n"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        // A directory cannot be replaced by a file.
        let other = dir.path().join("other.prom");
        fs::create_dir(&other).unwrap();
        assert!(write(&other, "text").is_err());
        // What is no file stays, and so does what a link leads to.
        let link = dir.path().join("link.prom");
        std::os::unix::fs::symlink("sgctl.prom", &link).unwrap();
        assert!(write(&link, "third\n").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(write(&socket, "text").is_err());
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = ["link.prom", "other.prom", "sgctl.prom", "socket"];
        assert_eq!(names, expected, "nothing else is left");
    }
}
