//! Aligned tables without borders. On a terminal some columns give way so that a row stays one line;
//! numbers and addresses are never cut. Everywhere else nothing is.

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Width,
    presets,
};

use super::screen::{Paint, Screen};
use super::units::clean;

/// A column's heading and how it behaves.
#[derive(Clone, Copy)]
pub(super) enum Column {
    Text(&'static str),
    /// Aligned to the right.
    Number(&'static str),
    /// As a number, but left out where the terminal is too narrow, lower ranks first.
    Spare(&'static str, u8),
    /// Shortened where the terminal is too narrow. There is one at most.
    Long(&'static str),
    /// Shortened where the terminal is too narrow, and left out where that is not enough.
    Flexible(&'static str),
}

/// Below this a shortened text says nothing any more.
const SHORTEST: usize = 10;
/// Below this spare columns go before a long one is shortened further.
const READABLE: usize = 24;
const GAP: u16 = 2;

pub(super) struct Table {
    inner: comfy_table::Table,
    columns: Vec<Column>,
    screen: Screen,
    /// What the long column needs at least.
    whole: usize,
}

impl Table {
    pub(super) fn new(screen: &Screen, columns: &[Column]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING);
        inner.set_truncation_indicator("…");
        if screen.color {
            inner.enforce_styling();
        } else {
            inner.force_no_tty();
        }
        let heading = columns.iter().map(|column| {
            let (Column::Text(name)
            | Column::Number(name)
            | Column::Spare(name, _)
            | Column::Long(name)
            | Column::Flexible(name)) = column;
            painted(screen, name, Some(Paint::Dim))
        });
        let mut heading = Row::from(heading.collect::<Vec<Cell>>());
        heading.max_height(1);
        inner.set_header(heading);
        Table {
            inner,
            columns: columns.to_vec(),
            screen: *screen,
            whole: 0,
        }
    }

    /// The long column is never shorter than `text`.
    pub(super) fn keep(&mut self, text: &str) {
        self.whole = self.whole.max(text.chars().count());
    }

    /// Each cell with its own paint.
    pub(super) fn row(&mut self, cells: Vec<(String, Option<Paint>)>) {
        let cells = cells
            .into_iter()
            .map(|(text, paint)| painted(&self.screen, &text, paint));
        let mut row = Row::from(cells.collect::<Vec<Cell>>());
        row.max_height(1);
        self.inner.add_row(row);
    }

    pub(super) fn render(mut self) -> String {
        let last = self.fit();
        for (index, column) in self.columns.iter().enumerate() {
            let Some(set) = self.inner.column_mut(index) else {
                continue;
            };
            set.set_padding((0, if index == last { 0 } else { GAP }));
            if matches!(column, Column::Number(_) | Column::Spare(..)) {
                set.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut out = String::new();
        for line in self.inner.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// Gives the columns their widths on a terminal, and says which is the last that is shown.
    fn fit(&mut self) -> usize {
        let last = self.columns.len().saturating_sub(1);
        let Some(width) = self.screen.width else {
            self.inner
                .set_content_arrangement(ContentArrangement::Disabled);
            return last;
        };
        let contents = self.inner.column_max_content_widths();
        let contents: Vec<usize> = contents.into_iter().map(usize::from).collect();
        let widths = widths(&self.columns, &contents, self.whole, width);
        let last = widths.iter().rposition(Option::is_some).unwrap_or(last);
        self.inner.set_width(u16::MAX);
        self.inner
            .set_content_arrangement(ContentArrangement::Dynamic);
        for (index, (width, content)) in widths.into_iter().zip(contents).enumerate() {
            let Some(set) = self.inner.column_mut(index) else {
                continue;
            };
            set.set_constraint(match width {
                None => ColumnConstraint::Hidden,
                Some(width) if width >= content => ColumnConstraint::ContentWidth,
                Some(width) => {
                    // The gap counts as part of the column.
                    let gap = if index == last { 0 } else { usize::from(GAP) };
                    let width = u16::try_from(width + gap).unwrap_or(u16::MAX);
                    ColumnConstraint::Absolute(Width::Fixed(width))
                }
            });
        }
        last
    }
}

/// How wide each column is on a terminal of `width`, `None` for one that is left out. `whole` is what
/// a long column needs at least.
///
/// What may be shortened is shortened first, and left out where too little would remain; then the
/// spare columns go, one after the other; then the long one is shortened further. Whatever else there
/// is stays whole, though lines may be longer than the terminal.
fn widths(
    columns: &[Column],
    contents: &[usize],
    whole: usize,
    width: usize,
) -> Vec<Option<usize>> {
    let gap = usize::from(GAP);
    let mut ranks: Vec<u8> = columns
        .iter()
        .filter_map(|column| match column {
            Column::Spare(_, rank) => Some(*rank),
            _ => None,
        })
        .collect();
    ranks.sort_unstable();
    // How many of the spare columns are left out, from none to all.
    for gone in 0..=ranks.len() {
        let is_gone = |rank: u8| ranks.iter().take(gone).any(|r| *r == rank);
        let mut fixed = 0;
        let mut long = None;
        let mut flexible = Vec::new();
        for (column, content) in columns.iter().zip(contents) {
            match column {
                Column::Flexible(_) => flexible.push(*content),
                Column::Long(_) => {
                    long = Some(*content);
                    fixed += gap;
                }
                Column::Spare(_, rank) if is_gone(*rank) => {}
                _ => fixed += content + gap,
            }
        }
        // No gap is behind the last column.
        let room = (width + gap).saturating_sub(fixed);
        let readable = long.map_or(0, |content| content.min(whole.max(READABLE)));
        if readable > room && gone < ranks.len() {
            continue;
        }
        let at_least = long.map_or(0, |content| content.min(whole));
        // The long column has its own before the flexible ones get anything.
        let long = long.map(|content| content.min(room.max(at_least)));
        let mut left = room.saturating_sub(long.unwrap_or(0));
        let all: usize = flexible.iter().map(|content| content + gap).sum();
        while flexible.iter().map(|c| c + gap).sum::<usize>() > left
            && left < (SHORTEST + gap) * flexible.len()
        {
            flexible.pop();
        }
        let mut shown = flexible.len();
        let is_short = all > left;
        return columns
            .iter()
            .zip(contents)
            .map(|(column, content)| match column {
                Column::Flexible(_) if shown == 0 => None,
                Column::Flexible(_) => {
                    let share = left / shown;
                    shown -= 1;
                    let mine = if is_short {
                        share.saturating_sub(gap)
                    } else {
                        *content
                    };
                    let mine = mine.min(*content);
                    left = left.saturating_sub(mine + gap);
                    Some(mine)
                }
                Column::Long(_) => long,
                Column::Spare(_, rank) if is_gone(*rank) => None,
                _ => Some(*content),
            })
            .collect();
    }
    contents.iter().map(|content| Some(*content)).collect()
}

fn painted(screen: &Screen, text: &str, paint: Option<Paint>) -> Cell {
    let cell = Cell::new(clean(text));
    if !screen.color {
        return cell;
    }
    match paint {
        None => cell,
        Some(Paint::Bold) => cell.add_attribute(Attribute::Bold),
        Some(Paint::Dim) => cell.add_attribute(Attribute::Dim),
        Some(Paint::Red) => cell.fg(Color::DarkRed),
        Some(Paint::Green) => cell.fg(Color::DarkGreen),
        Some(Paint::Yellow) => cell.fg(Color::DarkYellow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `counters --watch`: no number is cut at any width, and the totals' words are whole.
    #[test]
    fn columns_give_way_in_their_order() {
        let columns = [
            Column::Text("DIR"),
            Column::Number("#"),
            Column::Text("ACTION"),
            Column::Long("MATCH"),
            Column::Flexible("DESCRIPTION"),
            Column::Number("PACKETS"),
            Column::Number("RATE"),
            Column::Spare("BYTES", 2),
            Column::Spare("RATE", 1),
            Column::Spare("REPLIES", 3),
        ];
        let contents = [8, 2, 6, 40, 30, 13, 8, 8, 11, 9];
        let of = |width| widths(&columns, &contents, 26, width);
        let wide = of(200);
        assert!(
            wide.iter().zip(contents).all(|(w, c)| *w == Some(c)),
            "{wide:?}"
        );
        for width in 20..200 {
            let found = of(width);
            for (i, column) in columns.iter().enumerate() {
                match column {
                    Column::Text(_) | Column::Number(_) => assert_eq!(found[i], Some(contents[i])),
                    Column::Long(_) => assert!(found[i] >= Some(26), "{width}: {found:?}"),
                    Column::Spare(..) => assert!([None, Some(contents[i])].contains(&found[i])),
                    Column::Flexible(_) => assert!(found[i].is_none_or(|w| w >= SHORTEST)),
                }
            }
            let shown: Vec<usize> = found.into_iter().flatten().collect();
            let taken = shown.iter().sum::<usize>() + 2 * (shown.len() - 1);
            // Below the least that there must be, lines are longer than the terminal.
            assert!(
                taken <= width.max(8 + 2 + 6 + 26 + 13 + 8 + 10),
                "{width}: {taken}"
            );
        }
        let at_80 = of(80);
        assert_eq!(
            (at_80[7], at_80[8], at_80[9]),
            (None, None, None),
            "{at_80:?}"
        );
        let at_100 = of(100);
        assert_eq!(
            (at_100[7], at_100[8], at_100[9]),
            (Some(8), None, Some(9)),
            "{at_100:?}"
        );
    }
}
