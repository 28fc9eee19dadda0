//! What `log` does once it is known what is asked for: reads, chooses and prints, and says what was
//! not shown.

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use sg_userspace::observe::events::{Logged, LoggedPacket, Tally};
use sg_userspace::observe::filter::Filter;

use super::capture::Capture;
use super::choice::{Choice, fits};
use super::sources::Sources;
use crate::cli::context::Context;
use crate::cli::event_line::{Columns, not_shown, rule_text, time_of};
use crate::cli::failure::Failure;
use crate::cli::reader::{has_no_reader, ignores_hangup};
use crate::cli::screen::{Paint, json_line};
use crate::cli::units::{count, thousands};

/// How often the rings are read. Between two readings each has room for what a CPU writes.
const FETCH: Duration = Duration::from_millis(50);

/// How often it is said how many packets were not shown.
const TELL: Duration = Duration::from_secs(1);

/// How many events are printed without --follow and --last.
const LAST: usize = 20;

/// An event of the stream, as one line of JSON.
#[derive(Serialize)]
struct Line<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    details: &'a T,
}

#[derive(Serialize)]
struct NotShown<'a> {
    at: String,
    interface: &'a str,
    lost: u64,
    suppressed: u64,
}

#[derive(Serialize)]
struct Unwatched<'a> {
    at: String,
    interface: &'a str,
}

/// The last object of a stream.
#[derive(Serialize)]
struct Ended<'a> {
    at: String,
    interface: &'a str,
    /// Packets that were printed.
    shown: u64,
    /// Packets that the filter left out.
    filtered: u64,
    /// What became of all events, by interface and by what decided.
    tally: &'a [Tally],
}

/// What is asked for.
pub(super) struct Asked {
    pub(super) filter: Filter,
    pub(super) choice: Choice,
    pub(super) last: Option<usize>,
    pub(super) json: bool,
}

/// One run of `log`.
pub(super) struct Session<'a> {
    context: &'a Context,
    asked: Asked,
    sources: Sources,
    /// The first interface, which events in JSON name unless they are about another one.
    first: String,
    columns: Columns,
    capture: Option<Capture>,
    /// How many packets were shown, and how many the filter left out.
    shown: u64,
    filtered: u64,
    /// How many more there were since that was last said, and when it was.
    lost: u64,
    suppressed: u64,
    told: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        context: &'a Context,
        asked: Asked,
        sources: Sources,
        capture: Option<Capture>,
    ) -> Session<'a> {
        let names = sources.names();
        Session {
            context,
            columns: Columns::new(names.len() > 1),
            first: names.into_iter().next().unwrap_or_default(),
            sources,
            asked,
            capture,
            shown: 0,
            filtered: 0,
            lost: 0,
            suppressed: 0,
            told: Instant::now(),
        }
    }

    /// Prints the newest events that are there.
    pub(super) fn newest(&mut self) -> Result<(), Failure> {
        self.warn();
        let mut read = self.sources.read()?;
        let mut packets = self.chosen(std::mem::take(&mut read.packets));
        let last = self.asked.last.unwrap_or(LAST);
        let more = packets.len().saturating_sub(last);
        packets.drain(..more);
        let tallies = self.sources.tally()?;
        self.show(&packets, Some(&tallies))?;
        if let Some(capture) = &mut self.capture {
            capture.finish(&tallies)?;
        }
        if self.asked.json {
            return Ok(());
        }
        let notes = self.notes(packets.len(), more) + &self.missing(&read, &tallies);
        let err = &self.context.err;
        let painted: String = err
            .for_people(&notes)
            .lines()
            .map(|line| format!("{}\n", err.paint(Paint::Dim, line)))
            .collect();
        err.note(&painted);
        Ok(())
    }

    /// What is said once the newest events are shown. `older` is how many more there are.
    fn notes(&self, shown: usize, older: usize) -> String {
        let mut notes = String::new();
        if let Some(capture) = &self.capture {
            let _ = writeln!(notes, "{}", written(capture));
        }
        if shown == 0 {
            // No event is no proof that no packet came.
            let none = match self.filtered {
                0 => "no event is there",
                _ => "no event that is there fits the filter",
            };
            let _ = writeln!(
                notes,
                "{none}: what is dropped leaves one where the policy logs it (`log: true` of its \
                 rule, `log-no-match`) or while somebody watches (--follow); `sgctl counters` counts \
                 every packet"
            );
        }
        if older > 0 {
            let _ = writeln!(
                notes,
                "and {} older; --last N prints more",
                thousands(older as u64)
            );
        }
        notes
    }

    /// What is not there of the events that are asked for, as far as they are counted apart.
    fn missing(&self, read: &Logged, tallies: &[Tally]) -> String {
        let rows = || tallies.iter().filter(|row| self.takes_row(row));
        let (lost, suppressed, whose) = match tallies.is_empty() {
            // They come too fast to be counted apart.
            true if self.is_filtered() => {
                (read.lost, read.suppressed, ", whatever the filter says")
            }
            true => (read.lost, read.suppressed, ""),
            false => (
                rows().map(|row| row.lost).sum(),
                rows().map(|row| row.suppressed).sum(),
                match self.asked.choice.is_counted_apart(&self.asked.filter) {
                    true => "",
                    false => ", whose addresses, ports and verdicts are not known",
                },
            ),
        };
        let mut out = String::new();
        for (what, packets) in [
            ("overwritten by newer events", lost),
            (
                "without an event, for being over the rate limit",
                suppressed,
            ),
        ] {
            if packets > 0 {
                let _ = writeln!(out, "{what}: {}{whose}", thousands(packets));
            }
        }
        out
    }

    /// Whether not all events are asked for.
    fn is_filtered(&self) -> bool {
        !self.asked.choice.is_empty() || !self.asked.filter.is_empty() || self.sources.is_chosen()
    }

    /// Whether packets that are counted so may be asked for.
    fn takes_row(&self, row: &Tally) -> bool {
        self.sources.takes(&row.interface) && self.asked.choice.takes_row(&self.asked.filter, row)
    }

    /// Prints events until a signal comes or nobody reads any more.
    pub(super) fn follow(&mut self) -> Result<(), Failure> {
        let stop = stop_flags().map_err(|source| Failure::Io {
            what: "preparing to wait for signals",
            source,
        })?;
        let mut most = self.asked.last;
        self.warn();
        while !stop.load(Ordering::SeqCst) {
            let read = self.sources.read()?;
            let unwatched = read.unwatched;
            self.take(read, most.take(), None)?;
            if unwatched {
                self.tell_unwatched()?;
            }
            if self.told.elapsed() >= TELL {
                self.tell_not_shown()?;
                for line in self.sources.look(self.context)? {
                    self.context.err.note(&format!("{line}\n"));
                }
                self.warn();
                if has_no_reader(io::stdout().as_fd()) {
                    return Err(Failure::BrokenPipe);
                }
                self.told = Instant::now();
            }
            if let Some(capture) = &mut self.capture
                && capture.is_full()
            {
                let tallies = self.sources.tally()?;
                capture.rotate(&tallies, self.sources.late().iter())?;
            }
            std::thread::sleep(FETCH);
        }
        self.end()
    }

    /// Says which interfaces do not enforce their policies, if that is new.
    fn warn(&mut self) {
        let warnings = self.sources.warnings(self.context);
        if !warnings.is_empty() {
            self.context.err.note(&warnings);
        }
    }

    /// Says what became of all events.
    fn end(&mut self) -> Result<(), Failure> {
        let mut last = self.sources.read()?;
        let tallies = self.sources.tally()?;
        last.add(self.sources.take_late());
        self.take(last, None, Some(&tallies))?;
        self.tell_not_shown()?;
        if let Some(capture) = &mut self.capture {
            capture.finish(&tallies)?;
        }
        if self.asked.json {
            let ended = Ended {
                at: Timestamp::now().to_string(),
                interface: &self.first,
                shown: self.shown,
                filtered: self.filtered,
                tally: &tallies,
            };
            return self.json_line("end", &ended);
        }
        self.context.err.note(&self.summary(&tallies));
        Ok(())
    }

    fn summary(&self, tallies: &[Tally]) -> String {
        let mut out = String::new();
        // Behind the `^C` that the terminal has echoed.
        if self.context.err.terminal {
            out.push('\n');
        }
        out.push_str(&match &self.capture {
            None => format!("{} shown", thousands(self.shown)),
            Some(capture) => written(capture),
        });
        if self.filtered > 0 {
            let _ = write!(out, ", {} left out by the filter", thousands(self.filtered));
        }
        out.push('\n');
        let is_missing = |row: &&Tally| row.lost + row.suppressed > 0 && self.takes_row(row);
        for row in tallies.iter().filter(is_missing) {
            let what = match &row.rule {
                Some(rule) => rule_text(rule),
                None => row.reason.to_string(),
            };
            let _ = writeln!(
                out,
                "  {} {} {what}: {} of {} not shown",
                row.interface,
                row.direction,
                thousands(row.lost + row.suppressed),
                thousands(row.produced)
            );
        }
        out
    }

    /// Shows what was read, `most` of the newest packets, and adds up what there was besides.
    /// `tallies` are of all that was read, if they are known.
    fn take(
        &mut self,
        read: Logged,
        most: Option<usize>,
        tallies: Option<&[Tally]>,
    ) -> Result<(), Failure> {
        self.lost += read.lost;
        self.suppressed += read.suppressed;
        let mut packets = self.chosen(read.packets);
        let older = most.map_or(0, |most| packets.len().saturating_sub(most));
        packets.drain(..older);
        self.show(&packets, tallies)
    }

    /// Those that the filter takes.
    fn chosen(&mut self, packets: Vec<LoggedPacket>) -> Vec<LoggedPacket> {
        let all = packets.len();
        let takes = |packet: &LoggedPacket| {
            self.sources.takes(&packet.interface)
                && self.asked.choice.takes(packet)
                && fits(&self.asked.filter, packet)
        };
        let chosen: Vec<_> = packets.into_iter().filter(takes).collect();
        self.filtered += (all - chosen.len()) as u64;
        chosen
    }

    fn show(&mut self, packets: &[LoggedPacket], tallies: Option<&[Tally]>) -> Result<(), Failure> {
        if packets.is_empty() {
            return Ok(());
        }
        self.shown += packets.len() as u64;
        self.write(packets, tallies)?;
        match (self.asked.json, &self.capture) {
            (true, _) => self.context.out.print(&json_lines(packets)?),
            (false, Some(_)) => Ok(()),
            (false, None) => self.lines(packets),
        }
    }

    /// Prints a line for each packet.
    fn lines(&mut self, packets: &[LoggedPacket]) -> Result<(), Failure> {
        if packets.iter().any(|packet| packet.interface != self.first) {
            self.columns.show_interfaces();
        }
        let mut screen = self.context.out;
        // Somebody may have made the window wider.
        screen.measure();
        let mut out = String::new();
        for packet in packets {
            let at = time_of(packet.at, screen.terminal);
            let line = self.columns.line(&screen, packet);
            let _ = writeln!(out, "{} {line}", screen.paint(Paint::Dim, at));
        }
        screen.say(&out)
    }

    /// Writes packets to the capture if there is one, to as many files as they fill. The events are
    /// counted once for all of these, unless they were already.
    fn write(
        &mut self,
        packets: &[LoggedPacket],
        tallies: Option<&[Tally]>,
    ) -> Result<(), Failure> {
        let Some(capture) = &mut self.capture else {
            return Ok(());
        };
        let mut counted = None;
        for (i, packet) in packets.iter().enumerate() {
            if capture.is_full() {
                let tallies = match tallies {
                    Some(tallies) => tallies,
                    None => match &mut counted {
                        Some(counted) => counted,
                        none => none.insert(self.sources.tally()?),
                    },
                };
                let left = packets[i..].iter().chain(self.sources.late());
                capture.rotate(tallies, left)?;
            }
            capture.packet(packet)?;
        }
        capture.flush()
    }

    /// Prints an event of the stream as a line of JSON.
    fn json_line(&self, event: &'static str, details: &impl Serialize) -> Result<(), Failure> {
        self.context.out.json_line(&Line { event, details })
    }

    fn tell_not_shown(&mut self) -> Result<(), Failure> {
        let (lost, suppressed) = (
            std::mem::take(&mut self.lost),
            std::mem::take(&mut self.suppressed),
        );
        if lost + suppressed == 0 {
            return Ok(());
        }
        if self.asked.json {
            let not_shown = NotShown {
                at: Timestamp::now().to_string(),
                interface: &self.first,
                lost,
                suppressed,
            };
            return self.json_line("not_shown", &not_shown);
        }
        if self.capture.is_some() {
            // It is in the statistics, and said at the end.
            return Ok(());
        }
        let screen = self.context.out;
        let mut line = not_shown(lost, suppressed);
        if self.is_filtered() {
            // By what they would have been chosen is not known before the end.
            line.push_str(", whatever the filter says");
        }
        let line = screen.paint(Paint::Dim, line);
        screen.say(&format!("{line}\n"))
    }

    fn tell_unwatched(&mut self) -> Result<(), Failure> {
        if self.asked.json {
            let unwatched = Unwatched {
                at: Timestamp::now().to_string(),
                interface: &self.first,
            };
            return self.json_line("unwatched", &unwatched);
        }
        let line = "nobody watched for some seconds, for this process was held up: what was dropped \
                    meanwhile is in the counters only";
        self.context.err.note(&format!("{line}\n"));
        Ok(())
    }
}

/// Packets as lines of JSON, which are printed at once.
fn json_lines(packets: &[LoggedPacket]) -> Result<String, Failure> {
    let mut out = String::new();
    for packet in packets {
        let line = Line {
            event: "packet",
            details: packet,
        };
        out.push_str(&json_line(&line)?);
    }
    Ok(out)
}

/// How many packets a capture has, and where.
fn written(capture: &Capture) -> String {
    let packets = count(capture.packets as usize, "packet");
    match capture.names().as_slice() {
        [] => format!("{packets} written"),
        [one] => format!("{packets} written to {one}"),
        [first, .., last] => format!("{packets} written, the newest to {first} and on to {last}"),
    }
}

/// Set by the signals that end the command. What nohup(1) starts goes on when its terminal closes.
fn stop_flags() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::default();
    let hangup = (!ignores_hangup()).then_some(libc::SIGHUP);
    for signal in [libc::SIGINT, libc::SIGTERM].into_iter().chain(hangup) {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
