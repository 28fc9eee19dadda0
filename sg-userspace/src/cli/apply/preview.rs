//! What `--dry-run` prints.

use std::fmt::Write as _;

use sg_userspace::kernel::{ApplyOptions, Preview};

use crate::cli::guarded::{Previewed, is_off};
use crate::cli::impact::{self, Mood};
use crate::cli::screen::{Paint, Screen};

/// What would be done with a policy of this name, and for what it would be refused.
pub(in crate::cli) fn text(
    screen: &Screen,
    name: &str,
    options: &ApplyOptions,
    seen: &Previewed,
) -> String {
    let name = screen.paint(Paint::Bold, name);
    let names = options.interfaces.join(", ");
    let mut out = match seen.preview {
        Preview::Unchanged(_) => format!("dry run: {name} is in force on {names} already\n"),
        Preview::Change {
            generation,
            is_first: true,
        } => format!("dry run: would attach {name} to {names}, generation {generation}\n"),
        Preview::Change { generation, .. } => format!(
            "dry run: would replace the policy of {names} by {name}, generation {generation}\n"
        ),
    };
    if let Some(impact) = &seen.impact {
        out.push_str(&impact::text(screen, impact, Mood::Would, is_off(options)));
    }
    for refusal in &seen.refusals {
        let _ = writeln!(
            out,
            "  {}: {}",
            screen.paint(Paint::Red, "would be refused"),
            refusal.message
        );
        if let Some(help) = &refusal.help {
            let _ = writeln!(out, "    help: {help}");
        }
    }
    out
}
