//! The line of a packet in `log` and `run`: time, verdict, direction, protocol, both ends, what
//! kind of packet, its length, and what decided. The columns are as wide as what they have had so
//! far, so that the lines of a stream stand below each other and short ones stay short.

use std::fmt::Write as _;
use std::path::Path;

use sg_common::protocol::IPPROTO_ICMPV6;
use sg_common::tcp;
use sg_common::verdict::Direction;
use sg_policy::policy::icmp_type_name;
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::events::{LoggedPacket, LoggingRule, end};
use textwrap::core::display_width;

use super::screen::{Paint, Screen, paint_of};
use super::units::{clean, thousands};

/// The widths of the columns.
pub(super) struct Columns {
    shows_interface: bool,
    widths: [usize; 6],
}

/// What stands in front of the line on a terminal: `12:34:56.789 `.
const TIME: usize = 13;

/// The widths that the columns begin with, and those that they do not grow beyond: a longer text
/// moves the rest of its line.
const FIRST: [usize; 6] = [0, 4, 3, 3, 17, 13];
const MOST: [usize; 6] = [15, 6, 3, 6, 21, 21];

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
        let direction = match packet.direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        };
        let interface = match self.shows_interface {
            true => clean(&packet.interface),
            false => String::new(),
        };
        let cells = [
            interface,
            packet.verdict.name().to_owned(),
            direction.to_owned(),
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
        let narrow = row(screen, packet, &cells, &[0; 6]);
        let is_whole = narrow.contains(&clean(&decider(packet)));
        match is_whole && !narrow.contains('\n') {
            true => narrow,
            false => aligned,
        }
    }
}

/// A row whose columns have these widths, or are as wide as their cells where those are wider.
fn row(screen: &Screen, packet: &LoggedPacket, cells: &[String; 6], widths: &[usize; 6]) -> String {
    let mut line = Broken::new(screen.width);
    for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let len = display_width(cell);
        if len == 0 && *width == 0 {
            continue;
        }
        let mark = if i == 5 { "> " } else { "" };
        line.before(mark.len() + len);
        line.add(mark, mark.len());
        match i {
            1 => line.add(&screen.paint(paint_of(packet.verdict), cell), len),
            _ => line.add(cell, len),
        }
        let blank = width.saturating_sub(len);
        line.add(&" ".repeat(blank), blank);
    }
    for part in details(packet) {
        line.part(&part);
    }
    line.part(&format!("{} B", packet.bytes));
    let decider = decider_within(packet, line.room(), line.whole());
    line.before(display_width(&decider));
    line.add(&screen.paint(Paint::Dim, &decider), 0);
    line.text
}

/// A line that goes on below, indented, where the terminal ends.
struct Broken {
    text: String,
    /// How many columns of the present line are taken. Colours take none.
    taken: usize,
    is_first: bool,
    width: Option<usize>,
}

impl Broken {
    const INDENT: &str = "  ";

    /// A line behind the time.
    fn new(width: Option<usize>) -> Broken {
        Broken {
            text: String::new(),
            taken: TIME,
            is_first: true,
            width,
        }
    }

    /// Begins a part of so many columns: behind what is there, or below it.
    fn before(&mut self, columns: usize) {
        if std::mem::take(&mut self.is_first) {
            return;
        }
        if self.room().is_none_or(|room| columns <= room) {
            self.add(" ", 1);
            return;
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
        self.text.push_str(Broken::INDENT);
        self.taken = Broken::INDENT.len();
    }

    fn add(&mut self, text: &str, columns: usize) {
        self.text.push_str(text);
        self.taken += columns;
    }

    fn part(&mut self, text: &str) {
        let columns = display_width(text);
        self.before(columns);
        self.add(text, columns);
    }

    /// The room for a part on the present line, behind a space.
    fn room(&self) -> Option<usize> {
        self.width.map(|width| width.saturating_sub(self.taken + 1))
    }

    /// The room for a part on a line of its own.
    fn whole(&self) -> Option<usize> {
        let width = self.width?;
        Some(width.saturating_sub(Broken::INDENT.len()))
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
        // RFC 9293 section 3.1.
        (0x08, "psh"),
        (tcp::ACK, "ack"),
        (0x20, "urg"),
        // RFC 3168 section 6.1.
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
fn decider_within(packet: &LoggedPacket, left: Option<usize>, whole: Option<usize>) -> String {
    let text = clean(&decider(packet));
    let place = packet.rule.as_ref().and_then(place);
    let place = place.map(|place| clean(&place));
    let in_room = |room: Option<usize>| cut(&text, place.as_deref(), room?);
    in_room(left).or_else(|| in_room(whole)).unwrap_or(text)
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
        None if packet.reason == DecidedBy::Rule => "a rule that is gone".to_owned(),
        None => packet.reason.to_string(),
    }
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

/// A packet that opens a connection and was dropped, for no rule matches: what tests begin with.
#[cfg(test)]
pub(super) fn syn() -> LoggedPacket {
    use sg_common::verdict::{Action, Reason};
    LoggedPacket {
        at: jiff::Timestamp::UNIX_EPOCH,
        interface: "eth0".into(),
        direction: Direction::Inbound,
        verdict: Action::Drop,
        generation: 1,
        ether_type: 0x0800,
        vlans: Vec::new(),
        protocol: Some(6),
        later_fragment: false,
        local: Some([10, 0, 0, 5].into()),
        local_port: Some(3306),
        remote: Some([203, 0, 113, 9].into()),
        remote_port: Some(51514),
        icmp_type: None,
        icmp_code: None,
        tcp_flags: Some(tcp::SYN),
        bytes: 60,
        packets: 1,
        queue: 0,
        rule: None,
        reason: DecidedBy::Reason(Reason::NoMatch),
        reply: false,
        candidate: None,
        tag_beside: None,
        head: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use sg_common::verdict::{Action, Reason};
    use sg_policy::policy::Location;
    use sg_userspace::observe::decided::DecidedBy;

    use super::*;
    use crate::cli::screen::ColorChoice;

    fn rule() -> LoggingRule {
        LoggingRule {
            group: "web".into(),
            position: Some(7),
            name: Some("db".into()),
            summary: "tcp 3306 from any".into(),
            location: Some(Location {
                file: "/etc/sgctl/web.yaml".into(),
                line: 12,
                column: 5,
            }),
        }
    }

    /// Of a terminal that has so many columns, if there is one.
    fn screen(width: Option<usize>) -> Screen {
        let mut screen = Screen::stdout(ColorChoice::Never);
        screen.width = width;
        screen
    }

    /// On a terminal the place of a rule is cut in front as far as its line number stays, and then
    /// what decided stands below, whole. No part is broken, and no line is too long.
    #[test]
    fn what_has_no_room_stands_below() {
        let packet = LoggedPacket {
            reason: DecidedBy::Rule,
            rule: Some(rule()),
            ..syn()
        };
        let before = "drop in  tcp 203.0.113.9:51514 > 10.0.0.5:3306 syn 60 B";
        let whole = format!("{before} rule 7 db web.yaml:12");
        for (width, expected) in [
            (None, whole.as_str()),
            (Some(90), &whole),
            (Some(89), &format!("{before} rule 7 db …b.yaml:12")),
            (Some(83), &format!("{before} rule 7 db …:12")),
            (Some(82), &format!("{before}\n  rule 7 db web.yaml:12")),
            (
                Some(67),
                "drop in  tcp 203.0.113.9:51514 > 10.0.0.5:3306 syn\n  60 B rule 7 db web.yaml:12",
            ),
            (
                Some(45),
                "drop in  tcp 203.0.113.9:51514\n  > 10.0.0.5:3306 syn 60 B rule 7 db …yaml:12",
            ),
        ] {
            let line = Columns::new(false).line(&screen(width), &packet);
            assert_eq!(line, expected, "{width:?}");
            let first = TIME + line.lines().next().map_or(0, |line| line.chars().count());
            let rest = line.lines().skip(1).map(|line| line.chars().count());
            let longest = rest.chain([first]).max();
            assert!(width.is_none() || longest <= width, "{width:?}: {line}");
            // Nothing is left to break for who prints it.
            if let Some(width) = width {
                let timed = format!("{} {line}\n", "t".repeat(TIME - 1));
                assert_eq!(crate::cli::screen::wrapped(&timed, width), timed);
            }
        }
        // Characters may take two columns.
        let mut wide = packet.clone();
        if let Some(rule) = &mut wide.rule {
            rule.name = Some("日本語の規則".into());
        }
        let whole = format!("{before} rule 7 日本語の規則 web.yaml:12");
        for (width, expected) in [
            (Some(100), whole.as_str()),
            (
                Some(99),
                &format!("{before} rule 7 日本語の規則 …b.yaml:12"),
            ),
            (
                Some(91),
                &format!("{before}\n  rule 7 日本語の規則 web.yaml:12"),
            ),
            (
                Some(28),
                "drop in  tcp\n  203.0.113.9:51514\n  > 10.0.0.5:3306 syn 60 B\n  rule 7 日本語の規則 …ml:12",
            ),
        ] {
            let line = Columns::new(false).line(&screen(width), &wide);
            assert_eq!(line, expected, "{width:?}");
        }
        // A reason is not cut.
        let line = Columns::new(false).line(&screen(Some(40)), &syn());
        assert!(line.ends_with("60 B no-match"), "{line}");
    }

    /// Flags and ICMP types are called as policies and RFCs call them.
    #[test]
    fn kinds_of_packets_have_their_names() {
        let of = |protocol, kind, code| {
            let packet = LoggedPacket {
                protocol: Some(protocol),
                tcp_flags: None,
                icmp_type: Some(kind),
                icmp_code: Some(code),
                ..syn()
            };
            details(&packet).join(" ")
        };
        assert_eq!(of(1, 8, 0), "echo-request");
        assert_eq!(of(58, 128, 0), "echo-request");
        assert_eq!(of(58, 129, 0), "echo-reply");
        assert_eq!(of(1, 3, 4), "destination-unreachable/4");
        assert_eq!(of(58, 3, 0), "time-exceeded");
        assert_eq!(of(1, 42, 0), "type 42/0");
        assert_eq!(flags_of(0xc2), "syn+ece+cwr");
        assert_eq!(flags_of(0x52), "syn+ack+ece");
        assert_eq!(flags_of(0), "no flags");
    }

    fn ping() -> LoggedPacket {
        LoggedPacket {
            protocol: Some(1),
            local_port: None,
            remote_port: None,
            tcp_flags: None,
            icmp_type: Some(8),
            icmp_code: Some(0),
            ..syn()
        }
    }

    #[test]
    fn lines_stand_below_each_other() {
        let screen = screen(None);
        let mut columns = Columns::new(false);
        let ping = LoggedPacket {
            verdict: Action::Accept,
            vlans: vec![7],
            ..ping()
        };
        let by_rule = LoggedPacket {
            reason: DecidedBy::Rule,
            rule: Some(rule()),
            direction: Direction::Outbound,
            tcp_flags: Some(tcp::SYN | tcp::ACK),
            ..syn()
        };
        let lines = [syn(), ping, by_rule].map(|packet| columns.line(&screen, &packet));
        assert_eq!(
            lines,
            [
                "drop in  tcp 203.0.113.9:51514 > 10.0.0.5:3306 syn 60 B no-match",
                "accept in  icmp 203.0.113.9       > 10.0.0.5      vlan 7 echo-request 60 B no-match",
                "drop   out tcp  10.0.0.5:3306     > 203.0.113.9:51514 syn+ack 60 B rule 7 db \
                 web.yaml:12",
            ]
        );
        // With a time in front there is room in 80 columns.
        assert!(lines[0].len() + "12:34:56.789 ".len() <= 80);
    }

    #[test]
    fn a_later_fragment_says_why_it_has_no_ports() {
        let fragment = LoggedPacket {
            protocol: Some(17),
            later_fragment: true,
            local_port: None,
            remote_port: None,
            tcp_flags: None,
            ..syn()
        };
        assert_eq!(
            Columns::new(false).line(&screen(None), &fragment),
            "drop in  udp 203.0.113.9       > 10.0.0.5      later fragment 60 B no-match"
        );
    }

    /// Where the columns leave no room for the rest of a row, the row does without them.
    #[test]
    fn a_row_without_room_gives_up_its_columns() {
        let screen = screen(Some(80));
        let mut columns = Columns::new(false);
        let lines = [syn(), ping(), syn()].map(|packet| columns.line(&screen, &packet));
        assert_eq!(
            lines,
            [
                "drop in  tcp 203.0.113.9:51514 > 10.0.0.5:3306 syn 60 B no-match",
                "drop in icmp 203.0.113.9 > 10.0.0.5 echo-request 60 B no-match",
                "drop in  tcp  203.0.113.9:51514 > 10.0.0.5:3306 syn 60 B no-match",
            ]
        );
    }

    #[test]
    fn what_is_not_ip_has_no_ends() {
        let screen = screen(None);
        let arp = LoggedPacket {
            protocol: None,
            ether_type: 0x88cc,
            local: None,
            remote: None,
            local_port: None,
            remote_port: None,
            tcp_flags: None,
            reason: DecidedBy::Reason(Reason::NonIpDropped),
            ..syn()
        };
        let line = Columns::new(true).line(&screen, &arp);
        assert_eq!(
            line,
            "eth0 drop in  0x88cc -                 > -             60 B non-ip"
        );
    }

    #[test]
    fn what_was_not_shown_is_counted_once() {
        for (lost, suppressed, expected) in [
            (
                0,
                2400,
                "2,400 more packets were to be logged, over the rate limit",
            ),
            (
                1,
                0,
                "1 more packet was to be logged, overwritten before they were read",
            ),
            (
                100,
                2900,
                "3,000 more packets were to be logged: 2,900 over the rate limit, 100 overwritten \
                 before they were read",
            ),
        ] {
            assert_eq!(not_shown(lost, suppressed), expected);
        }
    }
}
