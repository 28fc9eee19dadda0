//! The rows of a table of counters: rules, reasons, and what removed rules have counted.

use std::ops::Range;

use sg_common::verdict::{Action, Direction};
use sg_policy::policy::titled;
use sg_userspace::observe::counters::{Counters, RuleCounters};

use super::choice::{Choice, Key, Numbers};
use crate::cli::rates::{Rate, Rates};
use crate::cli::units::count;
use crate::cli::words::{about, position_of};

pub(super) struct Row<'a> {
    pub(super) direction: Direction,
    /// The position, or what stands in its place.
    pub(super) number: String,
    /// `None` if several rules with different actions are joined.
    pub(super) action: Option<Action>,
    pub(super) group: &'a str,
    pub(super) what: String,
    pub(super) description: String,
    pub(super) numbers: Numbers,
    /// Whether it can have replies.
    pub(super) has_replies: bool,
}

/// The rows of one interface, and what is left out.
pub(super) struct Rows<'a> {
    pub(super) rows: Vec<Row<'a>>,
    /// Whether they are sorted, so that both directions are mixed.
    pub(super) is_sorted: bool,
    /// How many are left out for they have counted nothing, and how many for others are higher.
    pub(super) zeros: usize,
    pub(super) lower: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn of(one: &'a Counters, rates: Option<&Rates>, choice: &Choice) -> Rows<'a> {
        let mut all = Vec::new();
        for total in &one.totals {
            let direction = total.direction;
            all.extend(rules(one, direction, rates, choice.all));
            all.extend(reasons(one, direction, rates, choice.all));
        }
        let numbers: Vec<Numbers> = all.iter().map(|row| row.numbers).collect();
        let picked = choice.pick(&numbers, rates.is_some());
        let mut all: Vec<Option<Row<'a>>> = all.into_iter().map(Some).collect();
        let take = |i: usize| all[i].take();
        Rows {
            rows: picked.rows.into_iter().filter_map(take).collect(),
            is_sorted: choice.is_sorted(rates.is_some()),
            zeros: picked.zeros,
            lower: picked.lower,
        }
    }

    /// Keeps at most so many rows, those with the highest rates, then those with the highest
    /// counts, in their order.
    pub(super) fn keep_busiest(&mut self, room: usize) {
        let numbers: Vec<Numbers> = self.rows.iter().map(|row| row.numbers).collect();
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|a, b| numbers[*a].highest_first(&numbers[*b], Key::Rate));
        let mut is_kept = vec![false; numbers.len()];
        order.iter().take(room).for_each(|i| is_kept[*i] = true);
        self.lower += numbers.len().saturating_sub(room);
        let mut index: Range<usize> = 0..numbers.len();
        self.rows
            .retain(|_| index.next().is_some_and(|i| is_kept[i]));
    }
}

/// Those of the policy in force, and then those of earlier ones, each or all in one row.
fn rules<'a>(
    one: &'a Counters,
    direction: Direction,
    rates: Option<&Rates>,
    each: bool,
) -> Vec<Row<'a>> {
    let of_direction = one.rules.iter().filter(|r| r.direction == direction);
    let (there, gone): (Vec<&RuleCounters>, Vec<&RuleCounters>) =
        of_direction.partition(|rule| each || rule.position.is_some());
    let row = |rule: &&'a RuleCounters| {
        let removed = match rule.position {
            None => "(no longer in the policy) ",
            Some(_) => "",
        };
        let description = rule.description.as_deref().unwrap_or_default();
        Row {
            direction,
            // It is shown even if the description does not fit.
            number: position_of(rule.position),
            action: Some(rule.action),
            group: &rule.group,
            what: titled(rule.name.as_deref(), &rule.summary),
            description: format!("{removed}{description}"),
            numbers: Numbers::of_rule(one, rule, rates),
            has_replies: true,
        }
    };
    let mut rows: Vec<Row<'a>> = there.iter().map(row).collect();
    rows.extend(removed(one, direction, rates, &gone));
    rows
}

/// What removed rules have counted, in one row.
fn removed<'a>(
    one: &Counters,
    direction: Direction,
    rates: Option<&Rates>,
    gone: &[&RuleCounters],
) -> Option<Row<'a>> {
    let first = gone.first()?;
    let mut sum = Numbers::default();
    for rule in gone {
        let numbers = Numbers::of_rule(one, rule, rates);
        sum.packets += numbers.packets;
        sum.bytes += numbers.bytes;
        sum.replies += numbers.replies;
        sum.rate = Rate {
            packets: sum.rate.packets + numbers.rate.packets,
            bytes: sum.rate.bytes + numbers.rate.bytes,
        };
    }
    let is_one_action = gone.iter().all(|rule| rule.action == first.action);
    Some(Row {
        direction,
        number: position_of(None),
        action: is_one_action.then_some(first.action),
        group: "",
        what: "removed rules".into(),
        description: format!("{}: --all", count(gone.len(), "row")),
        numbers: sum,
        has_replies: true,
    })
}

fn reasons<'a>(
    one: &Counters,
    direction: Direction,
    rates: Option<&Rates>,
    all: bool,
) -> Vec<Row<'a>> {
    let of_direction = one.reasons.iter().filter(|r| r.direction == direction);
    of_direction
        .filter(|reason| all || reason.packets > 0)
        .map(|reason| Row {
            direction,
            number: "-".into(),
            action: Some(reason.action),
            group: "",
            what: reason.reason.to_string(),
            description: about(reason.reason).to_owned(),
            numbers: Numbers::of_reason(one, reason, rates),
            has_replies: false,
        })
        .collect()
}
