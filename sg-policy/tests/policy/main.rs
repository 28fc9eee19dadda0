//! The policy layer as the rest of the program sees it, from text to rules.
//! What several of these tests need is here.

mod limits;
mod meaning;
mod migrated;
mod other_tools;
mod pages;
mod readme;
mod refusals;
mod schema;
mod sets;
mod templates;

use std::fs;
use std::path::{Path, PathBuf};

use sg_policy::analysis::findings;
use sg_policy::policy::*;

/// The policy with all findings of `check`.
fn checked(loaded: Loaded) -> Loaded {
    Loaded {
        findings: findings(&loaded),
        ..loaded
    }
}

pub(crate) fn load(
    inputs: &[PolicyInput],
    overrides: &[SetOverride],
) -> Result<Loaded, PolicyErrors> {
    sg_policy::policy::load(inputs, overrides).map(checked)
}

pub(crate) fn load_text(
    name: &str,
    text: &str,
    base_dir: Option<&Path>,
    overrides: &[SetOverride],
) -> Result<Loaded, PolicyErrors> {
    sg_policy::policy::load_text(name, text, base_dir, overrides).map(checked)
}

pub(crate) fn text(policy: &str) -> Result<Loaded, PolicyErrors> {
    load_text("p.yaml", policy, None, &[])
}

pub(crate) fn good(policy: &str) -> Loaded {
    text(policy).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn builtin_policy(name: &str, sets: &[&str]) -> Loaded {
    let overrides: Vec<SetOverride> = sets.iter().map(|s| s.parse().unwrap()).collect();
    load(&[PolicyInput::Builtin(name.into())], &overrides).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn codes(loaded: &Loaded) -> Vec<&str> {
    loaded.findings.iter().map(|f| f.code).collect()
}

/// One inbound rule, written as a flow mapping on line 2 from column 6 on.
pub(crate) fn rule(rule: &str) -> String {
    format!("inbound:\n  - {{{rule}}}\n")
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

pub(crate) fn load_file(path: &Path) -> Result<Loaded, PolicyErrors> {
    load(&[PolicyInput::File(path.to_owned())], &[])
}
