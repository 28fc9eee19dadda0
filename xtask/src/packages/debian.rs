//! A clean Debian system as an archive, in which something is tried.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell;

pub(super) struct System<'a> {
    /// The release of Debian, `bookworm`.
    pub(super) suite: &'a str,
    /// Which packages it has in any case: a variant of mmdebstrap(1).
    pub(super) variant: &'a str,
    /// What it has besides, with commas.
    pub(super) packages: &'a str,
    /// What the file is called after: another system has another name.
    pub(super) name: &'a str,
}

impl System<'_> {
    /// The archive in this folder, which is made once.
    pub(super) fn archive(&self, folder: &Path) -> Result<PathBuf> {
        let archive = folder.join(format!("debian-{}-{}.tar", self.suite, self.name));
        if archive.exists() {
            return Ok(archive);
        }
        // Whoever interrupts this finds no half a system next time.
        let unfinished = folder.join(format!("{}.unfinished.tar", self.name));
        let mut make = Command::new("mmdebstrap");
        make.arg(format!("--variant={}", self.variant))
            .arg(format!("--include={}", self.packages))
            .arg(self.suite)
            .arg(&unfinished);
        shell::run(&mut make)?;
        fs::rename(&unfinished, &archive)
            .with_context(|| format!("cannot write {}", archive.display()))?;
        Ok(archive)
    }
}
