//! Prints the output of `run`: events as they happen, and the counters. On a terminal the events
//! scroll above a table that is redrawn in place. Otherwise each event is one line, and so is a
//! summary of the counters.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::mem::take;

use serde::Serialize;
use serde_json::json;
use sg_policy::policy::{Finding, PolicyErrors};
use sg_userspace::kernel::Applied;
use sg_userspace::kernel::impact::Impact;
use sg_userspace::observe::attached::Health;
use sg_userspace::observe::counters::{Counters, Totals};
use sg_userspace::observe::events::{Logged, LoggedPacket};

use super::output::Output;
use crate::cli::apply;
use crate::cli::context::Context;
use crate::cli::counters::{self, Choice, Look};
use crate::cli::event_line::{Columns, not_shown};
use crate::cli::failure::Failure;
use crate::cli::health;
use crate::cli::rates::{Rates, Reading};
use crate::cli::screen::{Paint, Screen};
use crate::cli::units::{packet_rate, thousands};

/// An event in JSON: one line with its name, its time and its details.
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
    json: bool,
    output: Output,
    before: Option<Reading>,
    /// The first interface, which events in JSON name unless they are about another one.
    interface: String,
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
    pub(super) fn new(context: &Context, json: bool, interfaces: &[String]) -> io::Result<Self> {
        let interface = interfaces.first().cloned().unwrap_or_default();
        let name = interface.clone();
        let dropped = move |lines: u64| {
            if json {
                let event = Event::new("dropped", Some(&name), json!({"lines": lines}));
                return line_of(&event);
            }
            let what = if lines == 1 { "line was" } else { "lines were" };
            format!(
                "{} {what} dropped, for nobody read them\n",
                thousands(lines)
            )
        };
        Ok(Log {
            out: context.out,
            err: context.err,
            json,
            output: Output::new(context.out, context.err, dropped)?,
            before: None,
            interface,
            names: interfaces.join(", "),
            columns: Columns::new(interfaces.len() > 1),
            waiting: VecDeque::new(),
            lost: 0,
            suppressed: 0,
        })
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    fn is_live(&self) -> bool {
        self.out.terminal && !self.json
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.out.paint(Paint::Bold, text)
    }

    pub(super) fn green(&self, text: &str) -> String {
        self.out.paint(Paint::Green, text)
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

    /// Prints an event about the interface, as one line.
    pub(super) fn event(&mut self, event: &'static str, line: &str, details: impl Serialize) {
        if self.json {
            let event = Event::new(event, Some(&self.interface), details);
            self.output.text(line_of(&event));
            return;
        }
        self.line(line);
    }

    /// The same about one interface.
    pub(super) fn event_on(
        &mut self,
        interface: &str,
        event: &'static str,
        line: &str,
        details: impl Serialize,
    ) {
        if self.json {
            let event = Event::new(event, Some(interface), details);
            self.output.text(line_of(&event));
            return;
        }
        self.line(line);
    }

    fn line(&mut self, line: &str) {
        let line = match self.is_live() {
            true => {
                let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
                format!("{} {line}\n", self.out.paint(Paint::Dim, now))
            }
            false => format!("{line}\n"),
        };
        self.output.text(line);
    }

    /// Like [`Log::event`], for something that happened earlier. `details` have its time.
    fn event_at(
        &mut self,
        event: &'static str,
        at: jiff::Timestamp,
        line: &str,
        details: impl Serialize,
    ) {
        if self.json {
            let (at, interface) = (None, None);
            let event = Event {
                event,
                at,
                interface,
                details,
            };
            self.output.text(line_of(&event));
            return;
        }
        let local = at.to_zoned(jiff::tz::TimeZone::system());
        let at = match self.is_live() {
            true => local.strftime("%H:%M:%S%.3f").to_string(),
            false => local.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
        };
        let line = format!("{} {line}\n", self.out.paint(Paint::Dim, at));
        self.output.text(line);
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
        self.output.failure(failure.shown(&self.err));
    }

    pub(super) fn applied(&mut self, name: &'static str, applied: &Applied, warnings: &str) {
        let mut line = self.out.paint(Paint::Green, name);
        let _ = write!(line, " {}", apply::summary(&self.out, applied));
        if !warnings.is_empty() {
            let _ = write!(line, " ({})", warnings.trim());
        }
        if self.json {
            let event = Event::new(name, None, apply::Done::from(applied));
            self.output.text(line_of(&event));
        } else {
            self.line(&line);
            for note in apply::notes(applied) {
                self.line(&note);
            }
        }
    }

    /// What the policy's own guard names and would be dropped if it were not audited.
    pub(super) fn watched(&mut self, findings: &[Finding]) {
        for message in apply::watched(findings) {
            let line = format!("{}: {message}", self.out.paint(Paint::Yellow, "guard"));
            self.event("guard", &line, json!({"message": message}));
        }
    }

    /// What the policy that is put in force does to connections and listening sockets.
    pub(super) fn impact(&mut self, impact: Option<&(String, Impact)>) {
        if let Some((short, impact)) = impact {
            self.event("impact", short, json!({"impact": impact}));
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
        self.event("unchanged", &line, json!({}));
    }

    /// Prints the errors of a reload that changed nothing.
    pub(super) fn invalid(&mut self, errors: PolicyErrors, generation: u32) {
        self.refused(&Failure::Policy(errors), generation);
    }

    pub(super) fn refused(&mut self, failure: &Failure, generation: u32) {
        let details = json!({"generation": generation, "errors": failure.findings()});
        let failed = self.out.paint(Paint::Red, "reload failed");
        let line = match failure.standing() {
            Some(standing) => format!("{failed}: {standing}"),
            None => format!("{failed}: generation {generation} stays in force"),
        };
        self.event("reload_failed", &line, details);
        if !self.json {
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
        self.event_at("packet", packet.at, &line, packet);
    }

    fn tell_not_shown(&mut self) {
        let (lost, suppressed) = (take(&mut self.lost), take(&mut self.suppressed));
        if lost + suppressed > 0 {
            let line = not_shown(lost, suppressed);
            let details = json!({"lost": lost, "suppressed": suppressed});
            self.event("not_shown", &line, details);
        }
    }

    /// Prints the counters, with the change since the last time.
    pub(super) fn counters(&mut self, all: &[Counters]) {
        let rates = Rates::since(self.before.take());
        if self.json {
            let lines = all
                .iter()
                .map(|now| line_of(&Event::new("counters", None, now)));
            self.output.counters(lines.collect());
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
            self.output.counters(lines.collect());
        }
        self.before = Some(Reading::of(all));
    }
}

/// A JSON object on one line. Empty if the value cannot be serialized, which does not happen with
/// the types here.
fn line_of(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) => format!("{json}\n"),
        Err(_) => String::new(),
    }
}

/// `eth0: inbound 1,234 packets (12/s), 3 dropped; outbound …`
fn summary(now: &Counters, rates: &Rates) -> String {
    let mut out = format!("{}:", now.interface);
    for (i, total) in now.totals.iter().enumerate() {
        let Totals {
            direction,
            packets,
            dropped,
            audited,
            ..
        } = total;
        let _ = write!(
            out,
            "{} {direction} {} packets ({}), {} dropped",
            if i > 0 { ";" } else { "" },
            thousands(*packets),
            packet_rate(rates.of_total(now, total).packets),
            thousands(*dropped),
        );
        if *audited > 0 {
            let _ = write!(out, ", {} audited", thousands(*audited));
        }
    }
    if now.health == Health::Auditing {
        out.push_str("; auditing");
    } else if !matches!(now.health, Health::Enforcing | Health::Unverified) {
        let _ = write!(out, "; NOT enforcing ({})", health::word(now.health).0);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use sg_common::verdict::Direction;
    use sg_userspace::observe::attached::PolicyStatus;

    use super::*;

    /// If the policy is not enforced, the summary of the counters says so.
    #[test]
    fn a_summary_says_what_is_not_enforced() {
        let mut now = Counters {
            interface: "nic".into(),
            netns: None,
            health: Health::Enforcing,
            faults: Vec::new(),
            elsewhere: None,
            sampled_at: String::new(),
            since: String::new(),
            reset_at: None,
            policy: PolicyStatus {
                name: "p".into(),
                digest: String::new(),
                generation: 1,
                applied_at: String::new(),
                audit: None,
            },
            rules: Vec::new(),
            reasons: Vec::new(),
            totals: vec![Totals {
                direction: Direction::Inbound,
                packets: 1234,
                bytes: 0,
                accepted: 1200,
                dropped: 34,
                audited: 0,
            }],
        };
        let rates = Rates::since(None);
        let whole = "nic: inbound 1,234 packets (0/s), 34 dropped";
        for (health, more) in [
            (Health::Enforcing, ""),
            // `status` says why it cannot be checked.
            (Health::Unverified, ""),
            (Health::Auditing, "; auditing"),
            (Health::Preceded, "; NOT enforcing (preceded)"),
            (Health::InterfaceGone, "; NOT enforcing (interface gone)"),
        ] {
            now.health = health;
            assert_eq!(summary(&now, &rates), format!("{whole}{more}\n"));
        }
    }
}
