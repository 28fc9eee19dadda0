//! Pages of docs/ that are written from the code and from other pages.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::{
    files,
    term::{self, Colour},
};

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
        files::write(&workspace.join(self.file), text)?;
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
