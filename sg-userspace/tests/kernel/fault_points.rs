//! Every step of attaching, replacing and detaching is made to fail, and is killed: what packets
//! meet then is the old policy or the new one, `status` says which, and the next command puts it
//! right.
//!
//! The points make themselves known: a run without a fault lists those that it passes. Of `run`,
//! those until it shows counters belong to its beginning, and those after it was told to end to
//! its end; what it does in between passes none.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::{ApplyOptions, EgressHook, apply, detach, interfaces, tidy_up};
use sg_userspace::observe::attached::{Health, Scope, attached};

use crate::probe::{A, B, Probe, Seen};
use crate::sandbox::{Sandbox, run, sandbox};
use crate::support::{egress_hooks, is_guest};

/// What is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    First,
    Replace,
    Detach,
    /// The beginning of `run` where nothing was attached, and over another policy.
    Begin,
    BeginOver,
    /// The end of `run`, which takes its policy away again, or returns to the one that was there
    /// before.
    Leave,
    Return,
}

impl Scenario {
    const ALL: [Scenario; 7] = [
        Scenario::First,
        Scenario::Replace,
        Scenario::Detach,
        Scenario::Begin,
        Scenario::BeginOver,
        Scenario::Leave,
        Scenario::Return,
    ];

    fn is_run(self) -> bool {
        !matches!(self, Scenario::First | Scenario::Replace | Scenario::Detach)
    }

    fn is_end_of_run(self) -> bool {
        matches!(self, Scenario::Leave | Scenario::Return)
    }

    /// Policy A is in force before.
    fn is_over(self) -> bool {
        !matches!(self, Scenario::First | Scenario::Begin | Scenario::Leave)
    }

    /// What is in force when nothing goes wrong for good: a `run` has ended by then.
    fn goal(self) -> Seen {
        match self {
            Scenario::First | Scenario::Replace => Seen::B,
            Scenario::BeginOver | Scenario::Return => Seen::A,
            Scenario::Detach | Scenario::Begin | Scenario::Leave => Seen::Open,
        }
    }

    /// What packets may show of a direction after it was cut short.
    fn allowed(self) -> &'static [Seen] {
        match self {
            Scenario::Replace | Scenario::BeginOver | Scenario::Return => &[Seen::A, Seen::B],
            Scenario::First | Scenario::Begin | Scenario::Leave => &[Seen::Open, Seen::B],
            Scenario::Detach => &[Seen::A, Seen::Open],
        }
    }

    /// One direction after the other is let go, and nothing takes that back.
    fn takes_away(self) -> bool {
        matches!(self, Scenario::Detach | Scenario::Leave)
    }
}

/// How a point is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    /// Once.
    Fail,
    /// Each time.
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
    /// Where `sgctl` lists the points that it passes.
    trace: PathBuf,
}

/// Nothing that is tried here takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended, and what it had done.
struct Ran {
    output: Output,
    points: Vec<String>,
    /// So many of them before what is to be cut short began.
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
    walk(EgressHook::Clsact);
}

fn walk(hook: EgressHook) {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let dir = tempfile::tempdir().expect("a directory");
        let policy = dir.path().join("b.yaml");
        fs::write(
            &policy,
            "inbound: [{protocol: udp, ports: 2000, from: any, action: accept}]\n\
             outbound: [{protocol: udp, ports: 2000, to: any, action: accept}]\n",
        )
        .expect("it can be written");
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
        let everything = std::env::var_os("SG_FAULTS_ALL").is_some();
        // Processors of a guest are emulated: a point in so many.
        let every = if is_guest() { 12 } else { 1 };
        let mut tried = 0usize;
        for scenario in Scenario::ALL {
            let points = walk.points(scenario);
            assert!(points.len() >= 10, "{scenario:?} has only {points:?}");
            // A `run` takes longer than the others.
            let every = match scenario.is_run() && !everything {
                true => every * 8,
                false => every,
            };
            let kinds: &[Kind] = match scenario.is_end_of_run() {
                true => &[Kind::Kill, Kind::Fail, Kind::Refuse],
                false => &[Kind::Kill, Kind::Fail],
            };
            for (number, point) in points.iter().enumerate() {
                for (kind_number, kind) in kinds.iter().enumerate() {
                    for (then, then_number) in [(Then::Apply, 0), (Then::Detach, 1)] {
                        // Each pair of a point and a kind with one of the two, and the other hook
                        // with the other one. Of a sample, each kind has points of its own.
                        let which = number + kind_number + usize::from(hook == EgressHook::Clsact);
                        let is_chosen = (number + 2 * kind_number).is_multiple_of(every)
                            && (number / every + which) % 2 == then_number;
                        if everything || is_chosen {
                            walk.one(scenario, *kind, point, then);
                            tried += 1;
                        }
                    }
                }
            }
        }
        println!("{tried} faults with {hook:?}");
    });
}

impl Walk<'_> {
    fn set_up(&self, scenario: Scenario) {
        if scenario.is_over() {
            apply(&rules_from_lines(A), &self.options).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// The command that is cut short.
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
        let verb = if scenario.is_run() { "run" } else { "apply" };
        command.args([verb, &self.policy, "--iface", "sg0"]);
        if !scenario.is_over() {
            command.args(["--egress-hook", hook, "--max-flows", "64"]);
        }
        command
    }

    /// Runs the command to its end, with a fault or without.
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

    /// The points that a command has passed by now.
    fn passed(&self) -> Vec<String> {
        let points = fs::read_to_string(&self.trace).unwrap_or_else(|e| {
            panic!("{e}: this sgctl has no fault points; it needs debug assertions")
        });
        points.lines().map(str::to_owned).collect()
    }

    /// Ends a `run` by a signal when it has begun, unless it has ended by itself. How many points
    /// it had passed by then.
    fn begin_and_end(&self, mut command: Command) -> (Output, usize) {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sgctl starts");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        // It shows counters when all that belongs to its beginning is done; that a policy was
        // applied it says while it does the rest.
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
                    panic!("it neither goes on nor ends: {said:?} {output:?}");
                }
            }
        }
        if before.is_some() {
            let id = Pid::from_raw(child.id().cast_signed());
            kill(id, Signal::SIGTERM).expect("it runs");
        }
        let mut output = child.wait_with_output().expect("it ends");
        reader.join().expect("it only reads");
        said.extend(lines.try_iter());
        output.stdout = said.join("\n").into_bytes();
        let all = self.passed().len();
        (output, before.unwrap_or(all))
    }

    /// The points of what is to be cut short, where nothing goes wrong.
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
        let at = at.unwrap_or_else(|| panic!("{when}: it has not come there"));
        if scenario.is_end_of_run() {
            assert!(at >= ran.before, "{when}: it had not come to its end");
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
                assert_eq!(seen[0], seen[1], "{when}: half of a policy");
            }
            assert!(!output.status.success() || seen == goal, "{when}: {seen:?}");
        }
        if kind == Kind::Fail && scenario.is_run() {
            // Wherever a `run` fails, it leaves what was there before it.
            assert_eq!(seen, goal, "{when}");
            if scenario.is_end_of_run() {
                assert!(output.status.success(), "{when}: it was not tried again");
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
        self.status_is_true(seen, &when);

        match then {
            Then::Apply => {
                apply(&rules_from_lines(B), &self.options)
                    .unwrap_or_else(|e| panic!("{when}: {e}"));
                assert_eq!(self.probe.look(), [Seen::B; 2], "{when}");
                assert_eq!(self.health(), Some(Health::Enforcing), "{when}");
                self.clean_up(&when);
            }
            Then::Detach => self.clean_up(&when),
        }
    }

    fn health(&self) -> Option<Health> {
        let found = attached(self.sandbox.bpffs(), &Scope::Namespace).expect("it can be listed");
        let one = found.first()?;
        Some(one.status().map_or(Health::Damaged, |status| status.health))
    }

    /// What is called enforcing is, by the policy that is named; what enforces nothing is not.
    fn status_is_true(&self, seen: [Seen; 2], when: &str) {
        let found = attached(self.sandbox.bpffs(), &Scope::Namespace)
            .unwrap_or_else(|e| panic!("{when}: {e}"));
        let Some(one) = found.first() else {
            assert_eq!(seen, [Seen::Open; 2], "{when}: nothing is listed");
            return;
        };
        let Ok(status) = one.status() else {
            assert_eq!(seen, [Seen::Open; 2], "{when}: no record");
            return;
        };
        let named = match status.policy.digest == rules_from_lines(A).digest {
            true => Seen::A,
            false => Seen::B,
        };
        let is_enforcing = status.health == Health::Enforcing;
        assert!(
            !is_enforcing || seen == [named; 2],
            "{when}: {seen:?} and {status:?}"
        );
        assert_eq!(is_enforcing, status.faults.is_empty(), "{when}: {status:?}");
    }

    /// Detaches, and nothing is left.
    fn clean_up(&mut self, when: &str) {
        let sandbox = self.sandbox;
        let ours = ids(sandbox.bpffs());
        let found =
            attached(sandbox.bpffs(), &Scope::Namespace).unwrap_or_else(|e| panic!("{when}: {e}"));
        match found.first() {
            Some(one) => detach(sandbox.bpffs(), &one.pins),
            // What is no attachment is tidied up as well.
            None => tidy_up(sandbox.bpffs()),
        }
        .unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(!sandbox.pins().exists(), "{when}: pins are left");
        assert_eq!(
            self.probe.look(),
            [Seen::Open; 2],
            "{when}: after detaching"
        );
        let index = interfaces::index_of("sg0").expect("it exists");
        assert_eq!(interfaces::xdp_program(index).unwrap(), None, "{when}");
        let qdiscs = run("tc", &["qdisc", "show", "dev", "sg0"]);
        assert!(!qdiscs.contains("clsact"), "{when}: {qdiscs}");
        // The kernel frees them some time later.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = ours.still_there();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{when}: {left:?} are left");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Programs and maps that must go.
#[derive(Default)]
struct Ids {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

/// Those of the sandbox: what is pinned, what the interface runs, and the maps of those programs.
fn ids(bpffs: &Path) -> Ids {
    let mut ids = Ids::default();
    let index = interfaces::index_of("sg0").expect("it exists");
    ids.programs.extend(interfaces::xdp_program(index).unwrap());
    let mut todo = vec![bpffs.join("sgctl")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => todo.push(entry.path()),
                false => ids
                    .maps
                    .extend(MapInfo::from_pin(entry.path()).map(|info| info.id())),
            }
        }
    }
    let maps = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| ids.programs.contains(&program.id()))
        .filter_map(|program| program.map_ids().ok().flatten())
        .flatten();
    ids.maps.extend(maps.collect::<Vec<u32>>());
    ids
}

impl Ids {
    /// Looks at numbers only: a program array that is opened while the kernel clears it stays for
    /// ever.
    fn still_there(&self) -> Vec<u32> {
        const BPF_PROG_GET_NEXT_ID: libc::c_long = 11;
        const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
        let is_there = |command: libc::c_long, id: u32| {
            let mut attribute = [id - 1, 0, 0];
            // SAFETY: the attribute is as long as said.
            let done = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), 12) };
            done == 0 && attribute[1] == id
        };
        let programs = self.programs.iter().copied();
        let maps = self.maps.iter().copied();
        programs
            .filter(|id| is_there(BPF_PROG_GET_NEXT_ID, *id))
            .chain(maps.filter(|id| is_there(BPF_MAP_GET_NEXT_ID, *id)))
            .collect()
    }
}
