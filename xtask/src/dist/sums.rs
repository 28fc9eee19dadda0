//! SHA256SUMS: the checksum of each file that is given to others, in the form of `sha256sum`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::root;
use crate::shell;

const FILE: &str = "SHA256SUMS";

/// Lists all files below the folder but the tree of the packages, lets `sha256sum` check the list,
/// and returns how many there are.
pub(super) fn write(folder: &Path) -> Result<usize> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    files.retain(|path| {
        let below = path.strip_prefix(folder).unwrap_or(path);
        below != Path::new(FILE) && !below.starts_with(root::NAME)
    });
    files.sort();
    let mut text = String::new();
    for path in &files {
        let below = path.strip_prefix(folder).unwrap_or(path);
        let _ = writeln!(text, "{}  {}", sha256(path)?, below.display());
    }
    let path = folder.join(FILE);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--quiet", FILE]).current_dir(folder);
    shell::read(&mut check)?;
    Ok(files.len())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        match entry.file_type()?.is_dir() {
            true => list(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}

/// In hex digits.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let digest = Sha256::digest(&data);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_but_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        };
        file("x86_64/sgctl");
        file("a.deb");
        file("root/usr/bin/sgctl");
        assert_eq!(write(dir.path()).unwrap(), 2);
        // Again, where the list itself is there.
        assert_eq!(write(dir.path()).unwrap(), 2);
        let listed = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let names: Vec<_> = listed.lines().map(|line| &line[66..]).collect();
        assert_eq!(names, ["a.deb", "x86_64/sgctl"]);
    }
}
