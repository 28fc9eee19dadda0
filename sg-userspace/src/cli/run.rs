//! `sgctl run`: applies a policy and stays in the foreground: shows the counters, applies the policy
//! again when its files change, and detaches at the end unless told to leave it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use sg_common::flow::TIMEOUTS;
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::kernel::{self, ApplyOptions, KernelError, flow_tables};
use sg_userspace::observe::attached::{Attached, Scope, attached};
use sg_userspace::observe::counters::counters;
use sg_userspace::observe::events::Events as PacketLog;
use sg_userspace::observe::flows::monotonic_now;
use sg_userspace::observe::trace::{PacketTrace, TRACE};
use sg_userspace::observe::watch::FileWatch;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::counters::seconds;
use super::failure::Failure;
use super::policy_args::{Attach, Policies};
use super::reload::{Outcome, Reloader};
use super::run_log::Log;
use super::screen::Paint;
use super::{Context, Json, apply};

/// What inotify cannot tell (a network file system, a directory made anew) is found by looking.
const LOOK: Duration = Duration::from_secs(2);

/// How often flows that have expired are swept out of the tables.
const SWEEP: Duration = Duration::from_secs(5);

/// How often logged packets are fetched; the kernel wakes nobody up for them.
const FETCH: Duration = Duration::from_millis(100);

/// Enforce a policy in the foreground: live counters, reload when its files change
#[derive(Args)]
#[command(after_help = "\
The policy file and its set files are watched; when they change and mean another policy, it replaces
the one in force without a gap. A file with errors changes nothing: the errors are printed and the
policy in force stays. SIGHUP applies the policy again at once. Ctrl-C and SIGTERM detach from the
interface, unless --persist is given. Packets of rules with `log: true` are printed as they come.
Flows that have expired are swept out of the flow table.

Examples:
  sgctl run policy.yaml --iface eth0
  sgctl run base.yaml team.yaml --iface eth0 --persist --interval 60

Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 the policy, the interface or the state is wrong, 2
usage, 3 not permitted or the kernel refused.")]
pub(super) struct Run {
    #[command(flatten)]
    policies: Policies,
    #[command(flatten)]
    attach: Attach,
    /// Leave the policy attached at the end
    #[arg(long)]
    persist: bool,
    /// Show the counters every so many seconds; 1 on a terminal, else 10
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    interval: Option<Duration>,
    /// Print what the packet path says of every packet: for development, and slow
    #[arg(long, hide_short_help = true)]
    trace: bool,
    #[command(flatten)]
    json: Json,
}

enum Event {
    Stop(&'static str),
    Reload,
    FilesChanged,
    Look,
    Show,
    Fetch,
    Sweep,
}

/// Everything that wakes `run` up. Only waiting is asynchronous: the library is called between
/// waits, since it drives netlink with a runtime of its own.
struct Events {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    files: Option<FileWatch>,
    look: tokio::time::Interval,
    show: tokio::time::Interval,
    fetch: tokio::time::Interval,
    sweep: tokio::time::Interval,
}

impl Events {
    fn new(interval: Duration) -> io::Result<Events> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let every = |period| {
            let mut timer = tokio::time::interval(period);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            timer
        };
        let (look, show) = (every(LOOK), every(interval));
        let (fetch, sweep) = (every(FETCH), every(SWEEP));
        let (interrupt, terminate, hangup) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        drop(guard);
        Ok(Events {
            runtime,
            interrupt,
            terminate,
            hangup,
            files: FileWatch::new().ok(),
            look,
            show,
            fetch,
            sweep,
        })
    }

    fn watch(&mut self, files: &[PathBuf]) {
        if let Some(watch) = &mut self.files {
            watch.set(files);
        }
    }

    fn next(&mut self) -> Event {
        let Events {
            runtime,
            interrupt,
            terminate,
            hangup,
            files,
            look,
            show,
            fetch,
            sweep,
        } = self;
        runtime.block_on(async {
            let changed = async {
                match files {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = interrupt.recv() => Event::Stop("interrupted"),
                _ = terminate.recv() => Event::Stop("terminated"),
                _ = hangup.recv() => Event::Reload,
                _ = changed => Event::FilesChanged,
                _ = look.tick() => Event::Look,
                _ = show.tick() => Event::Show,
                _ = fetch.tick() => Event::Fetch,
                _ = sweep.tick() => Event::Sweep,
            }
        })
    }
}

impl Run {
    fn options(&self, context: &Context) -> ApplyOptions {
        let mut options = self.attach.options(context);
        if self.trace {
            options.log_level = TRACE;
        }
        options
    }

    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let usual = if context.out.terminal { 1 } else { 10 };
        let interval = self.interval.unwrap_or(Duration::from_secs(usual));
        // Before anything is attached: a signal from here on ends in detaching.
        let mut events = Events::new(interval).map_err(|source| Failure::Io {
            what: "preparing to wait for signals",
            source,
        })?;
        let iface = &self.attach.iface;
        let mut log = Log::new(context, self.json.json, iface);
        let (mut reloader, applied, findings) =
            Reloader::start(self.policies.clone(), self.options(context))?;
        let one = attached(&context.bpffs, &Scope::Interface(iface.clone()))?
            .into_iter()
            .next();
        let follow = match applied.is_first() {
            true => PacketLog::from_the_first,
            false => PacketLog::open,
        };
        let packets = one.as_ref().map(follow).transpose()?;
        log.applied(
            "applied",
            &applied,
            &apply::findings(&findings, &self.policies),
        );
        events.watch(reloader.files());
        let pins = one.map(|one| one.pins);
        let mut session = Session {
            context,
            policies: &self.policies,
            iface,
            log,
            pins: pins.clone(),
            timeouts: applied.state.timeouts,
            generation: applied.state.policy.generation,
            trouble: None,
            packets,
            trace: None,
            traces: self.trace,
        };
        let ended = session.attend(&mut events, &mut reloader);
        session.log.close();
        match ended {
            Ok(_) if self.persist => {
                let line = format!(
                    "stays attached to {iface}: `sgctl detach --iface {iface}` ends enforcement"
                );
                session.log.event("left", &line, json!({}));
                Ok(())
            }
            Ok(why) => session.detach(pins.as_ref(), why),
            Err(failure) => {
                // Somebody took the interface or the pins away; what is left goes too.
                if let Some(pins) = pins.filter(InterfacePins::exists) {
                    kernel::detach(&context.bpffs, &pins)?;
                }
                Err(failure)
            }
        }
    }
}

struct Session<'a> {
    context: &'a Context,
    policies: &'a Policies,
    iface: &'a str,
    log: Log,
    pins: Option<InterfacePins>,
    /// Of the policy in force.
    timeouts: [u32; TIMEOUTS],
    generation: u32,
    /// Why the counters could not be read last time, so as to say it once.
    trouble: Option<String>,
    /// Packets of rules with `log`.
    packets: Option<PacketLog>,
    /// The packet path's own log of the generation in force, with `--trace`.
    trace: Option<PacketTrace>,
    traces: bool,
}

impl Session<'_> {
    /// Attends to events until one ends the session.
    fn attend(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
    ) -> Result<&'static str, Failure> {
        loop {
            match events.next() {
                Event::Stop(why) => return Ok(why),
                Event::Show => self.show()?,
                Event::Fetch => self.fetch(),
                Event::Sweep => self.sweep(),
                event => {
                    let outcome = reloader.check(matches!(event, Event::Reload));
                    let is_quiet = matches!(outcome, Outcome::Nothing);
                    self.tell(outcome);
                    if !is_quiet || matches!(event, Event::FilesChanged) {
                        // A directory on the way may be another one by now.
                        events.watch(reloader.files());
                    }
                    if !is_quiet {
                        self.show()?;
                    }
                }
            }
        }
    }

    /// Prints the packets that rules with `log` have decided. What cannot be read is told with the
    /// counters, which come from the same place.
    fn fetch(&mut self) {
        if let Some(Ok(logged)) = self.packets.as_mut().map(PacketLog::drain) {
            self.log.packets(&logged);
        }
        if self.traces {
            self.fetch_trace();
        }
    }

    /// Makes room in the flow tables. Expired flows are no longer found anyway, so a failure costs
    /// nothing but room, and whatever is wrong is told with the counters.
    fn sweep(&mut self) {
        if let Some(pins) = &self.pins {
            let _ = flow_tables::sweep(pins, &self.timeouts, monotonic_now());
        }
    }

    fn fetch_trace(&mut self) {
        if self.trace.as_ref().map(PacketTrace::generation) != Some(self.generation) {
            let scope = Scope::Interface(self.iface.to_owned());
            let found = attached(&self.context.bpffs, &scope).unwrap_or_default();
            self.trace = found.first().and_then(|one| PacketTrace::open(one).ok());
        }
        let lines = self.trace.as_mut().map(PacketTrace::drain);
        for line in lines.unwrap_or_default() {
            self.log.event("trace", &line, json!({"text": line}));
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Unchanged => self.log.unchanged(),
            Outcome::Applied(applied, findings) => {
                self.generation = applied.state.policy.generation;
                self.timeouts = applied.state.timeouts;
                let warnings = apply::findings(&findings, self.policies);
                self.log.applied("reloaded", &applied, &warnings);
            }
            Outcome::Invalid(errors) => self.log.invalid(errors, self.generation),
            Outcome::Refused(failure) => self.log.refused(&failure, self.generation),
            Outcome::NotReadable => {
                let line = "not reloaded: the policy came from standard input, which can be read \
                            only once; apply a file instead";
                self.log.event("not_reloaded", line, json!({}));
            }
        }
    }

    /// Shows the counters, and ends the session when there is nothing left to count.
    fn show(&mut self) -> Result<(), Failure> {
        let scope = Scope::Interface(self.iface.to_owned());
        let one = |found: Vec<Attached>| found.into_iter().next();
        let read = attached(&self.context.bpffs, &scope)
            .map(one)
            .and_then(|one| one.map(|one| counters(&one)).transpose());
        match read {
            Ok(Some(now)) => {
                self.trouble = None;
                self.log.counters(&now);
            }
            Ok(None) => {}
            Err(error @ (KernelError::NotAttached { .. } | KernelError::NoInterface { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.as_ref() != Some(&text) {
                    self.log
                        .event("error", "the counters cannot be read:", json!({}));
                    self.log.failure(&error.into());
                }
                self.trouble = Some(text);
            }
        }
        Ok(())
    }

    fn detach(mut self, pins: Option<&InterfacePins>, why: &str) -> Result<(), Failure> {
        // Whatever is still open here would be waited for.
        (self.packets, self.trace) = (None, None);
        if let Some(pins) = pins {
            kernel::detach(&self.context.bpffs, pins)?;
        }
        let painted = self.context.out.paint(Paint::Green, "detached");
        let line = format!("{painted} from {} ({why})", self.iface);
        self.log.event("detached", &line, json!({"why": why}));
        Ok(())
    }
}
