//! The sources and ports that were dropped most in the last minute, or since `top` looks.

use ratatui::layout::Rect;
use ratatui::style::Style;
use sg_common::protocol::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};
use sg_common::verdict::Direction;

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
        (direction, format!("{} {port}", name_of(protocol)), count)
    });
    let (sources, ports) = (lines(pen, sources, seen), lines(pen, ports, seen));
    let (first, second) = match area.width >= PORTS * 2 + 20 {
        true => {
            let first = Rect {
                width: area.width - PORTS - 2,
                ..area
            };
            (
                first,
                Rect {
                    x: first.right() + 2,
                    width: PORTS,
                    ..area
                },
            )
        }
        false => {
            let first = Rect {
                height: area.height / 2,
                ..area
            };
            (
                first,
                Rect {
                    y: first.bottom(),
                    height: area.height - first.height,
                    ..area
                },
            )
        }
    };
    table::draw(pen, first, &columns("SOURCE"), None, sources);
    table::draw(pen, second, &columns("PORT"), None, ports);
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

fn name_of(protocol: u8) -> String {
    match protocol {
        IPPROTO_TCP => "tcp".to_owned(),
        IPPROTO_UDP => "udp".to_owned(),
        IPPROTO_SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}
