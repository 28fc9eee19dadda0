//! `sgctl lab`: sends real traffic in temporary network namespaces and compares it with the policy.
//! Prints the report of [`crate::lab`] as tables or as JSON.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

use crate::lab::{self, AnswerBy, Attempt, Options, Protocol, Report};
use clap::Args;
use sg_common::verdict::{Action, Direction};
use sg_policy::policy::{self, PolicyInput, SetOverride, titled};

use super::context::{Context, Json};
use super::failure::Failure;
use super::policy_args::Sets;
use super::screen::{clip, wrapped};

/// Try a policy with real traffic in throw-away network namespaces
///
/// Joins a node, a client outside, a client inside 10.0.0.0/8, an IPv6 neighbour, and a host for
/// each address set of the policy, enforces the policy on the node's interface, tries connections
/// in both directions, and compares what got through, and what was counted, with what the policy
/// says. Touches no interface of this machine and leaves nothing behind.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sgctl lab
  sgctl lab my-policy.yaml
  sgctl lab builtin:tke-minimal --set admin=203.0.113.0/24
  sgctl lab builtin:web                       with sets made up for the lab
  sgctl lab --json | jq '.attempts[] | select(.got == \"drop\")'

Exit codes: 0 all as the policy says, 1 a difference or a bad policy, 2 usage, 3 not permitted here.")]
pub(super) struct Lab {
    /// Files, `-` for standard input, or builtin:NAME; several are bound in this order
    #[arg(value_name = "POLICY", default_value = "builtin:tke")]
    policies: Vec<PolicyInput>,

    #[command(flatten)]
    sets: Sets,

    #[command(flatten)]
    json: Json,
}

impl Lab {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (sets, made_up) = self.sets();
        let mut options = Options::new(policy::load(&self.policies, &sets)?.policy);
        options.notes.extend(made_up);
        if context.err.terminal {
            options.progress = |phase| {
                let _ = writeln!(io::stderr(), "{phase} ...");
            };
        }
        let report = lab::run(&options)?;
        if self.json.json {
            context.out.json(&report)?;
        } else {
            let paint = Paint {
                is_coloured: context.out.color,
                width: context.out.width,
            };
            context.out.say(&render(&report, paint))?;
        }
        match report.ok {
            true => Ok(()),
            false => Err(Failure::Told(1)),
        }
    }
}

impl Lab {
    /// The sets that were given; and, for a template whose sets are empty, those of its scenario,
    /// with what is to be said of them.
    fn sets(&self) -> (Vec<SetOverride>, Option<String>) {
        let mut sets = self.sets.sets.clone();
        let scenario = match self.policies.as_slice() {
            [PolicyInput::Builtin(name)] => policy::builtin(name).map_or(&[][..], |it| it.scenario),
            _ => &[],
        };
        let more = scenario
            .iter()
            .filter_map(|text| text.parse::<SetOverride>().ok());
        let more = more.filter(|it| self.sets.sets.iter().all(|given| given.name != it.name));
        let more: Vec<SetOverride> = more.collect();
        let spelled = more
            .iter()
            .map(|it| format!("--set {}={}", it.name, it.values.join(",")));
        let spelled = spelled.collect::<Vec<_>>().join(" ");
        let said = (!more.is_empty())
            .then(|| format!("sets of the template that were made up for the lab: {spelled}"));
        sets.extend(more);
        (sets, said)
    }
}

/// Colours for a terminal.
#[derive(Clone, Copy)]
struct Paint {
    is_coloured: bool,
    /// The width of the terminal.
    width: Option<usize>,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        match self.is_coloured && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn quiet(self, text: &str) -> String {
        self.with("2", text)
    }

    fn title(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Green for accept, yellow for drop.
    fn action(self, action: Action, text: &str) -> String {
        let colour = match action {
            Action::Accept => "32",
            Action::Drop => "33",
            Action::Audit => "35",
        };
        self.with(colour, text)
    }
}

fn render(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}  {}",
        paint.title(&format!(
            "Policy {} on the node's {}",
            report.counters.policy.name, report.counters.standing.interface
        )),
        paint.quiet(&format!(
            "inbound XDP {}, outbound {}",
            report.enforcer.xdp_mode.name(),
            report.enforcer.egress_hook.name()
        )),
    );
    attempts(&mut out, &report.attempts, paint);
    counters(&mut out, report, paint);
    verdict(&mut out, report, paint);
    out
}

fn past(action: Action) -> &'static str {
    match action {
        Action::Accept => "accepted",
        Action::Drop => "dropped",
        Action::Audit => "audited",
    }
}

fn what(attempt: &Attempt) -> String {
    match attempt.port {
        Some(port) => format!("{} {port}", attempt.transport),
        None if attempt.transport == Protocol::Icmp => "ping".to_owned(),
        None => "ping (v6)".to_owned(),
    }
}

fn decided_by(attempt: &Attempt) -> String {
    match &attempt.rule {
        Some(rule) => format!("{} #{}", attempt.direction, rule.position),
        None => attempt.direction.to_string(),
    }
}

fn attempts(out: &mut String, attempts: &[Attempt], paint: Paint) {
    let whole = |a: &Attempt| match &a.rule {
        Some(rule) => titled(rule.name.as_deref(), &rule.summary),
        None => a.reason.to_string(),
    };
    let width = |of: &dyn Fn(&Attempt) -> String| {
        attempts
            .iter()
            .map(|a| of(a).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (whats, by) = (width(&what), width(&decided_by));
    // The marks, `accepted` and `↩ flows` are before and after the rule. If the rule does not fit,
    // its number is shown, which the counters list as well.
    let room = paint
        .width
        .map(|width| width.saturating_sub(whats + by + 27));
    let has_room = room.is_none_or(|room| width(&whole).min(48) <= room);
    let summary = |a: &Attempt| match has_room || a.rule.is_none() {
        true => whole(a),
        false => String::new(),
    };
    let summaries = width(&summary).min(48);
    let mut pair = (String::new(), String::new());
    for a in attempts {
        let ends = (a.from_address.clone(), a.to_address.clone());
        if ends != pair {
            let title = format!("{} → {}", a.from, a.to);
            let addresses = format!("{} → {}", a.from_address, a.to_address);
            let _ = writeln!(
                out,
                "\n{}  {}",
                paint.title(&title),
                paint.quiet(&addresses)
            );
            pair = ends;
        }
        let mark = match a.as_policy_says {
            true => paint.good("✓"),
            false => paint.bad("✗"),
        };
        let _ = write!(
            out,
            "  {mark} {:whats$}  {}  {}  {:summaries$}  {}",
            what(a),
            paint.action(a.got, &format!("{:8}", past(a.got))),
            paint.quiet(&format!("{:by$}", decided_by(a))),
            summary(a),
            behind(a, paint)
        );
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
}

/// What let the answer pass; or the expected verdict, if the attempt had another one.
fn behind(attempt: &Attempt, paint: Paint) -> String {
    if attempt.as_policy_says {
        return paint.quiet(match attempt.answer {
            Some(AnswerBy::FlowTable) => "↩ flows",
            Some(AnswerBy::Rules) => "↩ rules",
            None => "",
        });
    }
    let note = attempt.note.as_ref().map(|note| format!(" ({note})"));
    let note = note.unwrap_or_default();
    paint.bad(&format!("expected: {}{note}", past(attempt.expected)))
}

fn counters(out: &mut String, report: &Report, paint: Paint) {
    let table = Counted::on(paint);
    let title = paint.title("Counters");
    let _ = writeln!(out, "\n{title}\n{}", paint.quiet(&table.head()));
    for direction in Direction::BOTH {
        let of_rules = report.counters.rules.iter();
        for r in of_rules.filter(|r| r.direction == direction) {
            let number = r.position.map(|p| p.to_string()).unwrap_or_default();
            let counts = [r.packets, r.bytes, r.reply_packets];
            let title = titled(r.name.as_deref(), &r.summary);
            out.push_str(&table.row(direction, &number, r.action, counts, &title));
        }
        let reasons = report.counters.reasons.iter();
        for r in reasons.filter(|r| r.direction == direction && r.packets > 0) {
            let counts = [r.packets, r.bytes, 0];
            out.push_str(&table.row(direction, "", r.action, counts, r.reason.name()));
        }
    }
    if !table.is_wide {
        let _ = writeln!(out, "  {}", paint.quiet("no room for bytes, replies"));
    }
    totals(out, report);
}

/// The table of counters, which leaves bytes and replies out where they have no room.
struct Counted {
    paint: Paint,
    is_wide: bool,
    /// The width of the number of packets.
    packets: usize,
}

impl Counted {
    fn on(paint: Paint) -> Counted {
        /// The terminal width that bytes and replies need.
        const WIDE: usize = 76;
        let is_wide = paint.width.is_none_or(|width| width >= WIDE);
        Counted {
            paint,
            is_wide,
            packets: if is_wide { 7 } else { 5 },
        }
    }

    fn head(&self) -> String {
        let (width, more) = (self.packets, self.more("bytes", "replies"));
        let packets = if self.is_wide { "packets" } else { "count" };
        let empty = "";
        format!(
            "  {empty:8} {:>2}  {empty:6} {packets:>width$}{more}  rule or reason",
            "#"
        )
    }

    fn row(
        &self,
        direction: Direction,
        number: &str,
        action: Action,
        counts: [u64; 3],
        name: &str,
    ) -> String {
        let [packets, bytes, replies] = counts;
        let replies = match replies {
            0 => String::new(),
            replies => replies.to_string(),
        };
        let (width, more) = (self.packets, self.more(bytes, &replies));
        let text =
            format!("  {direction:8} {number:>2}  {action:6} {packets:>width$}{more}  {name}");
        let text = clip(&text, self.paint.width);
        let is_idle = packets == 0 && replies.is_empty();
        let text = if is_idle {
            self.paint.quiet(&text)
        } else {
            text
        };
        text + "\n"
    }

    /// The columns that need a wide terminal.
    fn more(&self, bytes: impl Display, replies: &str) -> String {
        match self.is_wide {
            true => format!(" {bytes:>8} {replies:>7}"),
            false => String::new(),
        }
    }
}

/// What was accepted and dropped in each direction, and what the interface itself has counted.
fn totals(out: &mut String, report: &Report) {
    let counters = &report.counters;
    for total in &counters.totals {
        let mut interface = report.interface.iter();
        let nic = interface.find(|c| c.direction == total.direction);
        let nic = nic.map(|c| {
            let did = match c.direction {
                Direction::Inbound => "received",
                Direction::Outbound => "sent",
            };
            let early = match c.uncertain {
                0 => String::new(),
                n => format!(", {n} of them while it was being attached to"),
            };
            format!(
                "; {} itself {did} {}{early}",
                counters.standing.interface, c.packets
            )
        });
        let _ = writeln!(
            out,
            "  {:8}  total {} packets: {} accepted, {} dropped{}",
            total.direction,
            total.packets,
            total.accepted,
            total.dropped,
            nic.unwrap_or_default(),
        );
    }
}

fn verdict(out: &mut String, report: &Report, paint: Paint) {
    let answered = report.attempts.iter().any(|a| a.answer.is_some());
    if answered {
        let legend =
            "↩ is what lets the answer pass: the rules of the other direction, or the flow table";
        let _ = writeln!(out, "\n{}", paint.quiet(legend));
    }
    out.push('\n');
    for note in &report.notes {
        let note = format!("note: {note}\n");
        out.push_str(&match paint.width {
            Some(width) => wrapped(&note, width),
            None => note,
        });
    }
    for difference in &report.differences {
        let _ = writeln!(out, "{} {difference}", paint.bad("✗"));
    }
    let through = report
        .attempts
        .iter()
        .filter(|a| a.got == Action::Accept)
        .count();
    let tried = report.attempts.len();
    let said = match report.differences.len() {
        0 => paint.good(&format!(
            "✓ {tried} attempts, {through} accepted and {} dropped, all as the policy says; the \
             counters agree",
            tried - through
        )),
        1 => paint.bad("✗ 1 difference between what happened and what the policy says"),
        n => paint.bad(&format!(
            "✗ {n} differences between what happened and what the policy says"
        )),
    };
    let _ = writeln!(
        out,
        "{said}  {}",
        paint.quiet(&format!("{:.1} s", report.seconds))
    );
}
