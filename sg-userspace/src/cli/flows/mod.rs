//! `sgctl flows`: the flow table, by default the most recently seen flows first. On a terminal the
//! list has a limit by default, because a table may hold a million. With `--kill` the flows that
//! are listed are ended.

mod args;
mod cells;
mod kill;
mod lines;
mod listed;
mod text;

use std::time::Duration;

pub(super) use self::args::Flows;
use super::context::Context;
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::json_rows;
use super::screen::Frame;

impl Flows {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.kill {
            return kill::run(&self, context);
        }
        match self.watch {
            None => self.once(context),
            Some(interval) => self.watch(context, interval),
        }
    }

    fn once(&self, context: &Context) -> Result<(), Failure> {
        let listed = self.read(context, self.most())?;
        match self.json.json {
            true => json_rows::print(&listed),
            false => text::print(&context.out, &listed),
        }
    }

    fn watch(&self, context: &Context, interval: Duration) -> Result<(), Failure> {
        let mut frame = Frame::new(context.out);
        let interrupt = Interrupt::of(&context.out)?;
        loop {
            let (screen, lines) = frame.screen();
            // One line is the summary, one the heading, and one says how many more there are.
            let most = lines.map_or(usize::MAX, |lines| lines.saturating_sub(3).max(1));
            let listed = self.read(context, self.most().min(most))?;
            if self.json.json {
                for one in &listed {
                    context.out.json_line(one)?;
                }
            } else if context.out.terminal {
                frame.draw(&text::text(&screen, &listed))?;
            } else {
                text::print(&screen, &listed)?;
                context.out.print("\n")?;
            }
            interrupt.sleep(interval)?;
        }
    }
}
