//! SHA256SUMS: the checksum of each file that is given to others, in the form of `sha256sum`. Each
//! task that makes one of them writes the list anew, so that it is never of files that were there
//! before.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use sha2::{Digest as _, Sha256};

use super::{arch::Arch, root};
use crate::shell;

const FILE: &str = "SHA256SUMS";

/// How packages and images end.
const KINDS: [&str; 3] = [".deb", ".rpm", ".oci.tar"];

/// Lists what the folder has for others, lets `sha256sum` check the list, and returns how many
/// files there are.
pub(crate) fn write(folder: &Path) -> Result<usize> {
    let mut files = given(folder)?;
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

/// Packages and images, and of each processor the binary with what belongs to it. The folder has
/// more, such as the tree that packages are made of.
fn given(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let name = entry.file_name();
        if KINDS
            .iter()
            .any(|kind| name.to_string_lossy().ends_with(kind))
        {
            files.push(entry.path());
        }
    }
    for arch in Arch::value_variants() {
        let of_it = [root::BINARY].into_iter().chain(root::BESIDE);
        let of_it = of_it.map(|name| folder.join(arch.name()).join(name));
        files.extend(of_it.filter(|path| path.exists()));
    }
    Ok(files)
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
    fn what_is_given_to_others_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        };
        file("x86_64/sgctl");
        file("a.deb");
        file("x86_64/LICENCES.txt");
        file("sgctl-0.1.0.oci.tar");
        for not_given in [
            "root/usr/bin/sgctl",
            "changelog.Debian",
            "x86_64/empty-root/sgctl",
        ] {
            file(not_given);
        }
        assert_eq!(write(dir.path()).unwrap(), 4);
        // Again, where the list itself is there, and with other content.
        fs::write(dir.path().join("a.deb"), "b").unwrap();
        assert_eq!(write(dir.path()).unwrap(), 4);
        let listed = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let names: Vec<_> = listed.lines().map(|line| &line[66..]).collect();
        assert_eq!(
            names,
            [
                "a.deb",
                "sgctl-0.1.0.oci.tar",
                "x86_64/LICENCES.txt",
                "x86_64/sgctl"
            ]
        );
    }
}
