//! Manual pages and completion scripts: the binary writes its own; the page about the language of
//! policies is made of docs/policy.md. A page with a mistake in its markup is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{arch::Arch, roff};
use crate::{
    files, shell,
    term::{self, Colour},
};

/// Where each shell looks for the script of a command.
pub(super) const SCRIPTS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/sgctl"),
    ("zsh", "usr/share/zsh/vendor-completions/_sgctl"),
    ("fish", "usr/share/fish/vendor_completions.d/sgctl.fish"),
];

/// The document that is `sgctl-policy(5)`.
const LANGUAGE: &str = "docs/policy.md";

/// Below the root of the tree.
const MANUAL: &str = "usr/share/man";

pub(super) fn make(workspace: &Path, arch: Arch, binary: &Path, root: &Path) -> Result<()> {
    let sgctl = || match arch.is_foreign() {
        false => Command::new(binary),
        true => {
            let mut command = Command::new(arch.emulator());
            command.arg(binary);
            command
        }
    };
    let date = date_of_commit(workspace)?;
    let manual = root.join(MANUAL);
    let mut man = sgctl();
    man.args(["man", "--date", &date, "--out"])
        .arg(manual.join("man1"));
    shell::read(&mut man)?;

    let language = workspace.join(LANGUAGE);
    if language.is_file() {
        let text = fs::read_to_string(&language)
            .with_context(|| format!("cannot read {}", language.display()))?;
        let page = roff::Page {
            name: "sgctl-policy",
            section: "5",
            about: "the language of security-group policies",
            date: &date,
            see_also: &["sgctl(1)", "sgctl-check(1)", "sgctl-explain(1)"],
        };
        files::write(
            &manual.join("man5/sgctl-policy.5"),
            roff::page(&page, &text).as_bytes(),
        )?;
    } else {
        term::say(
            Colour::Yellow,
            "note",
            format!("{LANGUAGE} is not there: sgctl-policy(5) is left out"),
        );
    }
    check(&manual)?;

    for (shell, path) in SCRIPTS {
        let script = shell::read(sgctl().args(["completions", shell]))?;
        files::write(&root.join(path), script.as_bytes())?;
    }
    Ok(())
}

/// The day of the commit that is built, so that pages do not differ from day to day.
fn date_of_commit(workspace: &Path) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%cs"])
        .current_dir(workspace);
    Ok(shell::read(&mut git)?.trim().to_owned())
}

/// Lets mandoc look at every page.
fn check(manual: &Path) -> Result<()> {
    let mut pages: Vec<PathBuf> = Vec::new();
    for section in ["man1", "man5"] {
        let listed = fs::read_dir(manual.join(section)).into_iter().flatten();
        pages.extend(listed.filter_map(|entry| Some(entry.ok()?.path())));
    }
    pages.sort();
    let output = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .args(&pages)
        .output()
        .context("cannot start mandoc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.trim().is_empty() {
        bail!("manual pages with mistakes:\n{}", said.trim());
    }
    Ok(())
}
