//! Folders, files and archives. Each error says which path it is about.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell;

/// Makes a folder, and those that it lies in, if they are not there.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Makes a folder by filling another one beside it, which then takes its place. Whoever interrupts
/// that finds no half a folder next time.
pub(crate) fn make_whole(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut unfinished = folder.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    remove_folder(&unfinished)?;
    fill(&unfinished)?;
    remove_folder(folder)?;
    fs::rename(&unfinished, folder)
        .with_context(|| format!("cannot rename {}", unfinished.display()))
}

/// Writes a file, whose folder is made if it is not there.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The file of a folder whose name has this extension, or any one of them.
pub(crate) fn with_extension(folder: &Path, extension: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|file| Some(file.ok()?.path()));
    files
        .find(|file| file.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("there is no .{extension} file in {}", folder.display()))
}

/// The Rust files in these folders of the workspace and in those below them, in the order of their
/// paths: each path, below the workspace, with its text.
pub(crate) fn sources(workspace: &Path, folders: &[&str]) -> Result<Vec<(String, String)>> {
    let mut paths = Vec::new();
    for folder in folders {
        paths.extend(rust_files(&workspace.join(folder))?);
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(workspace).unwrap_or(&path);
        Ok((name.to_string_lossy().into_owned(), text))
    };
    paths.into_iter().map(read).collect()
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
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

/// Unpacks an archive into a folder, but for what the options of tar(1) exclude.
pub(crate) fn untar(archive: &Path, folder: &Path, options: &[&str]) -> Result<()> {
    make_folder(folder)?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").args(options).arg("--file");
    tar.arg(archive).arg("--directory").arg(folder);
    shell::read(&mut tar)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_extension() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("below/a.deb");
        write(&file, "").unwrap();
        let below = folder.path().join("below");
        assert_eq!(with_extension(&below, "deb").unwrap(), file);
        let error = with_extension(&below, "dsc").unwrap_err().to_string();
        assert!(error.starts_with("there is no .dsc file in "), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_removed_already() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("one/two");
        make_folder(&below).unwrap();
        remove_folder(&below).unwrap();
        remove_folder(&below).unwrap();
        assert!(!below.exists());
    }

    #[test]
    fn a_folder_is_there_only_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("6.12");
        let failed = make_whole(&made, |unfinished| {
            write(&unfinished.join("half"), "")?;
            anyhow::bail!("interrupted")
        });
        assert!(failed.is_err() && !made.exists());
        make_whole(&made, |unfinished| write(&unfinished.join("whole"), "")).unwrap();
        assert!(made.join("whole").exists() && !made.join("half").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_excluded_stays_in_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        write(&from.join("bin/sh"), "shell").unwrap();
        write(&from.join("dev/null"), "").unwrap();
        let archive = folder.path().join("system.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&archive);
        shell::read(tar.arg("--directory").arg(&from).arg(".")).unwrap();
        untar(&archive, &to, &["--exclude=./dev/*"]).unwrap();
        assert_eq!(fs::read_to_string(to.join("bin/sh")).unwrap(), "shell");
        assert!(!to.join("dev/null").exists());
    }
}
