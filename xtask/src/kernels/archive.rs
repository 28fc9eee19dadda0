//! A cpio archive in the "newc" format, which the kernel unpacks as its first root.
//! Parents of what is put in come of themselves.

use std::{collections::BTreeSet, path::Path};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    names: BTreeSet<String>,
}

impl Archive {
    /// A file that may be executed. The first one of a name stays.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.add(path, PROGRAM, content);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let above: Vec<_> = Path::new(path).ancestors().skip(1).collect();
        for parent in above.into_iter().rev() {
            if let Some(parent) = parent.to_str() {
                self.add(parent, DIRECTORY, &[]);
            }
        }
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_start_matches('/');
        if !name.is_empty() && self.names.insert(name.to_owned()) {
            self.inodes += 1;
            self.entry(name, mode, content);
        }
    }

    /// A header of thirteen hexadecimal numbers, the name and the content, each padded to words.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let length = |bytes: usize| u32::try_from(bytes).expect("less than 4 GiB");
        let links = 1;
        self.bytes.extend(b"070701");
        for number in [
            self.inodes,
            mode,
            0,
            0,
            links,
            0,
            length(content.len()),
            0,
            0,
            0,
            0,
            length(name.len() + 1),
            0,
        ] {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and contents, read by the lengths that the headers give.
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, String)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let number = |index: usize| {
                let digits = std::str::from_utf8(&bytes[6 + 8 * index..][..8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&bytes[..6], b"070701");
            let (mode, content, name) = (number(1), number(6), number(11));
            let text = |from: usize, length: usize| {
                String::from_utf8(bytes[from..from + length].to_vec()).unwrap()
            };
            let start = (110 + name).next_multiple_of(4);
            found.push((text(110, name - 1), mode as u32, text(start, content)));
            bytes = &bytes[(start + content).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn an_archive_holds_what_was_put_in_and_the_parents() {
        let mut archive = Archive::default();
        archive.file("/a/b", b"hello");
        archive.file("/a/b", b"not again");
        archive.file("/a/cd/e", b"");
        let expected = [
            ("a", DIRECTORY, ""),
            ("a/b", PROGRAM, "hello"),
            ("a/cd", DIRECTORY, ""),
            ("a/cd/e", PROGRAM, ""),
            ("TRAILER!!!", 0, ""),
        ]
        .map(|(name, mode, content)| (name.to_owned(), mode, content.to_owned()));
        assert_eq!(entries(&archive.finish()), expected);
    }
}
