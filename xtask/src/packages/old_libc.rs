//! Runs the binary on a distribution whose C library is older than that of this machine, and
//! enforces a policy there. This program, which is linked against the C library of this machine,
//! must not run there: so it is known that the library is old.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{dist, shell};

/// The oldest Debian that its mirrors have. Its C library is of 2020.
const SUITE: &str = "bullseye";

/// What is unpacked of it: a C library, and a shell that uses it.
const INCLUDED: &str = "--include=libc6,dash,coreutils";

/// Returns what the library calls itself.
pub(super) fn run(binary: &Path, folder: &Path) -> Result<String> {
    let archive = system(folder)?;
    let root = folder.join("old-libc");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--exclude=./dev/*", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&root);
    shell::read(&mut tar)?;
    let library = library(&root)?;
    refuses_this_program(&root)?;
    dist::enforce_in(&root, binary)
        .with_context(|| format!("the binary does not run beside {library}"))?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    Ok(library)
}

/// The distribution as an archive, which is made once.
fn system(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join(format!("debian-{SUITE}-libc.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    let unfinished = folder.join("old-libc.unfinished.tar");
    let mut make = Command::new("mmdebstrap");
    make.args(["--variant=extract", INCLUDED, SUITE])
        .arg(&unfinished);
    shell::run(&mut make)?;
    fs::rename(&unfinished, &archive)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(archive)
}

/// A command of the distribution, in its root.
fn inside(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).args(words);
    command
}

/// `GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.` without the rest.
fn library(root: &Path) -> Result<String> {
    let said = shell::read(&mut inside(root, &["/lib/x86_64-linux-gnu/libc.so.6"]))?;
    let first = said.lines().next().unwrap_or_default();
    let version = first.rsplit(' ').next().unwrap_or_default();
    Ok(format!("glibc {}", version.trim_end_matches('.')))
}

fn refuses_this_program(root: &Path) -> Result<()> {
    let this = env::current_exe().context("cannot find this program")?;
    fs::copy(&this, root.join("dynamic"))
        .with_context(|| format!("cannot copy {}", this.display()))?;
    let output = inside(root, &["/bin/sh", "-c", "/dynamic --help"])
        .output()
        .context("cannot start chroot")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains("not found") {
        bail!(
            "a program that is linked against this machine's C library runs there too, so that \
             the library is not older: {said}"
        );
    }
    Ok(())
}
