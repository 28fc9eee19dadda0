//! `sgctl top`: what the enforcer does, on the whole screen.
//!
//! `source` reads, `model` knows what was read and what the user chose, `view` draws it, `keys`
//! changes what was chosen, `terminal` and `guardian` see to it that the terminal is always
//! restored, and `screen` is the loop around all of them.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;

use super::context::{Context, Ifaces, interval};
use super::failure::Failure;

mod drops;
mod guardian;
mod input;
mod keys;
mod list;
mod look;
mod model;
mod reading;
mod screen;
mod source;
mod sum;
mod terminal;
#[cfg(test)]
mod tests;
mod track;
mod view;
mod watcher;

/// Rules, drops and flows as they happen, on the whole screen
#[derive(Args)]
#[command(
    name = "top",
    after_help = "\
Shows rules and reasons with packets, bytes, rates and a trend, the busiest first; what was accepted
and what was dropped; the sources and ports that were dropped most; the flow table; and which
policies were in force. With several interfaces the first screen is their sum, and Tab goes through
them. Changes nothing, and needs no running `sgctl run`.

Keys: q quits, / filters as you type, s sorts, z hides rules at zero, and ? shows all of them.

For a pipe or a script there is `sgctl counters --watch`, with --json too.

Examples:
  sgctl top
  sgctl top --iface eth0
  sgctl top --iface 'eth*' --interval 5

Exit codes: 0 done, 1 nothing is attached or the state is wrong, 2 usage, 3 not permitted."
)]
pub(super) struct Top {
    #[command(flatten)]
    ifaces: Ifaces,
    /// Read again every so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
}

impl Top {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(reason) = no_screen() {
            let message = format!(
                "{reason}, and `top` draws on the whole of one; for other output there is \
                 `sgctl counters --watch`"
            );
            return Err(Failure::usage::<Top>("top", message));
        }
        guardian::guarded(|| screen::show(context, &self.ifaces, self.interval))
    }
}

/// Why there is no screen to draw on, if there is none.
fn no_screen() -> Option<&'static str> {
    if !io::stdout().is_terminal() {
        return Some("standard output is no terminal");
    }
    if !io::stdin().is_terminal() {
        return Some("standard input is no terminal");
    }
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    is_dumb.then_some("TERM names no terminal that can be drawn on")
}
