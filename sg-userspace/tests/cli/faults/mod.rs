//! What happens to packets when a system call of `sgctl` fails. `strace` makes one call at a time
//! fail, as a container's seccomp filter, a security module or a lack of memory would.
//!
//! Packets in both directions show which policy is enforced after that, and `status` has to agree
//! with them. The next `apply` and, in a case of its own, the next `detach` have to succeed.
//!
//! The usual run tries a sample of the calls; `cargo xtask test --faults` tries all of them.

mod session;
mod strace;
mod traffic;

use std::time::{Duration, Instant};

use super::world::{Ran, World, file};
use session::Session;
use strace::{Calls, Fault, Tracer, attached_objects, traced, wait_until_gone};
use traffic::{Fate, Traffic};

/// Set by `cargo xtask test --faults`, which tries every call.
const ALL: &str = "SG_FAULTS";

/// The system calls that read or change the kernel's state or the pins.
const CALLS: [&str; 12] = [
    "bpf",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rename",
    "inotify_init1",
    "inotify_add_watch",
];

const ERRORS: [&str; 5] = ["EPERM", "ENOMEM", "EBUSY", "ENOBUFS", "ENOSPC"];

/// The time limit of each test in a full run, in which the tests run in parallel.
const LIMIT: Duration = Duration::from_secs(14 * 60);

/// Puts policy b on trial: its path comes after the first word.
const APPLY_B: [&str; 3] = ["apply", "--iface", "nic"];
const WITHIN: [&str; 2] = ["--confirm-within", "1h"];

/// How many calls of each kind a sample tries.
const SAMPLE: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum During {
    /// `apply` where nothing is attached.
    First,
    /// `apply` over another policy.
    Replace,
    Detach,
    /// `apply --confirm-within` over another policy.
    Trial,
    /// `confirm` of a policy that has replaced another one.
    Confirm,
    /// `rollback` of one.
    Undo,
    /// `run` where nothing is attached, and its end.
    Run,
    /// `run` over another policy, and its end.
    RunOver,
    /// A `run` reloads its policy because the file has changed.
    Reload,
}

impl During {
    /// Whether the command runs until it is sent a signal.
    fn is_run(self) -> bool {
        matches!(self, During::Run | During::RunOver)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Apply,
    Detach,
}

/// Everything that the cases of one test share.
struct Bench {
    world: World,
    traffic: Traffic,
    hook: &'static str,
    during: During,
}

impl Bench {
    fn new(during: During, hook: &'static str) -> Bench {
        let world = World::new();
        for (i, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            let text = format!(
                "name: {name}\n\
                 inbound: [{{protocol: udp, ports: {}, from: any, action: accept}}]\n\
                 outbound: [{{protocol: udp, ports: {}, to: any, action: accept}}]\n",
                traffic::INBOUND + i,
                traffic::OUTBOUND + i,
            );
            file(world.dir.path(), name, &text);
        }
        let traffic = Traffic::between(&world);
        Bench {
            world,
            traffic,
            hook,
            during,
        }
    }

    fn policy(&self, name: &str) -> String {
        self.world.dir.path().join(name).display().to_string()
    }

    fn apply(&self, name: &str) -> Ran {
        self.world.run(&self.enforce("apply", &self.policy(name)))
    }

    /// `apply` or `run` of a policy.
    fn enforce<'w>(&'w self, command: &'w str, policy: &'w str) -> [&'w str; 6] {
        [
            command,
            policy,
            "--iface",
            "nic",
            "--egress-hook",
            self.hook,
        ]
    }

    /// The command in which a call fails.
    fn words(&self) -> Vec<String> {
        let policy = self.policy("b");
        let words = match self.during {
            During::First | During::Replace => self.enforce("apply", &policy).to_vec(),
            During::Run | During::RunOver => self.enforce("run", &policy).to_vec(),
            During::Trial => [&APPLY_B[..1], &[&*policy], &APPLY_B[1..], &WITHIN].concat(),
            During::Confirm => vec!["confirm", "--iface", "nic"],
            During::Undo => vec!["rollback", "--iface", "nic"],
            During::Detach => vec!["detach", "--iface", "nic"],
            During::Reload => unreachable!("`reload` starts this command"),
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Runs the command to its end, with one failing call or with none.
    fn traced(&self, fault: Option<Fault>) -> Result<(Ran, Calls), String> {
        match self.during {
            During::Reload => self.reload(fault),
            during => traced(&self.world, &self.words(), fault, during.is_run()),
        }
    }

    /// Starts a `run` over policy a, replaces its policy b by d, and looks at once at what is in
    /// force. Then it ends the `run`.
    fn reload(&self, fault: Option<Fault>) -> Result<(Ran, Calls), String> {
        let text =
            |name| std::fs::read_to_string(self.policy(name)).expect("the policy was written");
        let mine = file(self.world.dir.path(), "mine", &text("b"));
        let words = ["run", &mine, "--iface", "nic", "--egress-hook", self.hook];
        let words = [&words[..], &["--interval", "3600"]].concat();
        let mut running = Session::start(self.world.command(&words));
        let about = |what: String, running: Session| format!("{what}; {}", running.kill().all());
        if let Err(what) = running.wait_for(&["nic: inbound "]) {
            return Err(about(what, running));
        }
        let tracer = match Tracer::attach(running.id(), fault) {
            Ok(tracer) => tracer,
            Err(what) => return Err(about(what, running)),
        };
        // Renaming replaces the file in one step, so `run` never reads half of it.
        let new = file(self.world.dir.path(), "mine.new", &text("d"));
        std::fs::rename(new, &mine).expect("the directory is writable");
        let line = running.wait_for(&["reloaded ", "reload failed"]);
        let calls = tracer.stop();
        let checked = line.and_then(|line| {
            let both = |fates, name| fates == (Fate::Policy(name), Fate::Policy(name));
            let allowed = |fates| both(fates, 'b') || both(fates, 'd');
            let fates = self.traffic.fates(allowed);
            if !allowed(fates) {
                return Err(format!("packets then showed {fates:?}"));
            }
            self.check_status(fates)?;
            if line.contains("reloaded ") && !both(fates, 'd') {
                return Err(format!("packets then showed {fates:?} after {line}"));
            }
            self.check_generation(&line)
        });
        let ran = match (checked, running.end()) {
            (Ok(()), Ok(ran)) => ran,
            (Ok(()), Err(what)) => return Err(what),
            (Err(what), ended) => {
                let ended = ended.map_or_else(|e| e, |ran| ran.all());
                return Err(format!("after the reload: {what}; {ended}"));
            }
        };
        Ok((ran, calls?))
    }

    /// Checks that the line about a reload names the generation that is in force.
    fn check_generation(&self, line: &str) -> Result<(), String> {
        let named = line.split("generation ").nth(1);
        let digits = |text: &str| {
            text.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        };
        let named: Option<u64> = named.and_then(digits);
        let status = self.world.run(&["status", "--json"]);
        let found = status.json()[0]["policy"]["generation"].as_u64();
        match named.is_some() && named == found {
            true => Ok(()),
            false => Err(format!("`{line}` at generation {found:?}")),
        }
    }

    fn has_policy_before(&self) -> bool {
        matches!(
            self.during,
            During::Replace
                | During::Detach
                | During::Trial
                | During::Confirm
                | During::Undo
                | During::RunOver
                | During::Reload
        )
    }

    fn start(&self) -> Result<(), String> {
        if self.has_policy_before() {
            expect(self.apply("a"), "setting up")?;
        }
        if matches!(self.during, During::Confirm | During::Undo) {
            let policy = self.policy("b");
            let words = [&APPLY_B[..1], &[&*policy], &APPLY_B[1..], &WITHIN].concat();
            expect(self.world.run(&words), "setting up the trial")?;
        }
        Ok(())
    }

    /// Runs the command with one failing call. `None` if the command makes fewer calls of this
    /// kind.
    fn fail(&self, fault: Fault) -> Result<Option<Ran>, String> {
        let (ran, calls) = self.traced(Some(fault))?;
        Ok(calls.injected.then_some(ran))
    }

    /// One case: a fault, then the next command. `Ok(false)` if the command has no such call.
    fn case(&self, fault: Fault, next: Next) -> Result<bool, String> {
        self.start()?;
        let Some(ran) = self.fail(fault)? else {
            self.clean_up()?;
            return Ok(false);
        };
        let after = |what: String| format!("{what}; the command: {}", ran.all());
        let allowed = |fates: (Fate, Fate)| self.is_allowed(&ran, fates);
        let fates = self.traffic.fates(allowed);
        if !allowed(fates) {
            return Err(after(format!("packets then showed {fates:?}")));
        }
        if ran.code != 0 && !ran.err.contains("error") {
            return Err(after("nothing was said".into()));
        }
        self.check_status(fates).map_err(after)?;
        let objects = attached_objects(&self.world);
        if next == Next::Apply {
            let put_right = expect(self.apply("c"), "the next apply").map_err(after)?;
            let is_c = |fates| fates == (Fate::Policy('c'), Fate::Policy('c'));
            let now = self.traffic.fates(is_c);
            if !is_c(now) {
                let said = put_right.all();
                return Err(after(format!(
                    "after the next apply {now:?}; it said {said}"
                )));
            }
            self.check_status(now).map_err(after)?;
        }
        let objects = objects.join(attached_objects(&self.world));
        self.clean_up().map_err(after)?;
        wait_until_gone(&objects).map_err(after)?;
        Ok(true)
    }

    /// Which policies packets may show after a command, inbound and outbound.
    fn is_allowed(&self, ran: &Ran, (inbound, outbound): (Fate, Fate)) -> bool {
        let (old, new) = (Fate::Policy('a'), Fate::Policy('b'));
        let both = |fate| (inbound, outbound) == (fate, fate);
        // `detach` detaches one direction after the other, so a failure can leave only one of them
        // open.
        let each_open_or = |policy| {
            [inbound, outbound]
                .iter()
                .all(|fate| [Fate::Open, policy].contains(fate))
        };
        match (self.during, ran.code) {
            (During::First | During::Replace, 0) => both(new),
            (During::First, _) => both(Fate::Open) || both(new),
            (During::Replace, _) => both(old) || both(new),
            (During::Trial, 0) => both(new),
            (During::Trial, _) => both(old) || both(new),
            // Whatever fails, the policy decides until its deadline, or for good.
            (During::Confirm, _) => both(new),
            (During::Undo, 0) => both(old),
            (During::Undo, _) => both(old) || both(new),
            (During::Detach, 0) => both(Fate::Open),
            (During::Detach, _) => each_open_or(old),
            // A `run` retries at its end what has failed once, and also cleans up if it cannot
            // start.
            (During::Run, _) => both(Fate::Open),
            (During::RunOver | During::Reload, _) => both(old),
        }
    }

    fn check_status(&self, (inbound, outbound): (Fate, Fate)) -> Result<(), String> {
        let ran = self.world.run(&["status", "--json"]);
        let wrong = |what: &str| {
            let all = ran.all();
            Err(format!(
                "status {what} at {inbound:?} in, {outbound:?} out: {all}"
            ))
        };
        let Ok(rows) = serde_json::from_str::<Vec<serde_json::Value>>(&ran.out) else {
            return wrong("is no list");
        };
        let enforced = match (inbound, outbound) {
            (Fate::Policy(one), Fate::Policy(other)) if one == other => Some(one.to_string()),
            _ => None,
        };
        match rows.as_slice() {
            [] if (inbound, outbound) != (Fate::Open, Fate::Open) => wrong("shows nothing"),
            [] if ran.code != 0 => wrong("fails"),
            [] => Ok(()),
            [row] if row["health"] == "enforcing" => {
                if enforced.as_deref() != row["policy"]["name"].as_str() {
                    return wrong("says that it enforces");
                }
                if ran.code != 0 {
                    wrong("fails")
                } else {
                    Ok(())
                }
            }
            [_] if ran.code != 1 => wrong("does not exit with 1"),
            [_] => Ok(()),
            _ => wrong("shows several"),
        }
    }

    /// Detaches, and checks that nothing is left.
    fn clean_up(&self) -> Result<(), String> {
        expect(self.world.run(&["detach"]), "the next detach")?;
        let open = |fates| fates == (Fate::Open, Fate::Open);
        let fates = self.traffic.fates(open);
        if !open(fates) {
            return Err(format!("after the next detach packets showed {fates:?}"));
        }
        let pins = self.world.pins();
        if !pins.is_empty() || self.world.has_xdp() {
            return Err(format!(
                "after the next detach there is {pins:?} or an XDP program"
            ));
        }
        let filters = strace::tc(&self.world, &["filter", "show", "dev", "nic", "egress"]);
        let queues = strace::tc(&self.world, &["qdisc", "show", "dev", "nic"]);
        if !filters.is_empty() || queues.contains("clsact") {
            return Err(format!("after the next detach there is {filters} {queues}"));
        }
        Ok(())
    }
}

fn expect(ran: Ran, what: &str) -> Result<Ran, String> {
    match ran.code {
        0 => Ok(ran),
        _ => Err(format!("{what}: {}", ran.all())),
    }
}

/// The faults to try. They are interleaved, so that a run that reaches its time limit has tried
/// some of every kind.
fn faults(calls: &Calls, sample: Option<u32>) -> Vec<Fault> {
    let is_full = sample.is_none();
    let sample = sample.unwrap_or(0);
    let mut all = Vec::new();
    for (kind, call) in CALLS.into_iter().enumerate() {
        let count = calls.count(call);
        let chosen: Vec<u32> = match is_full {
            true => (1..=count).collect(),
            // A sample always includes the last calls of a kind: those change the kernel, the
            // earlier ones read.
            false => (1..=sample.min(count))
                .map(|i| count * i / sample.min(count))
                .collect(),
        };
        for nth in chosen {
            let rotated = ERRORS[(nth as usize + kind) % ERRORS.len()];
            for error in ERRORS {
                if error == rotated || is_full && call != "bpf" {
                    all.push(Fault { call, nth, error });
                }
            }
        }
    }
    let stride = 7;
    (0..stride)
        .flat_map(|first| all.iter().skip(first).step_by(stride).copied())
        .collect()
}

/// Tries every fault, or a sample of them, and fails with all that went wrong.
fn try_all(during: During, hook: &'static str) {
    let is_full = std::env::var_os(ALL).is_some();
    let started = Instant::now();
    let mut bench = Bench::new(during, hook);
    let calls = {
        bench.start().unwrap_or_else(|e| panic!("{e}"));
        let (ran, calls) = bench.traced(None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ran.code, 0, "{}", ran.all());
        bench.clean_up().unwrap_or_else(|e| panic!("{e}"));
        calls
    };
    let sample = match during {
        During::RunOver | During::Reload | During::Trial => SAMPLE / 2,
        _ => SAMPLE,
    };
    let faults = faults(&calls, (!is_full).then_some(sample));
    assert!(faults.len() > 5, "strace has seen {calls:?}");
    let (mut tried, mut wrong) = (0, Vec::new());
    for (i, fault) in faults.iter().enumerate() {
        if started.elapsed() > LIMIT {
            break;
        }
        let both = [Next::Apply, Next::Detach];
        // In a sample each fault is followed by only one of the two commands.
        let next = if is_full {
            &both[..]
        } else {
            &both[i % 2..=i % 2]
        };
        for next in next {
            let mut result = bench.case(*fault, *next);
            // The kernel never frees a program array if another process opens it by its id while
            // the kernel clears it. So the case is tried again: what `sgctl` itself leaks would
            // leak again.
            if matches!(&result, Err(what) if what.starts_with(strace::LEFT)) {
                bench = Bench::new(during, hook);
                result = bench.case(*fault, *next);
            }
            if let Err(what) = result {
                wrong.push(format!(
                    "{during:?} with {hook}, {} number {} fails with {}, then {next:?}: {what}",
                    fault.call, fault.nth, fault.error
                ));
                // A failed case may leave something behind, so the next one gets a fresh world.
                bench = Bench::new(during, hook);
            }
        }
        tried += 1;
    }
    println!(
        "{during:?} with {hook}: {tried} of {} faults tried",
        faults.len()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// Proves C1 and C12.
#[test]
fn a_first_apply_enforces_both_directions_or_none() {
    try_all(During::First, "tcx");
}

/// Proves C1 and C12.
#[test]
fn a_first_apply_by_a_filter_enforces_both_directions_or_none() {
    try_all(During::First, "clsact");
}

/// Proves C1 and C12.
#[test]
fn a_replacement_is_the_old_policy_or_the_new_one() {
    try_all(During::Replace, "tcx");
}

/// Proves C1 and C12.
#[test]
fn a_replacement_by_a_filter_is_the_old_policy_or_the_new_one() {
    try_all(During::Replace, "clsact");
}

/// Proves C1, C4 and C12.
#[test]
fn a_policy_on_trial_is_the_old_policy_or_the_new_one() {
    try_all(During::Trial, "tcx");
}

/// Proves C4 and C12.
#[test]
fn a_confirmation_that_fails_changes_nothing_for_packets() {
    try_all(During::Confirm, "tcx");
}

/// Proves C4 and C12.
#[test]
fn an_undo_is_the_old_policy_or_the_new_one() {
    try_all(During::Undo, "clsact");
}

/// Proves C12.
#[test]
fn a_detach_that_fails_can_be_done_again() {
    try_all(During::Detach, "tcx");
}

/// Proves C12.
#[test]
fn a_detach_of_a_filter_that_fails_can_be_done_again() {
    try_all(During::Detach, "clsact");
}

/// Proves C11.
#[test]
fn a_run_leaves_what_was_there() {
    try_all(During::Run, "tcx");
}

/// Proves C11.
#[test]
fn a_run_returns_to_the_policy_before_it() {
    try_all(During::RunOver, "tcx");
}

/// Proves C1, C11 and C12.
#[test]
fn a_reload_is_the_old_policy_or_the_new_one() {
    try_all(During::Reload, "tcx");
}

/// Proves C1, C11 and C12.
#[test]
fn a_reload_by_a_filter_is_the_old_policy_or_the_new_one() {
    try_all(During::Reload, "clsact");
}
