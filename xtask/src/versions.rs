//! Reads what compilers and linkers print about themselves.
//! Pure: text in, versions out.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Reads the leading `22.1.4` of texts like `22.1.4-rust-1.97.0-nightly`; a missing part is 0.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let mut parts = text[..end].split('.');
        let major = parts.next()?.parse().ok()?;
        let mut next = || parts.next().map_or(Some(0), |part| part.parse().ok());
        Some(Self::new(major, next()?, next()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What `rustc -vV` prints.
#[derive(Debug, PartialEq)]
pub(crate) struct Rustc {
    pub(crate) release: String,
    pub(crate) host: String,
    /// The day of its last commit; a distribution's compiler may not say.
    pub(crate) date: Option<String>,
    pub(crate) llvm: Version,
}

impl Rustc {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            release: field("release: ")?.to_owned(),
            host: field("host: ")?.to_owned(),
            date: field("commit-date: ")
                .filter(|date| *date != "unknown")
                .map(str::to_owned),
            llvm: Version::parse(field("LLVM version: ")?)?,
        })
    }
}

/// What `bpf-linker --version` prints: its name, then its version.
pub(crate) fn linker(text: &str) -> Option<Version> {
    Version::parse(text.trim().strip_prefix("bpf-linker ")?)
}

/// The version that LLVM's own `--version` prints, whoever packaged it.
pub(crate) fn llvm(text: &str) -> Option<Version> {
    text.lines()
        .find_map(|line| line.split_once("LLVM version "))
        .and_then(|(_, version)| Version::parse(version))
}

/// What `llvm-config --version` prints: the bare version.
pub(crate) fn llvm_config(text: &str) -> Option<Version> {
    Version::parse(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "\
rustc 1.97.0-nightly (e50aa6fba 2026-05-19)
binary: rustc
commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a
commit-date: 2026-05-19
host: x86_64-unknown-linux-gnu
release: 1.97.0-nightly
LLVM version: 22.1.4
";

    #[test]
    fn rustc_tells_its_release_host_and_llvm() {
        let expected = Rustc {
            release: "1.97.0-nightly".to_owned(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
            date: Some("2026-05-19".to_owned()),
            llvm: Version::new(22, 1, 4),
        };
        assert_eq!(Rustc::parse(NIGHTLY), Some(expected));
        let packaged = NIGHTLY.replace("commit-date: 2026-05-19", "commit-date: unknown");
        assert_eq!(Rustc::parse(&packaged).unwrap().date, None);
        assert_eq!(Rustc::parse("rustc 1.97.0-nightly"), None);
        assert_eq!(Rustc::parse(""), None);
    }

    #[test]
    fn versions_end_where_their_digits_end() {
        let cases = [
            ("22.1.4", Some(Version::new(22, 1, 4))),
            ("22.1", Some(Version::new(22, 1, 0))),
            ("23", Some(Version::new(23, 0, 0))),
            ("21.1.8-rust-1.94.0", Some(Version::new(21, 1, 8))),
            ("23.0.0git", Some(Version::new(23, 0, 0))),
            ("22..4", None),
            ("next", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Version::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn later_versions_are_greater() {
        assert!(Version::new(22, 1, 8) > Version::new(22, 1, 4));
        assert!(Version::new(0, 13, 0) > Version::new(0, 9, 15));
    }

    #[test]
    fn the_linker_tells_its_version_and_its_llvm() {
        assert_eq!(linker("bpf-linker 0.13.0\n"), Some(Version::new(0, 13, 0)));
        assert_eq!(linker("ld 2.40"), None);

        let packaged = "Debian LLVM version 22.1.8\n  Optimized build.\n";
        assert_eq!(llvm(packaged), Some(Version::new(22, 1, 8)));
        let upstream = "LLVM (http://llvm.org/):\n  LLVM version 21.1.2-rust-1.92.0-stable\n";
        assert_eq!(llvm(upstream), Some(Version::new(21, 1, 2)));
        assert_eq!(llvm("no version here"), None);
    }

    #[test]
    fn llvm_config_prints_the_bare_version() {
        assert_eq!(llvm_config("22.1.8\n"), Some(Version::new(22, 1, 8)));
    }
}
