//! Snapshots of the screen at several sizes. A snapshot that changes is looked at.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::*;
use crate::cli::top::keys::press;

fn type_in(model: &mut Model, text: &str) {
    for c in text.chars() {
        press_key(model, KeyCode::Char(c));
    }
}

fn press_key(model: &mut Model, code: KeyCode) {
    press(model, KeyEvent::new(code, KeyModifiers::NONE));
}

macro_rules! assert_screen {
    ($name:expr, $text:expr) => {
        insta::with_settings!({
            snapshot_path => "../../../../tests/cli/snapshots",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!($name, $text) })
    };
}

/// Ten thousand rules, of which every thousandth has traffic.
fn many(second: u64) -> Vec<RuleCounters> {
    let rules = (1..=10_000_u32).map(|position| {
        let summary = format!(
            "tcp {} from 10.{}.{}.0/24",
            1000 + position,
            position / 256,
            position % 256
        );
        let rule = rule(Direction::Inbound, position, Action::Accept, &summary);
        match position % 1000 {
            0 => counted(rule, u64::from(position) * second, 100),
            _ => rule,
        }
    });
    rules.collect()
}

fn crowd() -> Model {
    read_until(12, |second| {
        of(vec![sample("eth0", many(second), reasons(second), second)])
    })
}

#[test]
fn the_screen_of_a_node() {
    assert_screen!("top_80x24", screen(&mut normal(), 80, 24, FULL));
    assert_screen!("top_200x50", screen(&mut normal(), 200, 50, FULL));
    assert_screen!("top_60x12", screen(&mut normal(), 60, 12, FULL));
}

#[test]
fn the_other_panels_and_the_help() {
    let mut model = normal();
    press_key(&mut model, KeyCode::Char('p'));
    assert_screen!("top_drops", screen(&mut model, 80, 24, FULL));
    press_key(&mut model, KeyCode::Char('p'));
    assert_screen!("top_policies", screen(&mut model, 80, 24, FULL));
    press_key(&mut model, KeyCode::Char('?'));
    assert_screen!("top_help", screen(&mut model, 80, 24, FULL));
}

#[test]
fn nothing_attached_and_nothing_counted() {
    let mut model = read_until(1, |_| Reading {
        interfaces: Vec::new(),
        troubles: vec!["nothing is attached to `eth0`".into()],
    });
    assert_screen!("top_nothing", screen(&mut model, 80, 24, FULL));
    let mut model = read_until(1, |_| {
        let no_reasons = reasons(0).into_iter().map(|reason| ReasonCounters {
            packets: 0,
            bytes: 0,
            ..reason
        });
        let mut sample = sample("eth0", Vec::new(), no_reasons.collect(), 0);
        sample.past.truncate(1);
        of(vec![sample])
    });
    assert_screen!("top_empty", screen(&mut model, 80, 24, FULL));
}

/// What was dropped before the first reading is not known, so that nothing is said of it.
#[test]
fn drops_are_those_since_it_looks() {
    let mut model = read_until(2, |_| of(vec![sample("eth0", small(0), reasons(0), 0)]));
    model.tables[0].drops = Default::default();
    model.tables[0].drops.count(0, Duration::ZERO);
    press_key(&mut model, KeyCode::Char('p'));
    let text = screen(&mut model, 80, 24, FULL);
    assert!(
        text.contains("dropped most, last 2 s: 0 seen, 0 not"),
        "{text}"
    );
    assert!(text.contains("nothing was dropped in this time"), "{text}");
}

/// A table that evicts is never silent about it, however narrow the screen is.
#[test]
fn evictions_give_way_to_nothing() {
    let evicting = |established: u64| {
        read_until(1, |second| {
            let mut one = sample("eth0", small(second), reasons(second), second);
            one.max_flows = 1 << 20;
            let live = |live, evicted| FlowTableUse {
                live,
                entered: live + evicted,
                evicted,
            };
            one.flows = [live(622_647, 127_353), live(3, established)];
            of(vec![one])
        })
    };
    let line = |established, width| {
        let text = screen(&mut evicting(established), width, 24, FULL);
        let line = text.lines().find(|line| line.starts_with("flows"));
        line.unwrap_or_default().to_owned()
    };
    for (established, width, expected) in [
        (
            0,
            200,
            "flows    3 of 1,048,576 █░░░░░░░░░ <0.1 %  half-open 622,647 of 699,056  evicted 127,353 \
             half-open  new 0/s",
        ),
        (
            0,
            80,
            "flows    3 of 1,048,576  half-open 622,647 of 699,056  evicted 127,353 half-open",
        ),
        (
            12,
            80,
            "flows    3 of 1,048,576  half-open 622,647 of 699,056  evicted 12 + 127,353",
        ),
        (
            0,
            60,
            "flows    3 of 1,048,576  half-open 622,647  evicted 127,353",
        ),
    ] {
        assert_eq!(line(established, width), expected);
    }
}

#[test]
fn ten_thousand_rules_scrolled() {
    let mut model = crowd();
    // The size is known before the first key.
    screen(&mut model, 80, 24, FULL);
    for _ in 0..30 {
        press_key(&mut model, KeyCode::PageDown);
    }
    press_key(&mut model, KeyCode::Up);
    assert_screen!("top_many_80x24", screen(&mut model, 80, 24, FULL));
    press_key(&mut model, KeyCode::End);
    let end = screen(&mut model, 200, 50, FULL);
    assert!(
        end.contains(" 9999 ") && end.contains("10,000 rules"),
        "{end}"
    );
    press_key(&mut model, KeyCode::Char('z'));
    assert_screen!("top_many_busy_200x50", screen(&mut model, 200, 50, FULL));
}

#[test]
fn a_filter_as_it_is_typed() {
    let mut model = normal();
    type_in(&mut model, "/TCP in");
    assert_screen!("top_filter", screen(&mut model, 80, 24, FULL));
    type_in(&mut model, " nowhere");
    let none = screen(&mut model, 80, 24, FULL);
    assert!(none.contains("no rule has all these words"), "{none}");
}

#[test]
fn a_selected_rule_is_shown_whole() {
    let mut model = normal();
    type_in(&mut model, "/office");
    press_key(&mut model, KeyCode::Enter);
    press_key(&mut model, KeyCode::Down);
    assert_screen!("top_selected", screen(&mut model, 80, 24, FULL));
}

#[test]
fn a_policy_on_trial_and_a_fault() {
    let mut model = read_until(12, |second| of(vec![on_trial(second)]));
    assert_screen!("top_trial", screen(&mut model, 80, 24, FULL));
    let mut model = read_until(12, |second| {
        let mut sample = sample("eth0", small(second), reasons(second), second);
        sample.counters.standing.health = Health::Incomplete;
        sample.counters.standing.faults = vec![sg_userspace::kernel::Fault {
            code: sg_userspace::kernel::FaultCode::NotAttached,
            direction: Some(Direction::Inbound),
            message: "the inbound program is not attached".into(),
            help: "`sgctl apply` attaches it again".into(),
        }];
        of(vec![sample])
    });
    assert_screen!("top_fault", screen(&mut model, 80, 24, FULL));
}

/// Proves C10: as long as nothing was evaluated, nothing is claimed; and what is not known of one
/// interface is not known of the sum.
#[test]
fn a_candidate_beside_the_policy() {
    let with = |each: &[CandidateStatus]| {
        let mut model = read_until(12, |second| {
            let samples = each.iter().zip(0..).map(|(candidate, number)| Sample {
                candidate: Some(candidate.clone()),
                ..sample(
                    &format!("eth{number}"),
                    small(second),
                    reasons(second),
                    second,
                )
            });
            of(samples.collect())
        });
        screen(&mut model, 80, 24, FULL)
    };
    assert_screen!("top_candidate", with(&[beside(17, Some(12_345))]));
    for (each, line) in [
        (
            &[beside(0, Some(0))][..],
            "candidate summer: no packet has been evaluated yet, which says nothing",
        ),
        (
            &[beside(1, Some(20)), beside(2, Some(30))],
            "candidate summer: 3 packets have another outcome, of 50",
        ),
        (
            &[beside(1, Some(20)), beside(2, None)],
            "candidate summer: 3 packets have another outcome; of how many is not known",
        ),
    ] {
        let shown = with(each);
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn several_interfaces_and_their_sum() {
    let both = |second| {
        let first = sample("eth0", small(second), reasons(second), second);
        let mut rules = small(2 * second);
        rules.reverse();
        let mut second = sample("eth1", rules, reasons(2 * second), second);
        second.counters.policy.generation = 3;
        of(vec![first, second])
    };
    let mut model = read_until(12, both);
    assert_screen!("top_sum", screen(&mut model, 80, 24, FULL));
    press_key(&mut model, KeyCode::BackTab);
    let last = screen(&mut model, 80, 24, FULL);
    assert!(last.starts_with("eth1  shop  generation 3"), "{last}");
}

#[test]
fn a_terminal_that_is_too_small() {
    assert_screen!("top_too_small", screen(&mut normal(), 40, 10, FULL));
    for (width, height) in [(1, 1), (59, 50), (200, 11), (60, 12), (10, 2)] {
        screen(&mut normal(), width, height, FULL);
    }
}

/// Without colours and with ASCII alone, nothing else is on the screen.
#[test]
fn no_colours_and_a_c_locale() {
    let plain = Look {
        color: false,
        unicode: false,
    };
    assert_screen!("top_ascii", screen(&mut normal(), 80, 24, plain));
    for size in [(80, 24), (200, 50)] {
        let terminal = shown(&mut normal(), size.0, size.1, plain);
        for cell in terminal.backend().buffer().content() {
            assert!(cell.symbol().is_ascii(), "{:?}", cell.symbol());
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        }
    }
    let terminal = shown(&mut normal(), 80, 24, FULL);
    let cells = terminal.backend().buffer().content();
    assert!(cells.iter().any(|cell| cell.fg == Color::Green));
    assert!(cells.iter().any(|cell| !cell.symbol().is_ascii()));
}

/// Whatever the size, numbers are whole: each count that is shown is one of the model's.
#[test]
fn numbers_are_never_cut() {
    for width in [60, 70, 80, 100, 132, 150, 200, 250] {
        let text = screen(&mut normal(), width, 40, FULL);
        let row = text
            .lines()
            .find(|line| line.contains("[https]") || line.contains("[http"));
        let row = row.unwrap_or_else(|| panic!("{width}: {text}"));
        let count = crate::cli::units::thousands(small(12)[0].packets);
        assert!(row.contains(&count), "{width}: {text}");
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= usize::from(width))
        );
    }
}
