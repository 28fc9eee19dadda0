//! The line of a packet in `log` and `run`: verdict, direction, protocol, both ends, what kind of
//! packet, its length, and what decided. Who prints it puts the time in front. The columns are as
//! wide as what they have had so far, so that the lines of a stream stand below each other and
//! short ones stay short.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sg_common::protocol::IPPROTO_ICMPV6;
use sg_common::tcp;
use sg_common::verdict::Reason;
use sg_policy::policy::icmp_type_name;
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::events::{LoggedPacket, LoggingRule, end};
use textwrap::core::display_width;

use super::screen::{Paint, Screen, paint_of};
use super::units::{clean, thousands};
use super::words::{GONE_RULE, short_direction};

/// How many columns there are: interface, verdict, direction, protocol, source, destination.
const COLUMNS: usize = 6;
const VERDICT: usize = 1;
const DESTINATION: usize = 5;

/// The columns of a stream of lines.
pub(super) struct Columns {
    shows_interface: bool,
    /// How wide each is so far.
    widths: [usize; COLUMNS],
}

/// The width of the time that stands in front of the line on a terminal: `12:34:56.789 `.
const TIME: usize = 13;

/// The time of a packet, in the time zone of the machine: on a terminal that of the day, else in
/// RFC 3339. Both have milliseconds.
pub(super) fn time_of(at: Timestamp, is_terminal: bool) -> String {
    let local = at.to_zoned(TimeZone::system());
    let format = match is_terminal {
        true => "%H:%M:%S%.3f",
        false => "%Y-%m-%dT%H:%M:%S%.3f%:z",
    };
    local.strftime(format).to_string()
}

/// The widths that the columns begin with, and those that they do not grow beyond: a longer text
/// moves the rest of its line.
const FIRST: [usize; COLUMNS] = [0, 4, 3, 3, 17, 13];
const MOST: [usize; COLUMNS] = [15, 6, 3, 6, 21, 21];

impl Columns {
    pub(super) fn new(shows_interface: bool) -> Columns {
        Columns {
            shows_interface,
            widths: FIRST,
        }
    }

    /// Has lines name their interface from now on.
    pub(super) fn show_interfaces(&mut self) {
        self.shows_interface = true;
    }

    /// The line, without the time. On a terminal it goes on below where there is no room for more:
    /// it is broken between its parts and never within one.
    pub(super) fn line(&mut self, screen: &Screen, packet: &LoggedPacket) -> String {
        let interface = match self.shows_interface {
            true => clean(&packet.interface),
            false => String::new(),
        };
        let cells = [
            interface,
            packet.verdict.name().to_owned(),
            short_direction(packet.direction).to_owned(),
            packet.protocol_name(),
            end(packet.source()),
            end(packet.destination()),
        ];
        for (width, (cell, most)) in self.widths.iter_mut().zip(cells.iter().zip(MOST)) {
            *width = (*width).max(display_width(cell).min(most));
        }
        let aligned = row(screen, packet, &cells, &self.widths);
        if !aligned.contains('\n') {
            return aligned;
        }
        // A packet on one line, with all that decided it, is worth more than columns.
        let narrow = row(screen, packet, &cells, &[0; COLUMNS]);
        let is_whole = narrow.contains(&clean(&decider(packet)));
        match is_whole && !narrow.contains('\n') {
            true => narrow,
            false => aligned,
        }
    }
}

/// A row whose columns have these widths, or are as wide as their cells where those are wider.
fn row(
    screen: &Screen,
    packet: &LoggedPacket,
    cells: &[String; COLUMNS],
    widths: &[usize; COLUMNS],
) -> String {
    let mut line = Wrapped::new(screen.width);
    for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let len = display_width(cell);
        if len == 0 && *width == 0 {
            continue;
        }
        let mark = if i == DESTINATION { "> " } else { "" };
        line.begin_part(mark.len() + len);
        line.add(mark, mark.len());
        match i {
            VERDICT => line.add(&screen.paint(paint_of(packet.verdict), cell), len),
            _ => line.add(cell, len),
        }
        let blank = width.saturating_sub(len);
        line.add(&" ".repeat(blank), blank);
    }
    for part in details(packet) {
        line.part(&part);
    }
    line.part(&format!("{} B", packet.bytes));
    let decider = decider_within(packet, line.room(), line.room_below());
    line.begin_part(display_width(&decider));
    line.add(&screen.paint(Paint::Dim, &decider), display_width(&decider));
    if let Some(candidate) = candidate(packet) {
        let text = clean(&candidate);
        line.begin_part(display_width(&text));
        line.add(&screen.paint(Paint::Dim, &text), 0);
    }
    line.text
}

/// A line that is wrapped between its parts: where the terminal ends it goes on below, indented.
struct Wrapped {
    text: String,
    /// How many columns of the present line are taken. Colours take none.
    taken: usize,
    is_first: bool,
    width: Option<usize>,
}

impl Wrapped {
    const INDENT: &str = "  ";

    /// A line behind the time.
    fn new(width: Option<usize>) -> Wrapped {
        Wrapped {
            text: String::new(),
            taken: TIME,
            is_first: true,
            width,
        }
    }

    /// Begins a part of so many columns: behind what is there, or below it.
    fn begin_part(&mut self, columns: usize) {
        if std::mem::take(&mut self.is_first) {
            return;
        }
        if self.room().is_none_or(|room| columns <= room) {
            self.add(" ", 1);
            return;
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
        self.text.push_str(Wrapped::INDENT);
        self.taken = Wrapped::INDENT.len();
    }

    /// Adds text of so many columns to the part that was begun.
    fn add(&mut self, text: &str, columns: usize) {
        self.text.push_str(text);
        self.taken += columns;
    }

    /// Adds a whole part.
    fn part(&mut self, text: &str) {
        let columns = display_width(text);
        self.begin_part(columns);
        self.add(text, columns);
    }

    /// The room for a part on the present line, behind a space.
    fn room(&self) -> Option<usize> {
        self.width.map(|width| width.saturating_sub(self.taken + 1))
    }

    /// The room for a part on a line of its own.
    fn room_below(&self) -> Option<usize> {
        let width = self.width?;
        Some(width.saturating_sub(Wrapped::INDENT.len()))
    }
}

/// What kind of packet it is.
fn details(packet: &LoggedPacket) -> Vec<String> {
    let mut parts = Vec::new();
    for vlan in &packet.vlans {
        parts.push(format!("vlan {vlan}"));
    }
    if let Some(flags) = packet.tcp_flags {
        parts.push(flags_of(flags));
    }
    if let (Some(kind), Some(code)) = (packet.icmp_type, packet.icmp_code) {
        let name = icmp_type_name(kind, packet.protocol == Some(IPPROTO_ICMPV6));
        parts.push(match (name, code) {
            (Some(name), 0) => name.to_owned(),
            (Some(name), code) => format!("{name}/{code}"),
            (None, code) => format!("type {kind}/{code}"),
        });
    }
    if packet.later_fragment {
        parts.push("later fragment".to_owned());
    }
    if packet.packets > 1 {
        parts.push(format!("{} packets", packet.packets));
    }
    if packet.reply {
        parts.push("reply".to_owned());
    }
    parts
}

/// The flags of a TCP header, `syn+ack`.
fn flags_of(flags: u8) -> String {
    const NAMES: [(u8, &str); 8] = [
        (tcp::SYN, "syn"),
        (tcp::FIN, "fin"),
        (tcp::RST, "rst"),
        // The packet path needs no name for these (RFC 9293 section 3.1).
        (0x08, "psh"),
        (tcp::ACK, "ack"),
        (0x20, "urg"),
        (0x40, "ece"),
        (0x80, "cwr"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| flags & bit != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    match names.is_empty() {
        true => "no flags".to_owned(),
        false => names.join("+"),
    }
}

/// As [`decider`], in the room that is left of a line, or else on a line of its own: the place of a
/// rule is cut in front, `rule 7 ssh …ml:12`, where its line number still fits.
fn decider_within(packet: &LoggedPacket, left: Option<usize>, below: Option<usize>) -> String {
    let text = clean(&decider(packet));
    let place = packet.rule.as_ref().and_then(place);
    let place = place.map(|place| clean(&place));
    let in_room = |room: Option<usize>| cut(&text, place.as_deref(), room?);
    in_room(left).or_else(|| in_room(below)).unwrap_or(text)
}

/// The text in so much room, with the place at its end cut in front. `None` if that is too little.
fn cut(text: &str, place: Option<&str>, room: usize) -> Option<String> {
    if display_width(text) <= room {
        return Some(text.to_owned());
    }
    let place = place?;
    let before = text.strip_suffix(place)?;
    // The dots take a column.
    let room = room.checked_sub(display_width(before) + 1)?;
    let mut ends = place.char_indices().map(|(at, _)| &place[at..]);
    let rest = ends.find(|rest| display_width(rest) <= room)?;
    let line = place.rfind(':').map_or(0, |colon| place.len() - colon);
    (rest.len() >= line).then(|| format!("{before}…{rest}"))
}

/// What decided the packet: `rule 7 ssh web.yaml:12`, or a reason.
pub(super) fn decider(packet: &LoggedPacket) -> String {
    match &packet.rule {
        Some(rule) => rule_text(rule),
        None if packet.reason == DecidedBy::Rule => GONE_RULE.to_owned(),
        None => packet.reason.to_string(),
    }
}

/// What the candidate would do instead, and by what: `candidate: accept rule 1 web`. `None` where
/// it would do the same.
pub(super) fn candidate(packet: &LoggedPacket) -> Option<String> {
    let says = packet.candidate.as_ref()?;
    let decider = match &says.rule {
        Some(rule) => rule_text(rule),
        None => Reason::NoMatch.name().to_owned(),
    };
    Some(format!("candidate: {} {decider}", says.verdict))
}

/// A rule by its position, name and place.
pub(super) fn rule_text(rule: &LoggingRule) -> String {
    let mut out = match rule.position {
        Some(position) => format!("rule {position}"),
        None => "a former rule".to_owned(),
    };
    match &rule.name {
        Some(name) => {
            let _ = write!(out, " {name}");
        }
        None if rule.location.is_none() => {
            let _ = write!(out, " {}", rule.summary);
        }
        None => {}
    }
    if let Some(place) = place(rule) {
        let _ = write!(out, " {place}");
    }
    out
}

/// The file and the line of a rule.
fn place(rule: &LoggingRule) -> Option<String> {
    let location = rule.location.as_ref()?;
    let path = Path::new(&location.file).file_name();
    let file = path.map_or_else(
        || location.file.clone(),
        |name| name.to_string_lossy().into(),
    );
    Some(format!("{file}:{}", location.line))
}

/// `3,000 more packets were to be logged: 2,900 over the rate limit, 100 overwritten before they
/// were read`, or with one cause only `2,400 more packets were to be logged, over the rate limit`.
pub(super) fn not_shown(lost: u64, suppressed: u64) -> String {
    const SUPPRESSED: &str = "over the rate limit";
    const LOST: &str = "overwritten before they were read";
    let all = lost + suppressed;
    let packets = if all == 1 {
        "packet was"
    } else {
        "packets were"
    };
    let head = format!("{} more {packets} to be logged", thousands(all));
    match (suppressed, lost) {
        (_, 0) => format!("{head}, {SUPPRESSED}"),
        (0, _) => format!("{head}, {LOST}"),
        (suppressed, lost) => format!(
            "{head}: {} {SUPPRESSED}, {} {LOST}",
            thousands(suppressed),
            thousands(lost)
        ),
    }
}

#[cfg(test)]
pub(super) mod tests;
