//! Runs the binary on a distribution whose C library is older than that of this machine, and
//! enforces a policy there. This program, which is linked against the C library of this machine,
//! must not run there: so it is known that the library is old.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::debian::System;
use crate::{dist, files, shell};

/// The oldest Debian that its mirrors have, whose C library is of 2020. Of it are unpacked the
/// library, and a shell that uses it.
const DEBIAN: System<'_> = System {
    suite: "bullseye",
    variant: "extract",
    packages: "libc6,dash,coreutils",
    name: "libc",
};

/// Returns what the library calls itself.
pub(super) fn run(binary: &Path, folder: &Path) -> Result<String> {
    let archive = DEBIAN.archive(folder)?;
    let root = folder.join("old-libc");
    files::remove_folder(&root)?;
    files::untar(&archive, &root, &["--exclude=./dev/*"])?;
    let library = library(&root)?;
    refuses_this_program(&root)?;
    dist::enforce_in(&root, binary)
        .with_context(|| format!("the binary does not run beside {library}"))?;
    files::remove_folder(&root)?;
    Ok(library)
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
    let this = shell::this_program()?;
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
