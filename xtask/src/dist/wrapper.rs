//! What cargo starts in place of rustc while the binary is built: the same rustc, which is told to
//! write other paths than those of this machine. Flags in the environment would do for the host's
//! code, but the build of the packet path takes no flags from outside.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{shell, term};

/// Pairs of what to write and of what stands for it, separated by newlines.
const VARIABLE: &str = "SG_DIST_PATHS";

/// Behaves as rustc if a build of this file has started this process. `None` if not.
pub(crate) fn wrap_if_asked() -> Option<ExitCode> {
    let pairs = env::var(VARIABLE).ok()?;
    let mut words = env::args_os().skip(1);
    let rustc = words.next()?;
    let error = Command::new(&rustc)
        .args(words)
        .args(options(&pairs))
        .exec();
    let error = anyhow::Error::new(error).context(format!("cannot start {}", rustc.display()));
    term::error(&error);
    Some(ExitCode::FAILURE)
}

fn options(pairs: &str) -> impl Iterator<Item = OsString> {
    pairs
        .lines()
        .map(|pair| format!("--remap-path-prefix={pair}").into())
}

/// Lets `cargo` build so that nothing in the result depends on where the sources, the crates and
/// the compiler are on this machine.
pub(super) fn set(cargo: &mut Command, source: &Path, target: &Path) -> Result<()> {
    let this = shell::this_program()?;
    let paths = machine_paths(source)?;
    // Of several that fit, rustc takes the last one.
    let pairs = paths
        .iter()
        .map(|(path, name)| format!("{}={name}", path.display()))
        .chain([format!("{}=/target", target.display())]);
    let pairs = pairs.collect::<Vec<_>>().join("\n");
    cargo.env("RUSTC_WRAPPER", this).env(VARIABLE, pairs);
    Ok(())
}

/// Folders of this machine that a compiler writes into what it makes, and what stands for each.
pub(super) fn machine_paths(source: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let folder = |variable: &str, below_home: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| Some(home.as_ref()?.join(below_home)))
            .with_context(|| format!("neither {variable} nor HOME is set"))
    };
    Ok(vec![
        (folder("CARGO_HOME", ".cargo")?, "/cargo"),
        (folder("RUSTUP_HOME", ".rustup")?, "/rustup"),
        (source.to_owned(), "/sgctl"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_becomes_an_option() {
        let found: Vec<_> = options("/home/a=/sgctl\n/b=/cargo").collect();
        assert_eq!(
            found,
            [
                "--remap-path-prefix=/home/a=/sgctl",
                "--remap-path-prefix=/b=/cargo"
            ]
        );
    }

    #[test]
    fn the_build_has_this_program_as_its_compiler() {
        let mut cargo = Command::new("cargo");
        set(&mut cargo, Path::new("/src"), Path::new("/src/target")).unwrap();
        let set: Vec<_> = cargo.get_envs().collect();
        let of = |name: &str| {
            let found = set.iter().find(|(it, _)| *it == name).unwrap().1.unwrap();
            found.to_string_lossy().into_owned()
        };
        assert_eq!(
            of("RUSTC_WRAPPER"),
            env::current_exe().unwrap().to_string_lossy()
        );
        assert!(of(VARIABLE).ends_with("/src=/sgctl\n/src/target=/target"));
    }
}
