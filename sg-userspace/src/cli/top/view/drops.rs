//! The sources and ports that were dropped most in the last minute, or since `top` looks.

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use sg_common::verdict::Direction;
use sg_policy::policy::{Protocol, protocol_name};

use super::pen::{Pen, under};
use super::table::{self, Column, Entry, fixed, number};
use crate::cli::screen::Paint;
use crate::cli::top::model::{Model, Table};
use crate::cli::units::thousands;
use crate::cli::words::short_direction;

/// The width of the ports where they stand beside the sources.
const PORTS: u16 = 30;

pub(super) fn draw(pen: &mut Pen<'_>, area: Rect, model: &Model, table: &Table, hint: &str) {
    let drops = &table.drops;
    let (dropped, seen) = (drops.dropped(), drops.seen());
    let seconds = drops.looked_back(table.at).as_secs();
    let time = match seconds {
        60.. => "minute".to_owned(),
        _ => format!("{seconds} s"),
    };
    let numbers = format!(
        ", last {time}: {} seen, {} not",
        thousands(seen),
        thousands(dropped.saturating_sub(seen))
    );
    let title = vec![
        pen.paint(Paint::Bold, "dropped most"),
        pen.plain(&numbers),
        pen.paint(Paint::Dim, hint),
    ];
    pen.heading(area, title);
    let area = under(area);
    if seen == 0 {
        let why = match (&model.unwatched, dropped) {
            (Some(trouble), _) => format!("it cannot be watched: {trouble}"),
            (None, 0) => "nothing was dropped in this time".to_owned(),
            (None, _) => "no dropped packet was seen yet".to_owned(),
        };
        return pen.center(area, &why);
    }
    let most = usize::from(area.height.saturating_sub(1));
    let sources = drops.sources(most).into_iter();
    let sources =
        sources.map(|((direction, source), count)| (direction, source.to_string(), count));
    let ports = drops.ports(most).into_iter();
    let ports = ports.map(|((direction, protocol, port), count)| {
        let protocol = protocol_name(Protocol::Number(protocol));
        (direction, format!("{protocol} {port}"), count)
    });
    let (sources, ports) = (lines(pen, sources, seen), lines(pen, ports, seen));
    let [for_sources, for_ports] = halves(area);
    table::draw(pen, for_sources, &columns("SOURCE"), None, sources);
    table::draw(pen, for_ports, &columns("PORT"), None, ports);
}

/// Where sources and ports are: side by side, or ports below sources where the area is narrow.
fn halves(area: Rect) -> [Rect; 2] {
    const GAP: u16 = 2;
    if area.width >= PORTS * 2 + 20 {
        let [sources, _, ports] = Layout::horizontal([
            Constraint::Fill(1),
            Constraint::Length(GAP),
            Constraint::Length(PORTS),
        ])
        .areas(area);
        return [sources, ports];
    }
    let sources = Constraint::Length(area.height / 2);
    Layout::vertical([sources, Constraint::Fill(1)]).areas(area)
}

const fn columns(what: &'static str) -> [Column; 4] {
    [
        fixed("DIR", 0),
        fixed(what, 0),
        number("SEEN", 0),
        number("OF SEEN", 1),
    ]
}

fn lines(
    pen: &Pen<'_>,
    all: impl Iterator<Item = (Direction, String, u64)>,
    seen: u64,
) -> Vec<Entry> {
    let plain = Style::new();
    let dim = pen.look.style(Paint::Dim);
    let line = |(direction, what, count): (Direction, String, u64)| {
        let share = format!("{:.1} %", count as f64 / seen as f64 * 100.0);
        let cells = vec![
            (short_direction(direction).to_owned(), plain),
            (what, plain),
            (thousands(count), plain),
            (share, dim),
        ];
        Entry {
            cells,
            style: plain,
        }
    };
    all.map(line).collect()
}
