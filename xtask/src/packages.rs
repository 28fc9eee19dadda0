//! `cargo xtask test --packages`: makes both packages of this tree and of an older commit, looks at
//! them with the tools of both worlds, and has them installed, upgraded, downgraded and removed in
//! a clean Debian system that systemd boots in namespaces (`tests/cli/boot/packaged.rs`). Also
//! whether the binary runs on a distribution whose C library is older than this machine's.

mod debian;
mod lintian;
mod old_libc;
mod older;

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    dist::{self, Arch, Made},
    files,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
    test_binaries::{HOST_CRATES, PROFILE, way_to_root},
};

/// The Debian that is tried where this machine has none.
const SUITE: &str = "bookworm";

/// The tests of `sg-userspace --test cli`, and where they find the system and the packages.
const TESTS: [&str; 3] = [
    "boot::installed::the_page_about_installing_does_what_it_says",
    "boot::packaged::debian_keeps_a_node_enforced",
    "boot::packaged::rpm_keeps_a_node_enforced",
];
const ARCHIVE: &str = "SG_PACKAGES_SYSTEM";
const PACKAGES: &str = "SG_PACKAGES";

pub(crate) fn command() -> Result<()> {
    if way_to_root()? != crate::root::Way::Already {
        bail!("packages are installed in namespaces, which needs root: run this command as root");
    }
    setup::ensure(Needs::Tools)?;
    setup::ensure(Needs::Packages)?;
    let workspace = shell::workspace()?;
    let binary = dist::static_binary(Arch::X86_64)?;
    let folder = workspace.join("target/packages");
    files::make_folder(&folder)?;
    let now = dist::make_packages(&workspace, Arch::X86_64, dist::VERSION, &folder)?;
    lintian::check(&now.deb)?;
    same_files(&now)?;
    unpack_rpm(&workspace, &now.rpm, &folder)?;
    let libc = old_libc::run(&binary, &folder)?;

    let older = older::packages(&workspace, &folder)?;
    let suite = suite(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    let system = debian::System {
        suite: &suite,
        variant: "minbase",
        packages: "systemd,rpm",
        name: "systemd",
    };
    let system = system.archive(&folder)?;
    for (version, made) in [("now", &now), ("older", &older.made)] {
        for (kind, from) in [("deb", &made.deb), ("rpm", &made.rpm)] {
            let to = folder.join(format!("{version}.{kind}"));
            fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    shell::run(&mut tests(&workspace, &system, &folder))?;
    term::say(
        Colour::Green,
        "ok",
        format!(
            "both packages were installed, upgraded from {}, downgraded and removed under systemd; \
             the binary runs beside {libc}",
            older.name
        ),
    );
    Ok(())
}

fn tests(workspace: &Path, system: &Path, packages: &Path) -> Command {
    let mut command = shell::cargo(workspace);
    command
        .arg("test")
        .args(HOST_CRATES)
        .args(["--test", "cli"])
        .args(["--profile", PROFILE, "--"])
        .args(TESTS)
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .env(ARCHIVE, system)
        .env(PACKAGES, packages);
    command
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

/// The forms in which Debian wants a licence and the changes of a package.
const OF_DEBIAN: [&str; 2] = [
    "/usr/share/doc/sgctl/copyright",
    "/usr/share/doc/sgctl/changelog.Debian.gz",
];

/// What is only in the one, and only in the other.
fn compare(deb: &[&str], rpm: &[&str]) -> (Vec<String>, Vec<String>) {
    let of_deb = |path: &&str| {
        let path = path.strip_suffix(".gz").unwrap_or(path);
        path.replace("/zsh/vendor-completions/", "/zsh/site-functions/")
    };
    let is_own = |path: &&&str| !OF_DEBIAN.contains(*path);
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
    files::remove_folder(&root)?;
    files::make_folder(&root)?;
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
    files::remove_folder(&root)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_binaries::source_of;

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

    #[test]
    fn the_tests_are_those_that_there_are() {
        let texts = TESTS.map(|test| source_of("cli", test));
        let texts = std::collections::BTreeSet::from(texts);
        let count = |text: &String| text.matches("#[test]").count();
        assert_eq!(texts.iter().map(count).sum::<usize>(), TESTS.len());
    }
}
