//! Which file of a crate imports which, read from the code itself: no files import each other in
//! a circle, and folders import only what ARCHITECTURE.md puts below them.
//!
//! An import is a path to a module of the same package: in a `use`, in code, or inside a macro.
//! What only tests import does not count.

mod layers;
mod package;
mod paths;
mod resolver;

use std::{fs, path::Path};

use anyhow::{Result, bail};

use layers::layers;
use package::Package;

/// The crates whose files are looked at.
const CRATES: [&str; 8] = [
    "sg-bench",
    "sg-bench-ebpf",
    "sg-common",
    "sg-ebpf",
    "sg-policy",
    "sg-testbed",
    "sg-userspace",
    "xtask",
];

/// Those whose folders are in layers.
const LAYERED: [&str; 2] = ["sg-policy", "sg-userspace"];

pub(crate) fn check(workspace: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut files = 0;
    for name in CRATES {
        let package = Package::read(&workspace.join(name))?;
        files += package.files.len();
        found.extend(package.circles());
        if LAYERED.contains(&name) {
            let page = fs::read_to_string(workspace.join("ARCHITECTURE.md"))?;
            found.extend(package.upward(&layers(&page)?));
        }
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    println!("{files} files, no circle of imports, and no import of a layer above");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `cargo xtask lint` checks, so that a plain `cargo test` fails as well.
    #[test]
    fn the_files_of_this_workspace_import_what_they_may() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        check(&workspace).unwrap_or_else(|e| panic!("{e}"));
    }
}
