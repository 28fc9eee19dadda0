//! `cargo xtask clauses`: writes docs/clauses.md, the table of what the enforcer promises and the
//! tests that prove it, from the tests' own doc comments ("Proves K6"). `cargo xtask test` checks it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell,
    term::{self, Colour},
};

/// Write docs/clauses.md: each promise and the tests that prove it
#[derive(clap::Args)]
#[command(after_help = "\
A test proves a clause by saying so at the beginning of its doc comment, such as
`/// Proves K6 and K7: …`. A clause that no test proves is an error.

Examples:
  cargo xtask clauses
  cargo xtask clauses --check")]
pub(crate) struct Args {
    /// Write nothing; fail if the file is not what it would be
    #[arg(long)]
    check: bool,
}

/// The promises, by the numbers that tests and comments use.
const CLAUSES: [(&str, &str); 33] = [
    (
        "P1",
        "A policy is an ordered list of groups; a group has ordered inbound and outbound rules.",
    ),
    (
        "P2",
        "The first rule that matches decides; what no rule matches is dropped, in both directions.",
    ),
    (
        "P3",
        "A trailing \"drop everything\" of a group that is not the last is deferred, or honoured if the policy says so; `check` warns.",
    ),
    (
        "P4",
        "A rule matches protocol, destination ports or ICMP type and code, and remote addresses.",
    ),
    (
        "P5",
        "`0.0.0.0/0` is IPv4, `::/0` is IPv6, `any` is both; host bits in a prefix and rules that match nothing are errors.",
    ),
    (
        "P6",
        "Address and port sets are named, nest, come from files, and are replaced at load by `--set`.",
    ),
    (
        "P7",
        "The built-in templates `tke` and `tke-minimal`, and what `check` says of them.",
    ),
    (
        "P8",
        "A policy is compiled whole before anything changes; every error is told with its place.",
    ),
    (
        "P9",
        "`log-no-match` logs what no rule matches, a deferred trailing deny keeps its log, and a rule is shown with its name.",
    ),
    (
        "P10",
        "`non-ip: accept` or `arp-only` says what happens to frames that are neither IPv4 nor IPv6.",
    ),
    (
        "K1",
        "Inbound is decided in XDP, outbound at tc egress (tcx, else clsact), by the addresses on the wire.",
    ),
    (
        "K2",
        "Two VLAN tags are skipped; what is neither IPv4 nor IPv6 is counted as `non-ip`.",
    ),
    (
        "K3",
        "IPv4 options and up to eight IPv6 extension headers are walked; what cannot be parsed is dropped as `malformed`; joined frames are as long as they are.",
    ),
    (
        "K4",
        "Later fragments follow their first; unknown ones are dropped as `fragment`, tricks as `malformed`.",
    ),
    (
        "K5",
        "Neighbour discovery, MLD, IGMP and DHCP answers are accepted whatever the rules say, unless `essential: false`.",
    ),
    (
        "K6",
        "A packet of a flow that the policy admitted is accepted in both directions.",
    ),
    (
        "K7",
        "The rules are asked first; a flow whose answers the rules accept needs no entry.",
    ),
    (
        "K8",
        "An ICMP error to the sender of a packet that is tracked or accepted is accepted as `related`, whoever sends it.",
    ),
    (
        "K9",
        "TCP moves a flow and its timeout; half-open flows live apart from established ones, and nobody who spoofs addresses makes an established one.",
    ),
    (
        "K10",
        "A full table evicts a flow of the same kind, an expired one before a closing one before the least recently used, and counts it; a new flow is never dropped for it.",
    ),
    (
        "K11",
        "A new policy takes effect on live flows: judged again, kept, or flushed. A TCP flow that was cut stays cut until a new SYN.",
    ),
    (
        "K12",
        "Flows that exist at the first attachment are entered before the first packet is judged.",
    ),
    (
        "A1",
        "Every packet is counted once: by its rule, by the rule whose flow it answers, or by a reason.",
    ),
    (
        "A2",
        "Packets seen are exactly what rules, replies and reasons count, at any load and across reloads.",
    ),
    (
        "A3",
        "A rule keeps its counters as long as it stays the same rule.",
    ),
    (
        "A4",
        "JSON has a fixed shape, which only grows; lists are arrays, streams an object a line.",
    ),
    (
        "C1",
        "`apply` plans, prepares and commits: on any error or kill both directions run the old policy, or both the new one.",
    ),
    (
        "C2",
        "The same policy again is `unchanged`; what an attachment fixes when it is made is changed without a gap or refused.",
    ),
    (
        "C8",
        "`check` finds rules that do nothing; `--strict` makes warnings errors.",
    ),
    (
        "C11",
        "`run` takes nothing away that it did not put there, is alone on its interface, and ends with its terminal.",
    ),
    (
        "C12",
        "`status` says `enforcing` only if what is attached is what is pinned and recorded, and nothing comes before it.",
    ),
    (
        "O1",
        "What is not shown of the events is counted: delivered, lost and suppressed are all that were to be logged.",
    ),
    (
        "O2",
        "An event has the time at which its packet was judged, and says what it was and what decided it.",
    ),
];

const FILE: &str = "docs/clauses.md";

/// Where tests are.
const FOLDERS: [&str; 5] = [
    "sg-common/src",
    "sg-policy/src",
    "sg-policy/tests",
    "sg-userspace/src",
    "sg-userspace/tests",
];

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
    if args.check {
        return check(&workspace);
    }
    let text = page(&proofs(&workspace)?)?;
    let path = workspace.join(FILE);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    term::say(Colour::Green, "written", FILE);
    Ok(())
}

/// Fails when a clause has no test, or the page is older than the tests.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let expected = page(&proofs(workspace)?)?;
    let found = fs::read_to_string(workspace.join(FILE)).unwrap_or_default();
    if found != expected {
        bail!("{FILE} does not say what the tests say\nrun `cargo xtask clauses` and commit it");
    }
    Ok(())
}

fn proofs(workspace: &Path) -> Result<Vec<Proof>> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        rust_files(&workspace.join(folder), &mut files)?;
    }
    files.sort();
    let mut proofs = Vec::new();
    for path in files {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = path.strip_prefix(workspace).unwrap_or(&path);
        proofs.extend(proofs_in(&file.to_string_lossy(), &text)?);
    }
    Ok(proofs)
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn proofs_in(file: &str, text: &str) -> Result<Vec<Proof>> {
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
        if let Some(unknown) = clauses
            .iter()
            .find(|c| !CLAUSES.iter().any(|(n, _)| n == c))
        {
            bail!(
                "{file}:{}: {name} proves {unknown}, which is no clause",
                number + 1
            );
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
        let mut letters = word.chars();
        let is_clause = matches!(letters.next(), Some('P' | 'K' | 'A' | 'C' | 'O'))
            && !letters.as_str().is_empty()
            && letters.all(|c| c.is_ascii_digit());
        if is_clause && !found.iter().any(|c| c == word) {
            found.push(word.to_owned());
        }
    }
    found
}

fn page(proofs: &[Proof]) -> Result<String> {
    let mut by_clause: BTreeMap<&str, Vec<&Proof>> = BTreeMap::new();
    for proof in proofs {
        for clause in &proof.clauses {
            by_clause.entry(clause).or_default().push(proof);
        }
    }
    let unproved: Vec<&str> = CLAUSES
        .iter()
        .map(|(number, _)| *number)
        .filter(|number| !by_clause.contains_key(number))
        .collect();
    if !unproved.is_empty() {
        bail!(
            "no test proves {}\nwrite one whose doc comment begins with `Proves {}`",
            unproved.join(", "),
            unproved[0]
        );
    }

    let mut page = String::from(
        "# What is promised, and what proves it\n\n\
         Written by `cargo xtask clauses` from the doc comments of the tests; `cargo xtask test` fails \
         when it is out of\ndate or a promise has no test. P is about policies, K about packets, A about \
         accounting. Tests marked † run in the\nemulated machines of `cargo xtask test --kernels` only.\n\n\
         | clause | promise | tests |\n|---|---|---|\n",
    );
    for (number, promise) in CLAUSES {
        let mut cell = String::new();
        let mut file = "";
        for proof in by_clause.get(number).into_iter().flatten() {
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
        let _ = writeln!(page, "| {number} | {promise} | {cell} |");
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let found = proofs_in("a.rs", SOURCE).unwrap();
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
            ("/// Proves K99\n#[test]\nfn f() {}", "is no clause"),
            ("/// Proves K6\nstruct S;", "before no function"),
            ("/// Proves K6", "before no function"),
        ] {
            let error = proofs_in("a.rs", source).unwrap_err().to_string();
            assert!(error.contains(complaint), "{source}: {error}");
            assert!(error.starts_with("a.rs:1:"), "{error}");
        }
    }

    #[test]
    fn a_promise_without_a_test_fails() {
        let all = |left_out: &str| -> Vec<Proof> {
            let clauses = CLAUSES.iter().map(|(number, _)| (*number).to_owned());
            vec![Proof {
                file: "a.rs".to_owned(),
                test: "t".to_owned(),
                clauses: clauses.filter(|c| c != left_out).collect(),
                only_in_guest: false,
            }]
        };
        assert!(page(&all("")).unwrap().contains("| K6 | A packet"));
        let error = page(&all("K6")).unwrap_err().to_string();
        assert!(error.contains("no test proves K6"), "{error}");
    }
}
