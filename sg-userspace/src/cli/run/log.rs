//! Prints the output of `run`: what changes, logged packets, and the counters. On a terminal lines
//! scroll above a table that is redrawn in place. Otherwise a summary of the counters is one line
//! too. What changes goes by `journal`, which knows the forms of it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::mem::take;

use serde::Serialize;
use serde_json::{Value, json};
use sg_policy::policy::{Finding, PolicyErrors};
use sg_userspace::kernel::history::Entry;
use sg_userspace::kernel::impact::Impact;
use sg_userspace::kernel::interfaces::is_pattern;
use sg_userspace::kernel::{Applied, Outcome};
use sg_userspace::observe::counters::Counters;
use sg_userspace::observe::events::{Logged, LoggedPacket};

use super::change::Change;
use super::journal::{self, Lines, LogFormat};
use super::output::Output;
use super::summary::summary;
use crate::cli::apply;
use crate::cli::context::Context;
use crate::cli::counters::{self, Choice, JsonCounters, Look};
use crate::cli::event_line::{Columns, not_shown, time_of};
use crate::cli::failure::Failure;
use crate::cli::journal::{Journal, Priority, with_priority};
use crate::cli::rates::{Rates, Reading};
use crate::cli::screen::{Paint, Screen};
use crate::cli::units::thousands;

/// What is no change, in JSON: one line with its name, its time and its details.
#[derive(Serialize)]
struct Event<'a, T> {
    event: &'static str,
    /// Left out if the details have the time, as for the interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    #[serde(flatten)]
    details: T,
}

impl<'a, T> Event<'a, T> {
    fn new(event: &'static str, interface: Option<&'a str>, details: T) -> Self {
        Event {
            event,
            at: Some(jiff::Timestamp::now().to_string()),
            interface,
            details,
        }
    }
}

pub(super) struct Log {
    /// The width and colours of the text. `output` writes it.
    out: Screen,
    err: Screen,
    /// The width and colours of lines about changes, which the journal and JSON have without
    /// colours.
    words: Screen,
    /// Whether packets and counters are JSON.
    json: bool,
    /// Whether what changes is JSON: among them, or by itself on standard error.
    has_json_log: bool,
    /// Whether it is by itself.
    is_apart: bool,
    journal: Journal,
    output: Output,
    before: Option<Reading>,
    /// The first interface, which events in JSON name unless they are about another one. `None` as
    /// long as there is only a pattern.
    interface: Option<String>,
    /// All of them, for the text.
    names: String,
    /// How wide the parts of the lines of packets are.
    columns: Columns,
    /// Logged packets that were fetched and not passed to `output` yet, oldest first.
    waiting: VecDeque<LoggedPacket>,
    /// How many more packets were lost or suppressed, see [`Logged`].
    lost: u64,
    suppressed: u64,
}

impl Log {
    /// With `json` everything is JSON on standard output. With the JSON `format` only what changes
    /// is, on standard error. A process can make one of these.
    pub(super) fn new(
        context: &Context,
        json: bool,
        format: LogFormat,
        interfaces: &[String],
    ) -> io::Result<Self> {
        let interface = first_name(interfaces);
        let name = interface.clone();
        let journal = Journal::find();
        let dropped = move |lines: u64| {
            let what = if lines == 1 { "line was" } else { "lines were" };
            let text = match json {
                true => line_of(&Event::new(
                    "dropped",
                    name.as_deref(),
                    json!({"lines": lines}),
                )),
                false => format!(
                    "{} {what} dropped, for nobody read them\n",
                    thousands(lines)
                ),
            };
            match journal.out {
                true => with_priority(&text, Priority::Warning),
                false => text,
            }
        };
        let output = Output::new(context.out, context.err, dropped)?;
        let is_apart = format == LogFormat::Json;
        let has_json_log = json || is_apart;
        let to_err = is_apart || (journal.err && !json);
        let to_journal = if to_err { journal.err } else { journal.out };
        let mut words = context.out;
        words.color &= !has_json_log && !to_journal;
        let lines = Lines {
            output: output.clone(),
            json: has_json_log,
            to_err,
            to_journal,
            screen: if to_err { context.err } else { words },
        };
        lines.install()?;
        Ok(Log {
            out: context.out,
            err: context.err,
            words,
            json,
            has_json_log,
            is_apart,
            journal,
            output,
            before: None,
            interface,
            names: interfaces.join(", "),
            columns: Columns::new(interfaces.len() > 1),
            waiting: VecDeque::new(),
            lost: 0,
            suppressed: 0,
        })
    }

    /// This log for these interfaces.
    pub(super) fn of(self, interfaces: &[String]) -> Log {
        Log {
            interface: first_name(interfaces),
            names: interfaces.join(", "),
            columns: Columns::new(interfaces.len() > 1),
            ..self
        }
    }

    fn is_live(&self) -> bool {
        self.out.terminal && !self.json
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.words.paint(Paint::Bold, text)
    }

    pub(super) fn green(&self, text: &str) -> String {
        self.words.paint(Paint::Green, text)
    }

    /// Whether to fetch logged packets. If not, they stay in the ring, which keeps the newest.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.output.has_room()
    }

    /// Writes everything that is waiting, unless the reader stalls.
    pub(super) fn finish(&mut self) {
        while let Some(packet) = self.waiting.pop_front() {
            self.packet(&packet);
        }
        self.tell_not_shown();
        self.output.finish();
    }

    /// Says that something has changed, as one line.
    pub(super) fn event(&mut self, change: Change, line: &str, details: impl Serialize) {
        let details = object(&details);
        journal::say(change, self.interface.as_deref(), line, &details);
    }

    /// Says that something has changed on one interface, as one line; of a pattern it names none.
    pub(super) fn event_on(
        &mut self,
        interface: &str,
        change: Change,
        line: &str,
        details: impl Serialize,
    ) {
        let interface = Some(interface).filter(|it| !is_pattern(it));
        journal::say(change, interface, line, &object(&details));
    }

    /// Says that something has failed. `line` ends with a colon, behind which the failure follows.
    pub(super) fn trouble(
        &mut self,
        change: Change,
        line: &str,
        mut details: Value,
        failure: &Failure,
    ) {
        if !self.has_json_log {
            self.event(change, line, details);
            self.failure(failure);
            return;
        }
        let errors = failure.findings();
        let first = errors.first().map(|error| error.message.as_str());
        let line = format!("{line} {}", first.unwrap_or_default());
        details["errors"] = json!(errors);
        self.event(change, line.trim(), details);
    }

    /// Packets and counters, for standard output.
    fn print(&self, priority: Priority, text: String) {
        self.output.text(self.marked(priority, text));
    }

    fn marked(&self, priority: Priority, text: String) -> String {
        match self.journal.out {
            true => with_priority(&text, priority),
            false => text,
        }
    }

    /// Prints what is no change: with `at` something that happened then, whose time and interface
    /// are in `details`.
    fn data(
        &mut self,
        event: &'static str,
        at: Option<jiff::Timestamp>,
        line: &str,
        details: impl Serialize,
    ) {
        let time = match (at, self.is_live()) {
            _ if self.json => {
                let mut event = Event::new(event, self.interface.as_deref(), details);
                if at.is_some() {
                    (event.at, event.interface) = (None, None);
                }
                return self.print(Priority::Info, line_of(&event));
            }
            (Some(at), is_live) => time_of(at, is_live),
            (None, true) => jiff::Zoned::now().strftime("%H:%M:%S").to_string(),
            (None, false) => {
                return self.print(Priority::Info, self.out.for_people(&format!("{line}\n")));
            }
        };
        let mut screen = self.out;
        screen.measure();
        let line = format!("{} {line}\n", screen.paint(Paint::Dim, time));
        self.print(Priority::Info, screen.for_people(&line));
    }

    /// Leaves the last table on the screen. Further output comes below it.
    pub(super) fn close(&mut self) {
        if self.is_live() {
            self.output.leave_table();
            // The terminal has echoed `^C` on this line.
            self.output.text("\r\x1b[K".into());
        }
    }

    /// Prints a failure to standard error.
    pub(super) fn failure(&mut self, failure: &Failure) {
        if matches!(failure, Failure::Told(_)) {
            return;
        }
        if self.is_apart {
            return self.trouble(Change::Failed, "", json!({}), failure);
        }
        let text = failure.shown(&self.err);
        self.output.error(match self.journal.err {
            true => with_priority(&text, Priority::Error),
            false => text,
        });
    }

    /// Says that a policy is in force. `why` is the reason, if it is not that `run` was started.
    pub(super) fn applied(
        &mut self,
        change: Change,
        applied: &Applied,
        warnings: &str,
        why: Option<&str>,
    ) {
        let (word, paint) = match (change, applied.outcome) {
            (Change::Applied, Outcome::Unchanged) => ("unchanged", Paint::Dim),
            (change, _) => (change.name(), Paint::Green),
        };
        let mut line = self.words.paint(paint, word);
        let _ = write!(line, " {}", apply::summary(&self.words, applied));
        if let Some(why) = why {
            let _ = write!(line, ": {why}");
        }
        if !warnings.is_empty() {
            let _ = write!(line, " ({})", warnings.trim());
        }
        let notes = apply::notes(applied).into_iter();
        if self.has_json_log {
            let done = Reported {
                done: apply::Done::from(applied),
                why,
                notes: notes.collect(),
            };
            return journal::say(change, None, &line, &object(&done));
        }
        self.event(change, &line, json!({}));
        notes.for_each(|note| self.event(change, &note, json!({})));
    }

    /// The policy of the files was undone before, and what is in force goes on instead.
    pub(super) fn not_tried(&mut self, undone: &Entry, goes_on: &Applied) {
        let now = &goes_on.first.state.policy;
        let line = format!(
            "{}: {}, generation {}, was not confirmed here and is undone: {}, generation {}, goes on until \
             the files change",
            self.out.paint(Paint::Yellow, "not tried again"),
            undone.name,
            undone.generation,
            now.name,
            now.generation,
        );
        let details = json!({"policy": now, "undone": {
            "name": undone.name, "digest": undone.digest, "generation": undone.generation,
        }});
        self.event(Change::NotTried, &line, details);
    }

    /// What the policy's own guard names and would be dropped if it were not audited.
    pub(super) fn watched(&mut self, findings: &[Finding]) {
        for message in apply::watched(findings) {
            let line = match self.has_json_log {
                true => message,
                false => format!("{}: {message}", self.words.paint(Paint::Yellow, "guard")),
            };
            self.event(Change::Guard, &line, json!({}));
        }
    }

    /// What the policy that is put in force does to connections and listening sockets.
    pub(super) fn impact(&mut self, impact: Option<&(String, Impact)>) {
        if let Some((short, impact)) = impact {
            self.event(Change::Impact, short, json!({"impact": impact}));
        }
    }

    pub(super) fn unchanged(&mut self) {
        let line = format!(
            "unchanged: {} {} already what the files of the policy say",
            self.names,
            match self.names.contains(", ") {
                true => "enforce",
                false => "enforces",
            }
        );
        self.event(Change::Unchanged, &line, json!({}));
    }

    /// Prints the errors of a reload that changed nothing.
    pub(super) fn invalid(&mut self, errors: PolicyErrors, generation: u32) {
        self.refused(&Failure::Policy(errors), generation);
    }

    pub(super) fn refused(&mut self, failure: &Failure, generation: u32) {
        let details = json!({"generation": generation, "errors": failure.findings()});
        let failed = self.words.paint(Paint::Red, "reload failed");
        let line = match failure.standing() {
            Some(standing) => format!("{failed}: {standing}"),
            None => format!("{failed}: generation {generation} stays in force"),
        };
        self.event(Change::ReloadFailed, &line, details);
        if !self.has_json_log {
            self.failure(failure);
        }
    }

    /// Prints logged packets, after all earlier ones.
    pub(super) fn packets(&mut self, logged: Logged) {
        self.waiting.extend(logged.packets);
        self.lost += logged.lost;
        self.suppressed += logged.suppressed;
        self.go_on();
    }

    /// Passes waiting packets on while there is room. One fetch may bring more than the output can
    /// hold, and more than fits would be lost.
    pub(super) fn go_on(&mut self) {
        while self.output.has_room()
            && let Some(packet) = self.waiting.pop_front()
        {
            self.packet(&packet);
        }
        if self.waiting.is_empty() {
            self.tell_not_shown();
        }
    }

    fn packet(&mut self, packet: &LoggedPacket) {
        let line = self.columns.line(&self.out, packet);
        self.data("packet", Some(packet.at), &line, packet);
    }

    fn tell_not_shown(&mut self) {
        let (lost, suppressed) = (take(&mut self.lost), take(&mut self.suppressed));
        if lost + suppressed > 0 {
            let line = not_shown(lost, suppressed);
            let details = json!({"lost": lost, "suppressed": suppressed});
            self.data("not_shown", None, &line, details);
        }
    }

    /// Prints a line of the packet path's log.
    pub(super) fn trace(&mut self, line: &str) {
        self.data("trace", None, line, json!({"text": line}));
    }

    /// Prints the counters, with the change since the last time.
    pub(super) fn counters(&mut self, all: &[Counters]) {
        let rates = Rates::since(self.before.take());
        if self.json {
            let lines = all
                .iter()
                .map(|now| JsonCounters::of(now, Some(&rates)))
                .map(|now| line_of(&Event::new("counters", None, now)));
            let lines = self.marked(Priority::Debug, lines.collect());
            self.output.counters(lines);
        } else if self.is_live() {
            let lines = self.out.lines_for_frame();
            let look = Look {
                choice: &Choice::default(),
                rates: Some(&rates),
                lines,
                since_reset: false,
            };
            let text = counters::text(&self.out, all, look);
            self.output.table(text);
        } else {
            let lines = all.iter().map(|now| summary(now, &rates));
            let lines: String = lines.collect();
            let lines = self.marked(Priority::Debug, self.out.for_people(&lines));
            self.output.counters(lines);
        }
        self.before = Some(Reading::of(all));
    }
}

fn first_name(interfaces: &[String]) -> Option<String> {
    let first = interfaces.first()?;
    (!is_pattern(first)).then(|| first.clone())
}

/// What is said in JSON of a policy that was put in force.
#[derive(Serialize)]
struct Reported<'a> {
    #[serde(flatten)]
    done: apply::Done<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    notes: Vec<String>,
}

/// A JSON object. An empty one if the value cannot be serialized, which does not happen with the
/// types here.
fn object(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}

/// A JSON object on one line. Empty if the value cannot be serialized, which does not happen with
/// the types here.
fn line_of(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) => format!("{json}\n"),
        Err(_) => String::new(),
    }
}
