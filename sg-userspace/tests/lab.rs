//! Runs the real lab: it agrees with the policies, it reports a difference that a test makes on
//! purpose, and it leaves nothing behind, even if it is killed. Needs root, as the enforcer does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_policy::policy::{Policy, PolicyInput, load, rules_from_lines};
use sg_testbed::mounts;
use sg_userspace::kernel::EgressHook;
use sg_userspace::observe::attached::{Scope, attached};

// The lab belongs to the binary, which no test can import: its files are compiled into the test.
#[allow(
    dead_code,
    unused_imports,
    reason = "the test does not print reports or exit with codes"
)]
#[path = "../src/lab/mod.rs"]
mod lab;
// Its own tests begin with these.
#[path = "../src/fixtures.rs"]
mod fixtures;

use lab::{AnswerBy, Attempt, Options, Report};

/// The bound for what usually takes a second or two. Emulated and busy processors take much longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn policy(input: &str, sets: &[&str]) -> Policy {
    let sets: Vec<_> = sets.iter().map(|s| s.parse().unwrap()).collect();
    load(&[PolicyInput::from(input)], &sets).unwrap().policy
}

fn try_out(policy: Policy) -> Report {
    lab::run(&Options::new(policy)).unwrap()
}

/// The only attempt with this text, for example `outside node tcp 22`. An address may stand for a
/// name.
fn find<'a>(report: &'a Report, text: &str) -> &'a Attempt {
    let words: Vec<&str> = text.split(' ').collect();
    let is_end = |word: &str, name: &str, address: &str| word == name || word == address;
    let mut found = report.attempts.iter().filter(|a| {
        is_end(words[0], &a.from, &a.from_address)
            && is_end(words[1], &a.to, &a.to_address)
            && words[2] == a.transport.name()
            && words.get(3).map(|port| port.parse().unwrap()) == a.port
    });
    let attempt = found.next().unwrap_or_else(|| panic!("no {text}"));
    assert!(found.next().is_none(), "more than one {text}");
    attempt
}

#[track_caller]
fn check(report: &Report, text: &str, got: &str, position: Option<u32>) {
    let attempt = find(report, text);
    assert_eq!(attempt.got.name(), got, "{text}");
    assert_eq!(
        attempt.rule.as_ref().map(|r| r.position),
        position,
        "{text}"
    );
}

fn accepted(report: &Report) -> usize {
    report
        .attempts
        .iter()
        .filter(|a| a.got.name() == "accept")
        .count()
}

#[track_caller]
fn assert_gone(programs: &[u32]) {
    let deadline = Instant::now() + PATIENCE;
    let is_left = || {
        let mut loaded = loaded_programs().filter_map(Result::ok);
        loaded.any(|p| programs.contains(&p.id()))
    };
    while is_left() {
        assert!(Instant::now() < deadline, "programs {programs:?} are left");
        sleep(Duration::from_millis(10));
    }
}

fn names_in(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Proves P7 and K6: a person has checked this table against that of P7.
#[test]
fn the_recommended_policy_does_what_its_table_says() {
    let started = Instant::now();
    let report = try_out(policy("builtin:tke", &[]));
    assert!(started.elapsed() < PATIENCE);
    assert!(report.ok, "{:#?}", report.differences);
    assert!(report.differences.is_empty());

    check(&report, "outside node tcp 22", "accept", Some(6));
    check(&report, "outside node tcp 30080", "accept", Some(1));
    check(&report, "outside node tcp 3306", "drop", Some(7));
    check(&report, "outside node tcp 32768", "accept", Some(1));
    check(&report, "outside node udp 30053", "accept", Some(2));
    check(&report, "outside node udp 53", "drop", Some(7));
    check(&report, "outside node icmp", "drop", Some(7));
    check(&report, "inside node tcp 3306", "accept", Some(3));
    check(&report, "inside node icmp", "accept", Some(3));
    check(&report, "2001:db8::10 node tcp 22", "drop", None);
    check(&report, "fd00:db8::10 node icmpv6", "drop", None);
    for what in ["tcp 443", "tcp 25", "udp 53", "icmp"] {
        let text = format!("node outside {what}");
        check(&report, &text, "accept", Some(1));
        assert_eq!(
            find(&report, &text).answer,
            Some(AnswerBy::FlowTable),
            "{text}"
        );
    }
    let outbound = &report.counters.rules[7];
    assert_eq!(outbound.direction.name(), "outbound");
    assert!(outbound.reply_packets >= 4, "{outbound:?}");
}

/// Proves P2: a policy without rules denies everything.
#[test]
fn a_policy_without_rules_lets_nothing_through() {
    let report = try_out(rules_from_lines(""));
    assert!(report.ok, "{:#?}", report.differences);
    assert_eq!(accepted(&report), 0);
    assert!(
        report
            .attempts
            .iter()
            .all(|a| a.reason.name() == "no-match")
    );
}

#[test]
fn sets_given_on_the_command_line_reach_the_packets() {
    let report = try_out(policy("builtin:tke-minimal", &["admin=203.0.113.10"]));
    assert!(report.ok, "{:#?}", report.differences);
    check(&report, "outside node tcp 22", "accept", Some(6));
    check(&report, "2001:db8::10 node tcp 22", "drop", None);
    check(&report, "fd00:db8::10 node tcp 3306", "accept", Some(1));
    check(&report, "node outside tcp 25", "drop", None);

    let report = try_out(policy("builtin:tke-minimal", &["node-ports="]));
    assert!(report.ok, "{:#?}", report.differences);
    check(&report, "outside node tcp 22", "drop", None);
    check(&report, "outside node tcp 30080", "drop", None);
}

/// Proves P7: each template with real traffic, from hosts in its own sets and from strangers.
#[test]
fn templates_do_what_their_sets_say() {
    for (name, rows) in [
        (
            "web",
            &[
                ("clients node tcp 443", "accept"),
                ("clients node tcp 22", "drop"),
                ("198.51.100.7 node tcp 22", "accept"),
                ("198.51.100.7 node tcp 80", "drop"),
                ("2001:db8::10 node tcp 443", "drop"),
                ("fd00:30::1 node icmpv6", "accept"),
                ("node backends tcp 5432", "accept"),
                ("node updates tcp 443", "accept"),
                ("node outside tcp 443", "drop"),
            ][..],
        ),
        (
            "bastion",
            &[
                ("198.51.100.7 node tcp 22", "accept"),
                ("2001:db8:10::7 node tcp 22", "accept"),
                ("outside node tcp 22", "drop"),
                ("10.0.0.7 node tcp 22", "drop"),
                ("node 10.0.0.7 tcp 22", "accept"),
                ("node outside tcp 443", "drop"),
            ],
        ),
        (
            "database",
            &[
                ("10.60.0.7 node tcp 5432", "accept"),
                ("fd00:60::7 node tcp 5432", "accept"),
                ("10.60.0.7 node tcp 22", "drop"),
                ("outside node tcp 5432", "drop"),
                ("node replicas tcp 5432", "accept"),
                ("node 10.60.0.7 tcp 5432", "drop"),
            ],
        ),
        (
            "control-plane",
            &[
                ("10.0.0.10 node tcp 2379", "accept"),
                ("10.0.1.7 node tcp 2379", "drop"),
                ("10.0.1.7 node tcp 6443", "accept"),
                ("10.0.1.7 node udp 8472", "accept"),
                ("pods node tcp 6443", "accept"),
                ("pods node tcp 10250", "drop"),
                ("outside node tcp 6443", "drop"),
                ("node 10.0.1.7 tcp 10250", "accept"),
            ],
        ),
        (
            "worker",
            &[
                ("10.0.1.7 node tcp 30000", "accept"),
                ("control-plane node tcp 10250", "accept"),
                ("balancers node tcp 10256", "accept"),
                ("balancers node tcp 10250", "drop"),
                ("outside node tcp 10250", "drop"),
                ("node control-plane tcp 6443", "accept"),
                ("node external tcp 443", "accept"),
            ],
        ),
    ] {
        let scenario = sg_policy::policy::builtin(name).unwrap().scenario;
        let report = try_out(policy(&format!("builtin:{name}"), scenario));
        assert!(report.ok, "{name}: {:#?}", report.differences);
        for (text, got) in rows {
            assert_eq!(find(&report, text).got.name(), *got, "{name}: {text}");
        }
    }
}

/// Shows that the comparison can fail, since the tests above would prove nothing otherwise.
#[test]
fn what_differs_is_reported() {
    let open = rules_from_lines("in all from any accept\nout all to any accept");
    let mut options = Options::new(open.clone());
    options.expect = Some(rules_from_lines(""));
    let report = lab::run(&options).unwrap();
    assert!(!report.ok);
    assert_eq!(accepted(&report), report.attempts.len());
    assert_eq!(report.differences.len(), report.attempts.len());
    let first = &report.differences[0];
    let expected = "outside 203.0.113.10 to node 10.10.0.2, tcp 22: it got through, but the policy \
                    says drop (inbound no-match)";
    assert_eq!(first, expected);

    let mut options = Options::new(rules_from_lines("in all from 10.0.0.0/8 accept"));
    options.expect = Some(open);
    let report = lab::run(&options).unwrap();
    assert!(!report.ok);
    let is_reported = |text: &str| report.differences.iter().any(|d| d.contains(text));
    assert!(is_reported(
        "icmpv6: nothing came back, but the policy says accept"
    ));
    assert!(
        !is_reported("inside 10.20.0.10 to node"),
        "{:#?}",
        report.differences
    );

    // Another rule gives the same verdicts, so only the counters show the difference.
    let twice = "in tcp 1 from any accept\nin all from any accept\nout all to any accept";
    let mut options = Options::new(policy_of_one_rule_each());
    options.expect = Some(rules_from_lines(twice));
    let report = lab::run(&options).unwrap();
    assert!(report.attempts.iter().all(|a| a.as_policy_says));
    let expected = "inbound rule 2 decided 28 attempts but counted 0 packets";
    assert_eq!(report.differences, [expected]);
}

fn policy_of_one_rule_each() -> Policy {
    rules_from_lines("in all from any accept\nout all to any accept")
}

#[test]
fn nothing_is_left_behind() {
    alone(|| {
        let mounts = || {
            let all = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            all.lines().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let (names, mounted) = (names_in(Path::new("/run/netns")), mounts());
        let report = try_out(policy("builtin:tke", &[]));
        assert_gone(&[
            report.enforcer.inbound_program,
            report.enforcer.outbound_program,
        ]);
        assert_eq!(names_in(Path::new("/run/netns")), names);
        // What others have mounted may go meanwhile: they remove the folder under the mount.
        let more: Vec<_> = mounts().difference(&mounted).cloned().collect();
        assert_eq!(more, Vec::<String>::new());
    });
}

/// Runs `test` in a mount namespace of its own, where the namespaces and mounts of other tests do
/// not appear.
fn alone(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let none: Option<&str> = None;
            mounts::make_private().unwrap();
            mount(none, "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            std::fs::create_dir("/run/netns").unwrap();
            test();
        });
        thread
            .join()
            .unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
}

#[test]
fn nothing_is_left_behind_when_it_is_killed() {
    // SIGTERM ends the lab as Ctrl-C does. SIGINT would be ignored if the tests run as a background
    // job of a shell.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sgctl"))
            .arg("lab")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let programs = programs_of(&mut child);
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert!(!child.wait().unwrap().success(), "{signal} came too late");
        assert_gone(&programs);
    }
}

/// The programs that the child's lab has attached. Waits until it has.
fn programs_of(child: &mut Child) -> Vec<u32> {
    let deadline = Instant::now() + PATIENCE;
    let mounts_of = |thread: &Path| std::fs::read_link(thread.join("ns/mnt")).ok();
    let own = mounts_of(Path::new("/proc/self"));
    while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
        // Only the lab's own threads are in its mount namespace.
        for thread in names_in(&PathBuf::from(format!("/proc/{}/task", child.id()))) {
            if mounts_of(&thread) == own {
                continue;
            }
            let found = attached(&thread.join("root/sys/fs"), &Scope::Machine);
            let states = found.unwrap_or_default().into_iter();
            let state = states
                .filter_map(|a| a.state.ok())
                .find(|s| s.interface == "eth0");
            // The record has the hooks only after both programs are attached.
            if let Some(state) = state.filter(|s| s.egress_hook != EgressHook::Auto) {
                return vec![state.inbound_program, state.outbound_program];
            }
        }
        sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("the child attached nothing");
}
