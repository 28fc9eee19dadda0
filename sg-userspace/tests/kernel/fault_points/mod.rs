//! A fault at every step of attaching, replacing and detaching: the step fails, or the process is
//! killed there. After it packets meet the old policy or the new one, `status` says which, and the
//! next command repairs everything.
//!
//! A run without a fault lists the fault points that it passes, and those are then tried. For
//! `run`, the points before its first counters belong to its beginning, and those after SIGTERM to
//! its end. It passes none in between.
//!
//! A normal run takes a sample: of attaching, replacing and detaching without a trial each point is
//! tried with one kind of fault, by tcx or by clsact; of what takes longer every second one, spread
//! evenly ([`Scenario::share`]). After each fault one of the two next commands is tried, in turns.
//! `cargo xtask test --faults` tries all.

mod said;
mod scenario;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_policy::policy::rules_from_lines;
use sg_testbed::objects::{Kind as ObjectKind, Object, Objects};
use sg_userspace::kernel::{
    ApplyOptions, CandidateOption, EgressHook, apply, detach, interfaces, tidy_up,
};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::status::Health;

use self::scenario::Scenario;
use crate::probe::{A, B, Probe, Seen};
use crate::sandbox::{Sandbox, run, sandbox};
use crate::support::{egress_hooks, is_guest};

/// What happens at the fault point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    /// The step fails the first time only.
    Fail,
    /// The step fails every time.
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Apply,
    Detach,
}

struct Walk<'a> {
    sandbox: &'a Sandbox,
    options: ApplyOptions,
    probe: Probe,
    policy: String,
    /// The file in which `sgctl` lists the points that it passes.
    trace: PathBuf,
}

/// The bound for every wait, generous because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a command has ended, and the points that it has passed.
struct Ran {
    output: Output,
    points: Vec<String>,
    /// How many points belong to what comes before the part that is interrupted.
    before: usize,
}

/// Proves C1, C2, C11 and C12 at every point where `apply` and `detach` can be cut short, and at
/// some where the beginning and the end of `run` can.
#[test]
fn tcx() {
    if egress_hooks().contains(&EgressHook::Tcx) {
        walk(EgressHook::Tcx);
    }
}

/// Proves C1, C2, C11 and C12 at every point where `apply` and `detach` can be cut short, and at
/// some where the beginning and the end of `run` can.
#[test]
fn clsact() {
    if is_guest() && egress_hooks().first() != Some(&EgressHook::Clsact) {
        println!("not tried on an emulated processor where the kernel has tcx: older ones try it");
        return;
    }
    walk(EgressHook::Clsact);
}

/// Set by `cargo xtask test --faults`, which tries every point.
const ALL: &str = "SG_FAULTS";

/// How many scenarios are under way at a time. Most of their time they wait for the kernel.
const AT_ONCE: usize = 4;

fn walk(hook: EgressHook) {
    let (next, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(scenario) = Scenario::tried_here().get(next.fetch_add(1, Ordering::Relaxed))
        {
            sandbox(|sandbox| {
                let more = walk_through(sandbox, *scenario, hook);
                tried.fetch_add(more, Ordering::Relaxed);
            });
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    println!("{} faults with {hook:?}", tried.into_inner());
}

/// Tries the points of one scenario. Returns how many faults that were.
fn walk_through(sandbox: &Sandbox, scenario: Scenario, hook: EgressHook) -> usize {
    sandbox.veth("sg0", "sg1");
    let dir = tempfile::tempdir().expect("a directory");
    let policy = dir.path().join("b.yaml");
    fs::write(
        &policy,
        "inbound: [{protocol: udp, ports: 2000, from: any, action: accept}]\n\
         outbound: [{protocol: udp, ports: 2000, to: any, action: accept}]\n",
    )
    .expect("the policy can be written");
    let mut walk = Walk {
        sandbox,
        options: ApplyOptions {
            egress_hook: hook,
            max_flows: Some(64),
            ..sandbox.options("sg0")
        },
        probe: Probe::new("sg0", "sg1"),
        policy: policy.display().to_string(),
        trace: dir.path().join("points"),
    };
    let is_all = std::env::var_os(ALL).is_some();
    let points = walk.points(scenario);
    assert!(points.len() >= 10, "{scenario:?} has only {points:?}");
    let every = scenario.share();
    let kinds: &[Kind] = match scenario.is_end_of_run() {
        true => &[Kind::Kill, Kind::Fail, Kind::Refuse],
        false => &[Kind::Kill, Kind::Fail],
    };
    let side = usize::from(hook == EgressHook::Clsact);
    let mut tried = 0;
    for (number, point) in points.iter().enumerate() {
        for (kind_number, kind) in kinds.iter().enumerate() {
            // Each hook tries other points, and each kind of fault does.
            let first = (2 * kind_number + side) * every / 4;
            let is_chosen = (number + first).is_multiple_of(every);
            for (then, then_number) in [(Then::Apply, 0), (Then::Detach, 1)] {
                let is_turn = (number / every + kind_number + side) % 2 == then_number;
                if is_all || is_chosen && is_turn {
                    walk.one(scenario, *kind, point, then);
                    tried += 1;
                }
            }
        }
    }
    tried
}

impl Walk<'_> {
    fn set_up(&self, scenario: Scenario) {
        if scenario.is_over() {
            apply(&rules_from_lines(A), &self.options).unwrap_or_else(|e| panic!("{e}"));
        }
        if scenario == Scenario::Promote {
            let candidate = CandidateOption::Set {
                policy: Arc::new(rules_from_lines(B)),
                logs: false,
            };
            let options = ApplyOptions {
                candidate,
                ..self.options.clone()
            };
            apply(&rules_from_lines(A), &options).unwrap_or_else(|e| panic!("{e}"));
        }
        if matches!(scenario, Scenario::Confirm | Scenario::Undo) {
            let options = ApplyOptions {
                confirm_within: Some(Duration::from_secs(3600)),
                ..self.options.clone()
            };
            apply(&rules_from_lines(B), &options).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// The command that is interrupted.
    fn command(&self, scenario: Scenario) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sgctl"));
        command.arg("--bpffs").arg(self.sandbox.bpffs());
        let hook = match self.options.egress_hook {
            EgressHook::Clsact => "clsact",
            _ => "tcx",
        };
        if scenario == Scenario::Detach {
            command.args(["detach", "--iface", "sg0"]);
            return command;
        }
        match scenario {
            Scenario::Confirm => command.arg("confirm"),
            Scenario::Undo => command.arg("rollback"),
            Scenario::Promote => command.arg("promote"),
            Scenario::Watch => {
                command.args(["apply", "--candidate", &self.policy, "--iface", "sg0"])
            }
            _ => &mut command,
        };
        if matches!(
            scenario,
            Scenario::Confirm | Scenario::Undo | Scenario::Promote | Scenario::Watch
        ) {
            return command;
        }
        let verb = if scenario.is_run() { "run" } else { "apply" };
        command.args([verb, &self.policy, "--iface", "sg0"]);
        if scenario == Scenario::Trial {
            command.args(["--confirm-within", "1h"]);
        }
        if !scenario.is_over() {
            command.args(["--egress-hook", hook, "--max-flows", "64"]);
        }
        command
    }

    /// Runs the command to its end, with or without a fault.
    fn run(&self, scenario: Scenario, fault: Option<&str>) -> Ran {
        let _ = fs::remove_file(&self.trace);
        let mut command = self.command(scenario);
        command.env("SG_FAULT_TRACE", &self.trace);
        if let Some(fault) = fault {
            command.env("SG_FAULT", fault);
        }
        let (output, before) = match scenario.is_run() {
            true => self.begin_and_end(command),
            false => (command.output().expect("sgctl starts"), 0),
        };
        Ran {
            output,
            points: self.passed(),
            before,
        }
    }

    /// The points that a command has passed so far.
    fn passed(&self) -> Vec<String> {
        let points = fs::read_to_string(&self.trace).unwrap_or_else(|e| {
            panic!("{e}: this sgctl has no fault points; it needs debug assertions")
        });
        points.lines().map(str::to_owned).collect()
    }

    /// Waits for the beginning of a `run` and sends it SIGTERM, unless it has ended already.
    /// Returns how many points it had passed by then.
    fn begin_and_end(&self, mut command: Command) -> (Output, usize) {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sgctl starts");
        let out = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        // `run` prints counters only when its beginning is complete. The line about the applied
        // policy comes too early.
        let mut said = Vec::new();
        let mut before = None;
        while before.is_none() {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("sg0: inbound ") => before = Some(self.passed().len()),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    let output = child.wait_with_output();
                    panic!("it prints nothing and does not end: {said:?} {output:?}");
                }
            }
        }
        if before.is_some() {
            let id = Pid::from_raw(child.id().cast_signed());
            kill(id, Signal::SIGTERM).expect("it runs");
        }
        let mut output = child.wait_with_output().expect("it ends");
        reader.join().expect("the reading thread does not panic");
        said.extend(lines.try_iter());
        output.stdout = said.join("\n").into_bytes();
        let all = self.passed().len();
        (output, before.unwrap_or(all))
    }

    /// The points of the part to be interrupted, listed by a run without a fault.
    fn points(&mut self, scenario: Scenario) -> Vec<String> {
        self.set_up(scenario);
        let ran = self.run(scenario, None);
        assert!(
            ran.output.status.success(),
            "{scenario:?}: {:?}",
            ran.output
        );
        assert_eq!(self.probe.look(), [scenario.goal(); 2], "{scenario:?}");
        self.clean_up("no fault");
        let mut points = ran.points;
        match (scenario.is_run(), scenario.is_end_of_run()) {
            (true, false) => points.truncate(ran.before),
            _ => drop(points.drain(..ran.before)),
        }
        points
    }

    fn one(&mut self, scenario: Scenario, kind: Kind, point: &str, then: Then) {
        let when = format!(
            "{scenario:?} with {:?}, {kind:?} {point}, then {then:?}",
            self.options.egress_hook
        );
        self.set_up(scenario);
        let kind_name = format!("{kind:?}").to_lowercase();
        let ran = self.run(scenario, Some(&format!("{kind_name}:{point}")));
        let output = &ran.output;
        let when = format!(
            "{when}: {}, {} {}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let at = ran.points.iter().position(|passed| passed == point);
        let at = at.unwrap_or_else(|| panic!("{when}: it has not passed the point"));
        if scenario.is_end_of_run() {
            assert!(
                at >= ran.before,
                "{when}: the point was passed before the end of `run`"
            );
        }
        if kind == Kind::Kill {
            assert_eq!(output.status.signal(), Some(9), "{when}");
        }

        let seen = self.probe.look();
        let goal = [scenario.goal(); 2];
        let allowed = scenario.allowed();
        assert!(
            seen.iter().all(|seen| allowed.contains(seen)),
            "{when}: {seen:?}"
        );
        if kind != Kind::Kill {
            if !scenario.takes_away() {
                assert_eq!(seen[0], seen[1], "{when}: the directions differ");
            }
            assert!(!output.status.success() || seen == goal, "{when}: {seen:?}");
        }
        if kind == Kind::Fail && scenario.is_run() {
            // A `run` that fails leaves in force what was there before it.
            assert_eq!(seen, goal, "{when}");
            if scenario.is_end_of_run() {
                assert!(
                    output.status.success(),
                    "{when}: the failing step was not tried again"
                );
            }
        }
        if kind == Kind::Refuse && !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("left as it is on sg0"), "{when}");
            let error = String::from_utf8_lossy(&output.stderr);
            let standing = [
                "both directions run ",
                "inbound runs ",
                "nothing is attached",
            ];
            assert!(standing.iter().any(|words| error.contains(words)), "{when}");
        }
        said::status_is_true(self.sandbox.bpffs(), seen, &when);
        said::history_is_true(self.sandbox.bpffs(), seen, scenario, &when);
        said::candidate_is_true(self.sandbox.bpffs(), &when);

        match then {
            Then::Apply => {
                apply(&rules_from_lines(B), &self.options)
                    .unwrap_or_else(|e| panic!("{when}: {e}"));
                assert_eq!(self.probe.look(), [Seen::B; 2], "{when}");
                assert_eq!(
                    said::health(self.sandbox.bpffs()),
                    Some(Health::Enforcing),
                    "{when}"
                );
                self.clean_up(&when);
            }
            Then::Detach => self.clean_up(&when),
        }
    }

    /// Detaches, and checks that nothing is left.
    fn clean_up(&mut self, when: &str) {
        let sandbox = self.sandbox;
        let index = interfaces::index_of("sg0").expect("it exists");
        let attached_there = interfaces::xdp_program(index).unwrap().map(|id| Object {
            kind: ObjectKind::Program,
            id,
        });
        let ours = Objects::below(&sandbox.pins(), attached_there);
        let found =
            attached(sandbox.bpffs(), &Scope::Namespace).unwrap_or_else(|e| panic!("{when}: {e}"));
        match found.first() {
            Some(one) => detach(sandbox.bpffs(), &one.pins),
            // Without an attachment there may still be other files to remove.
            None => tidy_up(sandbox.bpffs()),
        }
        .unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(!sandbox.pins().exists(), "{when}: pins are left");
        assert_eq!(
            self.probe.look(),
            [Seen::Open; 2],
            "{when}: after detaching"
        );
        assert_eq!(interfaces::xdp_program(index).unwrap(), None, "{when}");
        let qdiscs = run("tc", &["qdisc", "show", "dev", "sg0"]);
        assert!(!qdiscs.contains("clsact"), "{when}: {qdiscs}");
        let gone = ours.wait_until_gone(PATIENCE);
        gone.unwrap_or_else(|left| panic!("{when}: left are {left}"));
    }
}
