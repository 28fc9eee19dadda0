//! Draws the model: what is where on a screen of any size. The parts are drawn by `head`, `rules`,
//! `panels` and `help`.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Rect, Size};
use ratatui::style::Style;

use super::look::Look;
use super::model::Model;
use pen::Pen;

mod drops;
mod head;
mod help;
mod panels;
mod pen;
mod rules;
mod table;

pub(super) use pen::Now;

/// What is smaller shows nothing.
const LEAST: (u16, u16) = (60, 12);
/// From this width on all panels stand beside the rules.
const WIDE: u16 = 150;
const SIDE: u16 = 62;
/// From this height on there is a panel below the rules.
const HIGH: u16 = 18;

/// What is where.
#[derive(Clone, Copy, Default)]
struct Plan {
    head: Rect,
    /// The rules, with a line above them and their headings.
    rules: Rect,
    /// All that is known about the selected rule.
    detail: Rect,
    /// One panel below the rules, or all beside them.
    panel: Rect,
    is_wide: bool,
    keys: Rect,
}

impl Plan {
    fn of(area: Rect, model: &Model, now: &Now) -> Option<Plan> {
        if area.width < LEAST.0 || area.height < LEAST.1 {
            return None;
        }
        let mut left = area;
        let top = |left: &mut Rect, height: u16| {
            let taken = Rect {
                height: height.min(left.height),
                ..*left
            };
            left.y += taken.height;
            left.height -= taken.height;
            taken
        };
        let head = top(&mut left, head::height(model, now, area.width));
        left.height -= 1;
        let keys = Rect {
            y: left.bottom(),
            height: 1,
            ..area
        };
        let mut plan = Plan {
            head,
            keys,
            is_wide: area.width >= WIDE,
            ..Plan::default()
        };
        if plan.is_wide {
            plan.panel = Rect {
                x: area.width - SIDE,
                width: SIDE,
                ..left
            };
            left.width -= SIDE + 2;
        } else if area.height >= HIGH {
            let height = (area.height / 4).clamp(5, 12);
            left.height -= height;
            plan.panel = Rect {
                y: left.bottom(),
                height,
                ..left
            };
        }
        if model.selected.is_some() {
            left.height -= rules::DETAIL;
            plan.detail = Rect {
                y: left.bottom(),
                height: rules::DETAIL,
                ..left
            };
        }
        plan.rules = left;
        Some(plan)
    }
}

/// How many rules fit on a screen.
pub(super) fn page(size: Size, model: &Model, now: &Now) -> usize {
    let area = Rect::new(0, 0, size.width, size.height);
    let plan = Plan::of(area, model, now).unwrap_or_default();
    usize::from(plan.rules.height.saturating_sub(rules::HEADINGS))
}

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, look: &Look, now: &Now) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let Some(plan) = Plan::of(area, model, now) else {
        return too_small(buffer, area);
    };
    let pen = &mut Pen { buffer, look };
    if model.shows_help {
        return help::draw(pen, area);
    }
    head::draw(pen, plan.head, model, now);
    match model.table() {
        None => pen.center(
            plan.rules,
            "nothing is attached; as soon as something is, it is shown",
        ),
        Some(table) => {
            rules::draw(pen, plan.rules, model, table);
            rules::detail(pen, plan.detail, model, table);
            match plan.is_wide {
                true => panels::all(pen, plan.panel, model, table, now),
                false => panels::one(pen, plan.panel, model, table, now),
            }
        }
    }
    help::keys(pen, plan.keys, model);
}

fn too_small(buffer: &mut Buffer, area: Rect) {
    let Rect { width, height, .. } = area;
    let lines = [
        format!("{width}x{height} is too small:"),
        format!("top needs {}x{}", LEAST.0, LEAST.1),
        "q quits".to_owned(),
    ];
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        buffer.set_stringn(area.x, y, line, usize::from(width), Style::new());
    }
}
