//! The line of a packet in `log` and `run`: time, verdict, direction, protocol, both ends, what
//! kind of packet, its length, and what decided. The columns are as wide as what they have had so
//! far, so that the lines of a stream stand below each other and short ones stay short.

use std::fmt::Write as _;
use std::path::Path;

use sg_common::tcp;
use sg_common::verdict::Direction;
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::events::{LoggedPacket, LoggingRule, end};

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

    /// The line, without the time. On a terminal the place of a rule gives way to what is in front
    /// of it.
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
        let mut out = String::new();
        let mut shown = TIME;
        for (i, cell) in cells.iter().enumerate() {
            let width = &mut self.widths[i];
            let len = cell.chars().count();
            *width = (*width).max(len.min(MOST[i]));
            if *width == 0 {
                continue;
            }
            let pad = " ".repeat(width.saturating_sub(len));
            shown += (*width).max(len) + 1;
            let cell = match i {
                1 => screen.paint(paint_of(packet.verdict), cell),
                _ => cell.clone(),
            };
            let _ = write!(out, "{cell}{pad} ");
            if i == 4 {
                out.push_str("> ");
                shown += 2;
            }
        }
        let mut rest = String::new();
        for part in details(packet) {
            let _ = write!(rest, "{part} ");
        }
        let _ = write!(rest, "{} B ", packet.bytes);
        out.push_str(&rest);
        let room = screen
            .width
            .map(|width| width.saturating_sub(shown + rest.len()));
        let decider = clean(&decider_within(packet, room));
        out.push_str(&screen.paint(Paint::Dim, decider));
        out
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
        parts.push(format!("type {kind}/{code}"));
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
    const NAMES: [(u8, &str); 6] = [
        (tcp::SYN, "syn"),
        (tcp::FIN, "fin"),
        (tcp::RST, "rst"),
        // RFC 9293 section 3.1.
        (0x08, "psh"),
        (tcp::ACK, "ack"),
        (0x20, "urg"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| flags & bit != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    match names.is_empty() {
        true => "no flags".to_owned(),
        false => names.join("+"),
    }
}

/// As [`decider`], in so much room: the place of a rule is cut in front, `rule 7 ssh …ml:12`, or
/// left out.
fn decider_within(packet: &LoggedPacket, room: Option<usize>) -> String {
    let text = decider(packet);
    let place = packet.rule.as_ref().and_then(place);
    let (Some(room), Some(place)) = (room, place) else {
        return text;
    };
    let too_long = text.chars().count().saturating_sub(room);
    let Some(before) = text.strip_suffix(&place).filter(|_| too_long > 0) else {
        return text;
    };
    // The dots take the room of one character more.
    let kept = place.chars().count().checked_sub(too_long + 1);
    let line = place.rfind(':').map_or(0, |colon| place.len() - colon);
    match kept.filter(|kept| *kept >= line) {
        Some(kept) => {
            let cut = place.chars().count() - kept;
            let rest: String = place.chars().skip(cut).collect();
            format!("{before}…{rest}")
        }
        None => before.trim_end().to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use sg_common::verdict::{Action, Reason};
    use sg_policy::policy::Location;
    use sg_userspace::observe::decided::DecidedBy;

    use super::*;
    use crate::cli::screen::ColorChoice;

    fn syn() -> LoggedPacket {
        LoggedPacket {
            at: jiff::Timestamp::UNIX_EPOCH,
            interface: "eth0".into(),
            direction: Direction::Inbound,
            verdict: Action::Drop,
            generation: 1,
            ether_type: 0x0800,
            vlans: Vec::new(),
            protocol: Some(6),
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

    /// On a terminal a line is as long as it has columns, where only the place of a rule stands in
    /// the way, and its line number is not cut.
    #[test]
    fn the_place_of_a_rule_gives_way() {
        let packet = LoggedPacket {
            reason: DecidedBy::Rule,
            rule: Some(rule()),
            ..syn()
        };
        let before = "drop in  tcp 203.0.113.9:51514 > 10.0.0.5:3306 syn 60 B rule 7 db";
        let whole = format!("{before} web.yaml:12");
        for (width, expected) in [
            (None, whole.as_str()),
            (Some(90), &whole),
            (Some(89), &format!("{before} …b.yaml:12")),
            (Some(83), &format!("{before} …:12")),
            (Some(82), before),
            (Some(40), before),
        ] {
            let line = Columns::new(false).line(&screen(width), &packet);
            assert_eq!(line, expected, "{width:?}");
            let len = TIME + line.chars().count();
            assert!(width.is_none_or(|width| len <= width.max(78)), "{line}");
        }
        // A reason is not cut.
        let line = Columns::new(false).line(&screen(Some(40)), &syn());
        assert!(line.ends_with("60 B no-match"), "{line}");
    }

    #[test]
    fn lines_stand_below_each_other() {
        let screen = screen(None);
        let mut columns = Columns::new(false);
        let ping = LoggedPacket {
            protocol: Some(1),
            local_port: None,
            remote_port: None,
            tcp_flags: None,
            icmp_type: Some(8),
            icmp_code: Some(0),
            verdict: Action::Accept,
            vlans: vec![7],
            ..syn()
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
                "accept in  icmp 203.0.113.9       > 10.0.0.5      vlan 7 type 8/0 60 B no-match",
                "drop   out tcp  10.0.0.5:3306     > 203.0.113.9:51514 syn+ack 60 B rule 7 db \
                 web.yaml:12",
            ]
        );
        // With a time in front there is room in 80 columns.
        assert!(lines[0].len() + "12:34:56.789 ".len() <= 80);
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
