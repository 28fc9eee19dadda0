//! `cargo xtask troubleshooting`: writes docs/troubleshooting.md, which has what sgctl says when
//! something is wrong, and what to do about it, from the code that says it. The tests of the task
//! runner fail where the page is older than the code, or where something is said without a remedy.

mod page;
mod scan;
mod template;
mod texts;
mod variants;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::files::sources;
use crate::generated::Page;
use crate::shell;
use page::Said;
use scan::Trouble;
use variants::{Codes, Forms};

/// Write docs/troubleshooting.md: what is said when something is wrong, and the remedies
#[derive(clap::Args)]
#[command(after_help = "\
The page has the messages and remedies that stand in the code: of `status`, of refused commands, of
policies that are not valid, and of `check`. A message without a remedy is an error.

Examples:
  cargo xtask troubleshooting
  cargo xtask troubleshooting --check")]
pub(crate) struct Args {
    /// Write nothing; fail if the file is not what it would be
    #[arg(long)]
    check: bool,
}

const PAGE: Page = Page {
    file: "docs/troubleshooting.md",
    source: "the code says",
    command: "cargo xtask troubleshooting",
};

/// Where things are refused and found.
const FOLDERS: [&str; 2] = ["sg-policy/src", "sg-userspace/src"];

/// The files whose functions `code_name` say what errors are called.
const ERRORS: [&str; 2] = [
    "sg-userspace/src/kernel/error.rs",
    "sg-userspace/src/lab/error.rs",
];
/// Has what `check` looks for, in a macro.
const LINTS: &str = "sg-policy/src/policy/finding.rs";
/// Has the kinds of faults.
const FAULTS: &str = "sg-userspace/src/kernel/condition.rs";
/// Have what `status` says beside the faults.
const NOTES: [&str; 2] = [
    "sg-userspace/src/cli/status.rs",
    "sg-userspace/src/cli/health.rs",
];

pub(crate) fn command(args: &Args) -> Result<()> {
    let workspace = shell::workspace()?;
    match args.check {
        true => check(&workspace),
        false => PAGE.write(&workspace, &current(&workspace)?),
    }
}

/// Fails when something has no remedy, or the page is older than the code.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    PAGE.check(workspace, &current(workspace)?)
}

/// The page as it has to be.
fn current(workspace: &Path) -> Result<String> {
    let read = |name: &str| {
        fs::read_to_string(workspace.join(name)).with_context(|| format!("cannot read {name}"))
    };
    let parse = |name: &str, text: &str| {
        syn::parse_file(text).with_context(|| format!("cannot parse {name}"))
    };
    let lints = lints(&read(LINTS)?);
    let (mut codes, mut forms) = (Codes::new(), Forms::new());
    for name in ERRORS {
        let errors = parse(name, &read(name)?)?;
        codes.extend(variants::codes_of(&errors, "code_name"));
        forms.extend(variants::forms_of(&errors));
    }
    codes.extend(
        lints
            .iter()
            .map(|lint| (lint.variant.clone(), lint.code.clone())),
    );
    let mut troubles = Vec::new();
    for (name, text) in sources(workspace, &FOLDERS)? {
        // What tests make up is said by nobody.
        if !name.ends_with("/tests.rs") {
            troubles.extend(scan::scan(&name, &parse(&name, &text)?, &codes, &forms));
        }
    }
    let mut notes = String::new();
    for name in NOTES {
        notes.push_str(&read(name)?);
    }
    page::check_notes(&notes)?;
    let said = Said {
        troubles: together(troubles),
        lints: lints
            .into_iter()
            .map(|lint| (lint.code, lint.about))
            .collect(),
        faults: faults(&read(FAULTS)?),
    };
    page::page(&said)
}

/// Gives a remedy that stands at a kind of error to the messages of that kind, which stand
/// elsewhere. What has neither a message nor a remedy says nothing.
fn together(troubles: Vec<Trouble>) -> Vec<Trouble> {
    let (alone, mut said): (Vec<Trouble>, Vec<Trouble>) =
        troubles.into_iter().partition(|it| it.messages.is_empty());
    for trouble in alone.into_iter().filter(Trouble::has_remedy) {
        let is_of_it = |it: &&mut Trouble| it.code == trouble.code && !it.has_remedy();
        let mut of_it = said.iter_mut().filter(is_of_it).peekable();
        match of_it.peek() {
            Some(_) => of_it.for_each(|it| it.help.clone_from(&trouble.help)),
            None => said.push(trouble),
        }
    }
    said
}

struct Lint {
    variant: String,
    code: String,
    about: String,
}

/// What `check` looks for: lines such as `/// sentence` and `Variant "code",` in `lints!`.
fn lints(text: &str) -> Vec<Lint> {
    let entries = described(text, "\nlints! {", |line| line.split_once(' '));
    let lint = |((variant, code), about): ((&str, &str), String)| Lint {
        variant: variant.to_owned(),
        code: code.trim_end_matches(',').trim_matches('"').to_owned(),
        about,
    };
    entries.into_iter().map(lint).collect()
}

/// The kinds of faults with their sentences.
fn faults(text: &str) -> Vec<(String, String)> {
    let entries = described(text, "pub enum FaultCode {", |line| line.strip_suffix(','));
    let fault = |(variant, about): (&str, String)| (variants::kebab(variant), about);
    entries.into_iter().map(fault).collect()
}

/// The entries of the block that begins with `begin`, each with its doc comment.
fn described<'a, T>(
    text: &'a str,
    begin: &str,
    entry: impl Fn(&'a str) -> Option<T>,
) -> Vec<(T, String)> {
    let inside = text.split_once(begin).map_or("", |(_, rest)| rest);
    let inside = inside.split_once("\n}").map_or("", |(inside, _)| inside);
    let mut about = String::new();
    let mut found = Vec::new();
    for line in inside.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("///") {
            about.push_str(more);
        } else if let Some(entry) = entry(line) {
            found.push((entry, std::mem::take(&mut about).trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use scan::{Kind, Trouble};

    #[test]
    fn the_page_is_what_the_code_says() {
        check(&shell::workspace().unwrap()).unwrap();
    }

    fn scanned(text: &str) -> Vec<Trouble> {
        let codes = [
            ("Empty", "empty-set"),
            ("Held", "held"),
            ("Fixed", "fixed"),
            ("Locked", "locked"),
        ];
        let codes = codes.map(|(name, code)| (name.to_owned(), code.to_owned()));
        let errors = "enum KernelError { #[error(\"{what}: {reason}\")] Fixed { what: u8 } }";
        let forms = variants::forms_of(&syn::parse_file(errors).unwrap());
        scan::scan(
            "a.rs",
            &syn::parse_file(text).unwrap(),
            &codes.into_iter().collect(),
            &forms,
        )
    }

    #[test]
    fn what_is_refused_is_found_with_its_remedy() {
        let found = scanned(
            "fn a() {
                let problem = Problem::new(\"bad-port\", format!(\"`{}` is no port\", clip(text)))
                    .expected(ELEMENT);
                if b { return Err(problem.help(\"write a number\")); }
                Err(match c {
                    1 => problem.help(\"or a name\"),
                    _ => problem.help(format!(\"did you mean `{close}`?\")),
                })
            }
            const ELEMENT: &str = \"a port\";
            fn b() -> KernelError {
                KernelError::Fixed { what: \"a\".into(), reason: format!(\"{n} b\"), help: \"c\".into() }
            }
            fn c() { let f = Finding::note(Lint::Empty, \"it is empty\").help(dynamic()); }
            fn d() { Fault::of(direction, FaultCode::NotAttached, \"gone\", APPLY) }
            const APPLY: &str = \"apply again\";
            enum KernelError {
                #[error(\"another holds {path} for {seconds} s\")]
                #[diagnostic(help(\"wait, or look with `fuser {}`\", path.display()))]
                Locked { path: PathBuf, seconds: u64 },
            }
            #[cfg(test)]
            mod tests { fn t() { Problem::new(\"x\", \"not this\"); } }",
        );
        let shown: Vec<_> = found
            .iter()
            .map(|it| {
                (
                    it.kind,
                    it.code.as_str(),
                    it.messages.join("|"),
                    it.help.join("|"),
                )
            })
            .collect();
        let expected = [
            (
                Kind::Policy,
                "bad-port",
                "`TEXT` is no port",
                "write a number|or a name|did you mean `CLOSE`?",
            ),
            (Kind::Refusal, "fixed", "a: N b", "c"),
            (Kind::Finding, "empty-set", "it is empty", ""),
            (Kind::Fault, "not-attached", "gone", "apply again"),
            (
                Kind::Refusal,
                "locked",
                "another holds PATH for SECONDS s",
                "wait, or look with `fuser PATH`",
            ),
        ];
        let expected = expected
            .map(|(kind, code, message, help)| (kind, code, message.to_owned(), help.to_owned()));
        assert_eq!(shown, expected);
        assert_eq!(found[0].expected, ["a port"]);
        assert!(
            found[2].has_remedy(),
            "one that is only known when it is said"
        );
    }

    #[test]
    fn what_is_handed_in_is_found_at_the_calls() {
        let found = scanned(
            "fn a() {
                let refuse = |what: &str, reason: String| KernelError::Fixed {
                    what: format!(\"changing {what}\"),
                    reason,
                    help: format!(\"leave {what} out\"),
                };
                if b { return Err(refuse(\"one\", \"it is fixed\".into())); }
                Err(refuse(\"two\", self.name()))
            }
            fn c() -> KernelError { unknown(format!(\"{n} is not there\")) }
            fn unknown(reason: String) -> KernelError {
                KernelError::Fixed { what: READING.into(), reason, help: \"again\".into() }
            }
            const READING: &str = \"reading\";
            impl A {
                fn d(&self) { self.unverified(\"not from here\", \"there\") }
                fn unverified(&self, message: &str, help: &str) {
                    vec![Fault::new(FaultCode::Unverified, message, help)]
                }
            }",
        );
        let mut shown: Vec<_> = found
            .iter()
            .map(|it| (it.messages.join("|"), it.help.join("|")))
            .collect();
        shown.sort();
        let expected = [
            ("changing one: it is fixed", "leave one out"),
            ("not from here", "there"),
            ("reading: N is not there", "again"),
        ];
        let expected = expected.map(|(message, help)| (message.to_owned(), help.to_owned()));
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_remedy_belongs_to_the_messages_of_its_kind() {
        let said = |message: &str, help: &str| Trouble {
            kind: Kind::Refusal,
            code: "held".to_owned(),
            messages: Some(message.to_owned())
                .into_iter()
                .filter(|it| !it.is_empty())
                .collect(),
            expected: Vec::new(),
            help: Some(help.to_owned())
                .into_iter()
                .filter(|it| !it.is_empty())
                .collect(),
            has_other_help: false,
            place: String::new(),
        };
        let found = together(vec![said("", "let go"), said("it is held", "")]);
        assert_eq!(found, [said("it is held", "let go")]);
        assert_eq!(together(vec![said("", "let go")]), [said("", "let go")]);
    }

    /// A message without a remedy is an error that names its place.
    #[test]
    fn what_has_no_remedy_is_an_error() {
        let troubles = scanned("fn a() {\n Err(Problem::new(\"bad\", \"it is bad\")) }");
        let said = Said {
            troubles,
            lints: Vec::new(),
            faults: Vec::new(),
        };
        let error = page::page(&said).unwrap_err().to_string();
        assert!(error.contains("a.rs:2"), "{error}");
    }
}
