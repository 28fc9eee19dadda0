//! What stands below the rules, or beside them: reasons, what is dropped most, and the policies
//! that were in force.

use ratatui::layout::Rect;
use ratatui::style::Style;
use sg_userspace::observe::counters::ReasonCounters;

use super::drops;
use super::pen::{Now, Pen, under};
use super::table::{self, Column, Entry, fixed, number, text};
use crate::cli::screen::{Paint, paint_of};
use crate::cli::top::model::{Model, Panel, Table};
use crate::cli::top::track::Row;
use crate::cli::units::{packet_rate, since, thousands};
use crate::cli::words::{about, short_direction};

const TREND: usize = 8;

/// One panel.
pub(super) fn one(pen: &mut Pen<'_>, area: Rect, model: &Model, table: &Table, now: &Now) {
    let next = match model.panel.next() {
        Panel::Reasons => "reasons",
        Panel::Drops => "dropped most",
        Panel::Policies => "policies",
    };
    let hint = format!(" (p: {next})");
    match model.panel {
        Panel::Reasons => reasons(pen, area, table, &hint),
        Panel::Drops => drops::draw(pen, area, model, table, &hint),
        Panel::Policies => policies(pen, area, table, now, &hint),
    }
}

/// All of them, one below the other.
pub(super) fn all(pen: &mut Pen<'_>, area: Rect, model: &Model, table: &Table, now: &Now) {
    let counted = table.reasons.iter().filter(|row| row.what.packets > 0);
    let past: usize = table.interfaces.iter().map(|one| one.past.len()).sum();
    // A heading, the names of the columns, and an empty line.
    let of = |rows: usize| (rows.max(1) + 3).min(usize::from(area.height / 3)) as u16;
    let (first, last) = (of(counted.count()), of(past));
    let reasons_area = Rect {
        height: first,
        ..area
    };
    reasons(pen, reasons_area, table, "");
    let drops_area = Rect {
        y: area.y + first,
        height: area.height - first - last,
        ..area
    };
    drops::draw(pen, drops_area, model, table, "");
    let policies_area = Rect {
        y: drops_area.bottom(),
        height: last,
        ..area
    };
    policies(pen, policies_area, table, now, "");
}

/// What no rule has decided, by reason, the busiest first.
fn reasons(pen: &mut Pen<'_>, area: Rect, table: &Table, hint: &str) {
    const COLUMNS: [Column; 7] = [
        fixed("DIR", 0),
        fixed("ACTION", 0),
        fixed("REASON", 0),
        text("WHAT THAT IS", 2, 12),
        number("PACKETS", 0),
        number("RATE", 0),
        fixed("TREND", 1),
    ];
    let title = vec![
        pen.paint(Paint::Bold, "reasons"),
        pen.paint(Paint::Dim, hint),
    ];
    pen.heading(area, title);
    let mut found: Vec<&Row<ReasonCounters>> = table
        .reasons
        .iter()
        .filter(|row| row.what.packets > 0)
        .collect();
    if found.is_empty() {
        return pen.center(under(area), "no packet was counted by a reason");
    }
    found.sort_by(|a, b| {
        let by_rate = b.track.rate.packets.total_cmp(&a.track.rate.packets);
        by_rate.then(b.what.packets.cmp(&a.what.packets))
    });
    let plain = Style::new();
    let dim = pen.look.style(Paint::Dim);
    let lines = found.into_iter().map(|row| {
        let reason = &row.what;
        let action = pen.look.style(paint_of(reason.action));
        let cells = vec![
            (short_direction(reason.direction).to_owned(), plain),
            (reason.action.to_string(), action),
            (reason.reason.to_string(), plain),
            (about(reason.reason).to_owned(), dim),
            (thousands(reason.packets), plain),
            (format!("{:>8}", packet_rate(row.track.rate.packets)), plain),
            (pen.look.trend(row.track.history(TREND), TREND), action),
        ];
        Entry {
            cells,
            style: plain,
        }
    });
    let lines = lines.collect();
    table::draw(pen, under(area), &COLUMNS, None, lines);
}

/// The generations: what is in force, and what was before.
fn policies(pen: &mut Pen<'_>, area: Rect, table: &Table, now: &Now, hint: &str) {
    const COLUMNS: [Column; 6] = [
        text("INTERFACE", 3, 6),
        number("GEN", 0),
        fixed("STATE", 0),
        fixed("APPLIED", 0),
        text("BY", 2, 6),
        text("POLICY", 0, 8),
    ];
    let title = vec![
        pen.paint(Paint::Bold, "policies"),
        pen.paint(Paint::Dim, hint),
    ];
    pen.heading(area, title);
    let first = table.interfaces.first().map(|one| one.attachment);
    let is_one = table
        .interfaces
        .iter()
        .all(|one| Some(one.attachment) == first);
    let mut seen = Vec::new();
    let mut lines = Vec::new();
    let plain = Style::new();
    let dim = pen.look.style(Paint::Dim);
    for one in &table.interfaces {
        if seen.contains(&one.attachment) {
            continue;
        }
        seen.push(one.attachment);
        for past in &one.past {
            let (state, style) = match (&past.ended, &one.unconfirmed) {
                (None, Some(_)) => ("on trial", pen.look.style(Paint::Yellow)),
                (None, None) => ("in force", pen.look.style(Paint::Green)),
                (Some(ended), _) => (ended.how.name(), dim),
            };
            let by = past.by.as_ref().map(ToString::to_string);
            let mut cells = vec![
                (past.generation.to_string(), plain),
                (state.to_owned(), style),
                (since(&past.applied_at, now.wall), plain),
                (pen.look.text(&by.unwrap_or_else(|| "-".into())), dim),
                (pen.look.text(&past.name), plain),
            ];
            if !is_one {
                cells.insert(0, (pen.look.text(&one.standing.interface), plain));
            }
            lines.push(Entry {
                cells,
                style: plain,
            });
        }
    }
    if lines.is_empty() {
        return pen.center(under(area), "what was in force before cannot be read");
    }
    let columns = if is_one { &COLUMNS[1..] } else { &COLUMNS[..] };
    table::draw(pen, under(area), columns, None, lines);
}
