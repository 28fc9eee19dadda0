//! The table of counters, on terminals of several widths and heights.

use super::*;
use crate::cli::rates::Reading;
use crate::cli::screen::ColorChoice;
use crate::fixtures;
use sg_common::verdict::{Action, Reason};
use sg_userspace::observe::counters::{ReasonCounters, RuleCounters};
use sg_userspace::observe::status::PolicyStatus;

/// Counters with numbers up to `largest`.
fn counters(largest: u64) -> Counters {
    let rule = |position: Option<u32>, action, packets| RuleCounters {
        direction: Direction::Inbound,
        position,
        group: "web".into(),
        action,
        name: None,
        summary: "tcp 8080,8443,9090,9100+7 more from 2001:db8:1234::/48".into(),
        description: Some("what this rule is there for, in many words".into()),
        packets,
        bytes: packets * 700,
        reply_packets: packets,
        reply_bytes: packets * 700,
    };
    let dropped = largest.min(1234);
    let total = |direction| Totals {
        bytes: largest * 700,
        ..fixtures::totals(direction, largest - dropped, dropped)
    };
    Counters {
        policy: PolicyStatus {
            generation: 3,
            ..fixtures::policy("a-policy")
        },
        rules: vec![
            rule(Some(1), Action::Accept, largest),
            rule(Some(2), Action::Drop, 0),
            rule(None, Action::Accept, 7),
            rule(None, Action::Drop, 5),
        ],
        reasons: vec![ReasonCounters {
            direction: Direction::Inbound,
            reason: Reason::NoMatch,
            action: Action::Drop,
            packets: 1229,
            bytes: 1229 * 60,
        }],
        totals: Direction::BOTH.map(total).to_vec(),
        ..fixtures::counters("eth0")
    }
}

fn drawn(one: &Counters, width: usize, rates: Option<&Rates>, choice: Choice) -> String {
    let mut screen = Screen::stdout(ColorChoice::Never);
    screen.width = Some(width);
    let look = Look {
        choice: &choice,
        rates,
        lines: None,
        since_reset: false,
    };
    text(&screen, std::slice::from_ref(one), look)
}

/// From 80 columns on, no number is left out of the counters of millions of packets, with rates
/// or without, and at no width is one cut or a line too long.
#[test]
fn text_gives_way_to_numbers() {
    for largest in [9_999_999, 99_999_999_999] {
        let one = counters(largest);
        let rates = Rates::since(Some(Reading::of(&[counters(1)])));
        for width in 60..200 {
            for rates in [None, Some(&rates)] {
                let text = drawn(&one, width, rates, Choice::default());
                let longest = text.lines().map(|line| line.chars().count()).max();
                assert!(longest <= Some(width), "{width}:\n{text}");
                // Those of the rule, of its replies, and of both totals.
                let heading = text.lines().nth(1).unwrap();
                let whole = text.matches(&thousands(largest)).count();
                let has_replies = heading.contains("REPLIES");
                assert_eq!(whole, 3 + usize::from(has_replies), "{width}:\n{text}");
                assert_eq!(text.matches("1,234").count(), 2, "{width}:\n{text}");
                let accepted = thousands(largest - 1234);
                assert_eq!(text.matches(&accepted).count(), 2, "{width}:\n{text}");
                if width >= 80 && largest < 10_000_000 {
                    let numbers = ["PACKETS", "BYTES", "REPLIES"];
                    let rates = ["PKT/S", "BIT/S"].iter().filter(|_| rates.is_some());
                    for column in numbers.iter().chain(rates) {
                        assert!(heading.contains(column), "{width}: {column}:\n{text}");
                    }
                }
            }
        }
    }
}

/// `accepted` is what passed, as in JSON and CSV, whatever the width: what is audited is a part
/// of it and never beside it.
#[test]
fn what_is_audited_is_a_part_of_what_is_accepted() {
    let mut one = counters(9_999_999);
    one.totals[0].audited = 4321;
    let text = drawn(&one, 200, None, Choice::default());
    let words = "9,998,765 accepted (4,321 audited), 1,234 dropped";
    assert!(text.contains(words), "{text}");
    let rates = Rates::since(Some(Reading::of(&[counters(1)])));
    let text = drawn(&one, 80, Some(&rates), Choice::default());
    let rows = text.lines().filter(|line| line.starts_with("in ")).skip(3);
    let rows = rows.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let rows: Vec<String> = rows.filter(|row| !row.contains("total")).collect();
    assert_eq!(
        rows[rows.len() - 3..],
        [
            "in accepted 9,998,765",
            "in of it audited 4,321",
            "in dropped 1,234"
        ],
        "{text}"
    );
}

/// On a terminal with few lines each total takes one, so that rules are shown too. It still says
/// how many packets were accepted and dropped.
#[test]
fn totals_take_a_line_each_where_lines_are_few() {
    let one = counters(9_999_999);
    let rates = Rates::since(Some(Reading::of(&[counters(1)])));
    let choice = Choice::default();
    let mut screen = Screen::stdout(ColorChoice::Never);
    screen.width = Some(80);
    let of_lines = |lines| {
        let look = Look {
            choice: &choice,
            rates: Some(&rates),
            lines: Some(lines),
            since_reset: false,
        };
        text(&screen, std::slice::from_ref(&one), look)
    };
    let low = of_lines(9);
    assert!(low.lines().count() <= 9, "{low}");
    assert_eq!(
        low.matches("9,998,765 accepted, 1,234 dropped").count(),
        2,
        "{low}"
    );
    assert!(low.contains("tcp 8080"), "{low}");
    let high = of_lines(30);
    assert_eq!(
        high.lines()
            .filter(|line| line.contains(" accepted "))
            .count(),
        2,
        "{high}"
    );
    assert!(high.contains("BIT/S"), "{high}");
}

#[test]
fn what_removed_rules_counted_is_one_row_unless_all_are_asked_for() {
    let one = counters(50);
    let row = |choice| {
        let text = drawn(&one, 200, None, choice);
        let gone = text.lines().filter(|line| line.contains("  gone  "));
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        gone.map(words).collect::<Vec<_>>()
    };
    let expected = "inbound gone mixed removed rules 2 rows: --all 12 8.20 KiB 12";
    assert_eq!(row(Choice::default()), [expected]);
    let all = Choice {
        all: true,
        ..Choice::default()
    };
    assert_eq!(row(all).len(), 2);
}

/// Rows of both directions are one list then, and the totals stand behind it.
#[test]
fn sorted_rows_come_before_the_totals_and_the_rest_is_counted() {
    let one = counters(50);
    let choice = Choice {
        nonzero: true,
        top: Some(2),
        ..Choice::default()
    };
    let text = drawn(&one, 120, None, choice);
    let actions: Vec<&str> = text
        .lines()
        .skip(2)
        .filter_map(|line| {
            line.split_whitespace()
                .nth(2)
                .filter(|_| line.contains("bound"))
        })
        .collect();
    assert_eq!(actions, ["drop", "accept", "0", "0"], "{text}");
    let note = "and 1 more row; 1 row is at zero\n";
    assert!(text.ends_with(note), "{text}");
}
