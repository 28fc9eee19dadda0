//! A small table whose numbers are never cut: text gives way to them.

use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Row, Table, Widget};
use textwrap::core::display_width;

use super::pen::Pen;
use crate::cli::screen::Paint;

/// A column, in the order in which columns are given up where there is no room: the highest
/// number first. Those of rank 0 stay.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) is_number: bool,
    pub(super) rank: u8,
    /// As wide as the room that the others leave, but at least this.
    pub(super) text: Option<usize>,
}

pub(super) const fn number(title: &'static str, rank: u8) -> Column {
    Column {
        title,
        is_number: true,
        rank,
        text: None,
    }
}

pub(super) const fn fixed(title: &'static str, rank: u8) -> Column {
    Column {
        title,
        is_number: false,
        rank,
        text: None,
    }
}

/// Text that gives way down to so many columns.
pub(super) const fn text(title: &'static str, rank: u8, least: usize) -> Column {
    Column {
        title,
        is_number: false,
        rank,
        text: Some(least),
    }
}

pub(super) type Cell = (String, Style);

/// A line of the table, and its style.
pub(super) struct Entry {
    pub(super) cells: Vec<Cell>,
    pub(super) style: Style,
}

/// Draws as many of the lines as fit below the headings. `sorted` is marked among those.
pub(super) fn draw(
    pen: &mut Pen<'_>,
    area: Rect,
    columns: &[Column],
    sorted: Option<&str>,
    lines: Vec<Entry>,
) {
    let heading = |column: &Column| -> String {
        let mark = if pen.look.unicode { "▼" } else { "*" };
        let mark = if sorted == Some(column.title) {
            mark
        } else {
            ""
        };
        format!("{}{mark}", column.title)
    };
    let headings: Vec<String> = columns.iter().map(heading).collect();
    let widest = |at: usize| {
        let cells = lines.iter().filter_map(|line| line.cells.get(at));
        let cells = cells.map(|(text, _)| display_width(text));
        cells.max().unwrap_or(0).max(display_width(&headings[at]))
    };
    let natural: Vec<usize> = (0..columns.len()).map(widest).collect();
    let widths = fit(columns, &natural, usize::from(area.width));
    let shown: Vec<usize> = (0..columns.len()).filter(|at| widths[*at] > 0).collect();
    let cell = |at: usize, text: &str, style: Style| {
        let text = pen.look.fit(text, widths[at]);
        let line = Line::from(Span::styled(text, style));
        match columns[at].is_number {
            true => line.right_aligned(),
            false => line,
        }
    };
    let dim = pen.look.style(Paint::Dim);
    let header = Row::new(shown.iter().map(|at| cell(*at, &headings[*at], dim)));
    let rows = lines.iter().map(|line| {
        let cells = shown.iter().map(|at| match line.cells.get(*at) {
            Some((text, style)) => cell(*at, text, *style),
            None => Line::default(),
        });
        Row::new(cells.collect::<Vec<_>>()).style(line.style)
    });
    let rows: Vec<Row<'_>> = rows.collect();
    let lengths = shown
        .iter()
        .map(|at| Constraint::Length(widths[*at] as u16));
    Table::new(rows, lengths)
        .header(header)
        .column_spacing(1)
        .render(area, pen.buffer);
}

/// How wide each column is, 0 for one that is given up.
fn fit(columns: &[Column], natural: &[usize], room: usize) -> Vec<usize> {
    let mut shown: Vec<bool> = columns.iter().map(|_| true).collect();
    loop {
        let least = |at: usize| match columns[at].text {
            Some(least) => natural[at].min(least),
            None => natural[at],
        };
        let all = (0..columns.len()).filter(|at| shown[*at]);
        let count = all.clone().count();
        let needed: usize = all.clone().map(least).sum::<usize>() + count.saturating_sub(1);
        let last = all.clone().filter(|at| columns[*at].rank > 0);
        let last = last.max_by_key(|at| columns[*at].rank);
        if let Some(last) = last.filter(|_| needed > room) {
            shown[last] = false;
            continue;
        }
        // What is left over goes to the columns of text, from the left.
        let mut left = room.saturating_sub(needed);
        let width = |at: usize| {
            if !shown[at] {
                return 0;
            }
            let more = (natural[at] - least(at)).min(left);
            left -= more;
            least(at) + more
        };
        return (0..columns.len()).map(width).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_gives_way_first_then_columns_by_their_rank() {
        let columns = [
            number("#", 0),
            text("MATCH", 0, 10),
            number("BYTES", 2),
            fixed("TREND", 1),
        ];
        let natural = [3, 30, 8, 8];
        for (room, expected) in [
            (80, [3, 30, 8, 8]),
            (52, [3, 30, 8, 8]),
            (40, [3, 18, 8, 8]),
            (32, [3, 10, 8, 8]),
            (31, [3, 18, 0, 8]),
            (22, [3, 18, 0, 0]),
            (4, [3, 10, 0, 0]),
        ] {
            assert_eq!(fit(&columns, &natural, room), expected, "{room}");
        }
    }
}
