//! Aligned tables without borders. On a terminal some columns are shortened or left out so that a
//! row fits on one line. Numbers and addresses are never cut. Without a terminal nothing is.

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Width,
    presets,
};

use super::screen::{Paint, Screen, wrapped};
use super::units::clean;

/// A column's heading and how it behaves.
#[derive(Clone, Copy)]
pub(super) enum Column {
    Text(&'static str),
    /// A number, aligned to the right.
    Number(&'static str),
    /// A number that is left out if the terminal is too narrow. Lower ranks go first.
    Spare(&'static str, u8),
    /// A text that is left out in the same way.
    SpareText(&'static str, u8),
    /// A text that is shortened if the terminal is too narrow.
    Long(&'static str),
    /// A text that is shortened if the terminal is too narrow, and left out if that is not enough.
    Flexible(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        let (Column::Text(name)
        | Column::Number(name)
        | Column::Spare(name, _)
        | Column::SpareText(name, _)
        | Column::Long(name)
        | Column::Flexible(name)) = self;
        name
    }

    fn rank(self) -> Option<u8> {
        match self {
            Column::Spare(_, rank) | Column::SpareText(_, rank) => Some(rank),
            _ => None,
        }
    }
}

/// The shortest useful length of a shortened text.
const SHORTEST: usize = 10;
/// At this length of a long column, spare columns are left out before it is shortened further,
/// unless a table says otherwise.
const READABLE: usize = 28;
/// The columns between two columns, unless a table says otherwise.
const GAP: u16 = 2;

pub(super) struct Table {
    inner: comfy_table::Table,
    columns: Vec<Column>,
    screen: Screen,
    /// The least width of the first long column.
    whole: usize,
    /// See [`READABLE`].
    readable: usize,
    /// See [`GAP`].
    gap: u16,
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
        let heading = columns.iter();
        let heading = heading.map(|column| painted(screen, column.name(), Some(Paint::Dim)));
        let mut heading = Row::from(heading.collect::<Vec<Cell>>());
        heading.max_height(1);
        inner.set_header(heading);
        Table {
            inner,
            columns: columns.to_vec(),
            screen: *screen,
            whole: 0,
            readable: READABLE,
            gap: GAP,
        }
    }

    /// Leaves one column only between two columns.
    pub(super) fn close_up(&mut self) {
        self.gap = 1;
    }

    /// Shortens long columns to so many characters before spare columns are left out.
    pub(super) fn shorten_to(&mut self, readable: usize) {
        self.readable = readable;
    }

    /// Makes the first long column at least as wide as `text`.
    pub(super) fn keep(&mut self, text: &str) {
        self.whole = self.whole.max(text.chars().count());
    }

    /// Adds a row. Each cell has its own colour.
    pub(super) fn row(&mut self, cells: Vec<(String, Option<Paint>)>) {
        let cells = cells
            .into_iter()
            .map(|(text, paint)| painted(&self.screen, &text, paint));
        let mut row = Row::from(cells.collect::<Vec<Cell>>());
        row.max_height(1);
        self.inner.add_row(row);
    }

    /// Whether no column of numbers is left out.
    pub(super) fn has_all_numbers(&self) -> bool {
        let Some(width) = self.screen.width else {
            return true;
        };
        let widths = self.widths(width);
        let mut columns = self.columns.iter().zip(&widths);
        columns.all(|(column, width)| width.is_some() || !matches!(column, Column::Spare(..)))
    }

    /// Whether a row with all columns fits on one line.
    pub(super) fn has_all_columns(&self) -> bool {
        let Some(width) = self.screen.width else {
            return true;
        };
        self.fits() && self.widths(width).iter().all(Option::is_some)
    }

    /// Whether a row fits on one line, possibly without some columns.
    pub(super) fn fits(&self) -> bool {
        let Some(width) = self.screen.width else {
            return true;
        };
        let widths: Vec<usize> = self.widths(width).into_iter().flatten().collect();
        let gaps = usize::from(self.gap) * widths.len().saturating_sub(1);
        widths.iter().sum::<usize>() + gaps <= width
    }

    /// The table, with the names of columns that did not fit.
    pub(super) fn render(mut self) -> String {
        let (last, hidden) = self.fit();
        for (index, column) in self.columns.iter().enumerate() {
            let Some(set) = self.inner.column_mut(index) else {
                continue;
            };
            set.set_padding((0, if index == last { 0 } else { self.gap }));
            if matches!(column, Column::Number(_) | Column::Spare(..)) {
                set.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut out = String::new();
        for line in self.inner.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        if !hidden.is_empty() {
            let note = format!("no room for {}\n", hidden.join(", "));
            let note = match self.screen.width {
                Some(width) => wrapped(&note, width),
                None => note,
            };
            for line in note.lines() {
                out.push_str(&self.screen.paint(Paint::Dim, line));
                out.push('\n');
            }
        }
        out
    }

    fn contents(&self) -> Vec<usize> {
        let contents = self.inner.column_max_content_widths();
        contents.into_iter().map(usize::from).collect()
    }

    fn widths(&self, width: usize) -> Vec<Option<usize>> {
        let least = (self.whole, self.readable);
        widths(&self.columns, &self.contents(), least, self.gap, width)
    }

    /// Sets the widths of the columns on a terminal. Returns the last column that is shown, and the
    /// names of those that are not.
    fn fit(&mut self) -> (usize, Vec<&'static str>) {
        let last = self.columns.len().saturating_sub(1);
        let Some(width) = self.screen.width else {
            self.inner
                .set_content_arrangement(ContentArrangement::Disabled);
            return (last, Vec::new());
        };
        let (contents, widths) = (self.contents(), self.widths(width));
        let last = widths.iter().rposition(Option::is_some).unwrap_or(last);
        let columns = self.columns.iter().zip(&widths);
        let hidden = columns.filter(|(_, width)| width.is_none());
        let hidden = hidden.map(|(column, _)| column.name()).collect();
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
                    // comfy-table counts the gap as part of the column.
                    let gap = if index == last {
                        0
                    } else {
                        usize::from(self.gap)
                    };
                    let width = u16::try_from(width + gap).unwrap_or(u16::MAX);
                    ColumnConstraint::Absolute(Width::Fixed(width))
                }
            });
        }
        (last, hidden)
    }
}

/// The width of each column on a terminal of `width`, `None` for one that is left out. `whole` is
/// the least width of the first long column, and `readable` is [`READABLE`] of the table.
///
/// Flexible columns are shortened first, and left out if too little would remain. Then spare
/// columns are left out one after the other, and then long columns are shortened further. All other
/// columns keep their width, even if a line is longer than the terminal then.
fn widths(
    columns: &[Column],
    contents: &[usize],
    (whole, readable): (usize, usize),
    gap: u16,
    width: usize,
) -> Vec<Option<usize>> {
    let gap = usize::from(gap);
    let mut ranks: Vec<u8> = columns.iter().filter_map(|column| column.rank()).collect();
    ranks.sort_unstable();
    // Tries to leave out none of the spare columns, then one, and so on.
    for gone in 0..=ranks.len() {
        let is_gone = |column: &Column| {
            let rank = column.rank();
            rank.is_some_and(|rank| ranks.iter().take(gone).any(|r| *r == rank))
        };
        let mut fixed = 0;
        let mut long = Vec::new();
        let mut flexible = Vec::new();
        for (column, content) in columns.iter().zip(contents) {
            match column {
                Column::Flexible(_) => flexible.push(*content),
                Column::Long(_) => {
                    long.push(*content);
                    fixed += gap;
                }
                column if is_gone(column) => {}
                _ => fixed += content + gap,
            }
        }
        // There is no gap after the last column.
        let room = (width + gap).saturating_sub(fixed);
        let at_least = |i: usize| if i == 0 { whole } else { 0 };
        let needed = long.iter().enumerate();
        let needed = needed.map(|(i, content)| *content.min(&at_least(i).max(readable)));
        let is_short = needed.sum::<usize>() > room || fixed > width + gap;
        if is_short && gone < ranks.len() {
            continue;
        }
        // Long columns get their width before flexible ones.
        let mut long = shares(&long, room);
        if let Some((share, content)) = long.first_mut() {
            *share = (*share).max(whole.min(*content));
        }
        let taken: usize = long.iter().map(|(share, _)| share).sum();
        let flexible = flexible_shares(&flexible, room.saturating_sub(taken), gap);
        let (mut long, mut flexible) = (long.into_iter(), flexible.into_iter());
        let width = |(column, content): (&Column, &usize)| match column {
            Column::Flexible(_) => flexible.next(),
            Column::Long(_) => long.next().map(|(share, _)| share),
            column if is_gone(column) => None,
            _ => Some(*content),
        };
        return columns.iter().zip(contents).map(width).collect();
    }
    contents.iter().map(|content| Some(*content)).collect()
}

/// The widths of flexible columns in so much room, each with its gap. If too little would remain
/// for each, the last ones are left out.
fn flexible_shares(contents: &[usize], room: usize, gap: usize) -> Vec<usize> {
    let is_short = |contents: &[usize]| contents.iter().map(|c| c + gap).sum::<usize>() > room;
    let mut shown = contents;
    while let Some((_, rest)) = shown.split_last()
        && is_short(shown)
        && room < (SHORTEST + gap) * shown.len()
    {
        shown = rest;
    }
    let mut left = room;
    let mut shares = Vec::new();
    for (i, content) in shown.iter().enumerate() {
        let share = match is_short(contents) {
            true => (left / (shown.len() - i)).saturating_sub(gap).min(*content),
            false => *content,
        };
        left = left.saturating_sub(share + gap);
        shares.push(share);
    }
    shares
}

/// Divides `room` among columns. What one column does not need goes to the others.
fn shares(contents: &[usize], room: usize) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..contents.len()).collect();
    order.sort_by_key(|i| contents[*i]);
    let mut shares: Vec<(usize, usize)> = contents.iter().map(|content| (0, *content)).collect();
    let (mut left, mut more) = (room, contents.len());
    for i in order {
        let share = contents[i].min((left / more).max(1));
        shares[i].0 = share;
        left = left.saturating_sub(share);
        more -= 1;
    }
    shares
}

fn painted(screen: &Screen, text: &str, paint: Option<Paint>) -> Cell {
    // Before it is laid out: characters that are one to a terminal may be several in ASCII.
    let cell = Cell::new(screen.plain(&clean(text)));
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
        Some(Paint::Magenta) => cell.fg(Color::DarkMagenta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At any width no number is cut, and the words of the
    /// totals are complete.
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
        let of = |width| widths(&columns, &contents, (26, READABLE), GAP, width);
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
                    Column::Spare(..) | Column::SpareText(..) => {
                        assert!([None, Some(contents[i])].contains(&found[i]));
                    }
                    Column::Flexible(_) => assert!(found[i].is_none_or(|w| w >= SHORTEST)),
                }
            }
            let shown: Vec<usize> = found.into_iter().flatten().collect();
            let taken = shown.iter().sum::<usize>() + 2 * (shown.len() - 1);
            // If the terminal is narrower than the least width, lines are longer than it.
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

    #[test]
    fn several_long_columns_share_what_there_is() {
        assert_eq!(shares(&[30, 10], 60), [(30, 30), (10, 10)]);
        assert_eq!(shares(&[30, 10], 30), [(20, 30), (10, 10)]);
        assert_eq!(shares(&[30, 40], 30), [(15, 30), (15, 40)]);
        assert_eq!(shares(&[], 30), []);
    }

    /// In a locale without Unicode a cell is as wide as what stands for its characters there.
    #[test]
    fn cells_are_laid_out_as_they_are_shown() {
        let mut screen = Screen::stdout(super::super::screen::ColorChoice::Never);
        (screen.width, screen.unicode) = (Some(30), false);
        let mut table = Table::new(&screen, &[Column::Long("NAME"), Column::Number("PACKETS")]);
        for name in ["👨\u{200d}👩\u{200d}👧\u{200d}👦 at home", "größe", "ssh"] {
            table.row(vec![(name.to_owned(), None), ("7".into(), None)]);
        }
        let shown = screen.plain(&table.render()).into_owned();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(
            lines.iter().all(|line| line.len() == lines[0].len()),
            "{shown}"
        );
    }

    /// If the terminal is too narrow, a line names the columns that are left out.
    #[test]
    fn columns_that_are_left_out_are_named() {
        let screen = |width| {
            let mut screen = Screen::stdout(super::super::screen::ColorChoice::Never);
            screen.width = width;
            screen
        };
        let render = |width| {
            let columns = [
                Column::Text("NAME"),
                Column::SpareText("SINCE", 1),
                Column::Flexible("REMARK"),
            ];
            let mut table = Table::new(&screen(width), &columns);
            let cells = ["a name", "some time ago", "a remark that is long"];
            table.row(cells.map(|cell| (cell.to_owned(), None)).to_vec());
            (table.fits(), table.render())
        };
        let (fits, whole) = render(None);
        assert!(
            fits && whole.ends_with("long\n") && !whole.contains("no room"),
            "{whole}"
        );
        let (fits, narrow) = render(Some(24));
        assert!(
            fits && narrow.ends_with("\nno room for REMARK\n"),
            "{narrow}"
        );
        let (fits, narrow) = render(Some(20));
        assert!(fits && narrow.contains("no room for"), "{narrow}");
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 20),
            "{narrow}"
        );
        assert!(!render(Some(4)).0);
    }
}
