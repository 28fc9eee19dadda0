//! `cargo xtask build`: the set-up, then `sgctl` with the packet path inside it.
//! Tells where the binary is.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::ArgAction;

use crate::{setup, shell};

const BINARY: &str = "sgctl";

/// Build sgctl, with the packet path inside it
#[derive(clap::Args)]
pub(crate) struct Args {
    /// With optimisations; `--release=false` builds faster
    #[arg(
        long,
        value_name = "BOOL",
        action = ArgAction::Set,
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
    )]
    release: bool,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let path = binary(args.release)?;
    println!("{}", path.display());
    Ok(())
}

/// Sets up, builds, and returns the path of the binary.
pub(crate) fn binary(release: bool) -> Result<PathBuf> {
    setup::ensure(setup::Needs::Build)?;
    package_binary("sg-userspace", BINARY, release)
}

/// Builds one binary and returns its path.
pub(crate) fn package_binary(package: &str, name: &str, release: bool) -> Result<PathBuf> {
    let mut command = shell::cargo(&shell::workspace()?);
    command.args(["build", "--package", package, "--bin", name]);
    if release {
        command.arg("--release");
    }
    shell::cargo_executables(command, &format!("{name} does not build"))?
        .remove(name)
        .with_context(|| format!("cargo did not tell where it put {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::typed;

    #[test]
    fn release_is_the_default() {
        let cases = [
            ("", true),
            ("--release", true),
            ("--release=true", true),
            ("--release=false", false),
        ];
        for (words, expected) in cases {
            let args: Args = typed(words);
            assert_eq!(args.release, expected, "{words}");
        }
    }
}
