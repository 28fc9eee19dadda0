//! Reads policies and joins their groups to one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::builtin::{builtin, builtins};
use super::clip::clip;
use super::document::Document;
use super::errors::PolicyErrors;
use super::errors::{At, Problem};
use super::fields::{suggest, words};
use super::finding::Finding;
use super::input::{PolicyInput, SetOverride};
use super::loading::{Ctx, Loading};
use super::model::{Policy, Sets};
use super::read::Unreadable;
use super::read::{self, Believe, POLICY_BYTES, Role};
use super::source::{Source, stem_of};
use super::{document, join};

/// A valid policy, and what reading it has shown.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What is odd in its text. [`analysis::findings`](crate::analysis::findings) has these, and
    /// what follows from the meaning of the rules.
    pub findings: Vec<Finding>,
    /// Whether it is for a node of a container cluster, as its sets say.
    pub is_cluster: bool,
}

/// Loads policies and binds their groups in the order of `inputs`. `overrides` replace the
/// contents of named sets; each name must be a set of at least one policy.
///
/// # Errors
/// Every error of every file. Nothing has been changed by then.
pub fn load(inputs: &[PolicyInput], overrides: &[SetOverride]) -> Result<Loaded, PolicyErrors> {
    load_inputs(Loading::default(), inputs, overrides)
}

/// Loads policies as [`load`] does, from files that `believe` lets decide what passes: what is put
/// in force must not come from a file that anybody can write.
///
/// # Errors
/// Also those of files that are not believed, which are not read.
pub fn load_believed(
    inputs: &[PolicyInput],
    overrides: &[SetOverride],
    believe: Believe,
) -> Result<Loaded, PolicyErrors> {
    let loading = Loading {
        believe: Some(believe),
        ..Loading::default()
    };
    load_inputs(loading, inputs, overrides)
}

fn load_inputs(
    mut loading: Loading,
    inputs: &[PolicyInput],
    overrides: &[SetOverride],
) -> Result<Loaded, PolicyErrors> {
    let mut sources = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let read = match inputs.iter().take(index).any(|earlier| earlier == input) {
            true => Err(Problem::new("duplicate-name", "this policy is named twice")
                .expected("each policy once")
                .help("name it once; groups are bound in the order of the arguments")
                .into()),
            false => read_input(&mut loading, input),
        };
        match read {
            Ok(source) => sources.push(source),
            Err(Unreadable { at, problem, .. }) => {
                let source = Source::of_text(&input.to_string(), "");
                loading.report.push(&source, at, problem);
            }
        }
    }
    if inputs.is_empty() {
        let problem = Problem::new("missing-policy", "no policy was named")
            .expected("a file, `-`, or `builtin:NAME`")
            .help("`sgctl templates` lists the built-in policies");
        let source = Source::of_text("<command line>", "");
        loading.report.push(&source, At::WHOLE, problem);
    }
    load_sources(loading, sources, overrides)
}

/// Loads one policy from `text`. Errors and findings call it `name`, whose stem is the policy's
/// name if the text gives none. `file:` paths start at `base_dir`; without one there may be none.
///
/// # Errors
/// Every error of the text and of its set files.
pub fn load_text(
    name: &str,
    text: &str,
    base_dir: Option<&Path>,
    overrides: &[SetOverride],
) -> Result<Loaded, PolicyErrors> {
    let source = Source {
        base: base_dir.map(PathBuf::from),
        ..Source::of_text(name, text)
    };
    load_sources(Loading::default(), vec![source], overrides)
}

/// Loads what [`formats::write`](crate::formats::write) has written, with its set files from
/// memory. Errors and findings call it `name`.
///
/// # Errors
/// Every error of the text and of its set files.
pub fn load_written(name: &str, written: &PolicyText) -> Result<Loaded, PolicyErrors> {
    let source = Source {
        base: Some(PathBuf::new()),
        ..Source::of_text(name, &written.yaml)
    };
    let files = written.files.iter();
    let loading = Loading {
        given_files: files
            .map(|file| (PathBuf::from(&file.name), file.text.clone()))
            .collect(),
        ..Loading::default()
    };
    load_sources(loading, vec![source], &[])
}

/// A policy as text, with the set files that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PolicyText {
    /// The policy file.
    pub yaml: String,
    /// The set files beside it.
    pub files: Vec<SetText>,
}

/// A set file as text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SetText {
    /// Its name, as the policy file has it.
    pub name: String,
    /// One entry a line.
    pub text: String,
}

fn read_input(loading: &mut Loading, input: &PolicyInput) -> Result<Source, Unreadable> {
    let (read, base, stem) = match input {
        PolicyInput::File(path) => {
            loading.files.push(path.clone());
            let read = read::read_file(path, POLICY_BYTES, Role::Policy, loading.believe)?;
            let base = path.parent().unwrap_or(Path::new("")).to_owned();
            (read, Some(base), stem_of(path))
        }
        PolicyInput::Stdin => {
            let text = read::read_stdin(POLICY_BYTES, Role::PolicyOnStandardInput)?;
            (text.into(), Some(PathBuf::new()), "stdin".to_owned())
        }
        PolicyInput::Builtin(name) => {
            let builtin = builtin(name).ok_or_else(|| unknown_builtin(name))?;
            (
                builtin.text.to_owned().into(),
                None,
                builtin.name.to_owned(),
            )
        }
    };
    Ok(Source {
        name: input.to_string(),
        text: read.text,
        is_hidden: read.is_hidden,
        base,
        stem,
    })
}

fn unknown_builtin(name: &str) -> Problem {
    let names = || builtins().iter().map(|builtin| builtin.name);
    let problem = Problem::new(
        "unknown-template",
        format!("unknown built-in policy `{}`", clip(name)),
    )
    .expected(format!("one of {}", words(names())));
    match suggest(name, names()) {
        Some(close) => problem.help(format!("did you mean `builtin:{close}`?")),
        None => problem.help("`sgctl templates` lists them"),
    }
}

fn load_sources(
    mut loading: Loading,
    sources: Vec<Source>,
    overrides: &[SetOverride],
) -> Result<Loaded, PolicyErrors> {
    let whole = loading.report.count() == 0;
    let mut documents: Vec<(Source, Document)> = Vec::new();
    let mut complete = whole;
    for source in sources {
        let mut ctx = Ctx {
            source: &source,
            loading: &mut loading,
        };
        match document::read(&mut ctx, overrides) {
            Some(document) => documents.push((source, document)),
            None => complete = false,
        }
    }
    check_overrides(&mut loading, &documents, overrides, complete);
    // As the template calls them, which most policies of nodes come from.
    let has = |document: &Document, name: &str| {
        let mut sets = document.sets.addresses.iter();
        sets.any(|set| set.name == name)
    };
    let is_cluster = documents
        .iter()
        .any(|(_, document)| has(document, "pods") && has(document, "nodes"));
    let joined = join::join(&mut loading, documents);
    let mut findings = std::mem::take(&mut loading.findings);
    loading.report.finish()?;
    findings.extend(joined.findings);
    Ok(Loaded {
        policy: joined.policy,
        findings,
        is_cluster,
    })
}

/// Each name once, and each the name of a set. When a policy could not be read (`complete` is
/// false), an unknown name may well be one of its sets and is left alone.
fn check_overrides(
    loading: &mut Loading,
    documents: &[(Source, Document)],
    overrides: &[SetOverride],
    complete: bool,
) {
    let mut known: Vec<&str> = Vec::new();
    for (_, document) in documents {
        let Sets { addresses, ports } = &*document.sets;
        known.extend(addresses.iter().map(|set| set.name.as_str()));
        known.extend(ports.iter().map(|set| set.name.as_str()));
    }
    known.sort_unstable();
    known.dedup();
    let mut seen = HashSet::new();
    for given in overrides {
        if !seen.insert(given.name.as_str()) {
            let problem = Problem::new(
                "bad-set-argument",
                format!("`--set {}` is given twice", given.name),
            )
            .expected("each set once")
            .help(format!("join them: `--set {}=VALUE,VALUE`", given.name));
            loading.report.push(&given.source(), At::FIRST, problem);
        }
        if !complete || known.binary_search(&given.name.as_str()).is_ok() {
            continue;
        }
        let problem = Problem::new(
            "bad-set-argument",
            format!("`--set` names an unknown set `{}`", given.name),
        );
        let problem = match known.as_slice() {
            [] => problem
                .expected("no `--set`: the policy has no sets")
                .help("define the set in the policy, or remove the argument"),
            known => {
                let problem = problem.expected(format!("one of {}", words(known.iter().copied())));
                match suggest(&given.name, known.iter().copied()) {
                    Some(close) => problem.help(format!("did you mean `{close}`?")),
                    None => problem.help("define the set in the policy, or remove the argument"),
                }
            }
        };
        loading.report.push(&given.source(), At::FIRST, problem);
    }
}
