//! `sgctl status`: what is attached where, in which mode, since when, and whether it is enforcing.
//! An interface whose record is damaged has its row too, with the reason.

use clap::Args;
use serde::Serialize;
use sg_userspace::kernel::{interfaces, netns};
use sg_userspace::observe::attached::{Attached, Health, Status as Row, attached, other_layouts};

use super::failure::Failure;
use super::screen::Paint;
use super::table::{Column, Table};
use super::units::{ago, short_digest};
use super::{Context, Json};

/// What is attached where, in which mode, since when, which policy
#[derive(Args)]
#[command(after_help = "\
Without --netns all network namespaces are shown.

Health: `enforcing` is as it should be; `interrupted` means that an apply was cut short (apply
again); `incomplete` means that a direction has lost programs, and passes packets unjudged or drops
them (apply again); `interface gone` is what is left of a deleted interface (detach removes it);
`damaged` means that the record cannot be read (detach, then apply).

Examples:
  sgctl status
  sgctl --netns node1 status --json

Exit codes: 0 done (nothing is attached included), 1 a record is damaged, 2 usage, 3 not permitted.")]
pub(super) struct Status {
    /// Only this interface
    #[arg(long, value_name = "IF")]
    iface: Option<String>,
    #[command(flatten)]
    json: Json,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let scope = context.everywhere(self.iface.as_ref());
        let found = attached(&context.bpffs, &scope)?;
        let others = other_layouts(&context.bpffs, &scope)?;
        let is_wrong = !others.is_empty() || found.iter().any(|one| one.state.is_err());
        if self.json.json {
            let rows = found.iter().map(json_row).collect::<Result<Vec<_>, _>>()?;
            context.out.json(&rows)?;
        } else if !found.is_empty() || others.is_empty() {
            context.out.print(&text(context, &found)?)?;
        }
        for error in found
            .iter()
            .filter_map(|one| one.state().err())
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

/// A row of `status --json`.
#[derive(Serialize)]
#[serde(untagged)]
enum JsonRow {
    Readable(Box<Row>),
    Damaged(Damaged),
}

/// What is known of an interface whose record cannot be read.
#[derive(Serialize)]
struct Damaged {
    interface: Option<String>,
    ifindex: u32,
    netns_cookie: u64,
    health: &'static str,
    reason: String,
    pins: String,
}

fn json_row(one: &Attached) -> Result<JsonRow, Failure> {
    match &one.state {
        Ok(_) => Ok(JsonRow::Readable(Box::new(one.status()?))),
        Err(reason) => Ok(JsonRow::Damaged(Damaged {
            interface: interface_here(one),
            ifindex: one.pins.ifindex,
            netns_cookie: one.pins.netns_cookie,
            health: "damaged",
            reason: reason.clone(),
            pins: one.pins.dir.display().to_string(),
        })),
    }
}

fn text(context: &Context, found: &[Attached]) -> Result<String, Failure> {
    let screen = &context.out;
    if found.is_empty() {
        return Ok("nothing is attached\n".to_owned());
    }
    let columns = [
        Column::Text("INTERFACE"),
        Column::Text("NETNS"),
        Column::Text("HEALTH"),
        Column::Text("XDP"),
        Column::Text("EGRESS"),
        Column::Text("SINCE"),
        Column::Text("POLICY"),
        Column::Flexible("DIGEST"),
        Column::Number("GEN"),
        Column::Flexible("APPLIED"),
    ];
    let mut table = Table::new(screen, &columns);
    let mut notes = String::new();
    for one in found {
        let mut cells = vec![
            (name_of(one), Some(Paint::Bold)),
            (place_of(one).unwrap_or_else(|| "-".into()), None),
        ];
        match &one.state {
            Ok(_) => {
                let row = one.status()?;
                if let Some(remedy) = remedy(row.health) {
                    notes.push_str(&format!("{}: {remedy}\n", name_of(one)));
                }
                cells.extend(rest_of(&row));
            }
            Err(_) => {
                cells.push(("damaged".to_owned(), Some(Paint::Red)));
                cells.resize(columns.len(), ("-".to_owned(), Some(Paint::Dim)));
            }
        }
        table.row(cells);
    }
    Ok(table.render() + &notes)
}

/// What is wrong, and what to do about it.
fn remedy(health: Health) -> Option<&'static str> {
    match health {
        Health::Enforcing => None,
        Health::Interrupted => Some("an apply was cut short; apply again"),
        Health::Incomplete => Some(
            "a direction has lost programs: packets pass unjudged, or are dropped; apply again",
        ),
        Health::InterfaceGone => Some("the interface was deleted; `sgctl detach` removes the rest"),
    }
}

fn rest_of(row: &Row) -> Vec<(String, Option<Paint>)> {
    let (health, paint) = match row.health {
        Health::Enforcing => ("enforcing", Paint::Green),
        Health::Interrupted => ("interrupted", Paint::Yellow),
        Health::Incomplete => ("incomplete", Paint::Red),
        Health::InterfaceGone => ("interface gone", Paint::Red),
    };
    vec![
        (health.to_owned(), Some(paint)),
        (row.xdp_mode.clone(), None),
        (row.egress_hook.clone(), None),
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

/// The interface's name by its record, else by the kernel, else its index.
pub(super) fn name_of(one: &Attached) -> String {
    match &one.state {
        Ok(state) => state.interface.clone(),
        Err(_) => interface_here(one).unwrap_or_else(|| format!("#{}", one.pins.ifindex)),
    }
}

/// How its namespace is called, unless it is the current one.
pub(super) fn place_of(one: &Attached) -> Option<String> {
    if let Ok(state) = &one.state
        && let Some(name) = &state.netns
    {
        return Some(name.clone());
    }
    match is_here(one) {
        true => None,
        false => Some(format!("cookie {}", one.pins.netns_cookie)),
    }
}

fn is_here(one: &Attached) -> bool {
    netns::cookie().is_ok_and(|cookie| cookie == one.pins.netns_cookie)
}

fn interface_here(one: &Attached) -> Option<String> {
    interfaces::name_of(one.pins.ifindex).filter(|_| is_here(one))
}
