//! Aligned tables without borders. On a terminal one column gives way so that a row stays one line.
//! Everywhere else nothing is cut off.

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, presets,
};

use super::screen::{Paint, Screen};
use super::units::clean;

/// A column's heading and how it behaves.
#[derive(Clone, Copy)]
pub(super) enum Column {
    Text(&'static str),
    /// Aligned to the right.
    Number(&'static str),
    /// Shortened where the terminal is too narrow, and left out where that is not enough.
    Flexible(&'static str),
}

/// Below this a shortened text says nothing any more.
const SHORTEST: usize = 10;
const GAP: u16 = 2;

pub(super) struct Table {
    inner: comfy_table::Table,
    columns: Vec<Column>,
    screen: Screen,
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
            let (Column::Text(name) | Column::Number(name) | Column::Flexible(name)) = column;
            painted(screen, name, Some(Paint::Dim))
        });
        let mut heading = Row::from(heading.collect::<Vec<Cell>>());
        heading.max_height(1);
        inner.set_header(heading);
        Table {
            inner,
            columns: columns.to_vec(),
            screen: *screen,
        }
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
        self.fit();
        let last = self.columns.len().saturating_sub(1);
        for (index, column) in self.columns.iter().enumerate() {
            let Some(set) = self.inner.column_mut(index) else {
                continue;
            };
            set.set_padding((0, if index == last { 0 } else { GAP }));
            if matches!(column, Column::Number(_)) {
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

    /// Gives the columns their widths on a terminal.
    fn fit(&mut self) {
        let Some(width) = self.screen.width else {
            self.inner
                .set_content_arrangement(ContentArrangement::Disabled);
            return;
        };
        let widths = self.inner.column_max_content_widths();
        let gaps = usize::from(GAP) * self.columns.len().saturating_sub(1);
        let mut fixed = gaps;
        let mut flexible: Vec<usize> = Vec::new();
        for (column, content) in self.columns.iter().zip(&widths) {
            match column {
                Column::Flexible(_) => flexible.push(usize::from(*content)),
                _ => fixed += usize::from(*content),
            }
        }
        // The last one goes first.
        let is_too_narrow = |flexible: &[usize], fixed: usize| {
            let left = width.saturating_sub(fixed);
            flexible.iter().sum::<usize>() > left && left < SHORTEST * flexible.len()
        };
        while is_too_narrow(&flexible, fixed) {
            flexible.pop();
            fixed = fixed.saturating_sub(usize::from(GAP));
        }
        let mut shown = flexible.len();
        self.inner
            .set_width(u16::try_from(width).unwrap_or(u16::MAX));
        self.inner
            .set_content_arrangement(ContentArrangement::Dynamic);
        for (index, column) in self.columns.iter().enumerate() {
            let Some(set) = self.inner.column_mut(index) else {
                continue;
            };
            match column {
                Column::Flexible(_) if shown == 0 => {
                    set.set_constraint(ColumnConstraint::Hidden);
                }
                Column::Flexible(_) => shown -= 1,
                Column::Number(_) => {
                    set.set_constraint(ColumnConstraint::ContentWidth);
                }
                Column::Text(_) if fixed <= width => {
                    set.set_constraint(ColumnConstraint::ContentWidth);
                }
                Column::Text(_) => {}
            }
        }
    }
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
