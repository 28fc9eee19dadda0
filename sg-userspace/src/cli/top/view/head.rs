//! The top of the screen: what is attached, what is wrong with it, what it accepts and drops, and
//! its flow table.

use std::time::Duration;

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sg_common::verdict::Direction;
use sg_userspace::observe::candidate::CandidateStatus;
use sg_userspace::observe::status::{Health, Standing};
use textwrap::{WordSeparator, WordSplitter};

use super::pen::{Now, Pen};
use crate::cli::candidate::compared;
use crate::cli::health;
use crate::cli::placed::{placed, with_command};
use crate::cli::screen::Paint;
use crate::cli::top::model::{About, DirectionTrack, Flows, Model, Table};
use crate::cli::units::{bit_rate, count, left, packet_rate, since, thousands};
use crate::cli::words::in_netns;

/// How many lines of notes are shown.
const NOTES: usize = 4;

/// How many lines it has on a screen of this width.
pub(super) fn height(model: &Model, now: &Now, width: u16) -> u16 {
    let counted = if model.table().is_some() { 3 } else { 0 };
    1 + note_lines(model, now, width.into()).len() as u16 + counted
}

/// The notes in lines, at most so many.
fn note_lines(model: &Model, now: &Now, width: usize) -> Vec<(Paint, String)> {
    let wrapped = |(paint, note): (Paint, String)| {
        let note = placed(&note);
        // Names are never broken, so that they can be copied.
        let options = textwrap::Options::new(width)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation);
        let lines = textwrap::wrap(&note, options).into_iter();
        let lines = lines.map(|line| (paint, line.into_owned()));
        lines.collect::<Vec<_>>()
    };
    let notes = notes(model, now.clock).into_iter();
    let mut lines: Vec<(Paint, String)> = notes.flat_map(wrapped).collect();
    if lines.len() > NOTES {
        lines.truncate(NOTES - 1);
        let more = with_command("and more".to_owned(), "status", Some(width));
        lines.push((Paint::Red, more));
    }
    lines
}

pub(super) fn draw(pen: &mut Pen<'_>, area: Rect, model: &Model, now: &Now) {
    let width = usize::from(area.width);
    let mut lines = vec![title(pen, model, now, width)];
    for (paint, note) in note_lines(model, now, width) {
        lines.push(Line::from(pen.paint(paint, &note)));
    }
    if let Some(table) = model.table() {
        for direction in Direction::BOTH {
            let total = table.total(direction);
            lines.push(total.map_or_else(Line::default, |total| direction_line(pen, total, width)));
        }
        lines.push(flows(pen, &table.flows, width));
    }
    pen.lines(area, lines);
}

/// `eth0  web  generation 3, applied 5 min ago        every 1 s`.
fn title(pen: &Pen<'_>, model: &Model, now: &Now, width: usize) -> Line<'static> {
    let mut right = Vec::new();
    if model.tables.len() > 1 {
        let place = format!("{} of {}, Tab  ", model.place() + 1, model.tables.len());
        right.push(pen.paint(Paint::Dim, &place));
    }
    right.push(match model.is_paused {
        true => pen.paint(Paint::Yellow, "paused"),
        false => pen.paint(
            Paint::Dim,
            &format!("every {} s", now.interval.as_secs_f64()),
        ),
    });
    let taken: usize = right.iter().map(Span::width).sum();
    let room = width.saturating_sub(taken + 2);
    let mut spans = match model.table() {
        None => vec![pen.paint(Paint::Bold, "sgctl top")],
        Some(table) => named(pen, table, now, room),
    };
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::raw(" ".repeat(width.saturating_sub(used + taken))));
    spans.extend(right);
    Line::from(spans)
}

/// What the table is about, in so many columns.
fn named(pen: &Pen<'_>, table: &Table, now: &Now, room: usize) -> Vec<Span<'static>> {
    let Some(first) = table.interfaces.first() else {
        return Vec::new();
    };
    let is_one = table.interfaces.len() == 1;
    let Standing {
        interface, netns, ..
    } = &first.standing;
    let name = match is_one {
        true => format!("{interface}{}", in_netns(netns.as_deref())),
        false => count(table.interfaces.len(), "interface"),
    };
    let policy = &first.policy;
    let is_same = |other: &About| other.attachment == first.attachment;
    let parts = match table.interfaces.iter().all(is_same) {
        false => vec![(Paint::Dim, "of several attachments".to_owned())],
        true => vec![
            (Paint::Bold, policy.name.clone()),
            (
                Paint::Dim,
                format!(
                    "generation {}, applied {}",
                    policy.generation,
                    since(&policy.applied_at, now.wall)
                ),
            ),
        ],
    };
    let mut spans = Vec::new();
    let mut left = room;
    for (paint, text) in std::iter::once((Paint::Bold, name)).chain(parts) {
        let gap = if spans.is_empty() { 0 } else { 2 };
        let text = pen.look.fit(&text, left.saturating_sub(gap));
        spans.push(Span::raw(" ".repeat(gap.min(left))));
        let span = pen.paint(paint, &text);
        left = left.saturating_sub(gap + span.width());
        spans.push(span);
    }
    spans
}

/// What the user has to know: what cannot be read, what is not enforced, and what ends by itself.
fn notes(model: &Model, clock: Duration) -> Vec<(Paint, String)> {
    let mut notes: Vec<(Paint, String)> = Vec::new();
    notes.extend(
        model
            .troubles
            .iter()
            .map(|trouble| (Paint::Red, trouble.clone())),
    );
    let Some(table) = model.table() else {
        return notes;
    };
    let mut on_trial = Vec::new();
    for one in &table.interfaces {
        let standing = &one.standing;
        let name = &standing.interface;
        if let Some(place) = &standing.elsewhere {
            let note = format!("{name} is now in the network namespace {place}");
            notes.push((Paint::Yellow, note));
        }
        let (word, paint) = health::word(standing.health);
        match standing.health {
            // `status` says why that is not known.
            Health::Enforcing | Health::Unverified => {}
            Health::Auditing => notes.push((
                paint,
                format!("{name} is auditing: what its policy would drop passes"),
            )),
            _ => notes.extend(standing.faults.iter().map(|fault| {
                let message = &fault.message;
                (
                    paint,
                    format!(
                        "{name} is not enforcing ({word}): {message}; {}",
                        fault.help
                    ),
                )
            })),
        }
        if let Some(trial) = &one.unconfirmed
            && !on_trial.contains(&one.attachment)
        {
            on_trial.push(one.attachment);
            let passed = clock.saturating_sub(table.at).as_secs_f64();
            let rest = left((trial.seconds_left - passed).max(0.0));
            let then = match &trial.returns_to {
                None => "nothing is enforced".to_owned(),
                Some(before) => format!("generation {} returns", before.generation),
            };
            let note = format!("on trial: {rest} left for `sgctl confirm`, else {then}");
            notes.push((Paint::Yellow, note));
        }
    }
    notes.extend(candidates(&table.interfaces));
    notes
}

/// What would have another outcome under the candidates, each summed over its interfaces.
fn candidates(interfaces: &[About]) -> Vec<(Paint, String)> {
    let mut sums: Vec<CandidateStatus> = Vec::new();
    for one in interfaces.iter().filter_map(|one| one.candidate.as_ref()) {
        match sums.iter_mut().find(|sum| sum.digest == one.digest) {
            Some(sum) => {
                sum.packets += one.packets;
                sum.evaluated = sum.evaluated.zip(one.evaluated).map(|(a, b)| a + b);
            }
            None => sums.push(one.clone()),
        }
    }
    let note = |sum: CandidateStatus| {
        let paint = match sum.packets {
            0 => Paint::Dim,
            _ => Paint::Yellow,
        };
        let compared = compared(sum.packets, sum.evaluated);
        (paint, format!("candidate {}: {compared}", sum.name))
    };
    sums.into_iter().map(note).collect()
}

/// `inbound  1.21 M/s  accepted 1.20 M/s ▃▃▃▃  dropped 12.1 k/s ▁▁▇▇  1.0 %`.
fn direction_line(pen: &Pen<'_>, total: &DirectionTrack, width: usize) -> Line<'static> {
    let has_bits = width >= 100;
    let counts = match width >= 132 {
        true => {
            let (accepted, dropped) = (total.totals.accepted, total.totals.dropped);
            format!(
                "  {} accepted, {} dropped in all",
                thousands(accepted),
                thousands(dropped)
            )
        }
        false => String::new(),
    };
    let bits = match has_bits {
        true => format!("  {:>11}", bit_rate(total.all.rate.bits())),
        false => String::new(),
    };
    const FIXED: usize = 64;
    let taken = FIXED + bits.len() + counts.len();
    let trend = (width.saturating_sub(taken) / 2).clamp(4, 24);
    let rate = |rate: f64| format!("{:>8}", packet_rate(rate));
    let (all, dropped) = (total.all.rate.packets, total.dropped.rate.packets);
    let share = match all > 0.0 {
        true => format!("{:>6}", percent(dropped / all)),
        false => format!("{:>6}", "-"),
    };
    let accepted_trend = pen.look.trend(total.accepted.history(trend), trend);
    let dropped_trend = pen.look.trend(total.dropped.history(trend), trend);
    let drops = match dropped > 0.0 {
        true => Paint::Red,
        false => Paint::Dim,
    };
    Line::from(vec![
        pen.paint(
            Paint::Bold,
            &format!("{:<8}", total.totals.direction.name()),
        ),
        pen.plain(&format!(
            " {}{bits}  accepted {} ",
            rate(all),
            rate(total.accepted.rate.packets)
        )),
        pen.paint(Paint::Green, &accepted_trend),
        pen.plain("  dropped "),
        pen.paint(drops, &format!("{} ", rate(dropped))),
        pen.paint(Paint::Red, &dropped_trend),
        pen.paint(drops, &format!("  {share}")),
        pen.paint(Paint::Dim, &counts),
    ])
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 0.1 => "<0.1 %".to_owned(),
        p if p < 99.95 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// What there is of the line of flows: less where the screen is narrow.
#[derive(Clone, Copy)]
struct Extent {
    has_new: bool,
    has_bar: bool,
    has_share: bool,
    has_capacity: bool,
    /// Whether evictions are told in words.
    has_words: bool,
}

impl Extent {
    /// From the most to the least. Evictions are there in any case: a table that is too small is
    /// not to be overlooked.
    const ALL: [Extent; 6] = {
        let all = Extent {
            has_new: true,
            has_bar: true,
            has_share: true,
            has_capacity: true,
            has_words: true,
        };
        let no_new = Extent {
            has_new: false,
            ..all
        };
        let no_bar = Extent {
            has_bar: false,
            ..no_new
        };
        let no_share = Extent {
            has_share: false,
            ..no_bar
        };
        let no_words = Extent {
            has_words: false,
            ..no_share
        };
        let no_capacity = Extent {
            has_capacity: false,
            ..no_words
        };
        [all, no_new, no_bar, no_share, no_words, no_capacity]
    };
}

/// `flows    12,345 of 262,144 ██░░░░░░ 4.7 %  half-open 12 of 174,768  none evicted  new 120/s`,
/// as far as it fits.
fn flows(pen: &Pen<'_>, flows: &Flows, width: usize) -> Line<'static> {
    let mut lines = Extent::ALL
        .map(|extent| flows_line(pen, flows, extent))
        .into_iter();
    let fits = |line: &Line<'static>| line.width() <= width;
    let last = lines.next_back();
    lines.find(fits).or(last).unwrap_or_default()
}

fn flows_line(pen: &Pen<'_>, flows: &Flows, extent: Extent) -> Line<'static> {
    const BAR: usize = 10;
    let live = flows.established.live;
    let share = match flows.capacity {
        0 => 0.0,
        capacity => live as f64 / capacity as f64,
    };
    let full = match share {
        s if s >= 0.9 => Paint::Red,
        s if s >= 0.7 => Paint::Yellow,
        _ => Paint::Green,
    };
    let (paint, evicted) = evicted(flows, extent.has_words);
    let count = format!(" {} of {}", thousands(live), thousands(flows.capacity));
    let mut spans = vec![pen.paint(Paint::Bold, "flows   "), pen.plain(&count)];
    if extent.has_bar {
        spans.push(Span::raw(" "));
        spans.push(pen.paint(full, &pen.look.bar(share, BAR)));
    }
    if extent.has_share {
        spans.push(pen.plain(&format!(" {}", percent(share))));
    }
    let half_open = thousands(flows.half_open.live);
    spans.push(pen.plain(&format!("  half-open {half_open}")));
    if extent.has_capacity {
        let capacity = thousands(flows.half_open_capacity);
        spans.push(pen.plain(&format!(" of {capacity}")));
    }
    spans.push(pen.paint(paint, &format!("  {evicted}")));
    if extent.has_new {
        let entered = packet_rate(flows.entered.rate.packets);
        spans.push(pen.paint(Paint::Dim, &format!("  new {entered}")));
    }
    Line::from(spans)
}

/// How many flows were evicted, established ones first, and whether that is bad.
fn evicted(flows: &Flows, has_words: bool) -> (Paint, String) {
    let [half_open, established] = &flows.evictions;
    let (open, done) = (flows.half_open.evicted, flows.established.evicted);
    let is_now = half_open.rate.packets + established.rate.packets > 0.0;
    let paint = match established.rate.packets > 0.0 {
        true => Paint::Red,
        false if is_now => Paint::Yellow,
        false => Paint::Dim,
    };
    let text = match (open, done, has_words) {
        (0, 0, _) => return (Paint::Dim, "none evicted".to_owned()),
        (open, 0, true) => format!("evicted {} half-open", thousands(open)),
        (open, 0, false) => format!("evicted {}", thousands(open)),
        (open, done, true) => format!(
            "evicted {} established, {} half-open",
            thousands(done),
            thousands(open)
        ),
        (open, done, false) => format!("evicted {} + {}", thousands(done), thousands(open)),
    };
    (paint, text)
}
