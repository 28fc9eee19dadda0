//! Every step of attaching, replacing and detaching is made to fail, and is killed: what packets meet then
//! is the old policy or the new one, `status` says which, and the next command puts it right.
//!
//! The points make themselves known: a run without a fault lists those that it passes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_userspace::kernel::{ApplyOptions, EgressHook, apply, detach, interfaces, tidy_up};
use sg_userspace::observe::attached::{Health, Scope, attached};
use sg_userspace::policy::rules_from_lines;

use crate::probe::{A, B, Probe, Seen};
use crate::sandbox::{Sandbox, run, sandbox};
use crate::support::{egress_hooks, is_guest};

/// What is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    First,
    Replace,
    Detach,
    /// The end of `run`, which returns to the policy that was there before.
    Return,
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
}

/// Proves C1, C2, C11 and C12 at every point where `apply` and `detach` can be cut short, and at some where
/// the end of `run` can.
#[test]
fn tcx() {
    if egress_hooks().contains(&EgressHook::Tcx) {
        walk(EgressHook::Tcx);
    }
}

/// Proves C1, C2, C11 and C12 at every point where `apply` and `detach` can be cut short, and at some where
/// the end of `run` can.
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
        };
        let everything = std::env::var_os("SG_FAULTS_ALL").is_some();
        // Processors of a guest are emulated: a point in so many.
        let every = if is_guest() { 12 } else { 1 };
        let mut tried = 0usize;
        let scenarios = [
            Scenario::First,
            Scenario::Replace,
            Scenario::Detach,
            Scenario::Return,
        ];
        for scenario in scenarios {
            let points = walk.points(scenario, dir.path());
            assert!(points.len() >= 10, "{scenario:?} has only {points:?}");
            // A `run` takes longer than the others.
            let every = match scenario {
                Scenario::Return if !everything => every * 6,
                _ => every,
            };
            for (number, point) in points.iter().enumerate().step_by(every) {
                for (kind, kind_number) in [("kill", 0), ("fail", 1)] {
                    for (then, then_number) in [(Then::Apply, 0), (Then::Detach, 1)] {
                        // Each pair of a point and a kind with one of the two, and the other hook with the
                        // other one.
                        let which = number + kind_number + usize::from(hook == EgressHook::Clsact);
                        if everything || which % 2 == then_number {
                            walk.one(scenario, &format!("{kind}:{point}"), then);
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
        if scenario != Scenario::First {
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
        match scenario {
            Scenario::Detach => command.args(["detach", "--iface", "sg0"]),
            Scenario::First => command.args([
                "apply",
                &self.policy,
                "--iface",
                "sg0",
                "--egress-hook",
                hook,
                "--max-flows",
                "64",
            ]),
            Scenario::Replace => command.args(["apply", &self.policy, "--iface", "sg0"]),
            Scenario::Return => command.args(["run", &self.policy, "--iface", "sg0"]),
        };
        command
    }

    /// Runs the command to its end, with a variable for the fault points. Says which points it had passed
    /// before what is to be cut short began.
    fn output(&self, scenario: Scenario, variable: &str, value: &OsStr) -> (Output, usize) {
        let mut command = self.command(scenario);
        command.env(variable, value);
        if scenario != Scenario::Return {
            return (command.output().expect("sgctl starts"), 0);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sgctl starts");
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("it can be read");
        assert!(line.contains("applied"), "{line}");
        let passed = fs::read_to_string(value).map_or(0, |points| points.lines().count());
        let id = Pid::from_raw(child.id().cast_signed());
        kill(id, Signal::SIGTERM).expect("it runs");
        // The rest, so that it does not wait for a reader.
        std::io::copy(&mut out, &mut std::io::sink()).expect("it can be read");
        (child.wait_with_output().expect("it ends"), passed)
    }

    /// The points that a command passes where nothing goes wrong.
    fn points(&mut self, scenario: Scenario, dir: &Path) -> Vec<String> {
        self.set_up(scenario);
        let trace = dir.join(format!("{scenario:?}"));
        let (output, before) = self.output(scenario, "SG_FAULT_TRACE", trace.as_os_str());
        assert!(output.status.success(), "{output:?}");
        self.clean_up("no fault");
        let points = fs::read_to_string(&trace).unwrap_or_else(|e| {
            panic!("{e}: this sgctl has no fault points; it needs debug assertions")
        });
        points.lines().skip(before).map(str::to_owned).collect()
    }

    fn one(&mut self, scenario: Scenario, fault: &str, then: Then) {
        let when = format!(
            "{scenario:?} with {:?}, {fault}, then {then:?}",
            self.options.egress_hook
        );
        self.set_up(scenario);
        let (output, _) = self.output(scenario, "SG_FAULT", OsStr::new(fault));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if fault.starts_with("kill") {
            assert_eq!(output.status.signal(), Some(9), "{when}: {said}");
        }

        let seen = self.probe.look();
        let allowed: &[Seen] = match scenario {
            Scenario::First => &[Seen::Open, Seen::B],
            Scenario::Replace | Scenario::Return => &[Seen::A, Seen::B],
            Scenario::Detach => &[Seen::A, Seen::Open],
        };
        assert!(
            seen.iter().all(|seen| allowed.contains(seen)),
            "{when}: {seen:?} {said}"
        );
        if fault.starts_with("fail") && scenario != Scenario::Detach {
            assert_eq!(seen[0], seen[1], "{when}: half of a policy: {said}");
            let new = match scenario {
                Scenario::Return => Seen::A,
                _ => Seen::B,
            };
            let done = seen == [new; 2];
            assert!(output.status.success() <= done, "{when}: {seen:?} {said}");
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
    /// Looks at numbers only: a program array that is opened while the kernel clears it stays for ever.
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
