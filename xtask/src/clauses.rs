//! `cargo xtask clauses`: writes docs/clauses.md, the table of what the enforcer promises and the
//! tests that prove it, from docs/spec.md and the tests' own doc comments ("Proves K6"). `cargo
//! xtask test` checks it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::files::sources;
use crate::generated::Page;
use crate::shell;

/// Write docs/clauses.md: each promise and the tests that prove it
#[derive(clap::Args)]
#[command(after_help = "\
A test proves a clause by saying so at the beginning of its doc comment, such as
`/// Proves K6 and K7: …`. The clauses are those of docs/spec.md. One that no test proves is an error, and
so is a test of one that docs/spec.md does not have, or calls \"not built yet\".

Examples:
  cargo xtask clauses
  cargo xtask clauses --check")]
pub(crate) struct Args {
    /// Write nothing; fail if the file is not what it would be
    #[arg(long)]
    check: bool,
}

/// Has the clauses: a heading `### K6` and, below it, a paragraph that is the promise in short.
const SPEC: &str = "docs/spec.md";

/// Ends the heading of a clause that no code keeps yet.
const NOT_BUILT: &str = " (not built yet)";

const PAGE: Page = Page {
    file: "docs/clauses.md",
    source: "docs/spec.md and the tests say",
    command: "cargo xtask clauses",
};

/// Where tests are.
const FOLDERS: [&str; 5] = [
    "sg-common/src",
    "sg-policy/src",
    "sg-policy/tests",
    "sg-userspace/src",
    "sg-userspace/tests",
];

/// What the enforcer promises.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    /// As in `K6`.
    name: String,
    promise: String,
    is_built: bool,
}

/// A test that says what it proves.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    /// Relative to the workspace.
    file: String,
    test: String,
    clauses: Vec<String>,
    /// It runs only where `cargo xtask test --kernels` runs it.
    only_in_guest: bool,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let workspace = shell::workspace()?;
    match args.check {
        true => check(&workspace),
        false => PAGE.write(&workspace, &current(&workspace)?),
    }
}

/// Fails when a clause has no test, or the page is older than the tests.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    PAGE.check(workspace, &current(workspace)?)
}

/// The page as it has to be.
fn current(workspace: &Path) -> Result<String> {
    let text = fs::read_to_string(workspace.join(SPEC))
        .with_context(|| format!("cannot read {SPEC}, which has the clauses"))?;
    let clauses = clauses_of(&text)?;
    page(&clauses, &proofs(workspace, &clauses)?)
}

/// The clauses of docs/spec.md, in its order.
fn clauses_of(spec: &str) -> Result<Vec<Clause>> {
    let mut found: Vec<Clause> = Vec::new();
    let mut lines = spec.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(heading) = line.strip_prefix("### ") else {
            continue;
        };
        let at = format!("{SPEC}:{}", number + 1);
        let (name, is_built) = match heading.strip_suffix(NOT_BUILT) {
            Some(name) => (name, false),
            None => (heading, true),
        };
        if !is_name(name) {
            bail!("{at}: `{heading}` is no clause: write `### K1`, or `### K1{NOT_BUILT}`");
        }
        if found.iter().any(|clause| clause.name == name) {
            bail!("{at}: there is another {name}");
        }
        let paragraph = lines.by_ref().map(|(_, line)| line.trim());
        let paragraph = paragraph
            .skip_while(|line| line.is_empty())
            .take_while(|line| !line.is_empty());
        let promise = paragraph.collect::<Vec<_>>().join(" ");
        if promise.is_empty() || promise.starts_with(['#', '|', '-', '*']) {
            bail!("{at}: {name} has no promise: it is the first paragraph below the heading");
        }
        found.push(Clause {
            name: name.to_owned(),
            promise,
            is_built,
        });
    }
    if found.is_empty() {
        bail!("{SPEC} has no clause: each has a heading such as `### K1`");
    }
    Ok(found)
}

fn proofs(workspace: &Path, clauses: &[Clause]) -> Result<Vec<Proof>> {
    let mut proofs = Vec::new();
    for (file, text) in sources(workspace, &FOLDERS)? {
        proofs.extend(proofs_in(&file, &text, clauses)?);
    }
    Ok(proofs)
}

fn proofs_in(file: &str, text: &str, known: &[Clause]) -> Result<Vec<Proof>> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(first) = line.trim_start().strip_prefix("/// Proves ") else {
            continue;
        };
        let mut claim = first.to_owned();
        let (mut is_test, mut only_in_guest) = (false, false);
        let name = loop {
            let Some((_, line)) = lines.next() else {
                bail!(
                    "{file}:{}: \"Proves\" stands before no function",
                    number + 1
                );
            };
            let line = line.trim_start();
            if let Some(more) = line.strip_prefix("///") {
                claim.push_str(more);
            } else if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]");
                only_in_guest |= line.starts_with("#[ignore") && line.contains("--kernels");
            } else if let Some(name) = function_name(line) {
                break name;
            } else if !line.starts_with("//") && !line.is_empty() {
                bail!(
                    "{file}:{}: \"Proves\" stands before no function",
                    number + 1
                );
            }
        };
        if !is_test {
            bail!(
                "{file}:{}: {name} says that it proves something, but is no test",
                number + 1
            );
        }
        let clauses = clauses_in(&claim);
        if clauses.is_empty() {
            // A promise outside the numbered ones.
            continue;
        }
        for clause in &clauses {
            match known.iter().find(|known| known.name == *clause) {
                Some(known) if known.is_built => {}
                Some(_) => bail!(
                    "{file}:{}: {name} proves {clause}, which {SPEC} calls \"not built yet\"",
                    number + 1
                ),
                None => bail!(
                    "{file}:{}: {name} proves {clause}, which {SPEC} does not have",
                    number + 1
                ),
            }
        }
        found.push(Proof {
            file: file.to_owned(),
            test: name,
            clauses,
            only_in_guest,
        });
    }
    Ok(found)
}

fn function_name(line: &str) -> Option<String> {
    let rest = line
        .strip_prefix("pub(crate) ")
        .unwrap_or(line)
        .strip_prefix("fn ")?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    Some(rest[..end].to_owned())
}

/// The clauses that a claim names: words such as `K6`, up to the first that proves nothing more.
fn clauses_in(claim: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in claim.split(|c: char| !c.is_ascii_alphanumeric()) {
        if is_name(word) && !found.iter().any(|c| c == word) {
            found.push(word.to_owned());
        }
    }
    found
}

/// Whether it is the name of a clause: a letter and a number.
fn is_name(word: &str) -> bool {
    let mut letters = word.chars();
    matches!(letters.next(), Some('P' | 'K' | 'A' | 'C' | 'O'))
        && !letters.as_str().is_empty()
        && letters.all(|c| c.is_ascii_digit())
}

fn page(clauses: &[Clause], proofs: &[Proof]) -> Result<String> {
    let mut by_clause: BTreeMap<&str, Vec<&Proof>> = BTreeMap::new();
    for proof in proofs {
        for clause in &proof.clauses {
            by_clause.entry(clause).or_default().push(proof);
        }
    }
    let built = clauses.iter().filter(|clause| clause.is_built);
    let unproved: Vec<&str> = built
        .clone()
        .map(|clause| clause.name.as_str())
        .filter(|name| !by_clause.contains_key(name))
        .collect();
    if !unproved.is_empty() {
        bail!(
            "no test proves {}\nwrite one whose doc comment begins with `Proves {}`, or end the heading \
             in {SPEC} with `{}` where no code keeps the promise",
            unproved.join(", "),
            unproved[0],
            NOT_BUILT.trim()
        );
    }

    let mut page = String::from(
        "# What is promised, and what proves it\n\n\
         Written by `cargo xtask clauses` from [spec.md](spec.md), which has the clauses, and from the doc \
         comments of the\ntests; `cargo xtask test` fails when it is out of date or a clause has no test. P \
         is about policies, K about packets,\nA about accounting, C about changing a policy, O about events. \
         Tests marked † run in the emulated machines of\n`cargo xtask test --kernels` only.\n\n\
         | clause | promise | tests |\n|---|---|---|\n",
    );
    for Clause { name, promise, .. } in built {
        let mut cell = String::new();
        let mut file = "";
        for proof in by_clause.get(name.as_str()).into_iter().flatten() {
            if proof.file != file {
                if !file.is_empty() {
                    cell.push_str("<br>");
                }
                file = &proof.file;
                let _ = write!(cell, "[{file}](../{file}):");
            } else {
                cell.push(',');
            }
            let mark = if proof.only_in_guest { "†" } else { "" };
            let _ = write!(cell, " `{}`{mark}", proof.test);
        }
        let link = name.to_lowercase();
        let _ = writeln!(page, "| [{name}](spec.md#{link}) | {promise} | {cell} |");
    }
    let missing: Vec<&str> = clauses
        .iter()
        .filter(|clause| !clause.is_built)
        .map(|clause| clause.name.as_str())
        .collect();
    if !missing.is_empty() {
        let _ = writeln!(page, "\nNot built yet: {}.", missing.join(", "));
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "
# Title

Words.

### K6

A packet of a flow
is accepted.

More of it.

### K7

Another.

### A1

Counted once.

### C3 (not built yet)

To come.
";

    fn known() -> Vec<Clause> {
        clauses_of(SPEC).unwrap()
    }

    #[test]
    fn a_clause_is_a_heading_and_the_paragraph_below_it() {
        let clause = |name: &str, promise: &str, is_built| Clause {
            name: name.to_owned(),
            promise: promise.to_owned(),
            is_built,
        };
        let expected = [
            clause("K6", "A packet of a flow is accepted.", true),
            clause("K7", "Another.", true),
            clause("A1", "Counted once.", true),
            clause("C3", "To come.", false),
        ];
        assert_eq!(known(), expected);
    }

    #[test]
    fn a_clause_that_cannot_be_read_is_refused_with_its_place() {
        for (spec, complaint) in [
            ("", "has no clause"),
            (
                "### K6: flows\n\nWords.",
                "spec.md:1: `K6: flows` is no clause",
            ),
            (
                "### K6\n\nA.\n\n### K6\n\nB.",
                "spec.md:5: there is another K6",
            ),
            ("### K6\n", "spec.md:1: K6 has no promise"),
            ("### K6\n\n### K7\n\nB.", "spec.md:1: K6 has no promise"),
            ("### K6\n\n| a | b |\n", "spec.md:1: K6 has no promise"),
        ] {
            let error = clauses_of(spec).unwrap_err().to_string();
            assert!(error.contains(complaint), "{spec}: {error}");
        }
    }

    const SOURCE: &str = "
        /// Proves K6, K7 and
        /// A1: something.
        #[test]
        #[ignore = \"needs the guest of cargo xtask test --kernels\"]
        fn answers_pass() {}

        /// Proves that nothing is left behind.
        #[test]
        fn clean() {}
    ";

    #[test]
    fn tests_say_what_they_prove() {
        let found = proofs_in("a.rs", SOURCE, &known()).unwrap();
        let expected = Proof {
            file: "a.rs".to_owned(),
            test: "answers_pass".to_owned(),
            clauses: ["K6", "K7", "A1"].map(str::to_owned).to_vec(),
            only_in_guest: true,
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn what_is_no_test_or_no_clause_is_refused() {
        for (source, complaint) in [
            ("/// Proves K6\nfn f() {}", "is no test"),
            (
                "/// Proves K99\n#[test]\nfn f() {}",
                "f proves K99, which docs/spec.md does not have",
            ),
            (
                "/// Proves C3\n#[test]\nfn f() {}",
                "f proves C3, which docs/spec.md calls \"not built yet\"",
            ),
            ("/// Proves K6\nstruct S;", "before no function"),
            ("/// Proves K6", "before no function"),
        ] {
            let error = proofs_in("a.rs", source, &known()).unwrap_err().to_string();
            assert!(error.contains(complaint), "{source}: {error}");
            assert!(error.starts_with("a.rs:1:"), "{error}");
        }
    }

    #[test]
    fn a_promise_without_a_test_fails() {
        let clauses = known();
        let all = |left_out: &str| -> Vec<Proof> {
            let built = clauses.iter().filter(|clause| clause.is_built);
            let names = built.map(|clause| clause.name.clone());
            vec![Proof {
                file: "a.rs".to_owned(),
                test: "t".to_owned(),
                clauses: names.filter(|name| name != left_out).collect(),
                only_in_guest: false,
            }]
        };
        let page_of = |left_out: &str| page(&clauses, &all(left_out));
        let page = page_of("").unwrap();
        assert!(
            page.contains(
                "| [K6](spec.md#k6) | A packet of a flow is accepted. | [a.rs](../a.rs): `t` |\n"
            ),
            "{page}"
        );
        assert!(page.ends_with("\nNot built yet: C3.\n"), "{page}");
        let error = page_of("K6").unwrap_err().to_string();
        assert!(error.contains("no test proves K6"), "{error}");
    }
}
