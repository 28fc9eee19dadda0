//! A file for node_exporter's textfile collector, which reads whatever is there at any moment: a
//! new file takes the place of the old one when it is whole.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::cli::files;

/// The collector runs as another user.
const MODE: u32 = 0o644;

pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let beside = beside(path);
    let written = fill(&beside, text).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| {
        // If it is not there, there is nothing to remove.
        let _ = fs::remove_file(&beside);
        files::not_written("writing the file of metrics", path, source).into()
    })
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
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["other.prom", "sgctl.prom"], "nothing else is left");
    }
}
