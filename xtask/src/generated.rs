//! Pages of docs/ that are written from the code and from other pages, and the files of the code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::term::{self, Colour};

pub(crate) struct Page {
    /// Below the workspace.
    pub(crate) file: &'static str,
    /// What says it, for the error: `the code says`.
    pub(crate) source: &'static str,
    /// What writes it.
    pub(crate) command: &'static str,
}

impl Page {
    pub(crate) fn write(&self, workspace: &Path, text: &str) -> Result<()> {
        let path = workspace.join(self.file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        term::say(Colour::Green, "written", self.file);
        Ok(())
    }

    /// Fails if the page is not `expected`.
    pub(crate) fn check(&self, workspace: &Path, expected: &str) -> Result<()> {
        let found = fs::read_to_string(workspace.join(self.file)).unwrap_or_default();
        if found != expected {
            bail!(
                "{} does not say what {}\nrun `{}` and commit it",
                self.file,
                self.source,
                self.command
            );
        }
        Ok(())
    }
}

/// The Rust files in a folder and in those below it, in no order.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
