//! The crates that are in the binary: those that cargo has compiled for the target, and those of
//! the packet path, which a build script compiles for the BPF target and embeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, Package, PackageId};

use super::{arch::Arch, build::Built};
use crate::shell;

/// The package of the packet path.
const PACKET_PATH: &str = "sg-ebpf";

pub(super) struct Linked {
    /// By name and version.
    pub(super) packages: Vec<Package>,
    /// Which others each of them uses, by the names that [`reference`] gives.
    pub(super) uses: BTreeMap<String, BTreeSet<String>>,
    /// Those whose licence is that of the project.
    pub(super) own: BTreeSet<PackageId>,
}

/// What a package is called in a list: `name@version`.
pub(super) fn reference(package: &Package) -> String {
    format!("{}@{}", package.name, package.version)
}

pub(super) fn linked(workspace: &Path, arch: Arch, built: &Built) -> Result<Linked> {
    let platform = ["--locked", "--filter-platform", arch.triple()];
    let metadata = shell::cargo_metadata(workspace, &platform)?;
    let mut ids = built.linked.clone();
    ids.extend(below(workspace, &metadata, PACKET_PATH)?);
    of(&metadata, &ids)
}

fn of(metadata: &Metadata, ids: &BTreeSet<PackageId>) -> Result<Linked> {
    let mut packages = Vec::new();
    for id in ids {
        let package = metadata.packages.iter().find(|package| package.id == *id);
        packages.push(
            package
                .with_context(|| format!("cargo metadata does not know {}", id.repr))?
                .clone(),
        );
    }
    packages.sort_by_key(|package| (package.name.to_string(), package.version.clone()));

    let resolve = metadata.resolve.as_ref().context("nothing is resolved")?;
    let names: BTreeMap<&PackageId, String> = packages
        .iter()
        .map(|package| (&package.id, reference(package)))
        .collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in &resolve.nodes {
        let Some(name) = names.get(&node.id) else {
            continue;
        };
        let deps = node.deps.iter().filter(|dep| is_normal(dep));
        let used = deps.filter_map(|dep| names.get(&dep.pkg).cloned());
        uses.insert(name.clone(), used.collect());
    }
    // The build script of sgctl embeds the packet path; no dependency says so.
    let named = |name: &str| {
        let mut found = packages
            .iter()
            .filter(|package| package.name.as_str() == name);
        found.next().map(reference)
    };
    if let (Some(sgctl), Some(path)) = (named("sg-userspace"), named(PACKET_PATH)) {
        uses.entry(sgctl).or_default().insert(path);
    }
    Ok(Linked {
        own: metadata.workspace_members.iter().cloned().collect(),
        uses,
        packages,
    })
}

fn is_normal(dep: &cargo_metadata::NodeDep) -> bool {
    dep.dep_kinds
        .iter()
        .any(|kind| kind.kind == DependencyKind::Normal)
}

/// A package and all that it uses, without what only runs while it is compiled. `cargo tree` knows
/// which features it has when it is built alone, as build scripts build it.
fn below(workspace: &Path, metadata: &Metadata, name: &str) -> Result<BTreeSet<PackageId>> {
    let mut tree = shell::cargo(workspace);
    tree.args(["tree", "--locked", "--package", name])
        .args(["--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{p}"]);
    let tree = shell::read(&mut tree)?;
    let mut found = BTreeSet::new();
    for line in tree.lines() {
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let version = version.trim_start_matches('v');
        let mut packages = metadata.packages.iter();
        let package = packages
            .find(|it| it.name.as_str() == name && it.version.to_string() == version)
            .with_context(|| format!("cargo tree names {line}, and cargo metadata does not"))?;
        found.insert(package.id.clone());
    }
    if found.len() < 2 {
        bail!("{name} uses no other crate, so its dependencies are not known");
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the packet path is made of, as cargo tells it.
    pub(in crate::dist) fn of_the_packet_path() -> Linked {
        let workspace = shell::workspace().unwrap();
        let here = ["--offline", "--filter-platform", "x86_64-unknown-linux-gnu"];
        let metadata = shell::cargo_metadata(&workspace, &here).unwrap();
        let ids = below(&workspace, &metadata, PACKET_PATH).unwrap();
        of(&metadata, &ids).unwrap()
    }

    /// What userspace alone uses of the shared crate is not in it, although one build of the whole
    /// workspace gives that crate the features of both.
    #[test]
    fn the_packet_path_is_known_with_all_that_it_uses() {
        let ours = of_the_packet_path();
        let has = |name: &str| ours.packages.iter().any(|it| it.name.as_str() == name);
        for name in ["sg-ebpf", "sg-common", "aya-ebpf", "network-types"] {
            assert!(has(name), "{name}");
        }
        // Of userspace, of macros and of the build.
        for name in ["aya", "libc", "syn", "aya-ebpf-macros", "aya-build"] {
            assert!(!has(name), "{name}");
        }
        assert!(ours.packages.len() < 20);
    }

    #[test]
    fn who_uses_whom_is_known() {
        let ours = of_the_packet_path();
        let path = ours.uses.keys().find(|name| name.starts_with("sg-ebpf@"));
        let used = &ours.uses[path.unwrap()];
        assert!(
            used.iter().any(|name| name.starts_with("sg-common@")),
            "{used:?}"
        );
    }
}
