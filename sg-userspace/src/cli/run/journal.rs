//! The log of `run`: each change of state once, with its reason, as an event of `tracing`. On a
//! terminal it is for people, among the other lines; with `--log-format json` it is one object a
//! line, and where the journal of systemd reads along, each line has a priority.

use std::fmt::{self, Debug};
use std::io;

use clap::ValueEnum;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::change::Change;
use super::output::Output;
use crate::cli::journal::{Priority, with_priority};
use crate::cli::placed::placed;
use crate::cli::screen::{Paint, Screen};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LogFormat {
    /// For people
    Text,
    /// An object a line, on standard error
    Json,
}

fn priority(level: Level) -> Priority {
    match level {
        Level::ERROR => Priority::Error,
        Level::WARN => Priority::Warning,
        Level::INFO => Priority::Info,
        _ => Priority::Debug,
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// Where the log goes, and in which form.
pub(super) struct Lines {
    pub(super) output: Output,
    /// Whether each line is a JSON object.
    pub(super) json: bool,
    /// Whether it goes to standard error.
    pub(super) to_err: bool,
    /// Whether the journal reads that stream.
    pub(super) to_journal: bool,
    /// Where people read it. On a terminal the time stands before each line.
    pub(super) screen: Screen,
}

impl Lines {
    /// Makes this the log of the process.
    pub(super) fn install(self) -> io::Result<()> {
        let log = tracing_subscriber::registry().with(self);
        tracing::subscriber::set_global_default(log).map_err(io::Error::other)
    }

    fn text(&self, level: Level, said: &Said) -> String {
        if self.json {
            return said.json(level);
        }
        let mut screen = self.screen;
        if !screen.terminal {
            return screen.for_people(&format!("{}\n", said.message));
        }
        // Somebody may have made the window wider.
        screen.measure();
        let paint = match level {
            Level::ERROR => Paint::Red,
            Level::WARN => Paint::Yellow,
            _ => Paint::Dim,
        };
        let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        screen.for_people(&format!("{} {}\n", screen.paint(paint, now), said.message))
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut said = Said::default();
        event.record(&mut said);
        let mut text = self.text(level, &said);
        if self.to_journal {
            text = with_priority(&text, priority(level));
        }
        match self.to_err {
            true => self.output.error(text),
            false => self.output.text(text),
        }
    }
}

/// Says what has happened, and on which interface if the details do not name one. `details` are a
/// JSON object.
pub(super) fn say(change: Change, interface: Option<&str>, message: &str, details: &str) {
    let event = change.name();
    // The level is a part of the place in the code from which an event comes.
    match change.level() {
        Level::ERROR => tracing::error!(event, interface, details, "{message}"),
        Level::WARN => tracing::warn!(event, interface, details, "{message}"),
        _ => tracing::info!(event, interface, details, "{message}"),
    }
}

/// The fields of an event.
#[derive(Default)]
struct Said {
    event: String,
    interface: Option<String>,
    details: String,
    message: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => value.clone_into(&mut self.event),
            "interface" => self.interface = Some(value.to_owned()),
            "details" => value.clone_into(&mut self.details),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

/// What every object of the log begins with.
#[derive(Serialize)]
struct Head<'a> {
    event: &'a str,
    at: String,
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    message: &'a str,
}

impl Said {
    fn json(&self, level: Level) -> String {
        let head = Head {
            event: &self.event,
            at: jiff::Timestamp::now().to_string(),
            level: word(level),
            interface: self.interface.as_deref(),
            message: &placed(&self.message),
        };
        let head = serde_json::to_string(&head).unwrap_or_default();
        format!("{}\n", Joined(&head, &self.details))
    }
}

/// Two JSON objects as one. They have no key in common.
struct Joined<'a>(&'a str, &'a str);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.strip_suffix('}'), self.1.strip_prefix('{')) {
            (Some(head), Some(rest)) if rest != "}" => write!(f, "{head},{rest}"),
            _ => f.write_str(self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_line_of_the_log_is_one_object_with_its_details() {
        let said = Said {
            event: "gone".into(),
            interface: Some("nic".into()),
            details: r#"{"moved_to":"other"}"#.into(),
            message: "nic was \"moved\"\nto other".into(),
        };
        for (details, moved_to) in [(said.details.as_str(), json!("other")), ("{}", Value::Null)] {
            let said = Said {
                details: details.into(),
                event: said.event.clone(),
                interface: said.interface.clone(),
                message: said.message.clone(),
            };
            let line = said.json(Level::WARN);
            assert_eq!(line.lines().count(), 1, "{line}");
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["event"], "gone");
            assert_eq!(value["level"], "warning");
            assert_eq!(value["interface"], "nic");
            assert_eq!(value["message"], said.message);
            assert_eq!(value["moved_to"], moved_to);
        }
    }
}
