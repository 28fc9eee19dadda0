//! Debian's source packages, without a change to the machine's own lists.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{files, shell};

/// What apt is asked of each repository of packages (`apt-get indextargets`).
pub(super) const FORMAT: &str = "$(REPO_URI) $(RELEASE) $(COMPONENT)";

/// The repositories that apt has named, each once: it names one for each of its lists.
pub(super) fn repositories(answer: &str) -> Vec<String> {
    let mut all: Vec<String> = answer.lines().map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

/// Downloads a source package from one of the repositories into the folder, which is empty.
pub(super) fn download(source: &str, from: &[String], folder: &Path) -> Result<PathBuf> {
    if from.is_empty() {
        bail!("this machine has no lists of Debian's packages, so that {source} cannot be found");
    }
    let lists = folder.join("lists/partial");
    files::make_folder(&lists)?;
    let named = folder.join("named.list");
    let lines: String = from.iter().map(|it| format!("deb-src {it}\n")).collect();
    files::write(&named, lines)?;
    let get = |words: &[&str]| {
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let mut command = Command::new("apt-get");
        command
            // Apt's own user could not write to our folder.
            .args(["-o", "APT::Sandbox::User=root", "--quiet"])
            .args(["-o", &option("Dir::Etc::SourceList", &named)])
            .args(["-o", "Dir::Etc::SourceParts=/dev/null"])
            .args(["-o", &option("Dir::State::Lists", &folder.join("lists"))])
            .args(words)
            .current_dir(folder);
        shell::run(&mut command)
    };
    get(&["update"])?;
    get(&["source", "--download-only", source])?;
    files::with_extension(folder, "dsc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repository_is_named_once() {
        let answer = "https://one/debian/ bookworm main\nhttps://one/debian/ bookworm main\n";
        let found = repositories(answer);
        assert_eq!(found, ["https://one/debian/ bookworm main"]);
        assert!(repositories("").is_empty());
    }
}
