//! The steps of `cargo xtask lint` about what comes from elsewhere: dependencies that nothing
//! uses, licences, sources and advisories (deny.toml), and whether the oldest supported compiler
//! builds the host's code. A step whose tool is not here is left out, and says why.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Metadata;
use semver::Version;

use crate::{
    shell,
    term::{self, Colour},
    test_binaries::HOST_CRATES,
    toolchains::OLDEST,
};

/// How a step ends that does not fail.
#[derive(Debug, PartialEq)]
pub(crate) enum Ending {
    Done,
    /// With the reason.
    LeftOut(String),
}

/// A program of crates.io.
struct Tool {
    name: &'static str,
    version: &'static str,
    why: &'static str,
    takes: &'static str,
}

const MACHETE: Tool = Tool {
    name: "cargo-machete",
    version: "0.9.2",
    why: "finds dependencies that nothing uses",
    takes: "about a minute",
};

const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    why: "reads licences, sources and advisories",
    takes: "several minutes",
};

const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
    why: "makes packages for Debian",
    takes: "a few minutes",
};

const GENERATE_RPM: Tool = Tool {
    name: "cargo-generate-rpm",
    version: "0.21.1",
    why: "makes packages for RPM",
    takes: "a few minutes",
};

impl Tool {
    fn install(&self) -> Command {
        let mut command = Command::new("cargo");
        command
            .args(["install", "--locked", self.name, "--version", self.version])
            // It is built apart from the workspace, whatever folder that uses.
            .env_remove("CARGO_TARGET_DIR");
        command
    }

    /// Installs the tool if it is missing. Where that fails, a note says so, and its step is left
    /// out.
    fn ensure(&self) {
        if shell::which(self.name).is_some() {
            return;
        }
        let Tool {
            name, why, takes, ..
        } = self;
        let line = format!("{name} is not here: it {why}; building it takes {takes}");
        term::say(Colour::Yellow, "setup", line);
        if let Err(error) = shell::run(&mut self.install()) {
            let line = format!("its step will be left out: {error:#}");
            term::say(Colour::Yellow, "note", line);
        }
    }

    fn missing(&self, flag: &str) -> Ending {
        let install = shell::describe(&self.install());
        Ending::LeftOut(format!(
            "{} is not here; `cargo xtask lint{flag}` installs it, or `{install}`",
            self.name
        ))
    }
}

/// Installs what the steps below call; what takes long only where `all` asks for it.
pub(crate) fn ensure(all: bool) {
    MACHETE.ensure();
    if all {
        DENY.ensure();
    }
}

/// Installs what makes packages, without which there are none.
pub(crate) fn ensure_packagers() -> Result<()> {
    for tool in [CARGO_DEB, GENERATE_RPM] {
        if shell::which(tool.name).is_some() {
            continue;
        }
        let Tool {
            name, why, takes, ..
        } = tool;
        let line = format!("{name} is not here: it {why}; building it takes {takes}");
        term::say(Colour::Yellow, "setup", line);
        shell::run(&mut tool.install())?;
    }
    Ok(())
}

pub(crate) fn unused(workspace: &Path) -> Result<Ending> {
    let Some(machete) = shell::which(MACHETE.name) else {
        return Ok(MACHETE.missing(""));
    };
    shell::run(Command::new(machete).current_dir(workspace))?;
    Ok(Ending::Done)
}

pub(crate) fn allowed(workspace: &Path) -> Result<Ending> {
    let Some(deny) = shell::which(DENY.name) else {
        return Ok(DENY.missing(" --dependencies"));
    };
    let mut command = Command::new(&deny);
    command
        .current_dir(workspace)
        .args(["--offline", "check", "licenses", "bans", "sources"]);
    shell::run(&mut command)?;
    Ok(Ending::Done)
}

pub(crate) fn advisories(workspace: &Path) -> Result<Ending> {
    let Some(deny) = shell::which(DENY.name) else {
        return Ok(DENY.missing(" --dependencies"));
    };
    let deny = || {
        let mut command = Command::new(&deny);
        command.current_dir(workspace);
        command
    };
    // Fetched apart, so that what it finds is told from a network that is not there.
    if let Err(error) = shell::read(deny().args(["fetch", "db"])) {
        let error = format!("{error:#}");
        let why = error.lines().last().unwrap_or_default();
        return Ok(Ending::LeftOut(format!(
            "the database of advisories cannot be had: {why}"
        )));
    }
    shell::run(deny().args(["--offline", "check", "advisories"]))?;
    Ok(Ending::Done)
}

/// Whether the host's code builds with the oldest supported compiler; where that is not
/// installed, whether the dependencies say that they do.
pub(crate) fn oldest_compiler(workspace: &Path) -> Result<Ending> {
    let metadata = shell::cargo_metadata(workspace, &["--locked"])?;
    let newer = newer_than(OLDEST, packages(&metadata))?;
    if !newer.is_empty() {
        bail!(
            "rust-version is {OLDEST}, and these need a newer compiler: {}\n\
             take an older version (`cargo update NAME --precise VERSION`), or raise rust-version",
            newer.join(", ")
        );
    }
    let listed = shell::read(shell::rustup().args(["toolchain", "list"])).unwrap_or_default();
    let Some(toolchain) = toolchain_of(OLDEST, &listed) else {
        return Ok(Ending::LeftOut(format!(
            "the toolchain {OLDEST} is not installed (`rustup toolchain install {OLDEST} --profile minimal`); \
             all dependencies say that it builds them"
        )));
    };
    shell::run(&mut check(workspace, toolchain))?;
    Ok(Ending::Done)
}

fn check(workspace: &Path, toolchain: &str) -> Command {
    let mut command = shell::of_toolchain(toolchain, "cargo");
    command
        .current_dir(workspace)
        .args(["check", "--all-targets"])
        .args(HOST_CRATES)
        // Apart from what other compilers have built.
        .args(["--target-dir", "target/oldest"]);
    command
}

/// The installed toolchain of this version, of those that `rustup toolchain list` prints.
fn toolchain_of<'t>(version: &str, listed: &'t str) -> Option<&'t str> {
    let names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names.into_iter().find(|name| {
        name.strip_prefix(version)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
    })
}

/// Each package with its version and the compiler that it says it needs.
fn packages(metadata: &Metadata) -> impl Iterator<Item = (&str, &Version, &Version)> {
    metadata.packages.iter().filter_map(|package| {
        let needs = package.rust_version.as_ref()?;
        Some((package.name.as_str(), &package.version, needs))
    })
}

/// Those that need a newer compiler than `oldest`, which is written without its last number.
fn newer_than<'p>(
    oldest: &str,
    packages: impl Iterator<Item = (&'p str, &'p Version, &'p Version)>,
) -> Result<Vec<String>> {
    let oldest = Version::parse(&format!("{oldest}.0"))
        .with_context(|| format!("rust-version {oldest} is not made of two numbers"))?;
    Ok(packages
        .filter(|(_, _, needs)| **needs > oldest)
        .map(|(name, version, needs)| format!("{name} {version} ({needs})"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_need_a_newer_compiler_are_named() {
        let version = |text: &str| Version::parse(text).unwrap();
        let listed = [
            ("a", version("1.0.0"), version("1.89.1")),
            ("b", version("2.0.0"), version("1.89.0")),
            ("d", version("4.0.0"), version("1.100.0")),
        ];
        let packages = || listed.iter().map(|(name, of, needs)| (*name, of, needs));
        assert_eq!(
            newer_than("1.89", packages()).unwrap(),
            ["a 1.0.0 (1.89.1)", "d 4.0.0 (1.100.0)"]
        );
        assert!(newer_than("1.89.0", packages()).is_err());
    }

    /// Also those of this workspace, which all name one.
    #[test]
    fn packages_tell_which_compiler_they_need() {
        let workspace = shell::workspace().unwrap();
        let metadata = shell::cargo_metadata(&workspace, &["--no-deps", "--offline"]).unwrap();
        let own = packages(&metadata).find(|(name, ..)| *name == "xtask");
        let (_, _, needs) = own.unwrap();
        assert_eq!(format!("{}.{}", needs.major, needs.minor), OLDEST);
    }

    /// How to wait is the caller's business.
    #[test]
    fn the_library_alone_has_no_asynchronous_runtime() {
        let mut tree = shell::cargo(&shell::workspace().unwrap());
        tree.args(["tree", "--offline", "--package", "sg-userspace"])
            .args(["--no-default-features", "--edges", "normal"])
            .args(["--prefix", "none", "--format", "{p}"]);
        let tree = shell::read(&mut tree).unwrap();
        let has = |name: &str| {
            tree.lines()
                .any(|line| line.split(' ').next() == Some(name))
        };
        assert!(has("aya"), "{tree}");
        assert!(!has("tokio") && !has("clap"), "{tree}");
    }

    #[test]
    fn a_toolchain_is_known_by_its_version_and_no_longer_one() {
        let listed = "stable-x86_64-unknown-linux-gnu (active, default)\n\
                      1.8.0-x86_64-unknown-linux-gnu\n1.89.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(
            toolchain_of("1.89", listed),
            Some("1.89.0-x86_64-unknown-linux-gnu")
        );
        assert_eq!(
            toolchain_of("1.8", listed),
            Some("1.8.0-x86_64-unknown-linux-gnu")
        );
        assert_eq!(toolchain_of("1.9", listed), None);
    }

    #[test]
    fn tools_have_a_version_and_builds_a_folder_of_their_own() {
        assert_eq!(
            shell::describe(&MACHETE.install()),
            "cargo install --locked cargo-machete --version 0.9.2"
        );
        assert_eq!(
            shell::describe(&check(Path::new("."), "1.89")),
            "rustup run 1.89 cargo check --all-targets --workspace --exclude sg-ebpf \
             --exclude sg-bench-ebpf --target-dir target/oldest"
        );
        let Ending::LeftOut(why) = DENY.missing(" --dependencies") else {
            panic!("it is left out");
        };
        assert!(why.contains("`cargo xtask lint --dependencies` installs it"));
    }
}
