//! The list of rules, with its heading, and all that is known about the selected one.

use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use sg_policy::policy::titled;
use sg_userspace::observe::counters::{RuleCounters, have_several_groups};

use super::pen::{Pen, under};
use super::table::{self, Column, Entry, fixed, number, text};
use crate::cli::screen::{Paint, paint_of};
use crate::cli::top::list::{Sort, is_zero};
use crate::cli::top::model::{Model, Table};
use crate::cli::top::track::Row;
use crate::cli::units::{bit_rate, bytes, count, packet_rate, thousands};
use crate::cli::words::{position_of, short_direction};

/// The lines above the rules: a heading, and the names of the columns.
pub(super) const HEADINGS: u16 = 2;
/// The lines about the selected rule.
pub(super) const DETAIL: u16 = 2;

/// The marks of a trend, and those where there is room for more.
const TREND: usize = 10;
const LONG_TREND: usize = 20;
const ROOMY: u16 = 132;

const COLUMNS: [Column; 12] = [
    fixed("DIR", 0),
    number("#", 0),
    fixed("ACTION", 0),
    text("GROUP", 5, 6),
    text("MATCH", 0, 20),
    text("DESCRIPTION", 7, 12),
    number("PACKETS", 0),
    number("RATE", 0),
    number("BYTES", 2),
    number("BIT RATE", 3),
    number("REPLIES", 4),
    fixed("TREND", 1),
];

fn heading_of(sort: Sort) -> &'static str {
    match sort {
        Sort::Rate => "RATE",
        Sort::BitRate => "BIT RATE",
        Sort::Packets => "PACKETS",
        Sort::Bytes => "BYTES",
        Sort::Position => "#",
    }
}

pub(super) fn draw(pen: &mut Pen<'_>, area: Rect, model: &Model, table: &Table) {
    let title = title(pen, model, table);
    pen.heading(area, title);
    let below = under(area);
    if model.order.is_empty() {
        return pen.center(below, &why_empty(model, table));
    }
    let page = usize::from(area.height.saturating_sub(HEADINGS));
    let has_groups = have_several_groups(table.rules.iter().map(|row| &row.what));
    let trend = if area.width < ROOMY {
        TREND
    } else {
        LONG_TREND
    };
    let shown = model.order.iter().skip(model.offset).take(page);
    let shown = shown.filter_map(|at| Some((*at, table.rules.get(*at)?)));
    let lines = shown.map(|(at, row)| {
        let mut line = entry(pen, row, has_groups, trend);
        if model.selected == Some(at) {
            line.style = line.style.add_modifier(Modifier::REVERSED);
        }
        line
    });
    let lines = lines.collect();
    // The column for the group is only needed if there are several groups.
    let columns: Vec<Column> = COLUMNS
        .into_iter()
        .filter(|column| has_groups || column.title != "GROUP")
        .collect();
    table::draw(
        pen,
        below,
        &columns,
        Some(heading_of(model.choice.sort)),
        lines,
    );
}

fn entry(pen: &Pen<'_>, row: &Row<RuleCounters>, has_groups: bool, trend: usize) -> Entry {
    let look = pen.look;
    let rule = &row.what;
    let (dim, plain) = (look.style(Paint::Dim), Style::new());
    let (style, action) = match is_zero(rule) {
        true => (dim, dim),
        false => (plain, look.style(paint_of(rule.action))),
    };
    let mut cells = vec![
        (short_direction(rule.direction).to_owned(), style),
        (position_of(rule.position), style),
        (rule.action.to_string(), action),
    ];
    if has_groups {
        cells.push((look.text(&rule.group), style));
    }
    let description = rule.description.as_deref().unwrap_or_default();
    cells.extend([
        (
            look.text(&titled(rule.name.as_deref(), &rule.summary)),
            style,
        ),
        (look.text(description), dim),
        (thousands(rule.packets), style),
        // As wide as the widest, so that columns do not move while numbers change.
        (format!("{:>8}", packet_rate(row.track.rate.packets)), style),
        (format!("{:>8}", bytes(rule.bytes)), style),
        (format!("{:>11}", bit_rate(row.track.rate.bits())), style),
        (thousands(rule.reply_packets), style),
        (look.trend(row.track.history(trend), trend), action),
    ]);
    Entry {
        cells,
        style: plain,
    }
}

/// `12 of 10,000 rules, 1 to 9 shown, by rate, filter: tcp`.
fn title(pen: &Pen<'_>, model: &Model, table: &Table) -> Vec<Span<'static>> {
    let (all, listed) = (table.rules.len(), model.order.len());
    let mut said = match all == listed {
        true => count(all, "rule"),
        false => format!("{} of {}", thousands(listed as u64), count(all, "rule")),
    };
    if listed > model.page && model.page > 0 {
        let (first, last) = (model.offset + 1, (model.offset + model.page).min(listed));
        said.push_str(&format!(
            ", {} to {}",
            thousands(first as u64),
            thousands(last as u64)
        ));
    }
    said.push_str(&format!(", by {}", model.choice.sort.name()));
    if model.choice.is_reversed {
        said.push_str(" reversed");
    }
    if model.choice.hides_zero {
        said.push_str(", zeros hidden");
    }
    let mut spans = vec![pen.paint(Paint::Bold, &said)];
    if model.is_typing || !model.choice.filter.is_empty() {
        let cursor = if model.is_typing { "_" } else { "" };
        spans.push(pen.plain(", filter: "));
        spans.push(pen.paint(Paint::Yellow, &format!("{}{cursor}", model.choice.filter)));
    }
    spans
}

/// Why no rule is listed.
fn why_empty(model: &Model, table: &Table) -> String {
    let is_zero = |row: &Row<RuleCounters>| is_zero(&row.what);
    if table.rules.is_empty() {
        "the policy has no rules: it drops everything".to_owned()
    } else if model.choice.hides_zero && table.rules.iter().all(is_zero) {
        "no rule has decided anything yet; z shows them".to_owned()
    } else {
        "no rule has all these words; Esc ends the filter".to_owned()
    }
}

/// All that is known about the selected rule, also where the columns have no room for it.
pub(super) fn detail(pen: &mut Pen<'_>, area: Rect, model: &Model, table: &Table) {
    let Some(row) = model.selected.and_then(|at| table.rules.get(at)) else {
        return;
    };
    let rule = &row.what;
    let place = match rule.position {
        Some(position) => format!("{} rule {position}", rule.direction),
        None => format!("a former {} rule", rule.direction),
    };
    let group = match rule.group.is_empty() {
        true => String::new(),
        false => format!(" of {}", rule.group),
    };
    let title = titled(rule.name.as_deref(), &rule.summary);
    let description = match &rule.description {
        Some(description) => format!(": {description}"),
        None => String::new(),
    };
    let said = format!("{place}{group}, {} {title}{description}", rule.action);
    let width = usize::from(area.width);
    let lines = textwrap::wrap(&said, width.max(1));
    let last = usize::from(DETAIL) - 1;
    let rest = lines.get(last..).map(|rest| rest.join(" "));
    let first = lines
        .into_iter()
        .take(last)
        .map(std::borrow::Cow::into_owned);
    let lines: Vec<String> = first.chain(rest).collect();
    let lines = lines
        .iter()
        .map(|line| Line::from(pen.plain(&pen.look.fit(line, width))));
    let lines: Vec<Line<'static>> = lines.collect();
    pen.lines(area, lines);
}
