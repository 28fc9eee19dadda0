//! The text of docs/troubleshooting.md.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Result, bail};

use super::scan::{Kind, Trouble};

/// All that is said, in the order of the code.
pub(super) struct Said {
    pub(super) troubles: Vec<Trouble>,
    /// Code and sentence of each thing that `check` looks for.
    pub(super) lints: Vec<(String, String)>,
    /// Code and sentence of each kind of fault.
    pub(super) faults: Vec<(String, String)>,
}

const HEAD: &str = "\
# Troubleshooting

What `sgctl` says when something is wrong, and what to do about it. This page is written from the messages in the code by
`cargo xtask troubleshooting`. Words in CAPITALS stand for what differs from case to case, and `…` for what others say,
such as the kernel. Each message has a code: `check` prints it in brackets, and with `--json` it is the `code` of each
error and finding.

- [What to look at first](#what-to-look-at-first)
- [What `status` says](#what-status-says)
- [Commands that are refused](#commands-that-are-refused)
- [Policies that are not valid](#policies-that-are-not-valid)
- [What `check` says of a valid policy](#what-check-says-of-a-valid-policy)

## What to look at first

| you see | ask |
|---|---|
| a connection does not come about | `sgctl explain --iface IF tcp REMOTE :PORT --listening` names the rule, the flow and the socket |
| something is dropped, and you do not know what | `sgctl log --follow`, or `sgctl top` |
| a change did more than it should | `sgctl rollback`; then `sgctl diff --iface IF new.yaml` |
| you are about to lock yourself out | `sgctl apply … --confirm-within 60s`, which undoes itself |
| nothing should be enforced any more | `sgctl detach` |
| you do not know what is in force | `sgctl status`, then `sgctl show` |

";

const STATUS: &str = "\
## What `status` says

`status` says `enforcing` if what is attached in both directions is what the record names, and nothing comes before it.
Anything else is a fault; `status` then exits with 1.

";

const NOTES_HEAD: &str = "\
These lines are no faults:

";

/// What `status` says of an interface that is enforcing, as it stands in the code, and what that
/// means.
const NOTES: [(&str, &str, &str); 9] = [
    (
        "unconfirmed, {left} left until {}",
        "unconfirmed, LEFT left until TIME",
        "the policy is undone at that time, unless `sgctl confirm` comes before; `sgctl rollback` undoes it at once",
    ),
    (
        "is confirmed\\n",
        "POLICY, generation N, is confirmed",
        "it stays; nothing is to be done",
    ),
    (
        "was not confirmed and is undone\\n",
        "POLICY, generation N, was not confirmed and is undone",
        "the policy that is named below it is in force again; apply the undone one again if it was right",
    ),
    (
        "applied with --force, the lock-out guard was off",
        "applied with --force, the lock-out guard was off",
        "the policy may keep you from logging in again: try a second session before you end this one",
    ),
    (
        "auditing: {what}, and is counted and logged as audit; to enforce it, {how}",
        "auditing: what … would drop passes, and is counted and logged as audit",
        "to enforce it, take `audit` out of the rules, or apply without `--audit`, as the line says",
    ),
    (
        "{interface}: candidate {} ({}), {}",
        "candidate POLICY (DIGEST), evaluated …",
        "`sgctl counters --candidate` shows what it would decide otherwise; `sgctl promote` enforces it",
    ),
    (
        "under one policy, with one flow table",
        "eth0, eth1: under one policy, with one flow table",
        "they are changed together; `sgctl detach --iface IF` takes one out",
    ),
    (
        "nothing is attached",
        "nothing is attached",
        "`sgctl apply POLICY --iface IF` attaches one; as root, and with the `--bpffs` that was used, if any",
    ),
    (
        "is now in the network namespace",
        "IF is now in the network namespace PLACE",
        "enforcement moved with the interface; name it there with `--netns`",
    ),
];

/// Refusals whose words are put together from what was found, with a text of their kind.
const GUARDS: [(&str, &str, &str); 2] = [
    (
        "lock-out",
        "CONNECTION, through which you work, would be cut, or could not be opened again",
        "the message names the least that admits it: add that to the policy. `--confirm-within 60s` tries it and \
         undoes itself",
    ),
    (
        "guard",
        "the policy drops what its own `guard` names: RULE drops PACKET",
        "put a rule that accepts it before that one, or take out of `guard` what need not be reachable",
    ),
];

/// Refusals of the kernel or of the operating system, whose words are its own.
const OTHERS: [(&str, &str, &str); 3] = [
    (
        "not-permitted",
        "STEP: not permitted",
        "run it as root, or give the process the capabilities that the message names; in a container, have the \
         runtime give them",
    ),
    (
        "refused",
        "STEP: … (what the kernel says)",
        "the kernel's own message is in it; `sgctl status` says what is in force, and docs/kernels.md which kernels \
         have what",
    ),
    (
        "halfway",
        "…; both directions run generation N",
        "what failed comes first, with its remedy; the end of the line says what is in force now",
    ),
];

/// Fails where `status` does not say any more what is listed here.
pub(super) fn check_notes(code: &str) -> Result<()> {
    for (words, ..) in NOTES {
        // As they are spelled in the code, where a line may be broken.
        let plain = |text: &str| {
            text.replace("\\\n", "")
                .split_whitespace()
                .collect::<String>()
        };
        if !plain(code).contains(&plain(words)) {
            bail!(
                "`status` does not say \"{words}\" any more: mend NOTES in xtask/src/troubleshooting/page.rs"
            );
        }
    }
    Ok(())
}

pub(super) fn page(said: &Said) -> Result<String> {
    let without: Vec<String> = said
        .troubles
        .iter()
        .filter(|it| !it.has_remedy() && it.kind != Kind::Finding)
        .map(|it| format!("{}: {} has no remedy", it.place, it.code))
        .collect();
    if !without.is_empty() {
        bail!("{}", without.join("\n"));
    }
    let mut out = HEAD.to_owned();
    out.push_str(STATUS);
    let of = |kind: Kind| said.troubles.iter().filter(move |it| it.kind == kind);
    let faults = by_code(of(Kind::Fault));
    for (code, about) in &said.faults {
        let Some(troubles) = faults.get(code.as_str()) else {
            bail!("no fault is `{code}`");
        };
        let _ = writeln!(out, "### Fault `{code}`\n\n{about}\n");
        list(&mut out, troubles);
    }
    out.push_str(NOTES_HEAD);
    for (_, says, means) in NOTES {
        let _ = writeln!(out, "- {says}");
        let _ = writeln!(out, "  - {means}");
    }
    out.push_str("\n## Commands that are refused\n\n");
    out.push_str("Nothing has changed, unless the message says what is in force.\n\n");
    let mut refusals = by_code(of(Kind::Refusal));
    let mut known: Vec<&str> = refusals.keys().copied().collect();
    known.extend(GUARDS.iter().chain(&OTHERS).map(|(code, ..)| *code));
    known.sort_unstable();
    known.dedup();
    for code in known {
        let _ = writeln!(out, "### `{code}`\n");
        for (_, says, does) in GUARDS.iter().chain(&OTHERS).filter(|(it, ..)| *it == code) {
            let _ = writeln!(out, "- {says}\n  - {does}");
        }
        list(&mut out, &refusals.remove(code).unwrap_or_default());
    }
    out.push_str("## Policies that are not valid\n\n");
    out.push_str(
        "`check`, `apply`, `run`, `diff` and `explain` name every error with file, line and column. Nothing has \
         changed then.\n\n",
    );
    for (code, troubles) in by_code(of(Kind::Policy)) {
        let _ = writeln!(out, "### `{code}`\n");
        list(&mut out, &troubles);
    }
    out.push_str("## What `check` says of a valid policy\n\n");
    out.push_str(
        "A finding never keeps a policy from being applied. `check --strict` makes errors of warnings, `--deny CODE` of \
         one kind.\n\n",
    );
    let mut findings = by_code(of(Kind::Finding));
    for (code, about) in &said.lints {
        let _ = writeln!(out, "### `{code}`\n\n{about}\n");
        list(
            &mut out,
            &findings.remove(code.as_str()).unwrap_or_default(),
        );
    }
    Ok(out.trim_end().to_owned() + "\n")
}

fn by_code<'t>(troubles: impl Iterator<Item = &'t Trouble>) -> BTreeMap<&'t str, Vec<&'t Trouble>> {
    let mut found: BTreeMap<&str, Vec<&Trouble>> = BTreeMap::new();
    for trouble in troubles {
        found.entry(&trouble.code).or_default().push(trouble);
    }
    found
}

/// Each message with what is expected and the remedies below it. What is said in several places the
/// same way is listed once.
fn list(out: &mut String, troubles: &[&Trouble]) {
    let mut said: Vec<String> = Vec::new();
    for trouble in troubles {
        let mut text = String::new();
        let messages = match trouble.messages.is_empty() {
            true => vec!["…".to_owned()],
            false => trouble.messages.clone(),
        };
        for message in &messages {
            let _ = write!(text, "- {}", plain(message));
            if let [expected] = &trouble.expected[..] {
                let _ = write!(text, "; expected {}", plain(expected));
            }
            text.push('\n');
        }
        for help in &trouble.help {
            let _ = writeln!(text, "  - {}", plain(help));
        }
        if trouble.has_other_help {
            text.push_str("  - what the message itself proposes\n");
        }
        if !said.contains(&text) {
            out.push_str(&text);
            said.push(text);
        }
    }
    out.push('\n');
}

/// A text on one line, in which nothing but its backticks means anything to Markdown.
fn plain(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = String::new();
    let mut is_code = false;
    for c in line.chars() {
        match c {
            '`' => is_code = !is_code,
            '*' | '_' | '<' | '[' | ']' if !is_code => out.push('\\'),
            _ => {}
        }
        out.push(c);
    }
    out
}
