//! Tools that only some commands need, and that cargo builds: in the version that is tested, and
//! only when the command is called.

use anyhow::{Context as _, Result, bail};
use semver::Version;

use super::apt::Apt;
use crate::{
    shell,
    term::{self, Colour},
    toolchains,
};

/// Installs cargo-fuzz and a C++ compiler, which builds libFuzzer, if they are not here.
pub(crate) fn ensure_fuzz() -> Result<()> {
    if shell::which("c++").is_none() {
        term::say(
            Colour::Yellow,
            "setup",
            "a C++ compiler is not here: it builds libFuzzer",
        );
        Apt::default()
            .install(&["g++".to_owned()])
            .context("install a C++ compiler, which Debian has in its package g++")?;
    }
    ensure("cargo-fuzz", &toolchains::CARGO_FUZZ, &[])
}

/// Installs mdbook, which makes a site of the documentation, if it is not here. Of its parts only
/// the search is needed, and not the server.
pub(crate) fn ensure_book() -> Result<()> {
    let options = ["--no-default-features", "--features", "search"];
    ensure("mdbook", &toolchains::MDBOOK, &options)
}

fn ensure(program: &str, version: &Version, options: &[&str]) -> Result<()> {
    if shell::which(program).is_some() {
        return Ok(());
    }
    term::say(
        Colour::Yellow,
        "setup",
        format_args!("{program} {version} is not here: building it takes some minutes"),
    );
    let mut install = shell::cargo(&shell::workspace()?);
    install
        .args(["install", program, "--locked", "--version"])
        .arg(version.to_string())
        .args(options);
    shell::run(&mut install)?;
    match shell::which(program) {
        Some(_) => Ok(()),
        None => {
            bail!("{program} was installed, and is not on the PATH: add cargo's `bin` folder to it")
        }
    }
}
