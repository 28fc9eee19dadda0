//! How test binaries are built and started: their profile, the folder of real data, the rights of
//! root.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use rustc_version::version_meta;

use crate::root::{self, NotPermitted, Way};

/// `test` is the dev profile; `release` takes longer to build and less to run.
pub(crate) const PROFILE: &str = "test";

/// The crates of the host, for cargo. All of them also where one is meant: cargo compiles what they
/// depend on with the features that those it is given ask for, and would compile it again.
pub(crate) const HOST_CRATES: [&str; 5] = [
    "--workspace",
    "--exclude",
    "sg-ebpf",
    "--exclude",
    "sg-bench-ebpf",
];

/// Names the folder of real rule sets and address lists.
pub(crate) const DATA: &str = "SG_DATA";

/// How the test binaries get the rights of root, or the error that says they cannot.
pub(crate) fn way_to_root() -> Result<Way> {
    match root::way() {
        Way::Closed => Err(NotPermitted(
            "the tests load programs into the kernel, which needs root, and there is no sudo\n\
             run this command as root"
                .to_owned(),
        )
        .into()),
        way => Ok(way),
    }
}

/// Makes `command`, which is cargo, start the test binaries in that way.
pub(crate) fn run_as_root(command: &mut Command, way: &Way) -> Result<()> {
    if let Way::Sudo(sudo) = way {
        command.env(runner_variable(&host()?), runner(sudo));
    }
    Ok(())
}

/// The folder that SG_DATA names, made absolute: each package's tests run in its own folder.
pub(crate) fn data_folder(variable: Option<OsString>, here: &Path) -> Result<Option<PathBuf>> {
    let Some(named) = variable.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let named = PathBuf::from(named);
    let folder = here.join(&named);
    if !folder.is_dir() {
        bail!(
            "{DATA} names {}, which is no folder\ncorrect it, or unset it to leave the real-data tests out",
            named.display()
        );
    }
    let folder = folder
        .canonicalize()
        .with_context(|| format!("cannot resolve {}", folder.display()))?;
    Ok(Some(folder))
}

fn host() -> Result<String> {
    let rustc = version_meta().context("`rustc -vV` does not tell the host")?;
    Ok(rustc.host)
}

/// The variable by which cargo learns how to start binaries for this target.
fn runner_variable(host: &str) -> String {
    let target = host.to_uppercase().replace(['-', '.'], "_");
    format!("CARGO_TARGET_{target}_RUNNER")
}

/// Keeps the environment: the tests read variables that cargo and this command set.
fn runner(sudo: &Path) -> String {
    format!("{} -E", sudo.display())
}

/// The text of the file that has this test of `sg-userspace`, by which a command starts it. A test
/// that was renamed would not run, and nobody would see it.
#[cfg(test)]
pub(crate) fn source_of(binary: &str, test: &str) -> String {
    let workspace = crate::shell::workspace().unwrap();
    let folder = workspace.join("sg-userspace/tests").join(binary);
    let (module, name) = test.rsplit_once("::").unwrap();
    let file = folder.join(module.replace("::", "/")).with_extension("rs");
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{test}: {error}"));
    let is_it = |part: &str| part.contains("#[test]") && part.contains(&format!("fn {name}()"));
    assert!(text.split("\n\n").any(is_it), "{binary} has no test {test}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_is_made_absolute() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"))
            .canonicalize()
            .unwrap();
        let folder = |name: &str| data_folder(Some(name.into()), &here);
        assert_eq!(folder("src").unwrap(), Some(here.join("src")));
        assert_eq!(folder("src/../src").unwrap(), Some(here.join("src")));
        assert_eq!(folder("").unwrap(), None);
        assert_eq!(data_folder(None, &here).unwrap(), None);
        for wrong in ["no-such-folder", "Cargo.toml"] {
            let error = folder(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn the_runner_is_named_after_the_host() {
        assert_eq!(
            runner_variable("x86_64-unknown-linux-gnu"),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
        assert_eq!(runner(Path::new("/usr/bin/sudo")), "/usr/bin/sudo -E");
    }
}
