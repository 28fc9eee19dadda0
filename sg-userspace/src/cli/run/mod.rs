//! `sgctl run`: applies a policy and stays in the foreground. This file has its beginning and its
//! end; `session` says where to find what it does in between.

mod attend;
mod before;
mod change;
mod check;
mod checked;
mod end;
mod events;
mod expected;
mod journal;
mod link;
mod log;
mod notify;
mod output;
mod own_trial;
mod pins;
mod quiet;
mod reload;
mod repair;
mod serve;
mod session;
mod summary;
mod terminal;
mod trial;
mod wait;

use std::io;
use std::time::Duration;

use clap::Args;
use sg_userspace::kernel::attempted::Attempted;
use sg_userspace::kernel::held::InForce;
use sg_userspace::kernel::pins::PinTree;
use sg_userspace::kernel::run_lock::RunLock;
use sg_userspace::kernel::{ApplyOptions, KernelError, interfaces, netns};
use sg_userspace::observe::attached::attached_to;
use sg_userspace::observe::events::Events as PacketLog;
use sg_userspace::observe::trace::TRACE;

use self::change::Change;
use self::check::{Checks, Target};
use self::events::Events;
use self::expected::{Appeared, Expected};
pub(super) use self::journal::LogFormat;
use self::log::Log;
use self::notify::Manager;
use self::reload::{Begun, Reloader};
use self::serve::Metrics;
use self::session::{Parts, Session, Watched, find_before};
use self::terminal::Terminal;
use super::apply;
use super::context::{Context, Json, interval};
use super::failure::Failure;
use super::metrics::server::Address;
use super::policy_args::{Attach, Policies};

/// Enforce a policy in the foreground: live counters, reload when its files change
#[derive(Args)]
#[command(after_help = "\
The policy file and its set files are watched; when they have been written and mean another policy, it
replaces the one in force without a gap. A file with errors changes nothing: the errors are printed and
the policy in force stays. So does a file that others than root and you can write, now or later, unless
--trust-files is given. SIGHUP applies the policy again at once.

Ctrl-C, SIGTERM and the loss of the terminal end it, and so does the end of whoever reads its output by a
pipe (started with nohup it goes on without either of the last two). Then nothing is taken away that it did not put there: it returns to the policy that was in force before it,
or detaches where there was none, unless --persist is given; and a policy that somebody else has put in
force meanwhile stays. An interface that is deleted and made anew under its name is attached again at
once, and what somebody takes off the interface is put back within some seconds. One `sgctl run`
looks after an interface at a time.

With --wait an interface that does not exist is waited for, and one that appears passes no packet
before the policy is in force there.
Metrics are served at an address that no interface has yet, too; where they cannot be served that is
said, and the policy enforced all the same. A service manager is told when all that exists is enforced, and what is waited for (sd_notify).

With --confirm-within the first policy and each reloaded one waits to be confirmed by `sgctl confirm`
in another session, as with `sgctl apply`. If nobody does so, the kernel undoes it and that is said: then
the last policy that was confirmed goes on until the files change, and where there is none, what was in
force before is in force again and `run` ends with 1.

With --confirm-if-reachable nobody has to: `run` confirms a policy by itself once it could open a new TCP
connection to each of these addresses under it. A policy that cuts the node off from them is undone, and
what was in force before goes on until the files change; where there was nothing, `run` ends with 1 when
they do. Nothing is put in force that drops what its own `guard` names, or while an address cannot be
reached before it either. A policy that was just undone is not tried again when `run` is started again.

Packets of rules with `log: true` are printed as they come. Flows that have expired are swept out of
the flow table.

Each change is said once, with its reason. In a service of systemd it goes to standard error, where the
journal reads its priority: an error stays until somebody acts, a warning is what others have done.
With --log-format json it is an object a line there. Packets and counters stay on standard output, with
the priorities 6 and 7.

Examples:
  sgctl run policy.yaml --iface eth0
  sgctl run policy.yaml --iface eth0 --iface eth1
  sgctl run base.yaml team.yaml --iface eth0 --persist --interval 60
  sgctl run policy.yaml --iface eth0 --confirm-within 60s
  sgctl run policy.yaml --iface eth0 --metrics 127.0.0.1:9750
  sgctl run policy.yaml --iface eth0 --log-format json
  sgctl run policy.yaml --iface 'wan*' --wait --persist

Exit codes: 0 ended by Ctrl-C, SIGTERM or the loss of its terminal or reader, 1 the policy, the interface or the state is wrong, or
nobody has confirmed it, 2 usage, 3 not permitted or the kernel refused.")]
pub(super) struct Run {
    #[command(flatten)]
    policies: Policies,
    #[command(flatten)]
    attach: Attach,
    /// Wait for interfaces that do not exist yet, those of a pattern too, and attach each as it
    /// appears
    #[arg(long)]
    wait: bool,
    /// Leave the policy attached at the end
    #[arg(long)]
    persist: bool,
    /// Undo each policy after this time, from 1s to 24h, unless `sgctl confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = apply::window)]
    confirm_within: Option<Duration>,
    /// Confirm each policy once a new TCP connection to this address and port can be opened under
    /// it; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", requires = "confirm_within")]
    confirm_if_reachable: Vec<Target>,
    /// Show the counters every so many seconds; 1 on a terminal, else 10
    #[arg(long, value_name = "SECONDS", value_parser = interval)]
    interval: Option<Duration>,
    /// Serve metrics for Prometheus: at an address such as 127.0.0.1:9750, or at the path of a
    /// socket
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<Address>,
    /// Serve metrics to other machines too: they show rules, policies and what is dropped
    #[arg(long, requires = "metrics")]
    metrics_public: bool,
    /// How changes are said; with json on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Print what the packet path says of every packet: for development, and slow
    #[arg(long, hide_short_help = true)]
    trace: bool,
    #[command(flatten)]
    json: Json,
}

/// What there is once an interface exists. Nothing was changed yet.
struct Ready {
    terminal: Terminal,
    events: Events,
    manager: Manager,
    expected: Expected,
    appeared: Appeared,
    /// If it was said that it waits.
    log: Option<Log>,
}

/// What is needed to put the policy in force. Nothing was changed yet.
struct Prepared {
    /// The interfaces that get the policy.
    names: Vec<String>,
    options: ApplyOptions,
    metrics: Metrics,
    /// Those that were not taken while it was waited for the interfaces.
    locks: Vec<RunLock>,
    /// What is in force on each of the interfaces.
    before: Vec<InForce>,
}

impl Run {
    fn options(&self, context: &Context, expected: &Expected) -> Result<ApplyOptions, Failure> {
        let mut options = expected.attach(&self.attach).options(context)?;
        options.self_check = !self.attach.no_self_check;
        options.confirm_within = self.confirm_within;
        if self.trace {
            options.log_level = TRACE;
        }
        Ok(options)
    }

    /// Where metrics are to be served.
    fn metrics_address(&self) -> Result<Option<&Address>, Failure> {
        match &self.metrics {
            Some(address) if !address.is_local() && !self.metrics_public => {
                Err(Failure::usage::<Run>(
                    "run",
                    format!(
                        "--metrics {address}: others than this machine could read rules and policies there; \
                         an address of the loopback or the path of a socket, or --metrics-public"
                    ),
                ))
            }
            address => Ok(address.as_ref()),
        }
    }

    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.ready(context)? {
            Some(ready) => self.enforce(context, ready),
            None => Ok(()),
        }
    }

    /// Waits, with `--wait`, until one of the interfaces exists. `None` if the wait was ended.
    fn ready(&self, context: &Context) -> Result<Option<Ready>, Failure> {
        let usual = if context.out.terminal { 1 } else { 10 };
        let interval = self.interval.unwrap_or(Duration::from_secs(usual));
        // This must come first, because whether SIGHUP was ignored at the start can only be seen
        // until it is handled.
        let mut terminal = Terminal::find();
        // This must come before attaching: with the handlers in place, a signal ends `run` and puts
        // the previous state back.
        let mut events = Events::new(interval).map_err(preparing)?;
        let mut manager = Manager::find();
        let expected = Expected::new(&self.attach, self.wait, &context.bpffs)?;
        let log = || self.log(context, &self.attach.ifaces);
        let (wait, policies) = (&mut events, (&self.policies, self.attach.trust));
        let appeared = expected.first(wait, &mut terminal, &mut manager, policies, log)?;
        Ok(appeared.map(|(appeared, log)| Ready {
            terminal,
            events,
            manager,
            expected,
            appeared,
            log,
        }))
    }

    fn log(&self, context: &Context, names: &[String]) -> Result<Log, Failure> {
        Log::new(context, self.json.json, self.log_format, names).map_err(preparing)
    }

    /// Puts the policy in force on the interfaces that exist, and looks after it until the end.
    fn enforce(&self, context: &Context, ready: Ready) -> Result<(), Failure> {
        let Ready {
            terminal,
            mut events,
            manager,
            expected,
            appeared,
            log: early_log,
        } = ready;
        let Prepared {
            names,
            options,
            mut metrics,
            locks,
            before,
        } = self.prepare(context, &expected, appeared.held())?;
        let is_wait_told = early_log.is_some();
        let log = match early_log {
            Some(log) => log.of(&names),
            None => self.log(context, &names)?,
        };
        let targets = self.confirm_if_reachable.clone();
        let started = Reloader::start(self.policies.clone(), self.attach.trust, options, targets);
        appeared.release();
        let attempted: Vec<Attempted> = match &started {
            Ok((_, begun)) => begun.attempted(),
            Err(failure) => failure.attempted().to_vec(),
        };
        let Some(first) = attempted.first() else {
            // Nothing was changed.
            return started.map(drop);
        };
        // From here on it is the session that puts back what was before, also where the policy
        // could not be put in force everywhere.
        let parts = Parts {
            context,
            policies: &self.policies,
            checks: Checks::of(&self.confirm_if_reachable),
            traces: self.trace,
            timeouts: first.timeouts,
            interfaces: watched(context, &names, before, &attempted)?,
            locks,
            log,
            terminal,
            manager,
            expected,
        };
        let begun = started.as_ref().ok().map(|(_, begun)| &**begun);
        let mut session = Session::new(parts, &attempted, begun);
        let greeted = started.and_then(|(reloader, begun)| {
            session.greet(*begun, &appeared)?;
            if !is_wait_told {
                session.expected.tell_missing(&mut session.log);
            }
            session.serve(&mut metrics, &names)?;
            Ok(reloader)
        });
        drop(appeared);
        let ended = match greeted {
            Ok(reloader) => self.look_after(&mut session, &mut events, reloader),
            Err(failure) => Err(session.give_up(failure)),
        };
        session.finish(ended)
    }

    /// Gets what may be refused, while nothing has been changed yet. `held` are interfaces through
    /// which nothing passes until the policy is in force there.
    fn prepare(
        &self,
        context: &Context,
        expected: &Expected,
        held: Vec<String>,
    ) -> Result<Prepared, Failure> {
        let mut options = self.options(context, expected)?;
        options.held = held;
        let names = options.interfaces.clone();
        let metrics = Metrics::listen(self.metrics_address()?, self.wait)?;
        let others = names.iter().filter(|name| !expected.has_lock(name));
        let take = |name: &String| RunLock::take(&context.bpffs, name);
        let locks = others.map(take).collect::<Result<_, _>>()?;
        // Behind the locks, so that no other `run` changes it any more.
        let before = in_force_before(context, &names, &mut options)?;
        Ok(Prepared {
            names,
            options,
            metrics,
            locks,
            before,
        })
    }

    /// Looks after the policy until the end, and then leaves it attached or takes it back.
    fn look_after(
        &self,
        session: &mut Session<'_>,
        events: &mut Events,
        mut reloader: Reloader,
    ) -> Result<(), Failure> {
        events.watch(reloader.files());
        session.watch_pins(events);
        session.hold();
        session.beat();
        let ended = session.attend(events, &mut reloader);
        // Where the policy was undone and there was none before, it waits for another one.
        let ended = match ended {
            Err(failure) if session.checks.are_asked_for() && is_undone(&failure) => {
                Err(session.rest(failure, events, &reloader))
            }
            ended => ended,
        };
        session.manager.stopping();
        session.log.close();
        ended.and_then(|why| session.leave(self.persist, why))
    }
}

impl Session<'_> {
    /// Says what was put in force, and looks at the packets that are logged from now on.
    fn greet(&mut self, begun: Begun, appeared: &Appeared) -> Result<(), Failure> {
        let Begun {
            mut reloaded,
            not_tried,
            ..
        } = begun;
        // The first lock has mounted the BPF file system, where none was.
        let mounted = self.all_locks().find_map(|lock| lock.mounted.clone());
        let applied = &mut reloaded.applied;
        applied.mounted = applied.mounted.take().or(mounted);
        let applied = &reloaded.applied;
        let names: Vec<String> = self.interfaces.iter().map(|it| it.name.clone()).collect();
        let packets = packet_log(self.context, &names, applied.is_first());
        let warnings = apply::findings(&reloaded.findings, self.policies);
        self.log.impact(reloaded.impact.as_ref());
        self.log.applied(Change::Applied, applied, &warnings, None);
        self.log.watched(&reloaded.findings);
        if let Some(undone) = &not_tried {
            self.log.not_tried(undone, applied);
        }
        appeared.tell(&mut self.log);
        self.policy = Some(Session::policy_of(&applied.first.state));
        self.packets = Some(packets?);
        Ok(())
    }

    /// Says why it ends, if it fails, and writes what the log still has.
    fn finish(mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        // The log also writes standard error, whose reader may stall.
        let ended = ended.map_err(|failure| {
            self.log.failure(&failure);
            Failure::Told(failure.exit_code())
        });
        self.log.finish();
        ended
    }
}

fn preparing(source: io::Error) -> Failure {
    Failure::Io {
        what: "preparing to wait for signals",
        source,
    }
}

/// What is in force on these interfaces. Its counter slots stay its own, so that it can return.
fn in_force_before(
    context: &Context,
    names: &[String],
    options: &mut ApplyOptions,
) -> Result<Vec<InForce>, Failure> {
    let find = |name: &String| find_before(context, name);
    let before: Vec<InForce> = names.iter().map(find).collect::<Result<_, _>>()?;
    for found in &before {
        if let InForce::Policy(held) = found {
            options.held_slots.extend(held.slots());
        }
    }
    Ok(before)
}

/// The interfaces that are looked after, with what was in force on them before.
fn watched(
    context: &Context,
    names: &[String],
    before: Vec<InForce>,
    attempted: &[Attempted],
) -> Result<Vec<Watched>, Failure> {
    let tree = PinTree::new(&context.bpffs);
    let cookie = netns::cookie()?;
    let of = |(name, before): (&String, InForce)| {
        let known = attempted.iter().find(|it| it.interface == *name);
        let index = match known {
            Some(known) => known.ifindex,
            // One that was to be left as it is.
            None => interfaces::index_of(name)?,
        };
        Ok(Watched::new(name, tree.interface(cookie, index)?, before))
    };
    names.iter().zip(before).map(of).collect()
}

/// Whether the policy of this process was undone, and nothing of it goes on.
fn is_undone(failure: &Failure) -> bool {
    matches!(failure, Failure::Kernel(KernelError::NotConfirmed { .. }))
}

/// The logged packets of the interfaces from now on, or with `is_first` all since they were
/// attached.
fn packet_log(context: &Context, names: &[String], is_first: bool) -> Result<PacketLog, Failure> {
    // They have their rings in common.
    let name = names.first().map(String::as_str).unwrap_or_default();
    let one = attached_to(&context.bpffs, name)?;
    Ok(match is_first {
        true => PacketLog::from_the_first(&one)?,
        false => PacketLog::open(&one)?,
    })
}
