//! The guest's files as a cpio archive, which the kernel unpacks as its first root.

use std::{collections::BTreeSet, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use cpio::newc::{self, ModeFileType};

/// Everybody may read and execute, root may write.
const PERMISSIONS: u32 = 0o755;

#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// Adds a file that may be executed, and the folders above it. The first one of a name stays.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let mut folders: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders.into_iter().filter_map(Path::to_str) {
            self.add(folder, ModeFileType::Directory, &[])?;
        }
        self.add(path, ModeFileType::Regular, content)
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        newc::trailer(self.bytes).context("ending the archive")
    }

    fn add(&mut self, path: &str, kind: ModeFileType, content: &[u8]) -> Result<()> {
        let name = path.trim_start_matches('/');
        if name.is_empty() || !self.names.insert(name.to_owned()) {
            return Ok(());
        }
        let length = u32::try_from(content.len())
            .with_context(|| format!("{path} is too large for a cpio archive"))?;
        let mut entry = newc::Builder::new(name)
            .ino(self.names.len() as u32)
            .mode(PERMISSIONS)
            .set_mode_file_type(kind)
            .write(&mut self.bytes, length);
        entry.write_all(content)?;
        entry.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Names, modes and contents up to the trailer.
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, String)> {
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(bytes).unwrap();
            if reader.entry().is_trailer() {
                return found;
            }
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            let entry = reader.entry();
            found.push((entry.name().to_owned(), entry.mode(), content));
            bytes = reader.finish().unwrap();
        }
    }

    #[test]
    fn an_archive_holds_what_was_put_in_and_the_folders_above() {
        const FOLDER: u32 = 0o040_755;
        const PROGRAM: u32 = 0o100_755;
        let mut archive = Archive::default();
        archive.file("/a/b", b"hello").unwrap();
        archive.file("/a/b", b"not again").unwrap();
        archive.file("/a/cd/e", b"").unwrap();
        let expected = [
            ("a", FOLDER, ""),
            ("a/b", PROGRAM, "hello"),
            ("a/cd", FOLDER, ""),
            ("a/cd/e", PROGRAM, ""),
        ]
        .map(|(name, mode, content)| (name.to_owned(), mode, content.to_owned()));
        assert_eq!(entries(&archive.finish().unwrap()), expected);
    }
}
