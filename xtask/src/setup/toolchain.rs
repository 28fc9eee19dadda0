//! The nightly toolchain with the sources of `core`, which the BPF target is built from,
//! with clippy, for the lint of the packet path, and with rustfmt, which alone wraps comments.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use rustc_version::{LlvmVersion, VersionMeta};

use super::step::{Found, Missing};
use crate::{
    shell,
    term::{self, Colour},
    versions,
};

/// Names another toolchain than `nightly` for the packet path.
pub(super) const VARIABLE: &str = "SG_BPF_TOOLCHAIN";

/// The toolchain that builds the packet path.
pub(crate) fn name() -> String {
    env::var(VARIABLE)
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "nightly".to_owned())
}

/// What a compiler says of itself, and its LLVM.
pub(super) type Rustc = (VersionMeta, LlvmVersion);

pub(super) fn step() -> Result<(Found, Rustc), Missing> {
    let name = name();
    if shell::which("rustup").is_none() {
        return Err(Missing {
            what: format!("rustup, which brings the {name} toolchain"),
            why: "there is no rustup on the PATH".to_owned(),
            by_hand: vec![
                "install rustup, from your distribution or as rustup.rs tells".to_owned(),
                shell::describe(&install_toolchain(&name)),
            ],
        });
    }

    let mut installed = false;
    let (rustc, sysroot) = match inspect(&name) {
        Ok(found) => found,
        Err(_) => {
            announce(format_args!("the {name} toolchain is not installed"));
            shell::run(&mut install_toolchain(&name))
                .and_then(|()| inspect(&name))
                .map_err(|error| no_toolchain(&name, &error))?
        }
    };

    if !has_sources(&sysroot) {
        announce(format_args!("{name} has no sources of core (rust-src)"));
        let added = shell::run(&mut add_component(&name, "rust-src"));
        if added.is_err() || !has_sources(&sysroot) {
            return Err(no_sources(&name, &rustc.0, &sysroot));
        }
        installed = true;
    }
    for tool in ["clippy", "rustfmt"] {
        if has_tool(&sysroot, tool) {
            continue;
        }
        announce(format_args!("{name} has no {tool}"));
        match shell::run(&mut add_component(&name, tool)) {
            Ok(()) => installed = true,
            Err(_) => term::say(
                Colour::Yellow,
                "note",
                "going on without it: only `cargo xtask lint` needs it",
            ),
        }
    }

    let text = format!("rustc {} (LLVM {})", rustc.0.semver, rustc.1);
    Ok((Found { text, installed }, rustc))
}

/// The compiler beside the cargo that runs this.
pub(super) fn of_the_host() -> Option<VersionMeta> {
    VersionMeta::for_command(Command::new("rustc")).ok()
}

/// Adds the standard library of a target to the toolchain that cargo was started with.
pub(crate) fn ensure_target(triple: &str) -> Result<()> {
    let sysroot = shell::read(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib").join(triple);
    if library.is_dir() {
        return Ok(());
    }
    announce(format_args!("the standard library of {triple} is not here"));
    shell::run(&mut add_target(triple, env::var("RUSTUP_TOOLCHAIN").ok()))
}

fn add_target(triple: &str, toolchain: Option<String>) -> Command {
    let mut command = shell::rustup();
    command.args(["target", "add", triple]);
    if let Some(toolchain) = toolchain {
        command.args(["--toolchain", &toolchain]);
    }
    command
}

fn announce(text: fmt::Arguments<'_>) {
    term::say(Colour::Yellow, "setup", text);
}

fn inspect(name: &str) -> Result<(Rustc, PathBuf)> {
    let version = shell::read(shell::of_toolchain(name, "rustc").arg("-vV"))?;
    let rustc = versions::rustc(&version)
        .with_context(|| format!("cannot read the version of rustc:\n{version}"))?;
    let sysroot = shell::read(shell::of_toolchain(name, "rustc").args(["--print", "sysroot"]))?;
    Ok((rustc, PathBuf::from(sysroot.trim())))
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot.join(SOURCES).join("library/core/src").is_dir()
}

fn has_tool(sysroot: &Path, component: &str) -> bool {
    let program = match component {
        "clippy" => "cargo-clippy",
        other => other,
    };
    sysroot.join("bin").join(program).is_file()
}

/// Whether the toolchain of this name can format.
pub(crate) fn has_rustfmt(name: &str) -> bool {
    inspect(name).is_ok_and(|(_, sysroot)| has_tool(&sysroot, "rustfmt"))
}

/// Where cargo looks for the sources of `core`, below the sysroot.
const SOURCES: &str = "lib/rustlib/src/rust";

fn install_toolchain(name: &str) -> Command {
    let mut command = shell::rustup();
    command
        .args(["toolchain", "install", name, "--profile", "minimal"])
        .args(["--component", "rust-src", "--component", "clippy"])
        .args(["--component", "rustfmt"]);
    command
}

fn add_component(name: &str, component: &str) -> Command {
    let mut command = shell::rustup();
    command.args(["component", "add", component, "--toolchain", name]);
    command
}

fn no_toolchain(name: &str, error: &anyhow::Error) -> Missing {
    let mut by_hand = vec![
        "with the network at hand:".to_owned(),
        indent(&shell::describe(&install_toolchain(name))),
    ];
    by_hand.extend(another_toolchain());
    Missing {
        what: format!("the {name} toolchain"),
        why: format!("{error:#}"),
        by_hand,
    }
}

fn no_sources(name: &str, rustc: &VersionMeta, sysroot: &Path) -> Missing {
    let mut by_hand = vec![
        "with the network at hand:".to_owned(),
        indent(&shell::describe(&add_component(name, "rust-src"))),
        format!(
            "or copy {SOURCES} of the same rustc {} from another machine to",
            rustc.semver
        ),
        indent(&sysroot.join(SOURCES).display().to_string()),
    ];
    by_hand.extend(another_toolchain());
    Missing {
        what: format!("rust-src, the sources of core, for {name}"),
        why: "rustup could not add it, see above".to_owned(),
        by_hand,
    }
}

/// The way without rustup's servers: a compiler as a distribution packages it, next to its
/// sources.
fn another_toolchain() -> Vec<String> {
    let link = "rustup toolchain link packaged FOLDER/usr";
    let use_it = "export RUSTC_BOOTSTRAP=1 LD_LIBRARY_PATH=FOLDER/usr/lib/$(uname -m)-linux-gnu";
    vec![
        "or unpack a distribution's rustc, cargo, libstd and rust-src into one FOLDER".to_owned(),
        "(Debian: apt-get download rustc-web cargo-web rust-web-src libstd-rust-web-dev".to_owned(),
        "and the libstd-rust-web-N of the same version, then dpkg -x each), and".to_owned(),
        indent(link),
        indent(&format!("{use_it} {VARIABLE}=packaged")),
    ]
}

fn indent(line: &str) -> String {
    format!("  {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustup_is_asked_for_the_smallest_toolchain() {
        assert_eq!(
            shell::describe(&install_toolchain("nightly")),
            "rustup toolchain install nightly --profile minimal \
             --component rust-src --component clippy --component rustfmt"
        );
        assert_eq!(
            shell::describe(&add_component("nightly", "rust-src")),
            "rustup component add rust-src --toolchain nightly"
        );
        assert_eq!(
            shell::describe(&add_target("x", Some("stable".to_owned()))),
            "rustup target add x --toolchain stable"
        );
    }
}
