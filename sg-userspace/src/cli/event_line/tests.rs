//! The line of a packet, on terminals of several widths and without one.

use sg_common::verdict::{Action, Direction, Reason};
use sg_policy::policy::Location;
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::events::CandidateSays;

use super::*;
use crate::cli::screen::ColorChoice;

/// A packet that opens a connection and was dropped, for no rule matches: what tests begin with.
pub(in crate::cli) fn syn() -> LoggedPacket {
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

/// A packet with another outcome under the candidate names what decides there, too.
#[test]
fn a_candidate_that_differs_is_named() {
    let with = |verdict, rule| LoggedPacket {
        candidate: Some(CandidateSays { verdict, rule }),
        ..syn()
    };
    let before = "drop in  tcp 203.0.113.9:51514 > 10.0.0.5:3306 syn 60 B no-match";
    let after = "candidate: accept rule 7 db web.yaml:12";
    let accepts = with(Action::Accept, Some(rule()));
    for (width, between) in [(None, " "), (Some(117), " "), (Some(90), "\n  ")] {
        let line = Columns::new(false).line(&screen(width), &accepts);
        assert_eq!(line, format!("{before}{between}{after}"), "{width:?}");
    }
    let line = Columns::new(false).line(&screen(None), &with(Action::Drop, None));
    assert_eq!(line, format!("{before} candidate: drop no-match"));
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
    // The line fits into 80 columns with the time in front of it.
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

/// A row that would be too long in aligned columns is printed without the alignment.
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
