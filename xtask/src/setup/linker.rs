//! `bpf-linker`, built with an LLVM at least as new as the compiler's: an older one cannot read
//! the bitcode that the compiler writes. LLVM's development files are fetched only to build it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use rustc_version::LlvmVersion;
use semver::Version;

use super::{
    apt::{self, Apt},
    step::{Found, Missing},
    toolchain,
};
use crate::{
    shell,
    term::{self, Colour},
    toolchains::{LINKER as VERSION, LINKER_LLVMS as LLVMS},
    versions,
};

/// Names the folder of an LLVM that is not where Debian puts it.
const PREFIX: &str = "LLVM_PREFIX";

pub(super) fn step(apt: &mut Apt, llvm: &LlvmVersion) -> Result<Found, Missing> {
    let need = llvm.major;
    let reason = match inspect(need) {
        Ok(text) => {
            return Ok(Found {
                text,
                installed: false,
            });
        }
        Err(reason) => reason,
    };

    term::say(Colour::Yellow, "setup", reason);
    build(apt, need)
        .and_then(|()| inspect(need).map_err(anyhow::Error::msg))
        .map(|text| Found {
            text,
            installed: true,
        })
        .map_err(|error| Missing {
            what: format!("bpf-linker {VERSION} or later, with LLVM {need} or later"),
            why: format!("{error:#}"),
            by_hand: by_hand(need),
        })
}

/// Tells which usable linker there is, or why there is none.
fn inspect(need: u64) -> Result<String, String> {
    let Some(path) = shell::which("bpf-linker") else {
        return Err("bpf-linker is not on the PATH".to_owned());
    };
    let at = path.display();
    let version = shell::read(Command::new(&path).arg("--version"))
        .map_err(|error| format!("{at} does not run: {error:#}"))?;
    let version =
        versions::linker(&version).ok_or_else(|| format!("{at} does not tell its version"))?;
    // LLVM answers this option itself and ends the process before anything is linked.
    let answer = shell::read(Command::new(&path).args([
        "--llvm-args=--version",
        "--output",
        "/dev/null",
        "/dev/null",
    ]));
    let llvm = answer.ok().as_deref().and_then(versions::llvm);
    judge(version, llvm, need).map_err(|reason| format!("{at} {reason}"))
}

fn judge(version: Version, llvm: Option<LlvmVersion>, need: u64) -> Result<String, String> {
    if version < VERSION {
        return Err(format!("is {version}, and {VERSION} is needed"));
    }
    match llvm {
        Some(llvm) if llvm.major >= need => Ok(format!("bpf-linker {version} (LLVM {llvm})")),
        Some(llvm) => Err(format!(
            "has LLVM {llvm}, older than LLVM {need} of the compiler"
        )),
        None => Err("does not tell its LLVM version".to_owned()),
    }
}

fn build(apt: &mut Apt, need: u64) -> Result<()> {
    let (major, prefix) = find_llvm(apt, need)?;
    term::say(
        Colour::Yellow,
        "setup",
        format_args!("building bpf-linker {VERSION} with LLVM {major}, about a minute"),
    );
    shell::run(&mut install(major, &prefix))?;
    if shell::which("bpf-linker").is_none() {
        bail!("cargo installed bpf-linker into a folder that is not on the PATH: add it");
    }
    Ok(())
}

fn install(major: u64, prefix: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", "bpf-linker", "--locked", "--force"])
        .args(["--version", &VERSION.to_string()])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .env(PREFIX, prefix)
        // The linker is built apart from the workspace, whatever folder that uses.
        .env_remove("CARGO_TARGET_DIR");
    command
}

/// An LLVM to build with: the one that is named, one that is installed, or one from Debian.
fn find_llvm(apt: &mut Apt, need: u64) -> Result<(u64, PathBuf)> {
    let majors = candidates(need);
    if majors.is_empty() {
        let newest = LLVMS.end();
        bail!("the compiler has LLVM {need}, and bpf-linker {VERSION} knows none above {newest}");
    }

    if let Some(prefix) = env::var_os(PREFIX).map(PathBuf::from) {
        let major = major_at(&prefix)?;
        if !majors.contains(&major) {
            let at = prefix.display();
            bail!("{PREFIX} names {at}, which is LLVM {major}, and LLVM {need} or later is needed");
        }
        return Ok((major, prefix));
    }

    let ready = majors.iter().find(|&&major| {
        debian_prefix(major).join("bin/llvm-config").exists()
            && apt::not_installed(&packages(major)).is_empty()
    });
    if let Some(&major) = ready {
        return Ok((major, debian_prefix(major)));
    }

    for &major in &majors {
        if apt.offers(&packages(major)[0])? {
            apt.install(&apt::not_installed(&packages(major)))?;
            return Ok((major, debian_prefix(major)));
        }
    }
    let names: Vec<_> = majors
        .iter()
        .map(|major| format!("llvm-{major}-dev"))
        .collect();
    bail!(
        "apt offers no {}: LLVM and the nightly do not match, or the package lists are not there",
        names.join(", no ")
    )
}

/// The LLVM versions that the linker can have for a compiler with this one, best first.
fn candidates(need: u64) -> Vec<u64> {
    LLVMS.filter(|&major| major >= need).collect()
}

fn packages(major: u64) -> Vec<String> {
    vec![
        format!("llvm-{major}-dev"),
        format!("libpolly-{major}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
        "libxml2-dev".to_owned(),
    ]
}

fn debian_prefix(major: u64) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

fn major_at(prefix: &Path) -> Result<u64> {
    let config = prefix.join("bin/llvm-config");
    let answer = fs::metadata(&config)
        .map_err(anyhow::Error::from)
        .and_then(|_| shell::read(Command::new(&config).arg("--version")))
        .with_context(|| format!("{PREFIX} is set, but {} does not run", config.display()))?;
    let version = versions::llvm_config(&answer)
        .with_context(|| format!("{} does not tell its version", config.display()))?;
    Ok(version.major)
}

fn by_hand(need: u64) -> Vec<String> {
    let older = |llvm: u64| {
        [
            format!("a nightly with LLVM {llvm} or earlier, DATE being its day:"),
            "  rustup toolchain install nightly-DATE --profile minimal --component rust-src"
                .to_owned(),
            format!("  export {}=nightly-DATE", toolchain::VARIABLE),
        ]
    };
    let Some(&major) = candidates(need).first() else {
        let mut lines = vec!["take".to_owned()];
        lines.extend(older(*LLVMS.end()));
        return lines;
    };
    let install = install(major, &debian_prefix(major));
    let mut lines = vec![
        format!("install LLVM {major} with its headers; on Debian and Ubuntu, as root:"),
        format!("  apt-get install {}", packages(major).join(" ")),
        "(the LLVM project has an apt repository with more versions), then".to_owned(),
        format!("  {}", shell::describe(&install)),
    ];
    if need > *LLVMS.start() {
        lines.push("or, when your system has an older LLVM only, take".to_owned());
        lines.extend(older(need - 1));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_has_at_least_the_llvm_of_the_compiler() {
        assert_eq!(candidates(20), [21, 22, 23]);
        assert_eq!(candidates(22), [22, 23]);
        assert_eq!(candidates(23), [23]);
        assert!(candidates(24).is_empty());
    }

    #[test]
    fn a_linker_is_judged_by_its_version_and_its_llvm() {
        let llvm = |major| Some(LlvmVersion { major, minor: 1 });
        assert_eq!(
            judge(VERSION, llvm(22), 22).unwrap(),
            "bpf-linker 0.13.0 (LLVM 22.1)"
        );
        assert!(judge(Version::new(0, 14, 1), llvm(23), 22).is_ok());
        let refused = [
            (Version::new(0, 9, 15), llvm(22), "0.13.0 is needed"),
            (VERSION, llvm(21), "older than LLVM 22"),
            (VERSION, None, "does not tell"),
        ];
        for (version, llvm, why) in refused {
            let reason = judge(version, llvm, 22).unwrap_err();
            assert!(reason.contains(why), "{reason}");
        }
    }

    #[test]
    fn the_linker_is_built_with_the_llvm_that_was_found() {
        let line = shell::describe(&install(22, &debian_prefix(22)));
        assert_eq!(
            line,
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --locked --force \
             --version 0.13.0 --no-default-features --features llvm-22"
        );
    }

    #[test]
    fn what_to_do_by_hand_fits_the_compiler() {
        assert!(by_hand(22)[1].contains("llvm-22-dev libpolly-22-dev"));
        let names_older = |need| by_hand(need).iter().any(|line| line.contains("or earlier"));
        assert!(names_older(22));
        assert!(
            !names_older(21),
            "the linker can be built with no older LLVM"
        );
        assert!(by_hand(99)[1].contains("LLVM 23 or earlier"));
    }
}
