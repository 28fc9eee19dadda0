//! The packages of an older version. They are those of an older commit, made once of its sources,
//! scripts and metadata by the steps of this tree, if its pins have the layout of now: other pins
//! are not taken over (C13). Else they are this tree's under another number.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    dist::{self, Arch, Made},
    files, shell,
    term::{self, Colour},
};

/// The first commit with the layout of now. Where `LAYOUT_VERSION` goes up, take the first that has
/// it.
const COMMIT: &str = "4165f307a2ee481bbc262dacf3747a5e47086bfd";

/// Below that of this tree.
const VERSION: &str = "0.0.1";

/// Where the layout version is.
const LAYOUT: &str = "sg-common/src/lib.rs";

pub(super) struct Older {
    pub(super) made: Made,
    /// As people call it.
    pub(super) name: String,
}

pub(super) fn packages(workspace: &Path, folder: &Path) -> Result<Older> {
    let short = &COMMIT[..7];
    let layout_now = fs::read_to_string(workspace.join(LAYOUT))
        .with_context(|| format!("cannot read {LAYOUT}"))?;
    let layout_then = git_show(workspace)?;
    if layout(&layout_now) != layout(&layout_then) {
        let line = format!(
            "{short} has another layout version: the older packages are this tree's under another number"
        );
        term::say(Colour::Yellow, "note", line);
        let into = folder.join("same");
        return made(workspace, &into, "the same under another number".to_owned());
    }
    let source = folder.join(format!("older-{short}"));
    let into = source.join("target/older");
    if !into.exists() {
        term::say(Colour::Cyan, "older", format!("{short} is built, once"));
        unpack(workspace, &source)?;
        dist::make(&source, Arch::X86_64)
            .with_context(|| format!("the binary of {short} cannot be made"))?;
    }
    made(&source, &into, format!("the commit {short}"))
}

fn made(source: &Path, into: &Path, name: String) -> Result<Older> {
    files::make_folder(into)?;
    let made = dist::make_packages(source, Arch::X86_64, VERSION, into)?;
    Ok(Older { made, name })
}

fn git_show(workspace: &Path) -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(workspace)
        .args(["show", &format!("{COMMIT}:{LAYOUT}")]);
    shell::read(&mut git).with_context(|| {
        format!(
            "the commit {COMMIT} is not in this clone: `git fetch --unshallow` brings older ones"
        )
    })
}

/// The line that has it.
fn layout(text: &str) -> Option<&str> {
    text.lines().find(|it| it.contains("LAYOUT_VERSION: u32"))
}

/// The files of the commit, in a folder.
fn unpack(workspace: &Path, folder: &Path) -> Result<()> {
    files::make_folder(folder)?;
    let archive = folder.join("commit.tar");
    let mut git = Command::new("git");
    git.current_dir(workspace)
        .args(["archive", "--output"])
        .arg(&archive)
        .arg(COMMIT);
    shell::read(&mut git)?;
    files::untar(&archive, folder, &[])?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_now_is_found() {
        let workspace = shell::workspace().unwrap();
        let now = fs::read_to_string(workspace.join(LAYOUT)).unwrap();
        let line = layout(&now).expect("it is there");
        assert!(line.starts_with("pub const LAYOUT_VERSION"), "{line}");
        assert_ne!(layout("pub const LAYOUT_VERSION: u32 = 0;"), Some(line));
    }
}
