//! `--check-reproducible`: the sources are copied into a folder of another name, built there from
//! nothing, and the binaries compared.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{arch::Arch, build};
use crate::{
    files, shell,
    term::{self, Colour},
};

/// As far from the workspace's own as it gets: another name, another depth.
const FOLDER: &str = "target/dist-again/another-folder/of-the-same-sources";

/// Fails unless the binary that is built from the copy is `binary`.
pub(super) fn check(workspace: &Path, arch: Arch, binary: &Path) -> Result<()> {
    let copy = workspace.join(FOLDER);
    files::remove_folder(&copy)?;
    let files = copy_sources(workspace, &copy)?;
    term::say(
        Colour::Cyan,
        "again",
        format!("{files} files in {}", copy.display()),
    );
    let again = build::build(&copy, &copy.join("target-folder-of-its-own"), arch)?;
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    if let Some(difference) = difference(&read(binary)?, &read(&again.binary)?) {
        bail!(
            "two builds of the same sources differ: {difference}\n  {}\n  {}",
            binary.display(),
            again.binary.display()
        );
    }
    files::remove_folder(&copy)?;
    term::say(
        Colour::Green,
        "equal",
        format!("both builds for {} are the same bytes", arch.triple()),
    );
    Ok(())
}

/// The files that git knows, as they are in the work tree. Returns how many there are.
fn copy_sources(workspace: &Path, copy: &Path) -> Result<usize> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ])
    .current_dir(workspace);
    let listed = shell::read(&mut git)?;
    let mut count = 0;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let from = workspace.join(name);
        // One that was removed and is not committed yet.
        if !from.is_file() {
            continue;
        }
        let to: PathBuf = copy.join(name);
        if let Some(folder) = to.parent() {
            files::make_folder(folder)?;
        }
        fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
        count += 1;
    }
    Ok(count)
}

/// Where two files differ first, if they do.
fn difference(one: &[u8], other: &[u8]) -> Option<String> {
    let at = one.iter().zip(other).position(|(a, b)| a != b);
    match at {
        Some(at) => Some(format!("at byte {at}")),
        None if one.len() != other.len() => Some(format!(
            "one has {} bytes, the other {}",
            one.len(),
            other.len()
        )),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_where_it_is() {
        assert_eq!(difference(b"same", b"same"), None);
        assert_eq!(difference(b"some", b"same").unwrap(), "at byte 1");
        let longer = difference(b"same", b"same!").unwrap();
        assert_eq!(longer, "one has 4 bytes, the other 5");
    }

    #[test]
    fn a_copy_has_what_git_knows() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = shell::workspace().unwrap();
        let count = copy_sources(&workspace, dir.path()).unwrap();
        assert!(count > 100, "{count}");
        assert!(dir.path().join("Cargo.lock").is_file());
        assert!(!dir.path().join("target").exists());
    }
}
