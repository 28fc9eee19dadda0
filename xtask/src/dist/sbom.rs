//! The software bill of materials: what is in the binary, in the form of CycloneDX 1.5 as JSON. It
//! has neither a time nor a serial number, so that the same commit has the same list.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    crates::{self, Linked},
    licences, sums,
};
use crate::shell;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    version: u32,
    metadata: Subject,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Subject {
    component: Component,
}

#[derive(Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    licenses: Vec<Licence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Licence {
    expression: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: Vec<String>,
}

const STD: &str = "rust-std";
const MUSL: &str = "musl";

pub(super) fn write(linked: &Linked, workspace: &Path, binary: &Path, path: &Path) -> Result<()> {
    let lock = workspace.join("Cargo.lock");
    let lock =
        fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let rustc = shell::read(std::process::Command::new("rustc").arg("--version"))?;
    let rustc = rustc.split(' ').nth(1).unwrap_or_default().to_owned();
    let bom = bom(linked, &checksums(&lock), &rustc, sums::sha256(binary)?)?;
    let json = serde_json::to_string_pretty(&bom)? + "\n";
    fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

fn bom(
    linked: &Linked,
    checksums: &BTreeMap<String, String>,
    rustc: &str,
    binary: String,
) -> Result<Bom> {
    let mut subject = None;
    let mut components = Vec::new();
    for package in &linked.packages {
        let reference = crates::reference(package);
        let is_subject = package.name.as_str() == "sg-userspace";
        let hash = match is_subject {
            true => Some(&binary),
            false => checksums.get(&reference),
        };
        let is_own = linked.own.contains(&package.id);
        let licence = package.license.as_deref();
        let licence = licence.map(licences::expression);
        let component = Component {
            kind: if is_subject { "application" } else { "library" },
            name: match is_subject {
                true => "sgctl".to_owned(),
                false => package.name.to_string(),
            },
            version: Some(package.version.to_string()),
            description: package.description.clone(),
            hashes: hash.into_iter().map(|hash| sha256(hash)).collect(),
            licenses: licence
                .into_iter()
                .map(|expression| Licence { expression })
                .collect(),
            purl: (!is_own).then(|| format!("pkg:cargo/{reference}")),
            reference,
        };
        match is_subject {
            true => subject = Some(component),
            false => components.push(component),
        }
    }
    components.push(plain(STD, Some(rustc.to_owned()), "MIT OR Apache-2.0"));
    components.push(plain(MUSL, None, "MIT"));

    let mut dependencies: Vec<Dependency> = linked
        .uses
        .iter()
        .map(|(name, uses)| Dependency {
            reference: name.clone(),
            depends_on: uses.iter().cloned().collect(),
        })
        .collect();
    let subject = subject.context("sgctl is not among what was linked")?;
    for dependency in &mut dependencies {
        if dependency.reference == subject.reference {
            dependency.depends_on.push(STD.to_owned());
        }
    }
    dependencies.push(Dependency {
        reference: STD.to_owned(),
        depends_on: vec![MUSL.to_owned()],
    });
    Ok(Bom {
        bom_format: "CycloneDX",
        spec_version: "1.5",
        version: 1,
        metadata: Subject { component: subject },
        components,
        dependencies,
    })
}

fn sha256(content: &str) -> Hash {
    Hash {
        alg: "SHA-256",
        content: content.to_owned(),
    }
}

fn plain(name: &str, version: Option<String>, licence: &str) -> Component {
    Component {
        kind: "library",
        reference: name.to_owned(),
        name: name.to_owned(),
        version,
        description: None,
        hashes: Vec::new(),
        licenses: vec![Licence {
            expression: licence.to_owned(),
        }],
        purl: None,
    }
}

/// What Cargo.lock says of the archives of crates, by name and version.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let value = |line: &str, key: &str| {
        let rest = line.strip_prefix(key)?.strip_prefix(" = \"")?;
        rest.strip_suffix('"').map(str::to_owned)
    };
    let of = |block: &str| {
        let key = |key| block.lines().find_map(|line| value(line, key));
        let name = format!("{}@{}", key("name")?, key("version")?);
        Some((name, key("checksum")?))
    };
    lock.split("[[package]]").filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn checksums_are_those_of_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
                    source = \"registry\"\nchecksum = \"00ff\"\ndependencies = [\n \"b\",\n]\n\n\
                    [[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        let found = checksums(lock);
        assert_eq!(found.len(), 1);
        assert_eq!(found["a@1.0.0"], "00ff");
    }

    /// Every component that something depends on is there, once, and each crate of the registry has
    /// the checksum by which it can be found.
    #[test]
    fn every_component_is_listed_once() {
        let mut linked = crates::tests::of_the_packet_path();
        let mut subject = linked.packages[0].clone();
        subject.name = serde_json::from_value("sg-userspace".into()).unwrap();
        linked.packages.push(subject);
        let lock = shell::workspace().unwrap().join("Cargo.lock");
        let sums = checksums(&fs::read_to_string(lock).unwrap());
        let bom = bom(&linked, &sums, "1.2.3", "ab".repeat(32)).unwrap();
        let json = serde_json::to_value(&bom).unwrap();
        assert_eq!(json["bomFormat"], "CycloneDX");
        assert_eq!(json["metadata"]["component"]["name"], "sgctl");
        let list = |key: &str| json[key].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let components = list("components");
        let names: BTreeSet<String> = components.iter().map(|it| text(&it["bom-ref"])).collect();
        assert_eq!(names.len(), components.len());
        for component in &components {
            assert_ne!(component["licenses"], serde_json::json!([]), "{component}");
            if component["purl"].is_string() {
                let hash = text(&component["hashes"][0]["content"]);
                assert_eq!(hash.len(), 64, "{component}");
            }
        }
        for dependency in list("dependencies") {
            for used in dependency["dependsOn"].as_array().unwrap() {
                assert!(names.contains(&text(used)), "{used}");
            }
        }
    }
}
