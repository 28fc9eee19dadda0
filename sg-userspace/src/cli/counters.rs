//! `sgctl counters`: packets and bytes by rule and by reason, once or repeatedly. Also draws the
//! table that `run` shows.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use sg_common::verdict::{Action, Direction, Reason};
use sg_policy::policy::titled;
use sg_userspace::kernel::KernelError;
use sg_userspace::observe::attached::{Attached, attached, other_layouts};
use sg_userspace::observe::counters::{Counters, Totals, counters};
use signal_hook::consts::SIGINT;

use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::health;
use super::rates::{Rate, Rates, Reading};
use super::screen::{Frame, Paint, Screen, clip, paint_of};
use super::table::{Column, Table};
use super::units::{ago, bit_rate, bytes, clean, count, packet_rate, short_digest, thousands};

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
    #[command(flatten)]
    ifaces: Ifaces,
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

/// Parses an interval in seconds.
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
        let all = read(context, &self.ifaces)?;
        if !self.json.json {
            let text = text(&context.out, &all, None, self.all, None);
            return context.out.say(&text);
        }
        context.out.json(&all)
    }

    fn watch(&self, context: &Context, interval: Duration) -> Result<(), Failure> {
        let mut frame = Frame::new(context.out);
        let interrupt = Interrupt::of(&context.out)?;
        let mut before = None;
        loop {
            let all = read(context, &self.ifaces)?;
            if self.json.json {
                for one in &all {
                    context.out.json_line(one)?;
                }
            } else {
                let rates = Rates::since(before.take());
                let (screen, lines) = frame.screen();
                let mut out = text(&screen, &all, Some(&rates), self.all, lines);
                before = Some(Reading::of(&all));
                if context.out.terminal {
                    frame.draw(&out)?;
                } else {
                    out.push('\n');
                    context.out.print(&out)?;
                }
            }
            interrupt.sleep(interval)?;
        }
    }
}

/// Handles Ctrl-C while a table is redrawn: the `^C` that the terminal echoes is erased before the
/// process ends.
struct Interrupt<'a> {
    screen: &'a Screen,
    has_come: Arc<AtomicBool>,
}

impl Interrupt<'_> {
    fn of(screen: &Screen) -> Result<Interrupt<'_>, Failure> {
        let has_come = Arc::default();
        if screen.terminal {
            signal_hook::flag::register(SIGINT, Arc::clone(&has_come)).map_err(|source| {
                Failure::Io {
                    what: "preparing to wait for signals",
                    source,
                }
            })?;
        }
        Ok(Interrupt { screen, has_come })
    }

    /// Sleeps for the interval, or until Ctrl-C.
    fn sleep(&self, interval: Duration) -> Result<(), Failure> {
        const GLANCE: Duration = Duration::from_millis(50);
        let started = Instant::now();
        loop {
            if self.has_come.load(Ordering::SeqCst) {
                self.screen.print("\r\x1b[K")?;
                let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
            }
            let left = interval.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(match self.screen.terminal {
                true => left.min(GLANCE),
                false => left,
            });
        }
    }
}

/// The attached interfaces that a reading command is about. An error if there are none.
pub(super) fn find(context: &Context, ifaces: &Ifaces) -> Result<Vec<Attached>, Failure> {
    let scope = context.here(ifaces);
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

fn read(context: &Context, ifaces: &Ifaces) -> Result<Vec<Counters>, Failure> {
    let mut all = Vec::new();
    for one in find(context, ifaces)? {
        all.push(counters(&one)?);
    }
    Ok(all)
}

/// The tables of all interfaces, with `rates` if there are any. They have at most `lines` lines if
/// possible.
pub(super) fn text(
    screen: &Screen,
    all: &[Counters],
    rates: Option<&Rates>,
    all_reasons: bool,
    lines: Option<usize>,
) -> String {
    // An empty line separates two tables.
    let share = lines.map(|lines| (lines + 1) / all.len().max(1));
    let share = share.map(|share| share.saturating_sub(1));
    let mut out = String::new();
    for (i, one) in all.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let mut head = heading(screen, one);
        head.push_str(&health::warnings(
            screen,
            &one.interface,
            one.health,
            &one.faults,
            one.elsewhere.as_deref(),
        ));
        let room = share.map(|share| share.saturating_sub(head.lines().count()));
        out.push_str(&head);
        out.push_str(&table(screen, one, rates, all_reasons, room));
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
    // A wrapped line could not be redrawn in place.
    if let Some(width) = screen.width {
        rest = clip(&rest, Some(width.saturating_sub(taken)));
    }
    format!(
        "{}{place}  {}  {}\n",
        screen.paint(Paint::Bold, interface),
        screen.paint(Paint::Bold, name),
        screen.paint(Paint::Dim, rest)
    )
}

/// What is needed to build the rows of one interface.
struct Rows<'a> {
    table: Table,
    rates: Option<&'a Rates>,
    has_groups: bool,
    /// Whether the totals show only what was dropped, which leaves the accepted packets to be
    /// subtracted.
    is_narrow: bool,
}

/// The terminal width that a total with both numbers needs.
const BOTH_NUMBERS: usize = 76;

/// A table of at most `lines` lines. If it has more rows, those with the highest counts are shown.
fn table(
    screen: &Screen,
    one: &Counters,
    rates: Option<&Rates>,
    all_reasons: bool,
    lines: Option<usize>,
) -> String {
    let mut shown = rows(one, rates, all_reasons);
    let whole = build(screen, one, rates, &shown);
    let Some(lines) = lines.filter(|lines| whole.lines().count() > *lines) else {
        return whole;
    };
    // One more line says how many rows were left out.
    let others = whole.lines().count() - shown.len() + 1;
    let hidden = keep_busiest(&mut shown, lines.saturating_sub(others));
    let more = format!(
        "and {} that count less: `sgctl counters --iface {}`",
        count(hidden, "row"),
        clean(&one.interface)
    );
    let more = screen.paint(Paint::Dim, clip(&more, screen.width));
    format!("{}{more}\n", build(screen, one, rates, &shown))
}

/// Keeps the rows with the highest rates, then those with the highest counts, in their order.
/// Returns how many were removed.
fn keep_busiest(rows: &mut Vec<Row<'_>>, room: usize) -> usize {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let rate = |i: usize| rows[i].rate.map_or(0.0, |rate| rate.packets);
    let packets = |i: usize| rows[i].packets + rows[i].replies.unwrap_or(0);
    order.sort_by(|a, b| {
        let by_rate = rate(*b).total_cmp(&rate(*a));
        by_rate.then(packets(*b).cmp(&packets(*a)))
    });
    let kept: HashSet<usize> = order.into_iter().take(room).collect();
    let before = rows.len();
    let mut number = 0..;
    rows.retain(|_| number.next().is_some_and(|i| kept.contains(&i)));
    before - rows.len()
}

fn rows<'a>(one: &'a Counters, rates: Option<&Rates>, all_reasons: bool) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for total in &one.totals {
        let rules = one.rules.iter();
        for rule in rules.filter(|r| r.direction == total.direction) {
            let gone = match rule.position {
                None => "(no longer in the policy) ",
                Some(_) => "",
            };
            rows.push(Row {
                direction: rule.direction,
                // The position is shown even if the description does not fit.
                number: rule
                    .position
                    .map_or_else(|| "gone".into(), |p| p.to_string()),
                action: rule.action,
                group: &rule.group,
                what: titled(rule.name.as_deref(), &rule.summary),
                description: format!("{gone}{}", rule.description.as_deref().unwrap_or_default()),
                packets: rule.packets,
                bytes: rule.bytes,
                rate: rates.map(|rates| rates.of_rule(one, rule)),
                replies: Some(rule.reply_packets),
            });
        }
        let reasons = one.reasons.iter();
        for reason in reasons.filter(|r| r.direction == total.direction) {
            if all_reasons || reason.packets > 0 {
                rows.push(Row {
                    direction: reason.direction,
                    number: "-".into(),
                    action: reason.action,
                    group: "",
                    what: reason.reason.to_string(),
                    description: about(reason.reason).to_owned(),
                    packets: reason.packets,
                    bytes: reason.bytes,
                    rate: rates.map(|rates| rates.of_reason(one, reason)),
                    replies: None,
                });
            }
        }
    }
    rows
}

fn build(screen: &Screen, one: &Counters, rates: Option<&Rates>, shown: &[Row<'_>]) -> String {
    // The column for the group is only needed if there are several groups.
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
        columns.push(Column::SpareText("GROUP", 4));
    }
    columns.extend([Column::Long("MATCH"), Column::Flexible("DESCRIPTION")]);
    columns.push(Column::Number("PACKETS"));
    if rates.is_some() {
        columns.push(Column::Spare("RATE", 5));
    }
    columns.push(Column::Spare("BYTES", 2));
    if rates.is_some() {
        columns.push(Column::Spare("BIT RATE", 1));
    }
    columns.push(Column::Spare("REPLIES", 3));
    let mut rows = Rows {
        table: Table::new(screen, &columns),
        rates,
        has_groups,
        is_narrow: screen.width.is_some_and(|width| width < BOTH_NUMBERS),
    };
    for total in &one.totals {
        let of_direction = shown.iter().filter(|r| r.direction == total.direction);
        of_direction.for_each(|row| rows.push(row));
        rows.total(one, total);
    }
    rows.table.render()
}

struct Row<'a> {
    direction: Direction,
    number: String,
    action: Action,
    group: &'a str,
    what: String,
    description: String,
    packets: u64,
    bytes: u64,
    rate: Option<Rate>,
    replies: Option<u64>,
}

impl Rows<'_> {
    fn total(&mut self, one: &Counters, total: &Totals) {
        let dropped = format!("{} dropped", thousands(total.dropped));
        let audited = match total.audited {
            0 => String::new(),
            n => format!("{} audited, ", thousands(n)),
        };
        let description = match self.is_narrow {
            true => format!("{audited}{dropped}"),
            // What is audited has passed, but was not accepted.
            false => format!(
                "{} accepted, {audited}{dropped}",
                thousands(total.accepted - total.audited)
            ),
        };
        let rate = self.rates.map(|rates| rates.of_total(one, total));
        let bold = Some(Paint::Bold);
        let mut cells = vec![(total.direction.to_string(), bold), (String::new(), None)];
        cells.push(("total".to_owned(), bold));
        if self.has_groups {
            cells.push((String::new(), None));
        }
        // This column is never shortened, because users look for the totals first.
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

    fn push(&mut self, row: &Row<'_>) {
        let idle = row.packets == 0 && row.replies.unwrap_or(0) == 0;
        let plain = idle.then_some(Paint::Dim);
        let action = if idle {
            Paint::Dim
        } else {
            paint_of(row.action)
        };
        let mut cells = vec![
            (row.direction.to_string(), plain),
            (row.number.clone(), plain),
            (row.action.to_string(), Some(action)),
        ];
        if self.has_groups {
            cells.push((row.group.to_owned(), plain));
        }
        cells.push((row.what.clone(), plain));
        cells.push((row.description.clone(), Some(Paint::Dim)));
        cells.push((thousands(row.packets), plain));
        cells.extend(row.rate.map(|rate| (steady_packets(rate), plain)));
        cells.push((bytes(row.bytes), plain));
        cells.extend(row.rate.map(|rate| (steady_bits(rate), plain)));
        cells.push((row.replies.map(thousands).unwrap_or_default(), plain));
        self.table.row(cells);
    }
}

/// Padded to the widest rate, so that columns do not move while numbers change.
fn steady_packets(rate: Rate) -> String {
    format!("{:>8}", packet_rate(rate.packets))
}

fn steady_bits(rate: Rate) -> String {
    format!("{:>11}", bit_rate(rate.bytes))
}

/// Describes a reason.
pub(super) fn about(reason: Reason) -> &'static str {
    match reason {
        Reason::NonIp | Reason::NonIpDropped | Reason::NonIpAudited => {
            "neither IPv4 nor IPv6: ARP and the like"
        }
        Reason::Essential => "neighbour discovery, MLD, IGMP, DHCP replies",
        Reason::Related => "ICMP errors about admitted traffic",
        Reason::RelatedAudited => "ICMP errors about audited traffic",
        Reason::Seeded => "flows from before the first attachment",
        Reason::NoMatch | Reason::NoMatchAudited => "no rule matched",
        Reason::Malformed | Reason::MalformedAudited => "headers that do not parse",
        Reason::Fragment | Reason::FragmentAudited => "fragments whose first one is unknown",
        Reason::Revoked | Reason::RevokedAudited => "flows that the new policy no longer admits",
        Reason::Incomplete => "programs of the enforcer are missing: apply the policy again",
    }
}
