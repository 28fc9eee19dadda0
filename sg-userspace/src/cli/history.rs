//! `sgctl history`: the policy in force on each interface and those that it replaced, with who
//! applied them and how they ended.

use clap::Args;
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::observe::attached::found;
use sg_userspace::observe::history::{History as Row, Past};

use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::screen::Paint;
use super::table::{Column, Table};
use super::units::{ago, short_digest};
use super::words::in_netns;

/// The policy in force and the last five that it replaced
#[derive(Args)]
#[command(after_help = "\
Interfaces under one policy have one history. It is kept in the kernel, beside the policy in force,
and ends with `sgctl detach`. A policy that ended was `replaced` by another, `undone` because nobody
confirmed it in time, `rolled back` by hand, or its `run` ended. BY is the user who logged in, and the
user that sgctl ran as.

The texts of an attachment's policies take at most 16 MiB, compressed; an older policy that is too
large for what is left keeps its digest only (`no text`).

Examples:
  sgctl history --iface eth0
  sgctl show --iface eth0 --generation 3
  sgctl history --json | jq '.[].policies[] | select(.ended.how == \"undone\")'

Exit codes: 0 done, also where nothing is attached, 1 the named interface is not attached or a history
cannot be read, 2 usage, 3 not permitted.")]
pub(super) struct History {
    #[command(flatten)]
    ifaces: Ifaces,
    #[command(flatten)]
    json: Json,
}

impl History {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let found = found(&context.bpffs, &context.everywhere(&self.ifaces))?;
        let mut rows = Vec::new();
        // What is wrong on one interface does not hide the others.
        let mut wrong: Vec<Failure> = Vec::new();
        for one in &found {
            match one.history() {
                Ok(row) => rows.push((&one.pins, row)),
                Err(error) => wrong.push(error.into()),
            }
        }
        if self.json.json {
            let rows: Vec<&Row> = rows.iter().map(|(_, row)| row).collect();
            context.out.json(&rows)?;
        } else if !rows.is_empty() || wrong.is_empty() {
            context.out.say(&text(context, &rows))?;
        }
        let last = wrong.pop();
        for failure in wrong {
            failure.report(&context.err);
        }
        last.map_or(Ok(()), Err)
    }
}

fn text(context: &Context, rows: &[(&InterfacePins, Row)]) -> String {
    let Some((first, _)) = rows.first() else {
        return "nothing is attached\n".to_owned();
    };
    let is_one = rows.iter().all(|(pins, _)| pins.shares_with(first));
    let mut said: Vec<&InterfacePins> = Vec::new();
    let mut out = String::new();
    for (pins, row) in rows {
        if said.iter().any(|other| other.shares_with(pins)) {
            continue;
        }
        said.push(pins);
        if !is_one || !row.shared_with.is_empty() {
            let blank = if out.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{blank}{}\n", title(context, row)));
        }
        out.push_str(&table(context, &row.policies));
    }
    out
}

/// `eth0, eth1 in node1`.
fn title(context: &Context, row: &Row) -> String {
    let mut names = vec![row.interface.as_str()];
    names.extend(row.shared_with.iter().map(String::as_str));
    let names = context.out.paint(Paint::Bold, names.join(", "));
    names + &in_netns(row.netns.as_deref())
}

fn table(context: &Context, policies: &[Past]) -> String {
    let columns = [
        Column::Number("GEN"),
        Column::Text("STATE"),
        Column::Text("APPLIED"),
        Column::SpareText("ENDED", 2),
        Column::Long("BY"),
        Column::Long("POLICY"),
        Column::Flexible("DIGEST"),
    ];
    let mut table = Table::new(&context.out, &columns);
    for policy in policies {
        let (state, paint) = match &policy.ended {
            None => ("in force", Paint::Green),
            Some(ended) => (ended.how.name(), Paint::Dim),
        };
        let ended = policy.ended.as_ref().and_then(|it| it.at.as_deref());
        let ended = ended.map(ago);
        let by = policy.by.as_ref().map(ToString::to_string);
        let digest = short_digest(&policy.digest);
        table.row(vec![
            (policy.generation.to_string(), Some(Paint::Bold)),
            (state.to_owned(), Some(paint)),
            (ago(&policy.applied_at), None),
            (ended.unwrap_or_else(|| "-".into()), None),
            (by.unwrap_or_else(|| "-".into()), None),
            match policy.audit {
                None => (policy.name.clone(), None),
                Some(_) => (format!("{}, auditing", policy.name), Some(Paint::Yellow)),
            },
            match policy.is_kept {
                true => (digest.to_owned(), Some(Paint::Dim)),
                false => (format!("{digest}, no text"), Some(Paint::Yellow)),
            },
        ]);
    }
    table.render()
}
