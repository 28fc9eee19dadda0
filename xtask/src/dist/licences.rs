//! The licences of what is in the binary: each crate with what it declares, and the texts that it
//! comes with, each text once. A crate without a licence is refused.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Package;

use super::crates::Linked;
use crate::shell;

/// What files with the text of a licence, or of a notice that goes with it, begin with.
const NAMES: [&str; 7] = [
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "unlicense",
    "authors",
];

/// The licence whose text needs nothing filled in, for crates that come without a text.
const STANDARD: &str = "Apache-2.0";

/// The C library, of which the Rust target for musl has a copy. Its licence is that of MIT.
const MUSL: &str = "Copyright © 2005-2020 Rich Felker, et al.";

/// What the project is under, its own crates and the standard library too.
const OWN_TEXTS: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "LICENSE-GPL2"];

/// One thing in the list, with the texts of its licences.
#[derive(Debug)]
struct Entry {
    name: String,
    expression: String,
    note: Option<String>,
    texts: Vec<String>,
}

pub(super) fn write(linked: &Linked, workspace: &Path, path: &Path) -> Result<()> {
    let own: Vec<String> = OWN_TEXTS
        .iter()
        .map(|name| read(&workspace.join(name)))
        .collect::<Result<_>>()?;
    let mut entries = Vec::new();
    let mut refused = Vec::new();
    for package in &linked.packages {
        let is_own = linked.own.contains(&package.id);
        match entry(package, is_own, &own) {
            Ok(entry) => entries.push(entry),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    if !refused.is_empty() {
        bail!(
            "not everything in the binary has a licence:\n{}",
            refused.join("\n")
        );
    }
    entries.extend(not_crates(&own)?);
    fs::write(path, page(&entries)).with_context(|| format!("cannot write {}", path.display()))
}

/// What is linked and is no crate of the registry.
fn not_crates(own: &[String]) -> Result<[Entry; 2]> {
    let rustc = shell::read(std::process::Command::new("rustc").arg("--version"))?;
    let [apache, mit, _] = own else {
        bail!("the project has other licences than this list expects");
    };
    Ok([
        Entry {
            name: format!("the Rust standard library, of {}", rustc.trim()),
            expression: "MIT OR Apache-2.0".to_owned(),
            note: Some("Copyright (c) The Rust Project contributors".to_owned()),
            texts: vec![apache.clone()],
        },
        Entry {
            name: "musl libc, which that library uses".to_owned(),
            expression: "MIT".to_owned(),
            note: None,
            texts: vec![terms(mit).map(|terms| format!("{MUSL}\n\n{terms}"))?],
        },
    ])
}

/// The terms of the MIT licence, without whose copyright it is.
fn terms(mit: &str) -> Result<String> {
    let at = mit
        .find("Permission is hereby granted")
        .context("LICENSE-MIT is not the text of that licence")?;
    Ok(mit[at..].to_owned())
}

fn entry(package: &Package, is_own: bool, own: &[String]) -> Result<Entry> {
    let name = format!("{} {}", package.name, package.version);
    let declared = package.license.as_deref().map(expression);
    let texts = match is_own {
        true => own.to_vec(),
        false => texts(package)?,
    };
    let (note, texts) = match (&declared, texts.is_empty()) {
        (Some(_) | None, false) => (None, texts),
        (Some(declared), true) if offers(declared, STANDARD) => {
            let authors = match package.authors.is_empty() {
                true => "its authors".to_owned(),
                false => package.authors.join(", "),
            };
            let note = format!(
                "Comes without a text; Copyright {authors}; used here under {STANDARD}, text below"
            );
            (Some(note), own[..1].to_vec())
        }
        (declared, true) => {
            let declared = declared.as_deref().unwrap_or("no licence");
            bail!("{name} declares {declared} and comes without the text of a licence");
        }
    };
    Ok(Entry {
        expression: declared.unwrap_or_else(|| "as its text says".to_owned()),
        name,
        note,
        texts,
    })
}

/// An older way to write `A OR B` was `A/B`.
pub(super) fn expression(declared: &str) -> String {
    let parts = declared.split('/').map(str::trim);
    parts.collect::<Vec<_>>().join(" OR ")
}

/// Whether one may choose this licence.
fn offers(expression: &str, licence: &str) -> bool {
    !expression.contains(" AND ") && expression.split(" OR ").any(|one| one == licence)
}

/// The texts in a crate's folder, by name.
fn texts(package: &Package) -> Result<Vec<String>> {
    let folder = package
        .manifest_path
        .parent()
        .context("a manifest lies in a folder")?;
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot list {folder}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && is_licence(path))
        .collect();
    if let Some(named) = &package.license_file {
        files.push(folder.join(named).into());
    }
    files.sort();
    files.dedup();
    files.iter().map(|path| read(path)).collect()
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_lowercase();
    NAMES.iter().any(|begin| name.starts_with(begin))
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
    let lines = text.lines().map(str::trim_end);
    let text = lines.collect::<Vec<_>>().join("\n");
    Ok(format!("{}\n", text.trim_matches('\n')))
}

/// The list, then each text once, by number.
fn page(entries: &[Entry]) -> String {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut texts = Vec::new();
    let mut out = String::from(
        "What is in sgctl, and under which licences. The numbers are those of the texts below.\n\n",
    );
    for entry in entries {
        let mut listed = Vec::new();
        for text in &entry.texts {
            let number = *numbers.entry(text.as_str()).or_insert_with(|| {
                texts.push(text.as_str());
                texts.len()
            });
            listed.push(number.to_string());
        }
        let Entry {
            name, expression, ..
        } = entry;
        let _ = writeln!(out, "{name}: {expression} [{}]", listed.join(", "));
        if let Some(note) = &entry.note {
            let _ = writeln!(out, "    {note}");
        }
    }
    for (number, text) in texts.iter().enumerate() {
        let _ = write!(out, "\n{:=<78}\n[{}]\n\n{text}", "", number + 1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::crates;

    #[test]
    fn what_may_be_chosen() {
        assert_eq!(expression("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(expression("Unlicense OR MIT"), "Unlicense OR MIT");
        assert!(offers("MIT OR Apache-2.0", STANDARD));
        assert!(!offers("MIT", STANDARD) && !offers("MIT AND Apache-2.0", STANDARD));
    }

    #[test]
    fn a_text_that_several_have_stands_once() {
        let entry = |name: &str, texts: &[&str]| Entry {
            name: name.to_owned(),
            expression: "MIT".to_owned(),
            note: None,
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        };
        let page = page(&[entry("a 1", &["one\n", "two\n"]), entry("b 2", &["two\n"])]);
        assert!(page.contains("a 1: MIT [1, 2]\nb 2: MIT [2]\n"), "{page}");
        assert_eq!(page.matches("two\n").count(), 1, "{page}");
    }

    /// A crate in a folder that is empty but for its manifest.
    fn bare(licence: Option<&str>) -> Package {
        let dir = tempfile::tempdir().unwrap();
        let linked = crates::tests::of_the_packet_path();
        let mut package = linked.packages[0].clone();
        package.manifest_path = dir.path().join("Cargo.toml").try_into().unwrap();
        package.license = licence.map(str::to_owned);
        package.license_file = None;
        // Kept until the test process ends.
        std::mem::forget(dir);
        package
    }

    #[test]
    fn a_crate_without_a_licence_is_refused() {
        let own = ["apache".to_owned(), "mit".to_owned(), "gpl".to_owned()];
        for (licence, expected) in [(None, "no licence"), (Some("ISC"), "ISC")] {
            let error = entry(&bare(licence), false, &own).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let chosen = entry(&bare(Some("MIT/Apache-2.0")), false, &own).unwrap();
        assert_eq!(chosen.texts, ["apache"]);
        assert!(chosen.note.unwrap().contains("without a text"));
    }

    #[test]
    fn the_packet_path_has_a_licence_for_each_crate() {
        let workspace = shell::workspace().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LICENCES.txt");
        let linked = crates::tests::of_the_packet_path();
        write(&linked, &workspace, &path).unwrap();
        let page = fs::read_to_string(&path).unwrap();
        for package in &linked.packages {
            let line = format!("\n{} {}: ", package.name, package.version);
            assert!(page.contains(&line), "{line}");
        }
        assert!(page.contains(MUSL));
    }
}
