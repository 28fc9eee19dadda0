//! How things look on this terminal: with colours or not, with Unicode or ASCII alone.

use ratatui::style::{Color, Modifier, Style};

use crate::cli::locale::ascii;
use crate::cli::screen::{Paint, Screen, clip};
use crate::cli::units::clean;

#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) color: bool,
    pub(super) unicode: bool,
}

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const MARKS: [char; 8] = ['.', ',', ':', '-', '=', '+', '*', '#'];

impl Look {
    pub(super) fn of(screen: &Screen) -> Look {
        Look {
            color: screen.color,
            unicode: screen.unicode,
        }
    }

    /// Without colours, what is bold or dim still is.
    pub(super) fn style(&self, paint: Paint) -> Style {
        let color = match paint {
            Paint::Bold => return Style::new().add_modifier(Modifier::BOLD),
            Paint::Dim => return Style::new().add_modifier(Modifier::DIM),
            Paint::Red => Color::Red,
            Paint::Green => Color::Green,
            Paint::Yellow => Color::Yellow,
            Paint::Magenta => Color::Magenta,
        };
        match self.color {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    /// Text from policies and the kernel, with nothing in it that the terminal cannot show.
    pub(super) fn text(&self, text: &str) -> String {
        let text = clean(text);
        match self.unicode {
            true => text,
            false => ascii(&text),
        }
    }

    /// As much of it as fits.
    pub(super) fn fit(&self, text: &str, width: usize) -> String {
        match width {
            0 => String::new(),
            width => self.text(&clip(text, Some(width))),
        }
    }

    /// A mark for each number, as high as it is among them; the latest is on the right.
    pub(super) fn trend(
        &self,
        numbers: impl ExactSizeIterator<Item = f32>,
        width: usize,
    ) -> String {
        let marks = match self.unicode {
            true => BLOCKS,
            false => MARKS,
        };
        let numbers: Vec<f32> = numbers.collect();
        let highest = numbers.iter().copied().fold(0.0, f32::max);
        let mut out = " ".repeat(width.saturating_sub(numbers.len()));
        for number in numbers.iter().skip(numbers.len().saturating_sub(width)) {
            out.push(match *number > 0.0 {
                false => ' ',
                true => {
                    let share = number / highest * marks.len() as f32;
                    let at = share.ceil() as usize;
                    marks[at.clamp(1, marks.len()) - 1]
                }
            });
        }
        out
    }

    /// A bar of which a share is filled. What is not nothing fills at least one place.
    pub(super) fn bar(&self, share: f64, width: usize) -> String {
        let (full, empty) = match self.unicode {
            true => ('█', '░'),
            false => ('#', '.'),
        };
        let share = share.clamp(0.0, 1.0);
        let filled = (share * width as f64).round() as usize;
        let filled = match share > 0.0 {
            true => filled.clamp(1, width),
            false => 0,
        };
        let bar = std::iter::repeat_n(full, filled);
        bar.chain(std::iter::repeat_n(empty, width - filled))
            .collect()
    }

    pub(super) fn line(&self, width: usize) -> String {
        let line = if self.unicode { "─" } else { "-" };
        line.repeat(width)
    }
}
