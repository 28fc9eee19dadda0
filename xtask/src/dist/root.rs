//! The tree that packages install: `target/dist/root`, as it is below `/`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{arch::Arch, pages};
use crate::files;

/// Where everything is that is given to others.
pub(crate) fn folder(workspace: &Path) -> PathBuf {
    workspace.join("target/dist")
}

/// Below that folder.
pub(crate) const NAME: &str = "root";

/// Folders of the repository whose files are installed, and where.
const FOLDERS: [(&str, &str); 5] = [
    ("deploy/systemd", "usr/lib/systemd/system"),
    ("deploy/etc", "etc/sgctl"),
    ("sg-policy/templates", "usr/share/doc/sgctl/templates"),
    ("deploy/grafana", "usr/share/doc/sgctl/grafana"),
    ("deploy/prometheus", "usr/share/doc/sgctl/prometheus"),
];

/// Documents that are installed, and their names there: what has changed is where people of
/// Debian look for it.
const DOCUMENTS: [(&str, &str); 2] = [("README.md", "README.md"), ("CHANGELOG.md", "changelog")];

/// What the binary is called.
pub(super) const BINARY: &str = "sgctl";

/// What belongs to the binary, in the same folder.
pub(super) const BESIDE: [&str; 2] = ["LICENCES.txt", "sgctl.cdx.json"];

/// Makes the tree anew, for this binary.
pub(super) fn make(workspace: &Path, arch: Arch, binary: &Path, beside: &Path) -> Result<PathBuf> {
    let root = folder(workspace).join(NAME);
    files::remove_folder(&root)?;
    install(binary, &root.join("usr/bin/sgctl"), 0o755)?;
    for (from, to) in FOLDERS {
        copy_all(&workspace.join(from), &root.join(to))?;
    }
    let documents = root.join("usr/share/doc/sgctl");
    for (from, to) in DOCUMENTS {
        install(&workspace.join(from), &documents.join(to), 0o644)?;
    }
    for name in BESIDE {
        install(&beside.join(name), &documents.join(name), 0o644)?;
    }
    pages::make(workspace, arch, binary, &root)?;
    Ok(root)
}

/// All files of a folder and of those below it. A folder that is not there has none.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", from.display()))?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_all(&entry.path(), &to)?,
            false => install(&entry.path(), &to, 0o644)?,
        }
    }
    Ok(())
}

pub(super) fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let copied = || -> std::io::Result<()> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from, to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(mode))
    };
    copied().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
