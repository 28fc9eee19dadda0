//! `cargo xtask test --packages`: what the packages do on a node. A clean Debian system is made
//! once and kept below `target`; in namespaces a package is installed there, upgraded and
//! downgraded while traffic runs, and purged. The package for RPM has to have the same files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    dist::{self, Arch, Made},
    setup::{self, Needs},
    shell,
    term::{self, Colour},
    test_binaries::way_to_root,
};

/// Runs in namespaces of its own.
const SCRIPT: &str = include_str!("packages/test.sh");

/// A version that is later than any.
const LATER: &str = "999.0.0";

/// The Debian that is tried where this machine has none.
const SUITE: &str = "bookworm";

pub(crate) fn command() -> Result<()> {
    if way_to_root()? != crate::root::Way::Already {
        bail!("packages are installed in namespaces, which needs root: run this command as root");
    }
    setup::ensure(Needs::Packages)?;
    let workspace = shell::workspace()?;
    dist::static_binary(Arch::X86_64)?;
    let folder = workspace.join("target/packages");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let now = dist::make_packages(&workspace, Arch::X86_64, dist::VERSION, &folder)?;
    let later = dist::make_packages(&workspace, Arch::X86_64, LATER, &folder)?;

    same_files(&now)?;
    unpack_rpm(&workspace, &now.rpm, &folder)?;
    let system = debian(&folder)?;
    on_a_node(&system, &now.deb, &later.deb)?;
    term::say(
        Colour::Green,
        "ok",
        "installed, upgraded, downgraded and purged; the package for RPM has the same files",
    );
    Ok(())
}

/// Both packages have the same files, but for where a shell looks and for compressed pages.
fn same_files(made: &Made) -> Result<()> {
    let mut list = Command::new("rpm");
    list.args(["--query", "--list", "--package"]).arg(&made.rpm);
    let listed = shell::read(&mut list)?;
    let rpm: Vec<&str> = listed.lines().collect();
    let deb = dist::files_of_deb(&made.deb)?;
    let deb: Vec<&str> = deb.iter().map(String::as_str).collect();
    let (missing, more) = compare(&deb, &rpm);
    if !missing.is_empty() || !more.is_empty() {
        bail!(
            "the packages differ: only in the one for Debian {missing:?}, only in the one for RPM {more:?}"
        );
    }
    Ok(())
}

/// What is only in the one, and only in the other.
fn compare(deb: &[&str], rpm: &[&str]) -> (Vec<String>, Vec<String>) {
    let of_deb = |path: &&str| {
        let path = path.strip_suffix(".gz").unwrap_or(path);
        path.replace("/zsh/vendor-completions/", "/zsh/site-functions/")
    };
    // The form that Debian wants a licence in.
    let is_own = |path: &&&str| **path != "/usr/share/doc/sgctl/copyright";
    let deb: Vec<String> = deb.iter().filter(is_own).map(of_deb).collect();
    let rpm: Vec<String> = rpm.iter().map(|path| (*path).to_owned()).collect();
    let only = |one: &[String], other: &[String]| -> Vec<String> {
        let only = one.iter().filter(|path| !other.contains(path));
        only.cloned().collect()
    };
    (only(&deb, &rpm), only(&rpm, &deb))
}

/// Unpacks the package for RPM with rpm itself, and compares with what was packed.
fn unpack_rpm(workspace: &Path, rpm: &Path, folder: &Path) -> Result<()> {
    let root = folder.join("rpm-root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    fs::create_dir_all(&root)?;
    let mut install = Command::new("rpm");
    install
        .args(["--install", "--nodeps", "--noscripts", "--nosignature"])
        .args(["--force-debian", "--root"])
        .arg(&root)
        .arg(rpm);
    shell::run(&mut install)?;
    let tree = dist::folder(workspace).join(dist::TREE);
    for name in [
        "usr/bin/sgctl",
        "etc/sgctl",
        "usr/share/man",
        "usr/share/doc/sgctl",
    ] {
        let mut diff = Command::new("diff");
        diff.arg("--recursive")
            .arg(tree.join(name))
            .arg(root.join(name));
        shell::read(&mut diff).context("what rpm has unpacked is not what was packed")?;
    }
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}

/// A clean Debian system as an archive, which is made once.
fn debian(folder: &Path) -> Result<PathBuf> {
    let suite = suite(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    let archive = folder.join(format!("debian-{suite}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    let unfinished = folder.join("debian.unfinished.tar");
    let mut make = Command::new("mmdebstrap");
    make.args(["--variant=minbase", &suite]).arg(&unfinished);
    shell::run(&mut make)?;
    fs::rename(&unfinished, &archive)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(archive)
}

/// The name of this machine's Debian.
fn suite(os_release: &str) -> String {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let is_debian = value("ID=").is_some_and(|id| id == "debian");
    let name = value("VERSION_CODENAME=").filter(|_| is_debian);
    name.unwrap_or_else(|| SUITE.to_owned())
}

fn on_a_node(system: &Path, now: &Path, later: &Path) -> Result<()> {
    let folder = system.with_file_name("node");
    let mut node = Command::new("unshare");
    node.args(["--mount", "--net", "bash", "-c", SCRIPT, "packages"])
        .arg(&folder)
        .arg(system)
        .args([now, later]);
    shell::run(&mut node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_with_other_files_differ() {
        let deb = [
            "/usr/bin/sgctl",
            "/usr/share/man/man1/sgctl.1.gz",
            "/usr/share/zsh/vendor-completions/_sgctl",
            "/usr/share/doc/sgctl/copyright",
        ];
        let rpm = [
            "/usr/bin/sgctl",
            "/usr/share/man/man1/sgctl.1",
            "/usr/share/zsh/site-functions/_sgctl",
        ];
        assert_eq!(compare(&deb, &rpm), (vec![], vec![]));
        let (missing, more) = compare(&deb[..2], &rpm[1..]);
        assert_eq!(missing, ["/usr/bin/sgctl"]);
        assert_eq!(more, ["/usr/share/zsh/site-functions/_sgctl"]);
    }

    #[test]
    fn the_system_is_that_of_this_machine() {
        let debian = "ID=debian\nVERSION_CODENAME=trixie\n";
        assert_eq!(suite(debian), "trixie");
        assert_eq!(suite("ID=ubuntu\nVERSION_CODENAME=noble\n"), SUITE);
        assert_eq!(suite(""), SUITE);
    }
}
