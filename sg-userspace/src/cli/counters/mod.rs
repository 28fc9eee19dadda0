//! `sgctl counters`: packets and bytes by rule and by reason, once or repeatedly, as a table, JSON
//! or CSV, and the zero from which they can be counted.

mod choice;
mod csv;
mod draw;
mod json;
mod rows;

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use sg_userspace::kernel::set_zero;
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::counters::{Counters, Origin, counters_since};

pub(super) use self::choice::Choice;
pub(super) use self::draw::{Look, text};
pub(super) use self::json::Json as JsonCounters;
use super::attachment::to_read;
use super::candidate;
use super::context::{Context, Ifaces, Json, interval};
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::rates::{Rates, Reading};
use super::screen::{Frame, Paint};
use super::units::{clean, seconds_of};

/// Packets and bytes by rule and by reason
#[derive(Args)]
#[command(
    name = "counters",
    after_help = "\
Every packet that reached the interface is counted once: under the rule that decided it, as a reply
of a rule of the other direction, or under a reason. A total is the sum of those. Reasons that have
counted nothing are left out unless --all is given, and what removed rules have counted is one row. JSON
and CSV have all of them, and exact numbers: JSON is an array with an object for each interface, with
--watch an object a line. Both have rates where the counters were read before: with --watch from the
second time on, and with --sort rate. --nonzero, --sort and --top choose rows there too.

Counters never go back. --reset remembers what they count now as their zero, and --since-reset shows what
was counted since; nobody who does not ask for it sees a difference.

Examples:
  sgctl counters --iface eth0
  sgctl counters --watch 2 --nonzero
  sgctl counters --sort rate --top 5
  sgctl counters --reset && sleep 60 && sgctl counters --since-reset
  sgctl counters --iface eth0 --json | jq '.[].totals'
  sgctl counters --candidate --watch 10

Exit codes: 0 done, 1 nothing is attached or the state is wrong, 2 usage, 3 not permitted."
)]
pub(super) struct CountersCommand {
    #[command(flatten)]
    ifaces: Ifaces,
    /// Print again every so many seconds (1 unless said otherwise), with rates but for
    /// --candidate
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = interval
    )]
    watch: Option<Duration>,
    #[command(flatten)]
    choice: Choice,
    /// Remember what is counted now as the zero of --since-reset
    #[arg(long, conflicts_with_all = ["watch", "all", "nonzero", "sort", "top", "since_reset", "csv"])]
    reset: bool,
    /// Show what was counted since the last --reset
    #[arg(long)]
    since_reset: bool,
    /// What would have another outcome under the candidate beside the policy, by pair of rules
    #[arg(long, conflicts_with_all = ["all", "nonzero", "sort", "top", "reset", "since_reset", "csv"])]
    candidate: bool,
    /// Print CSV, with a row for each rule, reason and total
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    json: Json,
}

/// Over which time a rate is measured where nobody watches.
const MOMENT: Duration = Duration::from_secs(1);

/// What `counters --reset` has done on an interface.
#[derive(Serialize)]
struct Reset {
    interface: String,
    netns: Option<String>,
    reset_at: String,
    /// From when on packets were counted until then: the zero before, or the attachment.
    counted_since: String,
}

impl CountersCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.watch {
            _ if self.reset => self.reset(context),
            None if self.candidate => {
                candidate::print(context, &to_read(context, &self.ifaces)?, self.json.json)
            }
            Some(interval) if self.candidate => {
                let find = || to_read(context, &self.ifaces);
                candidate::watch(context, find, interval, self.json.json)
            }
            None => self.once(context),
            Some(interval) => self.watch(context, interval),
        }
    }

    fn read(&self, context: &Context) -> Result<Vec<Counters>, Failure> {
        let origin = match self.since_reset {
            true => Origin::Zero,
            false => Origin::Attachment,
        };
        let read = |one: Attached| Ok(counters_since(&one, origin)?);
        to_read(context, &self.ifaces)?
            .into_iter()
            .map(read)
            .collect()
    }

    fn once(&self, context: &Context) -> Result<(), Failure> {
        let mut all = self.read(context)?;
        let mut rates = None;
        if self.choice.needs_rates() {
            let before = Reading::of(&all);
            std::thread::sleep(MOMENT);
            all = self.read(context)?;
            rates = Some(Rates::since(Some(before)));
        }
        let rates = rates.as_ref();
        if self.csv {
            return self.csv(context, all, rates, true);
        }
        if self.json.json {
            let rows = self.chosen(all, rates);
            let rows = rows.iter().map(|one| JsonCounters::of(one, rates));
            return context.out.json(&rows.collect::<Vec<_>>());
        }
        let look = Look {
            choice: &self.choice,
            rates,
            lines: None,
            since_reset: self.since_reset,
        };
        context.out.say(&text(&context.out, &all, look))
    }

    fn watch(&self, context: &Context, interval: Duration) -> Result<(), Failure> {
        let mut frame = Frame::new(context.out);
        let interrupt = Interrupt::of(&context.out)?;
        let mut before = None;
        let mut is_first = true;
        loop {
            let all = self.read(context)?;
            let rates = Rates::since(before.replace(Reading::of(&all)));
            if self.csv {
                self.csv(context, all, Some(&rates), is_first)?;
            } else if self.json.json {
                for one in self.chosen(all, Some(&rates)) {
                    context
                        .out
                        .json_line(&JsonCounters::of(&one, Some(&rates)))?;
                }
            } else {
                let (screen, lines) = frame.screen();
                let look = Look {
                    choice: &self.choice,
                    rates: Some(&rates),
                    lines,
                    since_reset: self.since_reset,
                };
                let mut out = text(&screen, &all, look);
                if context.out.terminal {
                    frame.draw(&out)?;
                } else {
                    out.push('\n');
                    context.out.say(&out)?;
                }
            }
            is_first = false;
            interrupt.sleep(interval)?;
        }
    }

    fn chosen(&self, all: Vec<Counters>, rates: Option<&Rates>) -> Vec<Counters> {
        let chosen = |one| self.choice.apply(one, rates);
        all.into_iter().map(chosen).collect()
    }

    fn csv(
        &self,
        context: &Context,
        all: Vec<Counters>,
        rates: Option<&Rates>,
        has_header: bool,
    ) -> Result<(), Failure> {
        let mut out = String::new();
        if has_header {
            out.push_str(csv::HEADER);
        }
        let rows = self.chosen(all, rates);
        out.extend(rows.iter().map(|one| csv::rows(one, rates)));
        context.out.print(&out)
    }

    /// Sets the zero of each interface, one after the other.
    fn reset(&self, context: &Context) -> Result<(), Failure> {
        let mut done = Vec::new();
        for one in to_read(context, &self.ifaces)? {
            let before = one.counted_since()?;
            let zero = set_zero(&context.bpffs, &one.pins)?;
            let place = one.condition_if_known();
            done.push(Reset {
                interface: place.interface,
                netns: place.netns,
                reset_at: zero.at,
                counted_since: before,
            });
        }
        if self.json.json {
            return context.out.json(&done).map_err(Failure::after_all);
        }
        let lines = done.iter().map(|one| {
            format!(
                "{}: the zero is set at {}; what it counts from here on: `sgctl counters --iface {} \
                 --since-reset`\n",
                context.out.paint(Paint::Bold, clean(&one.interface)),
                seconds_of(&one.reset_at),
                clean(&one.interface)
            )
        });
        let text: String = lines.collect();
        context.out.say(&text).map_err(Failure::after_all)
    }
}
