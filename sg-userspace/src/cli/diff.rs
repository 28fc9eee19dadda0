//! `sgctl diff`: the traffic that two policies decide differently, and the settings that differ.
//! Attaches nothing, and needs no privilege but to read what is in force.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use sg_common::verdict::{Action, Direction};
use sg_policy::analysis::{
    self, Change, Diff as Found, Logging, Row, Service, Setting, prefixes_of,
};
use sg_policy::policy::{Policy, PolicyInput, Witness, load};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::explain::ExplainedRule;

use super::context::{Context, Json};
use super::failure::Failure;
use super::patience::Patience;
use super::policy_args::Sets;
use super::screen::{Paint, Screen, wrapped};
use super::units::{clean, count, short_digest, thousands};

/// The most rows that are printed for people; the others are counted.
const PRINTED: usize = 40;
/// How wide the text is where there is no terminal.
const WIDTH: usize = 80;
/// The most prefixes of a row that are printed for people.
const PREFIXES: usize = 4;

/// Say which traffic two policies decide differently; attaches nothing
#[derive(Args)]
#[command(
    override_usage = "sgctl diff [OPTIONS] OLD NEW\n       \
                      sgctl diff [OPTIONS] --iface IF NEW",
    after_help = "\
OLD and NEW are files, `-` for standard input, or builtin:NAME. With --iface the policy in force
there takes the place of OLD, or with --generation an earlier one (see `sgctl history`).

Each row is traffic that one rule decided and another decides, with another verdict: its protocols
and ports, the addresses at the other end, both rules, and a packet out of it that `sgctl explain`
confirms with either policy. Where another rule decides and the verdict is the same there is no row.
What is said for the whole policy, such as `essential` or `timeouts`, is listed below the rows. The
place of a rule in a policy that was applied, such as `generation 2:10`, is a line of the file that
`sgctl show --generation 2 --output DIR` writes.

Examples:
  sgctl diff builtin:tke policy.yaml
  sgctl diff --iface eth0 policy.yaml
  sgctl diff old.yaml new.yaml --set admin=198.51.100.7
  git show HEAD:policy.yaml | sgctl diff - policy.yaml --json

Exit codes: 0 the same, 1 they differ, or a policy or the state is wrong, 2 usage, 3 not permitted."
)]
pub(super) struct Diff {
    /// The policy that is, and the policy that is to be
    #[arg(value_name = "POLICY", required = true, num_args = 1..=2, hide = true)]
    policies: Vec<PolicyInput>,
    /// Compare the policy in force on this interface
    #[arg(long = "iface", value_name = "IF")]
    iface: Option<String>,
    /// Compare an earlier policy of the interface, by its number in `sgctl history`
    #[arg(long, value_name = "N", requires = "iface")]
    generation: Option<u32>,
    #[command(flatten)]
    sets: Sets,
    #[command(flatten)]
    json: Json,
}

/// `diff --json`.
#[derive(Serialize)]
struct Report<'a> {
    old: Side<'a>,
    new: Side<'a>,
    /// Whether both do the same to every packet, log the same, and have the same settings.
    same: bool,
    /// What the rules do, taken together. Null if no verdict differs.
    change: Option<Change>,
    rows: Vec<ShownRow>,
    settings: &'a [Setting],
    logging: Vec<ShownLogging>,
    /// How many other pairs of rules there are that decide packets alike.
    another_rule: usize,
}

/// A policy that is compared.
#[derive(Serialize)]
struct Side<'a> {
    /// Where it is or was in force. Null for a policy that is read.
    interface: Option<&'a str>,
    generation: Option<u32>,
    name: &'a str,
    digest: &'a str,
}

/// The policy that is, and where it is in force.
struct Old {
    policy: Policy,
    interface: Option<String>,
    generation: Option<u32>,
}

#[derive(Serialize)]
struct ShownRow {
    direction: Direction,
    services: Vec<Service>,
    prefixes: Vec<String>,
    change: Change,
    old: Decided,
    new: Decided,
    witness: Witness,
    /// The witness as the last words of an `explain`.
    explain: String,
}

/// What a policy does to the traffic of a row.
#[derive(Serialize)]
struct Decided {
    action: Action,
    /// Null if no rule matches.
    rule: Option<Shown>,
}

#[derive(Serialize)]
struct Shown {
    direction: Direction,
    #[serde(flatten)]
    rule: ExplainedRule,
}

#[derive(Serialize)]
struct ShownLogging {
    direction: Direction,
    /// Whether the new policy logs what the old one did not; else it is the other way round.
    logs: bool,
    old: Decided,
    new: Decided,
}

impl Decided {
    fn of(policy: &Policy, rule: Option<u32>) -> Decided {
        let rule = rule.and_then(|rule| policy.rules.get(rule as usize));
        Decided {
            action: rule.map_or(Action::Drop, |rule| rule.action),
            rule: rule.map(|rule| Shown {
                direction: rule.direction,
                rule: ExplainedRule::of(rule),
            }),
        }
    }

    /// ``drop, by rule 3 of web: tcp 22 from 10.0.0.0/8 (new.yaml:7)``
    fn text(&self, screen: &Screen) -> String {
        let action = screen.action(self.action);
        let Some(Shown { rule, .. }) = &self.rule else {
            return format!("{action}, since no rule matches");
        };
        let place = match &rule.location {
            Some(place) => format!(" ({}:{})", place.file, place.line),
            None => String::new(),
        };
        let title = sg_policy::policy::titled(rule.name.as_deref(), &rule.summary);
        format!(
            "{action} by rule {} of {}: {}{}",
            rule.position,
            clean(&rule.group),
            clean(&title),
            screen.paint(Paint::Dim, clean(&place)),
        )
    }
}

impl Diff {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let patience = Patience::with("comparing the policies");
        let usage = |message: String| Failure::usage::<Diff>("diff", message);
        let read = |input: &PolicyInput| load(std::slice::from_ref(input), &self.sets.sets);
        let (old, new) = match (&self.iface, &self.policies[..]) {
            (None, [PolicyInput::Stdin, PolicyInput::Stdin]) => {
                let twice = "standard input is named twice, and can be read once";
                return Err(usage(twice.into()));
            }
            (None, [old, new]) => {
                let policy = read(old)?.policy;
                let old = Old {
                    policy,
                    interface: None,
                    generation: None,
                };
                (old, read(new)?.policy)
            }
            (None, _) => {
                let one = "one policy alone cannot be compared: name OLD and NEW, or an interface \
                           with --iface";
                return Err(usage(one.into()));
            }
            (Some(iface), [new]) => {
                let new = read(new)?.policy;
                (self.in_force(context, iface)?, new)
            }
            (Some(_), _) => {
                let many = "with --iface the policy in force is OLD, and only NEW is named";
                return Err(usage(many.into()));
            }
        };
        let found = analysis::diff(&old.policy, &new);
        drop(patience);
        if self.json.json {
            context.out.json(&report(&old, &new, &found))?;
        } else {
            // Rows are read beside each other, so that they are wrapped in a file too.
            let width = context.out.width.unwrap_or(WIDTH);
            let text = text(&context.out, &old.policy, &new, &found);
            context
                .out
                .print(&wrapped(&context.out.plain(&text), width))?;
        }
        match found.is_same() {
            true => Ok(()),
            false => Err(Failure::Told(1)),
        }
    }
}

impl Diff {
    /// The policy that is in force on an interface, or was.
    fn in_force(&self, context: &Context, iface: &str) -> Result<Old, Failure> {
        let found = attached(&context.bpffs, &Scope::Interfaces(vec![iface.to_owned()]))?;
        let mut policies = Vec::new();
        for one in &found {
            let (past, policy) = one.policy(self.generation)?;
            let interface = one.history()?.interface;
            policies.push((interface, past.generation, policy));
        }
        let first = policies.first().map(|(_, _, policy)| policy.digest.clone());
        if policies
            .iter()
            .any(|(_, _, policy)| Some(&policy.digest) != first.as_ref())
        {
            let several = format!("`{iface}` matches interfaces with different policies: name one");
            return Err(Failure::usage::<Diff>("diff", several));
        }
        let Some((interface, generation, policy)) = policies.into_iter().next() else {
            let none = format!("no policy is attached to `{iface}`");
            return Err(Failure::usage::<Diff>("diff", none));
        };
        Ok(Old {
            policy,
            interface: Some(interface),
            generation: Some(generation),
        })
    }
}

fn report<'a>(from: &'a Old, new: &'a Policy, found: &'a Found) -> Report<'a> {
    let old = &from.policy;
    let side = |policy: &'a Policy| Side {
        interface: None,
        generation: None,
        name: &policy.name,
        digest: &policy.digest,
    };
    let row = |row: &Row| {
        let witness = Witness::from(&row.witness);
        ShownRow {
            direction: row.traffic.direction,
            services: row.traffic.services(),
            prefixes: prefixes_of(&row.traffic.remotes).collect(),
            change: row.change,
            old: Decided::of(old, row.old),
            new: Decided::of(new, row.new),
            explain: witness.to_string(),
            witness,
        }
    };
    let logging = |one: &Logging| ShownLogging {
        direction: one.direction,
        logs: one.logs,
        old: Decided::of(old, one.old),
        new: Decided::of(new, one.new),
    };
    Report {
        old: Side {
            interface: from.interface.as_deref(),
            generation: from.generation,
            ..side(old)
        },
        new: side(new),
        same: found.is_same(),
        change: found.change(),
        rows: found.rows.iter().map(row).collect(),
        settings: &found.settings,
        logging: found.logging.iter().map(logging).collect(),
        another_rule: found.another_rule,
    }
}

fn text(screen: &Screen, old: &Policy, new: &Policy, found: &Found) -> String {
    let head = |policy: &Policy| {
        format!(
            "{} {}",
            screen.paint(Paint::Bold, clean(&policy.name)),
            screen.paint(
                Paint::Dim,
                format!("sha256:{}", short_digest(&policy.digest))
            )
        )
    };
    let mut out = format!("{} → {}\n", head(old), head(new));
    let _ = writeln!(out, "  {}", change_text(screen, found));
    for row in found.rows.iter().take(PRINTED) {
        out.push_str(&row_text(screen, old, new, row));
    }
    if let Some(more @ 1..) = found.rows.len().checked_sub(PRINTED) {
        let more = thousands(more as u64);
        let _ = writeln!(out, "\nand {more} more rows: --json lists all");
    }
    let below = below(screen, old, new, found);
    if !below.is_empty() {
        let _ = writeln!(out, "\n{}", below.join("\n"));
    }
    out
}

/// What the change is, in all.
fn change_text(screen: &Screen, found: &Found) -> String {
    match found.change() {
        None if found.is_same() => screen.paint(Paint::Green, "the same for every packet"),
        None => "every packet has the same verdict".to_owned(),
        Some(Change::Widened) => format!(
            "{}: what was dropped passes, {}",
            screen.paint(Paint::Yellow, "widened"),
            count(found.rows.len(), "row")
        ),
        Some(Change::Narrowed) => format!(
            "{}: what passed is dropped, {}",
            screen.paint(Paint::Yellow, "narrowed"),
            count(found.rows.len(), "row")
        ),
        Some(Change::Both) => {
            let of = |change| found.rows.iter().filter(|row| row.change == change).count();
            format!(
                "{}: {} now passing, {} now dropped",
                screen.paint(Paint::Yellow, "widened and narrowed"),
                count(of(Change::Widened), "row"),
                count(of(Change::Narrowed), "row"),
            )
        }
    }
}

/// The lines below the rows: settings, what is logged, and what only another rule decides.
fn below(screen: &Screen, old: &Policy, new: &Policy, found: &Found) -> Vec<String> {
    let settings = found.settings.iter();
    let mut below: Vec<String> = settings
        .map(|one| format!("{}: {} → {}", one.setting, one.old, one.new))
        .collect();
    for (what, logs) in [("logged from now on", true), ("no longer logged", false)] {
        // A rule may be the other half of several pairs.
        let ones = found.logging.iter().filter(|one| one.logs == logs);
        let rules: BTreeSet<_> = ones
            .map(|one| (one.direction, if logs { one.new } else { one.old }))
            .collect();
        let policy = if logs { new } else { old };
        below.extend(rules.iter().take(PRINTED).map(|(direction, rule)| {
            let decided = Decided::of(policy, *rule);
            format!("{what}: {} {}", direction.name(), decided.text(screen))
        }));
        if let Some(more @ 1..) = rules.len().checked_sub(PRINTED) {
            below.push(format!("{what}: {} more rules", thousands(more as u64)));
        }
    }
    if found.another_rule > 0 {
        below.push(format!(
            "for other traffic another rule decides, with the same verdict: {}",
            count(found.another_rule, "pair") + " of rules"
        ));
    }
    below
}

fn row_text(screen: &Screen, old: &Policy, new: &Policy, row: &Row) -> String {
    let traffic = &row.traffic;
    let (word, paint) = match row.change {
        Change::Widened => ("passes ", Paint::Green),
        _ => ("dropped", Paint::Red),
    };
    let preposition = match traffic.direction {
        Direction::Inbound => "from",
        Direction::Outbound => "to",
    };
    format!(
        "\n{}  {} {} {preposition} {}\n    was {}\n    now {}\n    {}\n",
        screen.paint(paint, word),
        traffic.direction.name(),
        traffic.services_in_words(),
        traffic.remotes_in_words(PREFIXES),
        Decided::of(old, row.old).text(screen),
        Decided::of(new, row.new).text(screen),
        screen.paint(
            Paint::Dim,
            format!("such as {}", Witness::from(&row.witness))
        ),
    )
}
