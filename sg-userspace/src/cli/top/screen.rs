//! The loop: reads, draws, and waits for keys.

use std::io::{self, BufWriter};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::{Backend as _, CrosstermBackend};

use super::input::{self, Input};
use super::keys::{self, Then};
use super::look::Look;
use super::model::Model;
use super::source::Source;
use super::terminal::{Out, Shown, written};
use super::view::{self, Now};
use crate::cli::context::{Context, Ifaces};
use crate::cli::failure::Failure;

/// Of the time, reading takes at most this part.
const SHARE: u32 = 20;

/// How often events are taken, and ages and the time until a deadline are drawn again. Taking
/// events keeps the watch of dropped packets alive.
const GLANCE: Duration = Duration::from_millis(400);

/// Room for a frame that fills a large terminal, so that it is written at once.
const FRAME: usize = 256 * 1024;

pub(super) fn show(context: &Context, ifaces: &Ifaces, interval: Duration) -> Result<(), Failure> {
    let mut source = Source::open(context, ifaces)?;
    let look = Look::of(&context.out);
    // crossterm would obey NO_COLOR also where --color says something else.
    crossterm::style::force_color_output(look.color);
    let shown = Shown::begin()?;
    let mut terminal = fresh().map_err(written)?;
    input::prepare().map_err(written)?;

    let began = Instant::now();
    let mut model = Model::default();
    let mut due = began;
    loop {
        let started = Instant::now();
        if started >= due && !model.is_paused {
            let reading = source.read()?;
            let now = Instant::now();
            model.read(reading, now - began);
            due = now
                + interval
                    .saturating_sub(now - started)
                    .max((now - started) * SHARE);
            break_if_asked(&model);
        }
        if !model.is_paused {
            model.see(source.look(), began.elapsed());
        }
        let now = Now {
            clock: began.elapsed(),
            wall: Timestamp::now(),
            interval,
        };
        let size = terminal.size().map_err(written)?;
        model.set_page(view::page(size, &model, &now));
        let drawn = terminal.draw(|frame| view::draw(frame, &model, &look, &now));
        drawn.map_err(written)?;

        let left = match model.is_paused {
            true => GLANCE,
            false => due.saturating_duration_since(Instant::now()),
        };
        let Input::Keys(pressed) = input::wait(left.min(GLANCE)).map_err(written)? else {
            return Ok(());
        };
        for key in pressed {
            match keys::press(&mut model, key) {
                Then::GoOn => {}
                Then::Repaint => terminal = fresh().map_err(written)?,
                Then::Suspend => {
                    shown.suspend()?;
                    terminal = fresh().map_err(written)?;
                }
                Then::Quit => return Ok(()),
            }
        }
    }
}

/// A terminal of which it is known that nothing is on it.
fn fresh() -> io::Result<Terminal<CrosstermBackend<BufWriter<Out>>>> {
    let out = BufWriter::with_capacity(FRAME, Out);
    let mut terminal = Terminal::new(CrosstermBackend::new(out))?;
    terminal.backend_mut().clear()?;
    Ok(terminal)
}

/// A panic, in builds with fault points and where one is asked for, so that a test can see what
/// becomes of the terminal.
#[expect(clippy::panic, reason = "it is what was asked for")]
fn break_if_asked(model: &Model) {
    let is_asked = || std::env::var_os("SG_FAULT").is_some_and(|fault| fault == "panic:top");
    if cfg!(debug_assertions) && !model.tables.is_empty() && is_asked() {
        panic!("SG_FAULT asks for it");
    }
}
