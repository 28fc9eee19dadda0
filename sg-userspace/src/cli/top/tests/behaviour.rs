//! What keys and readings do to the model.

use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::cli::top::keys::{Then, press};
use crate::cli::top::list::Sort;

fn key(model: &mut Model, code: KeyCode) -> Then {
    press(model, KeyEvent::new(code, KeyModifiers::NONE))
}

fn control(model: &mut Model, c: char) -> Then {
    press(
        model,
        KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL),
    )
}

/// The rules that are listed, by their direction and position.
fn listed(model: &Model) -> Vec<String> {
    let rules = &model.table().unwrap().rules;
    let rules = model.order.iter().map(|row| &rules[*row].what);
    rules
        .map(|rule| {
            let position = rule.position.map_or(0, |position| position);
            format!("{}{position}", &rule.direction.name()[..1])
        })
        .collect()
}

fn selected(model: &Model) -> Option<String> {
    let rules = &model.table().unwrap().rules;
    model.selected.map(|row| rules[row].what.summary.clone())
}

#[test]
fn the_busiest_comes_first_and_other_orders_can_be_chosen() {
    let mut model = normal();
    assert_eq!(model.choice.sort, Sort::Rate);
    // At the last second: 1,400, 69, 12 and 1; the others are idle, and go by their counts.
    assert_eq!(
        listed(&model),
        ["i1", "i4", "o1", "i2", "o2", "i5", "o0", "i3"]
    );
    key(&mut model, KeyCode::Char('S'));
    assert_eq!(model.choice.sort, Sort::Position);
    assert_eq!(
        listed(&model),
        ["i1", "i2", "i3", "i4", "i5", "o1", "o2", "o0"]
    );
    key(&mut model, KeyCode::Char('r'));
    assert_eq!(listed(&model)[0], "o0");
    for _ in 0..Sort::ALL.len() {
        key(&mut model, KeyCode::Char('s'));
    }
    assert_eq!(model.choice.sort, Sort::Position, "round once");
    key(&mut model, KeyCode::Char('z'));
    assert!(!listed(&model).contains(&"i3".to_owned()));
}

#[test]
fn a_filter_has_words_all_of_which_match() {
    let mut model = normal();
    let mut with = |text: &str| {
        model.choice.filter = text.to_owned();
        model.list();
        let mut found = listed(&model);
        found.sort();
        found
    };
    assert_eq!(with("tcp 443"), ["i1", "o2"]);
    assert_eq!(with("IN tcp"), ["i1", "i2", "i3"], "any case, any order");
    assert_eq!(with("office"), ["i2"], "descriptions too");
    assert_eq!(with("drop"), ["i4"]);
    assert_eq!(with("gone"), ["o0"]);
    assert_eq!(with("#3"), ["i3"]);
    assert_eq!(with("  "), with(""));
}

#[test]
fn typing_a_filter_takes_letters_that_are_keys_otherwise() {
    let mut model = normal();
    key(&mut model, KeyCode::Char('/'));
    for c in "sqz".chars() {
        assert_eq!(key(&mut model, KeyCode::Char(c)), Then::GoOn);
    }
    assert_eq!(model.choice.filter, "sqz");
    key(&mut model, KeyCode::Backspace);
    key(&mut model, KeyCode::Enter);
    assert_eq!(
        (model.choice.filter.as_str(), model.is_typing),
        ("sq", false)
    );
    key(&mut model, KeyCode::Esc);
    assert_eq!(model.choice.filter, "");
    key(&mut model, KeyCode::Char('/'));
    key(&mut model, KeyCode::Char('x'));
    control(&mut model, 'u');
    assert_eq!((model.choice.filter.as_str(), model.is_typing), ("", true));
    assert_eq!(control(&mut model, 'c'), Then::Quit);
    key(&mut model, KeyCode::Esc);
    assert_eq!(key(&mut model, KeyCode::Char('q')), Then::Quit);
}

/// Who types fast has sent Esc and the next key before the first one is read.
#[test]
fn esc_with_a_key_right_behind_it_is_both() {
    let mut model = normal();
    key(&mut model, KeyCode::Char('/'));
    key(&mut model, KeyCode::Char('x'));
    press(
        &mut model,
        KeyEvent::new(KeyCode::Char('z'), KeyModifiers::ALT),
    );
    assert_eq!((model.choice.filter.as_str(), model.is_typing), ("", false));
    assert!(model.choice.hides_zero);
}

#[test]
fn help_is_left_by_any_key() {
    let mut model = normal();
    key(&mut model, KeyCode::Char('?'));
    assert!(model.shows_help);
    key(&mut model, KeyCode::Char('z'));
    assert!(!model.shows_help && !model.choice.hides_zero);
    key(&mut model, KeyCode::Char('h'));
    assert_eq!(key(&mut model, KeyCode::Char('q')), Then::Quit);
    assert_eq!(control(&mut model, 'z'), Then::Suspend);
    assert_eq!(control(&mut model, 'l'), Then::Repaint);
}

/// The selected rule stays selected when others overtake it and across a reload, and is let go when
/// it is gone.
#[test]
fn a_selection_follows_its_rule() {
    let mut model = normal();
    model.set_page(4);
    key(&mut model, KeyCode::Down);
    key(&mut model, KeyCode::Down);
    assert_eq!(selected(&model).as_deref(), Some("all from @blocklist"));
    // It becomes the busiest, at another position.
    let mut rules = small(13);
    rules[3].packets += 1_000_000;
    rules.rotate_left(2);
    rules.push(rule(Direction::Inbound, 6, Action::Accept, "gre from any"));
    let next = of(vec![sample("eth0", rules, reasons(13), 13)]);
    model.read(next, Duration::from_secs(13));
    assert_eq!(selected(&model).as_deref(), Some("all from @blocklist"));
    assert_eq!(model.selected_place(), Some(0));
    let rules = small(14)
        .into_iter()
        .filter(|rule| !rule.summary.contains("blocklist"));
    let next = of(vec![sample("eth0", rules.collect(), reasons(14), 14)]);
    model.read(next, Duration::from_secs(14));
    assert_eq!(selected(&model), None);
    assert_eq!(model.order.len(), 7);
}

#[test]
fn scrolling_stays_within_the_list() {
    let mut model = normal();
    model.set_page(3);
    for code in [
        KeyCode::PageDown,
        KeyCode::PageDown,
        KeyCode::PageDown,
        KeyCode::PageDown,
    ] {
        key(&mut model, code);
    }
    key(&mut model, KeyCode::PageDown);
    assert_eq!((model.offset, model.selected_place()), (5, Some(7)));
    key(&mut model, KeyCode::Up);
    assert_eq!((model.offset, model.selected_place()), (5, Some(6)));
    for _ in 0..9 {
        key(&mut model, KeyCode::PageUp);
    }
    assert_eq!((model.offset, model.selected_place()), (0, Some(0)));
    key(&mut model, KeyCode::End);
    assert_eq!(model.offset, 5);
    // More fits: the screen stays full.
    model.set_page(6);
    assert_eq!(model.offset, 2);
    key(&mut model, KeyCode::Home);
    assert_eq!((model.offset, model.selected), (0, None));
    model.choice.filter = "nothing of that kind".into();
    model.list();
    for code in [KeyCode::Down, KeyCode::Up, KeyCode::PageDown, KeyCode::End] {
        key(&mut model, code);
        assert_eq!((model.offset, model.selected), (0, None));
    }
}

/// Readings of two attachments: the sum has the counts of both, each of two flow tables once, and a
/// rule that both have is one row.
#[test]
fn the_sum_of_two_interfaces() {
    let both = |second| {
        let first = sample("eth0", small(second), reasons(second), second);
        let mut rules = small(second);
        rules.remove(0);
        rules.push(rule(Direction::Inbound, 9, Action::Accept, "esp from any"));
        of(vec![first, sample("eth1", rules, reasons(second), second)])
    };
    let mut model = read_until(2, both);
    assert_eq!(model.tables.len(), 3);
    let sum = model.table().unwrap();
    assert_eq!(sum.rules.len(), 9);
    let alone = &model.tables[1];
    for (sum, alone) in sum.rules.iter().zip(&alone.rules).skip(1) {
        assert_eq!(
            sum.what.packets,
            2 * alone.what.packets,
            "{}",
            sum.what.summary
        );
        assert_eq!(sum.track.rate.packets, 2.0 * alone.track.rate.packets);
    }
    assert_eq!(sum.rules[0].what.packets, alone.rules[0].what.packets);
    for (total, of_one) in sum
        .totals
        .iter()
        .zip([1, 2].map(|at| &model.tables[at].totals)[0])
    {
        let other = model.tables[2].total(total.totals.direction).unwrap();
        let parts = of_one.totals.packets + other.totals.packets;
        assert_eq!(total.totals.packets, parts);
    }
    assert_eq!(sum.flows.capacity, 2 * 262_144);
    // Interfaces of one attachment have one flow table.
    let shared = |second| {
        let mut reading = both(second);
        reading.interfaces[1].attachment = 0;
        reading
    };
    model.read(shared(3), Duration::from_secs(3));
    assert_eq!(model.table().unwrap().flows.capacity, 262_144);
    // It is gone, and comes again.
    key(&mut model, KeyCode::BackTab);
    let one = of(vec![sample("eth0", small(4), reasons(4), 4)]);
    model.read(one, Duration::from_secs(4));
    assert_eq!(model.tables.len(), 1);
    model.read(shared(5), Duration::from_secs(5));
    let eth1 = model.table().unwrap();
    assert_eq!(eth1.interfaces[0].standing.interface, "eth1");
    assert!(
        eth1.rules.iter().all(|row| row.track.rate.packets == 0.0),
        "its first reading"
    );
}

/// What was dropped is known from the counters, and what was seen of it from events; packets of an
/// interface are its own and those of the sum.
#[test]
fn what_was_not_seen_is_what_was_dropped_without_an_event() {
    let both = |second| {
        let first = sample("eth0", small(second), reasons(second), second);
        of(vec![
            first,
            sample("eth1", small(second), reasons(second), second),
        ])
    };
    let model = read_until(4, both);
    let dropped = |table: usize| model.tables[table].drops.dropped();
    // 150 by no-match and 3, 9, 15, 21 by the block list.
    assert_eq!([dropped(0), dropped(1), dropped(2)], [2 * 648, 648, 648]);
    let seen = |table: usize| model.tables[table].drops.seen();
    assert_eq!([seen(0), seen(1), seen(2)], [17, 17, 0]);
    let sources = model.tables[0].drops.sources(1);
    assert_eq!(
        (sources[0].0.1.to_string(), sources[0].1),
        ("203.0.113.77".into(), 10)
    );
}

/// The clock of the machine may be set; rates go by the clock of the readings, which only goes on.
#[test]
fn a_machine_whose_clock_is_set_has_the_same_rates() {
    let mut model = normal();
    let rate = |model: &Model| model.table().unwrap().rules[1].track.rate.packets;
    assert_eq!(rate(&model), 1.0);
    let mut next = sample("eth0", small(13), reasons(13), 13);
    next.counters.sampled_at = "1999-01-01T00:00:00Z".into();
    model.read(of(vec![next]), Duration::from_secs(13));
    assert_eq!(rate(&model), 1.0);
    // The machine slept: much was counted in a long time.
    model.read(
        of(vec![sample("eth0", small(1013), reasons(13), 13)]),
        Duration::from_secs(1013),
    );
    assert_eq!(rate(&model), 1.0);
}

/// Ten thousand rules are read, listed and drawn within a twentieth of the second between two
/// readings. The bound leaves room for a busy machine; what it took is printed.
#[test]
fn ten_thousand_rules_take_a_small_part_of_a_second() {
    let rules = |second: u64| -> Vec<RuleCounters> {
        let summary = |position| format!("tcp {position} from 10.0.0.0/8");
        let one = |position: u32| {
            let rule = rule(
                Direction::Inbound,
                position,
                Action::Accept,
                &summary(position),
            );
            counted(rule, u64::from(position) * second, 100)
        };
        (1..=10_000).map(one).collect()
    };
    let readings: Vec<Reading> = (0..20)
        .map(|second| of(vec![sample("eth0", rules(second), reasons(second), second)]))
        .collect();
    let mut model = Model::default();
    let mut took = Vec::new();
    for (second, reading) in (0..).zip(readings) {
        let began = Instant::now();
        model.read(reading, Duration::from_secs(second));
        screen(&mut model, 200, 50, FULL);
        took.push(began.elapsed());
    }
    took.sort();
    let median = took[took.len() / 2];
    println!("a reading of 10,000 rules, listed and drawn: {median:?}");
    assert!(median < Duration::from_millis(50), "{median:?}");
}

#[test]
fn trends_and_bars_are_drawn_to_scale() {
    let rates = [0.0, 1.0, 4.0, 8.0, 2.0];
    let plain = Look {
        color: false,
        unicode: false,
    };
    assert_eq!(FULL.trend(rates.into_iter(), 7), "   ▁▄█▂");
    assert_eq!(plain.trend(rates.into_iter(), 7), "   .-#,");
    assert_eq!(FULL.trend(rates.into_iter(), 2), "█▂");
    assert_eq!(FULL.trend([].into_iter(), 3), "   ");
    assert_eq!(FULL.bar(0.5, 4), "██░░");
    assert_eq!(plain.bar(0.001, 4), "#...");
    assert_eq!(plain.bar(0.0, 4), "....");
    assert_eq!(FULL.bar(7.0, 4), "████");
    assert_eq!(plain.text("a – b…\x1b[2J語"), "a ? b~ [2J??");
}
