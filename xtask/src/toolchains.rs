//! The versions of compilers and of the linker that the project is tested with. They are named
//! here and nowhere else; the set-up compares them with what there is, and says where that
//! differs.

use std::ops::RangeInclusive;

use rustc_version::{LlvmVersion, VersionMeta};
use semver::Version;

/// The compiler of the host's code.
const STABLE: Version = Version::new(1, 95, 0);
/// The oldest compiler that the host's code is for: `rust-version` in Cargo.toml.
pub(crate) const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");
/// The day of the last commit in the nightly that compiles the packet path.
const NIGHTLY: &str = "2026-05-19";
/// That nightly's LLVM.
const LLVM: LlvmVersion = LlvmVersion {
    major: 22,
    minor: 1,
};

/// The version of `bpf-linker` that is known to build the packet path.
pub(crate) const LINKER: Version = Version::new(0, 13, 0);
/// The LLVM versions that it can be built with.
pub(crate) const LINKER_LLVMS: RangeInclusive<u64> = 21..=23;

/// The version of `cargo-fuzz` that builds the targets in `fuzz/`.
pub(crate) const CARGO_FUZZ: Version = Version::new(0, 13, 2);
/// The version of `mdbook` that makes a site of the documentation.
pub(crate) const MDBOOK: Version = Version::new(0, 5, 4);

/// What differs from what was tested, in one line. `stable` is unknown where cargo has no
/// compiler beside it.
pub(crate) fn differences(
    stable: Option<&VersionMeta>,
    (nightly, llvm): &(VersionMeta, LlvmVersion),
) -> Option<String> {
    let mut found = Vec::new();
    if let Some(stable) = stable
        && stable.semver != STABLE
    {
        found.push(format!("rustc is {} (tested: {STABLE})", stable.semver));
    }
    let date = nightly.commit_date.as_deref().unwrap_or("an unknown day");
    if date != NIGHTLY || *llvm != LLVM {
        found.push(format!(
            "the packet path's compiler is of {date} with LLVM {llvm} (tested: {NIGHTLY} with LLVM {LLVM})"
        ));
    }
    (!found.is_empty()).then(|| found.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a compiler of this release prints about itself.
    fn rustc(release: &str, date: &str, llvm: &str) -> (VersionMeta, LlvmVersion) {
        let text = format!(
            "rustc {release}\ncommit-hash: unknown\ncommit-date: {date}\n\
             host: x86_64-unknown-linux-gnu\nrelease: {release}\nLLVM version: {llvm}\n"
        );
        crate::versions::rustc(&text).unwrap()
    }

    #[test]
    fn only_what_was_not_tested_is_said() {
        let (stable, _) = rustc("1.95.0", "2026-04-14", "22.1.2");
        let nightly = rustc("1.97.0-nightly", NIGHTLY, "22.1.4");
        assert_eq!(differences(Some(&stable), &nightly), None);
        assert_eq!(differences(None, &nightly), None);

        let (later, _) = rustc("1.96.1", "2026-06-30", "22.1.4");
        assert_eq!(
            differences(Some(&later), &nightly).unwrap(),
            "rustc is 1.96.1 (tested: 1.95.0)"
        );
        let later = rustc("1.98.0-nightly", "2026-07-01", "23.0.0");
        assert_eq!(
            differences(Some(&stable), &later).unwrap(),
            "the packet path's compiler is of 2026-07-01 with LLVM 23.0 \
             (tested: 2026-05-19 with LLVM 22.1)"
        );
        let unknown = rustc("1.97.0-nightly", "unknown", "22.1.4");
        assert!(
            differences(None, &unknown)
                .unwrap()
                .contains("an unknown day")
        );
    }
}
