//! `sgctl flows`: the flow table, the most recently seen flows first. On a terminal the list has a
//! limit by default, because a table may hold many thousands.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use clap::Args;
use serde::Serialize;
use sg_policy::policy::titled;
use sg_userspace::kernel::Fault;
use sg_userspace::kernel::flow_tables::{FlowTableUse, table_use};
use sg_userspace::observe::attached::{Attached, Condition, Health};
use sg_userspace::observe::flows::{Flow, flows};

use super::context::{Context, Ifaces, Json};
use super::counters::find;
use super::failure::Failure;
use super::health;
use super::screen::{Paint, Screen};
use super::table::{Column, Table};
use super::units::{span, thousands};

const SHOWN: usize = 100;

/// The flow table: flows that the policy admitted and whose replies need it
#[derive(Args)]
#[command(after_help = "\
A flow has no entry when the rules of the other direction accept its replies anyway. Half-open flows
(TCP until the handshake is complete, others until they are still answered after two seconds, pings)
live apart from established ones. Where there is no room a flow that has expired goes first, then
one that is closing, then the one seen least recently, and is counted. `tcp-cut` is a connection that
was revoked, flushed or cut: its segments are dropped until a new one is opened that the rules accept.
OPENED is `unknown` of a connection whose beginning nobody has seen.

Examples:
  sgctl flows
  sgctl flows --iface eth0 --limit 0 --json

Exit codes: 0 done, 1 nothing is attached or the state is wrong, 2 usage, 3 not permitted.")]
pub(super) struct Flows {
    #[command(flatten)]
    ifaces: Ifaces,
    /// The most flows to print, 0 for all; 100 unless --json is given
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Listed {
    interface: String,
    netns: Option<String>,
    /// Whether the policy is in force on the interface, with its faults, as in `status`.
    health: Health,
    faults: Vec<Fault>,
    #[serde(skip)]
    elsewhere: Option<String>,
    /// The other interfaces that share this table. Left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shared_with: Vec<String>,
    /// The number of flows in the table, whatever the limit.
    total: usize,
    tables: Tables,
    flows: Vec<Flow>,
}

/// The use of the tables since the interface was first attached.
#[derive(Serialize)]
struct Tables {
    half_open: FlowTableUse,
    established: FlowTableUse,
}

impl Flows {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let found = find(context, &self.ifaces)?;
        let limit = match (self.limit, self.json.json) {
            (Some(0), _) | (None, true) => usize::MAX,
            (Some(n), _) => n,
            (None, false) => SHOWN,
        };
        let mut listed = Vec::new();
        for (i, one) in found.iter().enumerate() {
            // Interfaces of one attachment share a table, which is shown once.
            if !found[..i]
                .iter()
                .any(|before| before.pins.shares_with(&one.pins))
            {
                listed.push(list(one, limit)?);
            }
        }
        if !self.json.json {
            return context.out.say(&text(&context.out, &listed));
        }
        context.out.json(&listed)
    }
}

fn list(one: &Attached, limit: usize) -> Result<Listed, Failure> {
    let mut all = flows(one)?;
    let total = all.len();
    all.truncate(limit);
    let [half_open, established] = table_use(&one.pins)?;
    let condition = one.condition_if_known()?;
    let elsewhere = condition.elsewhere();
    let Condition {
        interface,
        netns,
        health,
        faults,
        ..
    } = condition;
    Ok(Listed {
        interface,
        netns,
        health,
        faults,
        elsewhere,
        shared_with: one.shared_with(),
        total,
        tables: Tables {
            half_open,
            established,
        },
        flows: all,
    })
}

fn text(screen: &Screen, listed: &[Listed]) -> String {
    let mut out = String::new();
    for (i, one) in listed.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let mut names = vec![one.interface.as_str()];
        names.extend(one.shared_with.iter().map(String::as_str));
        let _ = writeln!(
            out,
            "{}  {}{}",
            screen.paint(Paint::Bold, names.join(", ")),
            super::units::count(one.total, "flow"),
            evicted(&one.tables)
        );
        out.push_str(&health::warnings(
            screen,
            &one.interface,
            one.health,
            &one.faults,
            one.elsewhere.as_deref(),
        ));
        if one.flows.is_empty() {
            continue;
        }
        let columns = [
            Column::Text("PROTO"),
            Column::Text("LOCAL"),
            Column::Text("REMOTE"),
            Column::SpareText("OPENED", 2),
            Column::Text("STATE"),
            Column::Spare("AGE", 1),
            Column::Number("IDLE"),
            Column::Flexible("RULE"),
        ];
        let mut table = Table::new(screen, &columns);
        for flow in &one.flows {
            table.row(cells(flow));
        }
        match table.fits() {
            true => out.push_str(&table.render()),
            false => one
                .flows
                .iter()
                .for_each(|flow| block(screen, &mut out, flow)),
        }
        if let more @ 1.. = one.total - one.flows.len() {
            let _ = writeln!(
                out,
                "and {} more; --limit 0 prints all",
                thousands(more as u64)
            );
        }
    }
    out
}

/// Says so if flows were evicted, since the tables are too small then.
fn evicted(tables: &Tables) -> String {
    let (half_open, established) = (tables.half_open.evicted, tables.established.evicted);
    if half_open + established == 0 {
        return String::new();
    }
    format!(
        ", and so far {} established and {} half-open evicted by a full table",
        thousands(established),
        thousands(half_open)
    )
}

/// The rule that admitted the flow, with its position.
fn rule_of(flow: &Flow) -> String {
    let rule = flow.rule.as_ref().map(|rule| {
        let title = titled(rule.name.as_deref(), &rule.summary);
        match rule.position {
            Some(position) => format!("{position}  {title}"),
            // The same word as in `counters`.
            None => format!("gone  {title}"),
        }
    });
    let rule = match flow.is_seeded {
        true => Some("was there before the first policy".to_owned()),
        false => rule,
    };
    rule.unwrap_or_else(|| "-".into())
}

/// A flow on several lines, for a terminal that is too narrow for a row.
fn block(screen: &Screen, out: &mut String, flow: &Flow) {
    let _ = writeln!(
        out,
        "{} {}\n  with {}",
        protocol_name(flow.protocol),
        endpoint(flow.local, flow.local_port, flow.icmp_id),
        endpoint(flow.remote, flow.remote_port, None),
    );
    let line = format!(
        "  opened {}, {}, age {}, idle {}, rule {}",
        flow.opened.name(),
        flow.state.name(),
        span(flow.age_seconds),
        span(flow.idle_seconds),
        rule_of(flow)
    );
    let _ = writeln!(out, "{}", screen.paint(Paint::Dim, line));
}

fn cells(flow: &Flow) -> Vec<(String, Option<Paint>)> {
    vec![
        (protocol_name(flow.protocol), None),
        (endpoint(flow.local, flow.local_port, flow.icmp_id), None),
        (endpoint(flow.remote, flow.remote_port, None), None),
        (flow.opened.name().to_owned(), None),
        (flow.state.name().to_owned(), None),
        (span(flow.age_seconds), None),
        (span(flow.idle_seconds), None),
        (rule_of(flow), Some(Paint::Dim)),
    ]
}

fn endpoint(address: IpAddr, port: Option<u16>, icmp_id: Option<u16>) -> String {
    match (port, icmp_id) {
        (Some(port), _) => SocketAddr::new(address, port).to_string(),
        (None, Some(id)) => format!("{address} id {id}"),
        (None, None) => address.to_string(),
    }
}

fn protocol_name(number: u8) -> String {
    let name = match number {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "icmpv6",
        132 => "sctp",
        other => return other.to_string(),
    };
    name.to_owned()
}
