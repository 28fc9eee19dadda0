//! Debian's packages: which are installed, which are offered, installing and unpacking them.
//! The package lists are fetched only when a package is unknown or cannot be downloaded.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::sources;
use crate::{
    files,
    root::{self, Way},
    shell,
    term::{self, Colour},
};

#[derive(Default)]
pub(crate) struct Apt {
    lists_fetched: bool,
}

impl Apt {
    /// Whether the package can be had, after a look at fresh lists if need be.
    pub(super) fn offers(&mut self, package: &str) -> Result<bool> {
        if is_offered(package)? {
            return Ok(true);
        }
        self.fetch_lists()?;
        is_offered(package)
    }

    fn ensure_offered(&mut self, package: &str) -> Result<()> {
        if !self.offers(package)? {
            bail!("apt does not offer {package}, or the package lists could not be fetched");
        }
        Ok(())
    }

    /// Installs the packages, with fresh lists if the ones at hand are too old.
    pub(super) fn install(&mut self, packages: &[String]) -> Result<()> {
        for package in packages {
            self.ensure_offered(package)?;
        }
        let first = shell::run(&mut install(packages, &root::way())?);
        if first.is_err() && !self.lists_fetched {
            self.fetch_lists()?;
            return shell::run(&mut install(packages, &root::way())?);
        }
        first
    }

    /// The packages whose names match, after a look at fresh lists if there are none.
    pub(crate) fn search(&mut self, pattern: &str) -> Result<Vec<String>> {
        let found = search(pattern)?;
        if !found.is_empty() {
            return Ok(found);
        }
        self.fetch_lists()?;
        search(pattern)
    }

    /// The package and those that it depends on, without what is installed, in the order in which
    /// they would be.
    pub(crate) fn needed_for(&mut self, package: &str) -> Result<Vec<String>> {
        self.ensure_offered(package)?;
        let mut command = Command::new("apt-get");
        command.args(["install", "--simulate", "--no-install-recommends"]);
        let simulated = shell::read(command.arg(package).env("LC_ALL", "C"))?;
        Ok(installations(&simulated))
    }

    /// Downloads the package and unpacks its files below `root`. Nothing is installed.
    pub(crate) fn unpack(&mut self, package: &str, root: &Path) -> Result<()> {
        let folder = root.join("downloaded");
        files::make_folder(&folder)?;
        let first = shell::run(&mut download(package, &folder));
        if first.is_err() {
            self.fetch_lists()?;
            shell::run(&mut download(package, &folder))?;
        }
        let archive = files::with_extension(&folder, "deb")?;
        shell::run(Command::new("dpkg").arg("-x").arg(&archive).arg(root))?;
        files::remove_folder(&folder)
    }

    /// Downloads a source package into the folder and returns its description (dsc(5)). The
    /// machine's own lists need not have sources: they are asked of where its packages come from.
    pub(crate) fn download_source(&mut self, source: &str, folder: &Path) -> Result<PathBuf> {
        if repositories()?.is_empty() {
            self.fetch_lists()?;
        }
        sources::download(source, &repositories()?, folder)
    }

    fn fetch_lists(&mut self) -> Result<()> {
        if !self.lists_fetched {
            self.lists_fetched = true;
            let fetched = shell::run(apt_get(&root::way())?.arg("update"));
            if let Err(error) = fetched {
                // One broken source among several does not hide the packages of the others.
                term::say(Colour::Yellow, "note", error);
            }
        }
        Ok(())
    }
}

/// Those of the packages that dpkg does not list as installed; none where there is no dpkg to ask.
pub(super) fn not_installed(packages: &[String]) -> Vec<String> {
    if shell::which("dpkg-query").is_none() {
        return Vec::new();
    }
    // It fails as soon as one package is unknown, but lists the others all the same.
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${Status}\n"])
        .args(packages)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let mut missing = packages.to_vec();
    missing.retain(|package| !is_installed(&listed, package));
    missing
}

fn is_installed(listed: &str, package: &str) -> bool {
    let expected = format!("{package} install ok installed");
    listed.lines().any(|line| line == expected)
}

fn is_offered(package: &str) -> Result<bool> {
    if shell::which("apt-get").is_none() {
        bail!("there is no apt-get on this machine");
    }
    let mut command = Command::new("apt-cache");
    command.args(["policy", package]).env("LC_ALL", "C");
    Ok(has_candidate(&shell::read(&mut command)?))
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

fn search(pattern: &str) -> Result<Vec<String>> {
    if shell::which("apt-cache").is_none() {
        bail!("there is no apt-cache on this machine");
    }
    let mut command = Command::new("apt-cache");
    command.args(["search", "--names-only", pattern]);
    Ok(names(&shell::read(&mut command)?))
}

/// `name - description`, a line each.
fn names(search: &str) -> Vec<String> {
    let names = search.lines().filter_map(|line| line.split_once(" - "));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// What a simulated installation would install: `Inst name (version …)`, among other lines.
fn installations(simulated: &str) -> Vec<String> {
    let lines = simulated.lines();
    let names = lines.filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// Debian's repositories of packages that this machine has lists of.
fn repositories() -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", sources::FORMAT]);
    command.args(["Created-By: Packages", "Origin: Debian"]);
    Ok(sources::repositories(&shell::read(&mut command)?))
}

fn download(package: &str, folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    // Apt's own user could not write to our folder.
    command
        .args(["-o", "APT::Sandbox::User=root", "--quiet", "download"])
        .arg(package)
        .current_dir(folder);
    command
}

fn install(packages: &[String], way: &Way) -> Result<Command> {
    let mut command = apt_get(way)?;
    command
        // What is installed stays: a package that would take another one away is not installed.
        .args(["install", "--no-install-recommends", "--no-remove", "-y"])
        .args(packages);
    Ok(command)
}

fn apt_get(way: &Way) -> Result<Command> {
    const QUIET: &str = "DEBIAN_FRONTEND=noninteractive";
    let mut command = match way {
        Way::Already => Command::new("env"),
        Way::Sudo(sudo) => {
            let mut command = Command::new(sudo);
            command.arg("env");
            command
        }
        Way::Closed => None.context("installing packages needs root, and there is no sudo")?,
    };
    // Another package manager at work, such as an unattended upgrade, is waited for.
    command.args([QUIET, "apt-get", "-o", "DPkg::Lock::Timeout=120"]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn only_a_complete_install_counts() {
        let listed = "llvm-22-dev install ok installed\nzlib1g-dev deinstall ok config-files\n";
        assert!(is_installed(listed, "llvm-22-dev"));
        assert!(!is_installed(listed, "zlib1g-dev"));
        assert!(!is_installed(listed, "llvm-22"));
    }

    #[test]
    fn a_package_without_a_candidate_is_not_offered() {
        assert!(has_candidate(
            "nftables:\n  Installed: (none)\n  Candidate: 1.0.6-2\n"
        ));
        assert!(!has_candidate(
            "rustup:\n  Installed: (none)\n  Candidate: (none)\n"
        ));
        assert!(!has_candidate(""));
    }

    #[test]
    fn a_search_gives_names() {
        let found = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 - for clouds\nx - y\n";
        assert_eq!(names(found), ["linux-image-6.1.0-9-cloud-amd64", "x"]);
        assert_eq!(names(""), [""; 0]);
    }

    #[test]
    fn a_simulation_says_what_would_come() {
        let simulated = "The following packages will be REMOVED:\n  old\n\
                         Remv old [1] [common:amd64 ]\n\
                         Inst common (7.2 Debian:12/stable [amd64])\n\
                         Inst emulator [6.0] (7.2 Debian:12/stable [amd64])\n\
                         Conf common (7.2 Debian:12/stable [amd64])\n";
        assert_eq!(installations(simulated), ["common", "emulator"]);
        assert_eq!(installations(""), [""; 0]);
    }

    #[test]
    fn installing_asks_no_questions() {
        let packages = ["nftables".to_owned()];
        let line = |way| install(&packages, &way).map(|command| shell::describe(&command));
        let apt = "env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
                   install --no-install-recommends --no-remove -y nftables";
        assert_eq!(line(Way::Already).unwrap(), apt);
        let sudo = Way::Sudo(PathBuf::from("/usr/bin/sudo"));
        assert_eq!(line(sudo).unwrap(), format!("/usr/bin/sudo {apt}"));
        assert!(line(Way::Closed).is_err());
    }
}
