//! What the parts of the screen draw with.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use crate::cli::screen::Paint;
use crate::cli::top::look::Look;

/// The time that the screen shows, and how often it reads.
pub(in crate::cli::top) struct Now {
    /// The clock of readings.
    pub(in crate::cli::top) clock: Duration,
    pub(in crate::cli::top) wall: Timestamp,
    pub(in crate::cli::top) interval: Duration,
}

/// An area without its first line.
pub(super) fn under(area: Rect) -> Rect {
    Rect {
        y: area.y + 1,
        height: area.height.saturating_sub(1),
        ..area
    }
}

/// Draws text with the look of this terminal.
pub(super) struct Pen<'a> {
    pub(super) buffer: &'a mut Buffer,
    pub(super) look: &'a Look,
}

impl Pen<'_> {
    /// A line at the top of an area, of which what does not fit is left out.
    pub(super) fn line<'b>(&mut self, area: Rect, line: impl Into<Line<'b>>) {
        if area.height > 0 {
            let area = Rect { height: 1, ..area };
            line.into().render(area, self.buffer);
        }
    }

    /// Lines from the top of an area on, as many as fit.
    pub(super) fn lines<'b>(&mut self, area: Rect, lines: impl IntoIterator<Item = Line<'b>>) {
        for (line, row) in lines.into_iter().zip(area.rows()) {
            self.line(row, line);
        }
    }

    pub(super) fn paint(&self, paint: Paint, text: &str) -> Span<'static> {
        Span::styled(self.look.text(text), self.look.style(paint))
    }

    pub(super) fn plain(&self, text: &str) -> Span<'static> {
        Span::raw(self.look.text(text))
    }

    /// A heading on a line as wide as the area.
    pub(super) fn heading(&mut self, area: Rect, title: Vec<Span<'static>>) {
        let width = usize::from(area.width);
        let taken: usize = title.iter().map(Span::width).sum();
        let dim = |width| Span::styled(self.look.line(width), self.look.style(Paint::Dim));
        let mut spans = vec![dim(2), Span::raw(" ")];
        spans.extend(title);
        spans.push(Span::raw(" "));
        spans.push(dim(width.saturating_sub(taken + 4)));
        self.line(area, spans);
    }

    /// A line in the middle of an area.
    pub(super) fn center(&mut self, area: Rect, text: &str) {
        let middle = Rect {
            y: area.y + area.height / 2,
            height: 1.min(area.height),
            ..area
        };
        let line = Line::from(self.paint(Paint::Dim, text)).centered();
        self.line(middle, line);
    }
}
