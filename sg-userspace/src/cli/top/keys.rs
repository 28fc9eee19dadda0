//! What each key does.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::Model;

/// What has to happen after a key besides drawing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    /// All of the screen is to be drawn again: something else wrote to the terminal.
    Repaint,
    Suspend,
    Quit,
}

/// The keys and what they do, for the help.
pub(super) const HELP: [(&str, &str); 13] = [
    ("q, Ctrl-C", "quit"),
    (
        "/",
        "filter by words, as you type; Enter keeps it, Esc ends it",
    ),
    ("s, S", "sort by the next column, by the one before"),
    ("r", "reverse the order"),
    ("z", "hide or show rules that have decided nothing"),
    (
        "Up, Down, k, j",
        "select a rule, which stays selected wherever it moves",
    ),
    ("PgUp, PgDn", "a page up or down"),
    (
        "Home, End, g, G",
        "to the top, with nothing selected; to the end",
    ),
    ("Tab, Shift-Tab", "the next interface, the one before"),
    ("p", "what is shown below the rules"),
    ("Space", "pause: nothing is read"),
    (
        "Ctrl-L, Ctrl-Z",
        "draw all again; back to the shell, until `fg`",
    ),
    ("?, h", "this help"),
];

/// Does what a key means.
pub(super) fn press(model: &mut Model, key: KeyEvent) -> Then {
    if key.kind == KeyEventKind::Release {
        return Then::GoOn;
    }
    if key.modifiers.contains(KeyModifiers::ALT) {
        // A terminal sends the same for Esc with another key right behind it.
        press(model, KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
        let modifiers = key.modifiers.difference(KeyModifiers::ALT);
        return press(model, KeyEvent { modifiers, ..key });
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return with_control(model, key.code);
    }
    if model.shows_help {
        // Any key ends it, and `q` quits.
        model.shows_help = false;
        return match key.code {
            KeyCode::Char('q') => Then::Quit,
            _ => Then::GoOn,
        };
    }
    if scroll(model, key.code) {
        return Then::GoOn;
    }
    if model.is_typing {
        type_filter(model, key.code);
        return Then::GoOn;
    }
    match key.code {
        KeyCode::Char('q') => return Then::Quit,
        KeyCode::Char('/') => model.is_typing = true,
        KeyCode::Char('s') => model.choice.sort = model.choice.sort.step(true),
        KeyCode::Char('S') => model.choice.sort = model.choice.sort.step(false),
        KeyCode::Char('r') => model.choice.is_reversed = !model.choice.is_reversed,
        KeyCode::Char('z') => model.choice.hides_zero = !model.choice.hides_zero,
        KeyCode::Char('p') => model.panel = model.panel.next(),
        KeyCode::Char(' ') => model.is_paused = !model.is_paused,
        KeyCode::Char('?' | 'h') => model.shows_help = true,
        KeyCode::Char('k') => model.step(-1),
        KeyCode::Char('j') => model.step(1),
        KeyCode::Char('g') => model.go_to_top(),
        KeyCode::Char('G') => model.go_to_end(),
        // One step back from whatever was chosen last.
        KeyCode::Esc if model.selected.is_some() => model.go_to_top(),
        KeyCode::Esc => model.choice.filter.clear(),
        _ => return Then::GoOn,
    }
    model.list();
    Then::GoOn
}

fn with_control(model: &mut Model, code: KeyCode) -> Then {
    match code {
        KeyCode::Char('c') => return Then::Quit,
        KeyCode::Char('z') => return Then::Suspend,
        KeyCode::Char('l') => return Then::Repaint,
        KeyCode::Char('u') if model.is_typing => {
            model.choice.filter.clear();
            model.list();
        }
        _ => {}
    }
    Then::GoOn
}

/// The keys that go through the list, also while a filter is typed.
fn scroll(model: &mut Model, code: KeyCode) -> bool {
    // One rule of the page before stays in sight.
    let page = isize::try_from(model.page.saturating_sub(1).max(1)).unwrap_or(1);
    match code {
        KeyCode::Up => model.step(-1),
        KeyCode::Down => model.step(1),
        KeyCode::PageUp => model.step(-page),
        KeyCode::PageDown => model.step(page),
        KeyCode::Home => model.go_to_top(),
        KeyCode::End => model.go_to_end(),
        KeyCode::Tab => model.turn(true),
        KeyCode::BackTab => model.turn(false),
        _ => return false,
    }
    true
}

fn type_filter(model: &mut Model, code: KeyCode) {
    match code {
        KeyCode::Char(c) => model.choice.filter.push(c),
        KeyCode::Backspace => drop(model.choice.filter.pop()),
        KeyCode::Enter => model.is_typing = false,
        KeyCode::Esc => {
            model.is_typing = false;
            model.choice.filter.clear();
        }
        _ => return,
    }
    // The rules that match best are at the top.
    model.go_to_top();
    model.list();
}
