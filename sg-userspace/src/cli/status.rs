//! `sgctl status`: what is attached to which interface, in which mode, since when, and whether it
//! is enforcing. An interface with a damaged record has a row with the reason, and so has one where
//! a `run` that was killed has left something.

use clap::Args;
use serde::Serialize;
use sg_userspace::kernel::hold::HeldInterface;
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::kernel::state::PolicyRecord;
use sg_userspace::kernel::{Fault, NoRecord, interfaces, netns};
use sg_userspace::observe::attached::{Attached, other_layouts};
use sg_userspace::observe::candidate::{self, CandidateStatus};
use sg_userspace::observe::left::{Found, attached_or_left};
use sg_userspace::observe::status::{Health, Status as Row};

use super::candidate::{compared, evaluated};
use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::health::{auditing, word};
use super::placed::placed_in;
use super::probe::Probe;
use super::screen::Paint;
use super::table::{Column, Table};
use super::units::{ago, left, seconds_of, short_digest};

/// What is attached where, in which mode, since when, which policy
#[derive(Args)]
#[command(after_help = "\
Without --netns all network namespaces are shown; what was left behind, in this one and those with a name.

Health: `enforcing` means that in both directions the interface runs what the record names, with
nothing before it. `auditing` means the same, but that what the policy would drop passes, all of it
or some, and is counted and logged. Anything else is a fault, and is named with its remedy: `interrupted` (an apply was
cut short), `incomplete` (a direction has lost its program or a part of it), `preceded` (somebody
else's program comes first), `unprotected` (the interface was deleted and made again), `interface gone`,
`unverified` (it cannot be looked at from here), `undone` (the policy was not confirmed and there was
none before it), `damaged` (the record cannot be read), `left behind` (nothing is enforced, and a `sgctl
run --wait` that was killed has left filters that let everything pass).

With --ready or --live a line for each interface says whether it is, and why not: for the probes of a
container or a monitor. An interface is ready when it enforces the policy that the files are now, and that
one is confirmed; auditing counts as enforcing then. It is live when `sgctl run` is at work on it; what is
in force needs no `run`. Without --iface these are about the interfaces that a `run` looks after.

Examples:
  sgctl status
  sgctl --netns node1 status --json
  sgctl status --iface eth0 --ready /etc/sgctl/eth0.yaml
  sgctl status --live

Exit codes: 0 all that is listed is enforcing (also where nothing is), or is ready or live if that was
asked, 1 something is not, be it that it is auditing, 2 usage, 3 not permitted.")]
pub(super) struct Status {
    #[command(flatten)]
    ifaces: Ifaces,
    #[command(flatten)]
    probe: Probe,
    #[command(flatten)]
    json: Json,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.probe.is_asked_for() {
            return self.probe.run(context, &self.ifaces.names, self.json.json);
        }
        let scope = context.everywhere(&self.ifaces);
        let Found {
            attached,
            left,
            unknown,
        } = attached_or_left(&context.bpffs, &scope)?;
        let others = other_layouts(&context.bpffs, &scope)?;
        let mut all = Vec::new();
        for one in attached {
            let row = match &one.state {
                Ok(_) => Ok(one.status()?),
                Err(why) => Err(why.clone()),
            };
            // What is wrong with counters is said by `counters`.
            let candidate = candidate::status(&one).ok().flatten();
            all.push((one, row, candidate));
        }
        all.sort_by_cached_key(|(one, row, _)| by_place(one, name_and_place(one, row).1));
        let (found, rows, candidates): (Vec<_>, Vec<_>, Vec<_>) = all.into_iter().collect();
        let is_enforcing =
            |row: &MaybeRow| row.as_ref().is_ok_and(|r| r.health == Health::Enforcing);
        let is_readable = others.is_empty() && unknown.is_empty();
        let is_wrong = !is_readable || !left.is_empty() || !rows.iter().all(is_enforcing);
        if self.json.json {
            let rows = found.iter().zip(rows).zip(candidates);
            let rows = rows.map(json_row);
            let rows: Vec<JsonRow> = rows.chain(left.iter().map(json_row_of_left)).collect();
            context.out.json(&rows)?;
        } else if !found.is_empty() || !left.is_empty() || is_readable {
            context
                .out
                .say(&text(context, &found, &rows, &candidates, &left))?;
        }
        for error in found
            .iter()
            .filter_map(|one| one.state().err())
            .chain(left.iter().map(HeldInterface::error))
            .chain(unknown)
            .chain(others)
        {
            Failure::from(error).report(&context.err);
        }
        match is_wrong {
            false => Ok(()),
            true => Err(Failure::Told(1)),
        }
    }
}

/// A row, or why an interface has none: its record cannot be read.
type MaybeRow = Result<Row, NoRecord>;

/// A row of `status --json`.
#[derive(Serialize)]
#[serde(untagged)]
enum JsonRow {
    Readable(Box<Readable>),
    Damaged(Damaged),
    Left(LeftBehind),
}

/// What is known about an interface, and about the candidate beside its policy. That is left out if
/// there is none.
#[derive(Serialize)]
struct Readable {
    #[serde(flatten)]
    row: Row,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<CandidateStatus>,
}

/// What is known about an interface whose record cannot be read.
#[derive(Serialize)]
struct Damaged {
    interface: Option<String>,
    ifindex: u32,
    netns_cookie: u64,
    health: Health,
    reason: String,
    pins: String,
}

/// An interface where nothing is enforced, and what a `run` has left lets everything pass.
#[derive(Serialize)]
struct LeftBehind {
    interface: String,
    ifindex: u32,
    netns: Option<String>,
    netns_cookie: u64,
    health: &'static str,
    reason: String,
}

fn json_row_of_left(left: &HeldInterface) -> JsonRow {
    JsonRow::Left(LeftBehind {
        interface: left.interface.clone(),
        ifindex: left.ifindex,
        netns: left.netns.clone(),
        netns_cookie: left.netns_cookie,
        health: "left-behind",
        reason: left.error().to_string(),
    })
}

fn json_row(((one, row), candidate): ((&Attached, MaybeRow), Option<CandidateStatus>)) -> JsonRow {
    match row {
        Ok(row) => JsonRow::Readable(Box::new(Readable { row, candidate })),
        Err(why) => JsonRow::Damaged(Damaged {
            interface: interface_here(one),
            ifindex: one.pins.ifindex,
            netns_cookie: one.pins.netns_cookie,
            health: Health::from(why.fault().code),
            reason: why.reason().to_owned(),
            pins: one.pins.dir.display().to_string(),
        }),
    }
}

/// To how many characters names are shortened before columns are left out.
const READABLE: usize = 12;

/// The table of all interfaces, and the notes below it.
fn text(
    context: &Context,
    found: &[Attached],
    rows: &[MaybeRow],
    candidates: &[Option<CandidateStatus>],
    left: &[HeldInterface],
) -> String {
    let screen = &context.out;
    if found.is_empty() && left.is_empty() {
        return "nothing is attached\n".to_owned();
    }
    let columns = [
        Column::Text("INTERFACE"),
        Column::Long("NETNS"),
        Column::Text("HEALTH"),
        Column::SpareText("XDP", 2),
        Column::SpareText("EGRESS", 2),
        Column::SpareText("SINCE", 3),
        Column::Long("POLICY"),
        Column::Flexible("DIGEST"),
        Column::Spare("GEN", 1),
        Column::Flexible("APPLIED"),
    ];
    let mut table = Table::new(screen, &columns);
    // A long name gives way to what is known of the interface.
    table.shorten_to(READABLE);
    let mut notes = shared(rows);
    for ((one, row), candidate) in found.iter().zip(rows).zip(candidates) {
        let (name, place) = name_and_place(one, row);
        let mut cells = vec![
            (name, Some(Paint::Bold)),
            (place.unwrap_or_else(|| "-".into()), None),
        ];
        match row {
            Ok(row) => {
                notes.push_str(&notes_of(row, candidate.as_ref()));
                cells.extend(rest_of(row));
            }
            Err(why) => {
                let (health, paint) = word(Health::from(why.fault().code));
                cells.push((health.to_owned(), Some(paint)));
                cells.resize(columns.len(), ("-".to_owned(), Some(Paint::Dim)));
            }
        }
        table.row(cells);
    }
    for one in left {
        let place = one.netns.clone().unwrap_or_else(|| "-".into());
        let mut cells = vec![
            (one.interface.clone(), Some(Paint::Bold)),
            (place, None),
            ("left behind".to_owned(), Some(Paint::Red)),
        ];
        cells.resize(columns.len(), ("-".to_owned(), Some(Paint::Dim)));
        table.row(cells);
    }
    table.render() + &notes
}

/// The lines below the table that are about one interface.
fn notes_of(row: &Row, candidate: Option<&CandidateStatus>) -> String {
    let name = &row.interface;
    let mut notes = trial(row);
    for Fault { message, help, .. } in &row.faults {
        notes.push_str(&format!("{name}: {message}; {help}\n"));
    }
    if row.forced {
        notes.push_str(&format!(
            "{name}: applied with --force, the lock-out guard was off\n"
        ));
    }
    let auditing = auditing(row.policy.audit, row.audited_rules);
    notes.extend(auditing.map(|what| format!("{name}: {what}\n")));
    notes.extend(candidate.map(|candidate| beside(name, candidate)));
    let elsewhere = row.netns.as_deref().filter(|_| !is_row_here(row));
    placed_in(&notes, elsewhere).into_owned()
}

/// The lines about a policy that waits to be confirmed, or has waited.
fn trial(row: &Row) -> String {
    let name = &row.interface;
    if let Some(waits) = &row.unconfirmed {
        let left = left(waits.seconds_left);
        let returns = match &waits.returns_to {
            Some(before) => format!(
                "{}, generation {}, comes back",
                before.name, before.generation
            ),
            None => "nothing is in force".to_owned(),
        };
        return format!(
            "{name}: unconfirmed, {left} left until {}\n  then {returns}; `sgctl confirm` keeps it\n",
            seconds_of(&waits.until)
        );
    }
    let Some(decided) = &row.decided else {
        return String::new();
    };
    let PolicyRecord {
        name: policy,
        generation,
        ..
    } = &decided.policy;
    match decided.confirmed {
        true => format!("{name}: {policy}, generation {generation}, is confirmed\n"),
        // Otherwise a fault says so.
        false if row.health != Health::Undone => format!(
            "{name}: {policy}, generation {generation}, was not confirmed and is undone\n  {}, generation {}, is in \
             force again\n",
            row.policy.name, row.policy.generation
        ),
        false => String::new(),
    }
}

/// What the candidate beside a policy would have decided otherwise.
fn beside(interface: &str, candidate: &CandidateStatus) -> String {
    format!(
        "{interface}: candidate {} ({}), {}\n  {}; `sgctl counters --candidate`\n",
        candidate.name,
        short_digest(&candidate.digest),
        evaluated(&candidate.since),
        compared(candidate.packets, candidate.evaluated)
    )
}

/// A line such as `eth0, eth1: one policy, one flow table` for each attachment with several
/// interfaces.
fn shared(rows: &[MaybeRow]) -> String {
    let mut said: Vec<&str> = Vec::new();
    let mut out = String::new();
    for row in rows
        .iter()
        .flatten()
        .filter(|row| !row.shared_with.is_empty())
    {
        // Its others have the same pins above their own.
        let Some((attachment, _)) = row.pins.rsplit_once('/') else {
            continue;
        };
        if said.contains(&attachment) {
            continue;
        }
        said.push(attachment);
        let mut names = vec![row.interface.as_str()];
        names.extend(row.shared_with.iter().map(String::as_str));
        out.push_str(&format!(
            "{}: under one policy, with one flow table\n",
            names.join(", ")
        ));
    }
    out
}

/// The cells behind name and place.
fn rest_of(row: &Row) -> Vec<(String, Option<Paint>)> {
    let (health, paint) = word(row.health);
    vec![
        (health.to_owned(), Some(paint)),
        (row.xdp_mode.name().to_owned(), None),
        (row.egress_hook.name().to_owned(), None),
        (ago(&row.attached_at), None),
        (row.policy.name.clone(), None),
        (
            short_digest(&row.policy.digest).to_owned(),
            Some(Paint::Dim),
        ),
        (row.policy.generation.to_string(), None),
        (ago(&row.policy.applied_at), None),
    ]
}

fn is_row_here(row: &Row) -> bool {
    netns::cookie().is_ok_and(|cookie| cookie == row.netns_cookie)
}

/// The name of the namespace that the interface of a row is in now, unless it is the current one.
fn place_of_row(row: &Row) -> Option<String> {
    let unnamed = (!is_row_here(row)).then(|| format!("cookie {}", row.netns_cookie));
    row.netns.clone().or(unnamed)
}

/// The name and namespace of an interface, by its row if its record can be read.
fn name_and_place(one: &Attached, row: &MaybeRow) -> (String, Option<String>) {
    match row {
        Ok(row) => (row.interface.clone(), place_of_row(row)),
        Err(_) => {
            let cookie = || format!("cookie {}", one.pins.netns_cookie);
            (one.name_or_index(), (!is_here(one)).then(cookie))
        }
    }
}

/// The current name and namespace of the interface.
pub(super) fn whereabouts(one: &Attached) -> (String, Option<String>) {
    let condition = one.condition_if_known();
    let elsewhere = condition.elsewhere();
    (condition.interface, condition.netns.or(elsewhere))
}

/// Orders interfaces by the name of their namespace: the number that the kernel gives one says
/// nothing to people.
pub(super) fn by_place(one: &Attached, place: Option<String>) -> (Option<String>, InterfacePins) {
    (place, one.pins.clone())
}

fn is_here(one: &Attached) -> bool {
    netns::cookie().is_ok_and(|cookie| cookie == one.pins.netns_cookie)
}

fn interface_here(one: &Attached) -> Option<String> {
    interfaces::name_of(one.pins.ifindex).filter(|_| is_here(one))
}
