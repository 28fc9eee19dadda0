//! The table of the counters of each interface, once or redrawn in place, also in `run`.
//!
//! On a terminal text gives way to numbers: what a row is about is shortened, directions and the
//! words of totals have short forms, and only then are numbers left out, which a line below says.

use sg_common::verdict::Direction;
use sg_userspace::observe::counters::{Counters, Totals, have_several_groups};
use sg_userspace::observe::status::Standing;

use super::choice::Choice;
use super::rows::{Row, Rows};
use crate::cli::health;
use crate::cli::placed::with_command;
use crate::cli::rates::{Rate, Rates};
use crate::cli::screen::{Paint, Screen, clip, paint_of};
use crate::cli::table::{Column, Table};
use crate::cli::units::{ago, bytes, clean, count, seconds_of, short, short_digest, thousands};
use crate::cli::words::{in_netns, short_direction};

/// What to draw.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Look<'a> {
    pub(in crate::cli) choice: &'a Choice,
    pub(in crate::cli) rates: Option<&'a Rates>,
    /// How many lines all tables together have at most, if possible.
    pub(in crate::cli) lines: Option<usize>,
    /// Whether the counts since the zero were asked for.
    pub(in crate::cli) since_reset: bool,
}

/// The tables of all interfaces.
pub(in crate::cli) fn text(screen: &Screen, all: &[Counters], look: Look<'_>) -> String {
    // An empty line separates two tables.
    let share = look.lines.map(|lines| (lines + 1) / all.len().max(1));
    let share = share.map(|share| share.saturating_sub(1));
    let mut out = String::new();
    for (i, one) in all.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let mut head = heading(screen, one);
        if look.since_reset {
            let since = clip(&since(one), screen.width);
            head.push_str(&screen.paint(Paint::Dim, since));
            head.push('\n');
        }
        head.push_str(&health::warnings(screen, &one.standing));
        let room = share.map(|share| share.saturating_sub(head.lines().count()));
        out.push_str(&head);
        out.push_str(&table(screen, one, look, room));
    }
    out
}

fn since(one: &Counters) -> String {
    let (at, ago) = (seconds_of(&one.since), ago(&one.since));
    match &one.reset_at {
        Some(_) => format!("counted since the zero of {at}, {ago}"),
        None => format!("no zero was set: counted since it was attached at {at}, {ago}"),
    }
}

fn heading(screen: &Screen, one: &Counters) -> String {
    let policy = &one.policy;
    let Standing {
        interface, netns, ..
    } = &one.standing;
    let place = clean(&in_netns(netns.as_deref()));
    let (interface, name) = (clean(interface), clean(&policy.name));
    let rest = format!(
        "sha256:{}, generation {}, applied {}",
        short_digest(&policy.digest),
        policy.generation,
        ago(&policy.applied_at)
    );
    let line = format!(
        "{}{place}  {}  {}",
        screen.paint(Paint::Bold, interface),
        screen.paint(Paint::Bold, name),
        screen.paint(Paint::Dim, rest)
    );
    // A wrapped line could not be redrawn in place.
    clip(&line, screen.width) + "\n"
}

/// A table of at most `lines` lines. If it has more rows, those with the highest counts are shown.
fn table(screen: &Screen, one: &Counters, look: Look<'_>, lines: Option<usize>) -> String {
    let mut rows = Rows::of(one, look.rates, look.choice);
    let hidden = rows.lower;
    let mut shortest = Words::Shortest;
    let mut out = build(screen, one, look.rates, &rows, shortest);
    let note = |rows: &Rows<'_>| usize::from(rows.zeros + rows.lower > 0);
    if let Some(lines) = lines
        && out.lines().count() + note(&rows) > lines
    {
        // One more line says how many rows were left out.
        let others = |out: &str| out.lines().count() - rows.rows.len() + 1;
        if lines < 2 * others(&out) {
            // Where lines are few, totals take one each.
            shortest = Words::Shorter;
            out = build(screen, one, look.rates, &rows, shortest);
        }
        let room = lines.saturating_sub(others(&out));
        rows.keep_busiest(room);
        out = build(screen, one, look.rates, &rows, shortest);
    }
    if let Some(note) = left_out(screen, one, &rows, rows.lower > hidden) {
        out.push_str(&screen.paint(Paint::Dim, clip(&note, screen.width)));
        out.push('\n');
    }
    out
}

/// How many rows are not shown. `is_too_low` is whether the terminal has no room for them.
fn left_out(screen: &Screen, one: &Counters, rows: &Rows<'_>, is_too_low: bool) -> Option<String> {
    let zeros = match rows.zeros {
        0 => None,
        1 => Some("1 row is at zero".to_owned()),
        n => Some(format!("{} are at zero", count(n, "row"))),
    };
    let lower = match rows.lower {
        0 => None,
        n => Some(format!("and {}", count(n, "more row"))),
    };
    let parts: Vec<String> = lower.into_iter().chain(zeros).collect();
    let what = parts.join("; ");
    let command = format!("counters --iface {}", clean(&one.standing.interface));
    (!what.is_empty()).then(|| match is_too_low {
        true => with_command(what, &command, screen.width),
        false => what,
    })
}

/// How much room words take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Words {
    Long,
    /// Directions are short.
    Shorter,
    /// And what was accepted and dropped of a total has rows of its own, which need no words.
    Shortest,
}

/// The table with the longest words that leave room for all numbers, or else with those of
/// `shortest`.
fn build(
    screen: &Screen,
    one: &Counters,
    rates: Option<&Rates>,
    rows: &Rows<'_>,
    shortest: Words,
) -> String {
    let mut table = filled(screen, one, rates, rows, Words::Long);
    for words in [Words::Shorter, Words::Shortest] {
        if table.has_all_numbers() || words > shortest {
            break;
        }
        table = filled(screen, one, rates, rows, words);
    }
    table.render()
}

/// The table in these words.
fn filled(
    screen: &Screen,
    one: &Counters,
    rates: Option<&Rates>,
    rows: &Rows<'_>,
    words: Words,
) -> Table {
    let shown = Shown {
        // The column for the group is only needed if there are several groups.
        groups: have_several_groups(&one.rules),
        rates: rates.is_some(),
    };
    let columns: Vec<Column> = shown.of(COLUMNS).collect();
    let mut table = Table::new(screen, &columns);
    table.shorten_to(READABLE);
    let mut filling = Filling {
        table,
        rates,
        shown,
        words,
    };
    for total in &one.totals {
        if !rows.is_sorted {
            let of_direction = rows.rows.iter().filter(|r| r.direction == total.direction);
            of_direction.for_each(|row| filling.push(row));
            filling.total(one, total);
        }
    }
    if rows.is_sorted {
        rows.rows.iter().for_each(|row| filling.push(row));
        one.totals
            .iter()
            .for_each(|total| filling.total(one, total));
    }
    filling.table
}

/// All columns. What is not always there is left out by [`Shown`].
const COLUMNS: [Column; 11] = [
    Column::Text("DIR"),
    Column::Number("#"),
    Column::Text("ACTION"),
    Column::SpareText("GROUP", 0),
    Column::Long("MATCH"),
    Column::Flexible("DESCRIPTION"),
    Column::Number("PACKETS"),
    Column::Spare("PKT/S", 4),
    Column::Spare("BYTES", 2),
    Column::Spare("BIT/S", 1),
    Column::Spare("REPLIES", 3),
];
const GROUP: usize = 3;
const PACKET_RATE: usize = 7;
const BIT_RATE: usize = 9;

/// To how many characters matches are shortened before numbers are left out.
const READABLE: usize = 12;

/// What is needed to add rows.
struct Filling<'a> {
    table: Table,
    rates: Option<&'a Rates>,
    shown: Shown,
    words: Words,
}

/// Which columns there are besides those that there always are.
#[derive(Clone, Copy)]
struct Shown {
    groups: bool,
    rates: bool,
}

impl Shown {
    /// Those of the cells of a row, or of [`COLUMNS`], that are shown.
    fn of<T>(self, all: [T; COLUMNS.len()]) -> impl Iterator<Item = T> {
        let is_shown = move |column: usize| match column {
            GROUP => self.groups,
            PACKET_RATE | BIT_RATE => self.rates,
            _ => true,
        };
        let all = all.into_iter().enumerate();
        all.filter(move |(column, _)| is_shown(*column))
            .map(|(_, it)| it)
    }
}

impl Filling<'_> {
    fn direction(&self, direction: Direction) -> String {
        match (self.words, direction) {
            (Words::Long, direction) => direction.name().to_owned(),
            (_, direction) => short_direction(direction).to_owned(),
        }
    }

    /// The sum of a direction. In the shortest words what was accepted and dropped has rows below
    /// it.
    fn total(&mut self, one: &Counters, total: &Totals) {
        let description = match self.words {
            Words::Shortest => String::new(),
            Words::Long | Words::Shorter => passed_and_not(total),
        };
        let rate = self.rates.map(|rates| rates.of_total(one, total));
        // This column is never shortened, because users look for the totals first.
        self.table.keep(&description);
        let numbers = [
            thousands(total.packets),
            rate.map(packets).unwrap_or_default(),
            bytes(total.bytes),
            rate.map(bits).unwrap_or_default(),
        ];
        self.summed(total.direction, "total", description, numbers);
        if self.words == Words::Shortest {
            let audited = (total.audited > 0).then_some(("of it audited", total.audited));
            let parts = [
                Some(("accepted", total.accepted)),
                audited,
                Some(("dropped", total.dropped)),
            ];
            for (words, n) in parts.into_iter().flatten() {
                let empty = String::new;
                let numbers = [thousands(n), empty(), empty(), empty()];
                self.table.keep(words);
                self.summed(total.direction, "", words.into(), numbers);
            }
        }
    }

    /// A row of a total: packets, their rate, bytes, their rate.
    fn summed(&mut self, direction: Direction, what: &str, words: String, numbers: [String; 4]) {
        let bold = |text: String| (text, Some(Paint::Bold));
        let empty = || (String::new(), None);
        let [packets, packet_rate, bytes, bit_rate] = numbers.map(bold);
        let cells = [
            bold(self.direction(direction)),
            empty(),
            bold(what.into()),
            empty(),
            bold(words),
            empty(),
            packets,
            packet_rate,
            bytes,
            bit_rate,
            empty(),
        ];
        self.table.row(self.shown.of(cells).collect());
    }

    /// The row of a rule or of a reason.
    fn push(&mut self, row: &Row<'_>) {
        let numbers = &row.numbers;
        // What has counted nothing is dim, its action too.
        let plain = numbers.is_zero().then_some(Paint::Dim);
        let paint = row.action.map(paint_of);
        let action = row.action.map_or("mixed", |action| action.name());
        let replies = row.has_replies.then(|| thousands(numbers.replies));
        let cells = [
            (self.direction(row.direction), plain),
            (row.number.clone(), plain),
            (action.to_owned(), plain.or(paint)),
            (row.group.to_owned(), plain),
            (row.what.clone(), plain),
            (row.description.clone(), Some(Paint::Dim)),
            (thousands(numbers.packets), plain),
            (packets(numbers.rate), plain),
            (bytes(numbers.bytes), plain),
            (bits(numbers.rate), plain),
            (replies.unwrap_or_default(), plain),
        ];
        self.table.row(self.shown.of(cells).collect());
    }
}

/// `32 accepted (4 audited), 14 dropped`: what passed only because of an audit has passed.
fn passed_and_not(total: &Totals) -> String {
    let audited = match total.audited {
        0 => String::new(),
        n => format!(" ({} audited)", thousands(n)),
    };
    let (accepted, dropped) = (thousands(total.accepted), thousands(total.dropped));
    format!("{accepted} accepted{audited}, {dropped} dropped")
}

/// Padded to the widest rate, so that columns do not move while numbers change.
fn packets(rate: Rate) -> String {
    format!("{:>6}", short(rate.packets))
}

fn bits(rate: Rate) -> String {
    format!("{:>6}", short(rate.bits()))
}

#[cfg(test)]
mod tests;
