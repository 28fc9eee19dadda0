//! The keys: the last line of the screen, and all of them on a screen of their own.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::pen::{Pen, under};
use crate::cli::screen::Paint;
use crate::cli::top::keys::HELP;
use crate::cli::top::model::Model;

/// What the screen shows, for who sees it the first time.
const WORDS: &str = "\
A packet is counted once: by the rule that decided it, as a reply of a rule of the other direction, \
or under a reason. RATE is packets a second since the last reading, and TREND shows the last \
readings, each row by its own highest. A rule that is `gone` has left the policy. Flows: how many \
are established, of how many the table holds; half-open ones have places of their own, and evicted \
is what a full table gave up. Numbers for scripts: `sgctl counters --watch --json`.";

pub(super) fn draw(pen: &mut Pen<'_>, area: Rect) {
    let title = vec![pen.paint(Paint::Bold, "sgctl top: any key goes back, q quits")];
    pen.heading(area, title);
    let mut lines: Vec<Line<'static>> = Vec::new();
    for (key, does) in HELP {
        lines.push(Line::from(vec![
            pen.paint(Paint::Bold, &format!("  {key:<17}")),
            pen.plain(does),
        ]));
    }
    lines.push(Line::default());
    let width = usize::from(area.width).min(100);
    let words = textwrap::wrap(WORDS, width);
    lines.extend(words.iter().map(|words| Line::from(pen.plain(words))));
    pen.lines(under(area), lines);
}

/// The keys that matter now, as many as fit.
pub(super) fn keys(pen: &mut Pen<'_>, area: Rect, model: &Model) {
    let typing = [
        ("Enter", "keep the filter"),
        ("Esc", "end it"),
        ("Ctrl-U", "clear it"),
    ];
    let mut normal = vec![
        ("q", "quit"),
        ("/", "filter"),
        ("s", "sort"),
        (
            "z",
            if model.choice.hides_zero {
                "show zeros"
            } else {
                "hide zeros"
            },
        ),
        ("?", "help"),
    ];
    if model.tables.len() > 1 {
        normal.push(("Tab", "interface"));
    }
    normal.extend([
        ("Space", if model.is_paused { "go on" } else { "pause" }),
        ("p", "panel"),
        ("r", "reverse"),
    ]);
    let all = if model.is_typing {
        &typing[..]
    } else {
        &normal[..]
    };
    let mut spans: Vec<Span<'static>> = Vec::new();
    let mut used = 0;
    for (key, does) in all {
        used += key.len() + does.len() + 3;
        if used > usize::from(area.width) + 2 {
            break;
        }
        spans.push(pen.paint(Paint::Bold, key));
        spans.push(pen.paint(Paint::Dim, &format!(" {does}  ")));
    }
    pen.line(area, spans);
}
