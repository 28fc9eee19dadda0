//! `sgctl counters`: packets and bytes by rule and by reason, once or again and again.
//! The table that `run` shows while it is in the foreground is drawn here too.

use std::time::Duration;

use clap::Args;
use sg_userspace::kernel::KernelError;
use sg_userspace::observe::attached::{Attached, attached, other_layouts};
use sg_userspace::observe::counters::{Counters, RuleCounters, Totals, counters};
use sg_userspace::policy::titled;

use super::failure::Failure;
use super::rates::{Rate, Rates, Reading};
use super::screen::{Frame, Paint, Screen, paint_of};
use super::table::{Column, Table};
use super::units::{ago, bit_rate, bytes, clean, packet_rate, short_digest, thousands};
use super::{Context, Json};

/// Packets and bytes by rule and by reason
#[derive(Args)]
#[command(
    name = "counters",
    after_help = "\
Every packet that reached the interface is counted once: under the rule that decided it, as a reply
of a rule of the other direction, or under a reason. A total is the sum of those. Reasons that have
counted nothing are left out unless --all is given; JSON has all of them, and exact numbers: an array with\nan object for each interface; with --watch an object a line.

Examples:
  sgctl counters --iface eth0
  sgctl counters --watch 2
  sgctl counters --iface eth0 --json | jq '.[].totals'

Exit codes: 0 done, 1 nothing is attached or the state is wrong, 2 usage, 3 not permitted."
)]
pub(super) struct CountersCommand {
    /// Only this interface; else all of the network namespace
    #[arg(long, value_name = "IF")]
    iface: Option<String>,
    /// Print again every so many seconds (1 unless said otherwise), with rates
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = seconds
    )]
    watch: Option<Duration>,
    /// Show reasons that have counted nothing too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    json: Json,
}

/// An interval in seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let expected = "expected seconds from 0.1 to 86400, such as 1 or 0.5";
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(expected.to_owned()),
    }
}

impl CountersCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.watch {
            None => self.once(context),
            Some(interval) => self.watch(context, interval),
        }
    }

    fn once(&self, context: &Context) -> Result<(), Failure> {
        let all = read(context, self.iface.as_ref())?;
        if !self.json.json {
            return context.out.say(&text(&context.out, &all, None, self.all));
        }
        context.out.json(&all)
    }

    fn watch(&self, context: &Context, interval: Duration) -> Result<(), Failure> {
        let mut frame = Frame::new(context.out);
        let mut before = None;
        loop {
            let all = read(context, self.iface.as_ref())?;
            if self.json.json {
                for one in &all {
                    context.out.json_line(one)?;
                }
            } else {
                let rates = Rates::since(before.take());
                let mut out = text(&frame.screen(), &all, Some(&rates), self.all);
                before = Some(Reading::of(&all));
                if context.out.terminal {
                    frame.draw(&out)?;
                } else {
                    out.push('\n');
                    context.out.print(&out)?;
                }
            }
            std::thread::sleep(interval);
        }
    }
}

/// The attached interfaces that a reading command is about: at least one.
pub(super) fn find(context: &Context, iface: Option<&String>) -> Result<Vec<Attached>, Failure> {
    let scope = context.here(iface);
    let found = attached(&context.bpffs, &scope)?;
    if let Some(other) = other_layouts(&context.bpffs, &scope)?.into_iter().next() {
        return Err(other.into());
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(KernelError::NotAttached {
            scope: match &context.netns {
                None => "any interface of this network namespace".into(),
                Some(name) => format!("any interface of the network namespace `{name}`"),
            },
        }
        .into()),
    }
}

fn read(context: &Context, iface: Option<&String>) -> Result<Vec<Counters>, Failure> {
    let mut all = Vec::new();
    for one in find(context, iface)? {
        all.push(counters(&one)?);
    }
    Ok(all)
}

/// The tables of all interfaces; with rates when there are any.
pub(super) fn text(
    screen: &Screen,
    all: &[Counters],
    rates: Option<&Rates>,
    all_reasons: bool,
) -> String {
    let mut out = String::new();
    for (i, one) in all.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        out.push_str(&heading(screen, one));
        out.push_str(&table(screen, one, rates, all_reasons));
    }
    out
}

fn heading(screen: &Screen, one: &Counters) -> String {
    let policy = &one.policy;
    let place = one.netns.as_ref().map(|netns| format!(" in {netns}"));
    let place = clean(&place.unwrap_or_default());
    let (interface, name) = (clean(&one.interface), clean(&policy.name));
    let mut rest = format!(
        "sha256:{}, generation {}, applied {}",
        short_digest(&policy.digest),
        policy.generation,
        ago(&policy.applied_at)
    );
    let taken = format!("{interface}{place}  {name}  ").chars().count();
    // A line that wraps could not be drawn again in place.
    if let Some(width) = screen.width {
        rest = rest.chars().take(width.saturating_sub(taken)).collect();
    }
    format!(
        "{}{place}  {}  {}\n",
        screen.paint(Paint::Bold, interface),
        screen.paint(Paint::Bold, name),
        screen.paint(Paint::Dim, rest)
    )
}

/// What the rows of one interface are made with.
struct Rows<'a> {
    table: Table,
    rates: Option<&'a Rates>,
    has_groups: bool,
}

fn table(screen: &Screen, one: &Counters, rates: Option<&Rates>, all_reasons: bool) -> String {
    // One group needs no column to tell groups apart.
    let has_groups = one
        .rules
        .iter()
        .any(|rule| rule.position.is_some() && rule.group != one.rules[0].group);
    let mut columns = vec![
        Column::Text("DIR"),
        Column::Number("#"),
        Column::Text("ACTION"),
    ];
    if has_groups {
        columns.push(Column::Text("GROUP"));
    }
    columns.extend([Column::Long("MATCH"), Column::Flexible("DESCRIPTION")]);
    columns.push(Column::Number("PACKETS"));
    if rates.is_some() {
        columns.push(Column::Number("RATE"));
    }
    columns.push(Column::Spare("BYTES", 2));
    if rates.is_some() {
        columns.push(Column::Spare("RATE", 1));
    }
    columns.push(Column::Spare("REPLIES", 3));
    let mut rows = Rows {
        table: Table::new(screen, &columns),
        rates,
        has_groups,
    };
    for total in &one.totals {
        for rule in one.rules.iter().filter(|r| r.direction == total.direction) {
            rows.rule(one, rule);
        }
        for reason in one
            .reasons
            .iter()
            .filter(|r| r.direction == total.direction)
        {
            if all_reasons || reason.packets > 0 {
                let rate = rates.map(|rates| rates.of_reason(one, reason));
                rows.push(Row {
                    direction: reason.direction,
                    number: "-".into(),
                    action: reason.action,
                    group: "",
                    what: reason.reason.to_owned(),
                    description: about(reason.reason).to_owned(),
                    packets: reason.packets,
                    bytes: reason.bytes,
                    rate,
                    replies: None,
                });
            }
        }
        rows.total(one, total);
    }
    rows.table.render()
}

struct Row<'a> {
    direction: &'a str,
    number: String,
    action: &'a str,
    group: &'a str,
    what: String,
    description: String,
    packets: u64,
    bytes: u64,
    rate: Option<Rate>,
    replies: Option<u64>,
}

impl Rows<'_> {
    fn rule(&mut self, one: &Counters, rule: &RuleCounters) {
        let gone = match rule.position {
            None => "(no longer in the policy) ",
            Some(_) => "",
        };
        self.push(Row {
            direction: rule.direction,
            number: rule.position.map_or_else(|| "-".into(), |p| p.to_string()),
            action: rule.action,
            group: &rule.group,
            what: titled(rule.name.as_deref(), &rule.summary),
            description: format!("{gone}{}", rule.description.as_deref().unwrap_or_default()),
            packets: rule.packets,
            bytes: rule.bytes,
            rate: self.rates.map(|rates| rates.of_rule(one, rule)),
            replies: Some(rule.reply_packets),
        });
    }

    fn total(&mut self, one: &Counters, total: &Totals) {
        let description = format!(
            "{} accepted, {} dropped",
            thousands(total.accepted),
            thousands(total.dropped)
        );
        let rate = self.rates.map(|rates| rates.of_total(one, total));
        let bold = Some(Paint::Bold);
        let mut cells = vec![(total.direction.to_owned(), bold), (String::new(), None)];
        cells.push(("total".to_owned(), bold));
        if self.has_groups {
            cells.push((String::new(), None));
        }
        // In a column that keeps it whole, for this is what is looked for first.
        self.table.keep(&description);
        cells.push((description, bold));
        cells.push((String::new(), None));
        cells.push((thousands(total.packets), bold));
        cells.extend(rate.map(|rate| (steady_packets(rate), bold)));
        cells.push((bytes(total.bytes), bold));
        cells.extend(rate.map(|rate| (steady_bits(rate), bold)));
        cells.push((String::new(), None));
        self.table.row(cells);
    }

    fn push(&mut self, row: Row<'_>) {
        let idle = row.packets == 0 && row.replies.unwrap_or(0) == 0;
        let plain = idle.then_some(Paint::Dim);
        let action = if idle {
            Paint::Dim
        } else {
            paint_of(row.action)
        };
        let mut cells = vec![
            (row.direction.to_owned(), plain),
            (row.number, plain),
            (row.action.to_owned(), Some(action)),
        ];
        if self.has_groups {
            cells.push((row.group.to_owned(), plain));
        }
        cells.push((row.what, plain));
        cells.push((row.description, Some(Paint::Dim)));
        cells.push((thousands(row.packets), plain));
        cells.extend(row.rate.map(|rate| (steady_packets(rate), plain)));
        cells.push((bytes(row.bytes), plain));
        cells.extend(row.rate.map(|rate| (steady_bits(rate), plain)));
        cells.push((row.replies.map(thousands).unwrap_or_default(), plain));
        self.table.row(cells);
    }
}

/// As wide as rates get, so that columns stand still while numbers change.
fn steady_packets(rate: Rate) -> String {
    format!("{:>8}", packet_rate(rate.packets))
}

fn steady_bits(rate: Rate) -> String {
    format!("{:>11}", bit_rate(rate.bytes))
}

/// What a reason means.
pub(super) fn about(reason: &str) -> &'static str {
    match reason {
        "non-ip" => "neither IPv4 nor IPv6: ARP and the like",
        "essential" => "neighbour discovery, MLD, IGMP, DHCP replies",
        "related" => "ICMP errors about admitted traffic",
        "seeded" => "flows from before the first attachment",
        "no-match" => "no rule matched",
        "malformed" => "headers that do not parse",
        "fragment" => "fragments whose first one is unknown",
        "revoked" => "flows that the new policy no longer admits",
        "incomplete" => "programs of the enforcer are missing: apply the policy again",
        _ => "",
    }
}
