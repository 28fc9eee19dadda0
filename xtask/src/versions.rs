//! Reads the versions that compilers and linkers print. `rustc_version` and `semver` do the work;
//! here is what they leave over, since LLVM's and the linker's answers are no semantic versions.
//! Pure: text in, versions out.

use rustc_version::{LlvmVersion, VersionMeta, version_meta_for};
use semver::Version;

/// What `rustc -vV` prints, if it names its LLVM, which decides the linker.
pub(crate) fn rustc(text: &str) -> Option<(VersionMeta, LlvmVersion)> {
    let meta = version_meta_for(text).ok()?;
    let llvm = meta.llvm_version.clone()?;
    Some((meta, llvm))
}

/// What `bpf-linker --version` prints: its name, then its version.
pub(crate) fn linker(text: &str) -> Option<Version> {
    Version::parse(text.trim().strip_prefix("bpf-linker ")?).ok()
}

/// The version that LLVM's own `--version` prints, whoever packaged it.
pub(crate) fn llvm(text: &str) -> Option<LlvmVersion> {
    text.lines()
        .find_map(|line| line.split_once("LLVM version "))
        .and_then(|(_, version)| llvm_config(version))
}

/// What `llvm-config --version` prints: `22.1.4`, or with a suffix `23.0.0git`.
pub(crate) fn llvm_config(text: &str) -> Option<LlvmVersion> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    text[..end.unwrap_or(text.len())].parse().ok()
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

    const fn version(major: u64, minor: u64) -> LlvmVersion {
        LlvmVersion { major, minor }
    }

    #[test]
    fn rustc_tells_its_release_host_and_llvm() {
        let (meta, llvm) = rustc(NIGHTLY).unwrap();
        assert_eq!(meta.semver.to_string(), "1.97.0-nightly");
        assert_eq!(meta.host, "x86_64-unknown-linux-gnu");
        assert_eq!(meta.commit_date.as_deref(), Some("2026-05-19"));
        assert_eq!(llvm, version(22, 1));
        let packaged = NIGHTLY.replace("commit-date: 2026-05-19", "commit-date: unknown");
        assert_eq!(rustc(&packaged).unwrap().0.commit_date, None);
        let without = NIGHTLY.replace("LLVM version: 22.1.4\n", "");
        for text in [&without, "rustc 1.97.0-nightly", ""] {
            assert!(rustc(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn versions_end_where_their_digits_end() {
        let cases = [
            ("22.1.4\n", Some(version(22, 1))),
            ("22.1", Some(version(22, 1))),
            ("23", Some(version(23, 0))),
            ("21.1.8-rust-1.94.0", Some(version(21, 1))),
            ("23.0.0git", Some(version(23, 0))),
            ("22..4", None),
            ("next", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(llvm_config(text), expected, "{text:?}");
        }
    }

    #[test]
    fn later_versions_are_greater() {
        assert!(version(22, 2) > version(22, 1) && version(23, 0) > version(22, 1));
        assert!(linker("bpf-linker 0.13.0") > linker("bpf-linker 0.9.15"));
    }

    #[test]
    fn the_linker_tells_its_version_and_its_llvm() {
        assert_eq!(linker("bpf-linker 0.13.0\n"), Some(Version::new(0, 13, 0)));
        assert_eq!(linker("ld 2.40"), None);

        let packaged = "Debian LLVM version 22.1.8\n  Optimized build.\n";
        assert_eq!(llvm(packaged), Some(version(22, 1)));
        let upstream = "LLVM (http://llvm.org/):\n  LLVM version 21.1.2-rust-1.92.0-stable\n";
        assert_eq!(llvm(upstream), Some(version(21, 1)));
        assert_eq!(llvm("no version here"), None);
    }
}
