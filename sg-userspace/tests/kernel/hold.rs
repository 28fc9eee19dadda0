//! An interface that has just appeared is held at either hook, until its policy is in force: by the
//! library, and by `run --wait`, which is killed meanwhile, or timed. What a killed one leaves is
//! said and removed.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::hold::Hold;
use sg_userspace::kernel::{ApplyOptions, EgressHook, apply, detach, interfaces, netns};

use crate::frames::frame;
use crate::hosts::{Host, address, is_kept_out, listen, reaches};
use crate::sandbox::{RawSender, Sandbox, run, sandbox, silent_and_up};
use crate::seed::{NODE4, Node, PEER4, at};
use crate::support::egress_hooks;
use crate::watching::only;

const PATIENCE: Duration = Duration::from_secs(60);

/// How often an interface appears that is timed. The shortest time is the one least disturbed by
/// other processes.
const TIMES: usize = 5;

/// What the shortest time must not exceed, also on a busy machine and an emulated processor. On a
/// quiet one it is a small part of that.
const SOON: Duration = Duration::from_secs(1);

/// Nothing else passes outbound.
const POLICY: &str = "name: late\n\
    inbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n\
    outbound: [{protocol: tcp, ports: 443, to: any, action: accept}]\n";

/// Proves C11 and K12: nothing passes a held interface in either direction. Then the policy is in
/// force, and a connection from before goes on under it, although no program has remembered
/// anything.
#[test]
fn nothing_passes_a_held_interface_and_connections_go_on_after_it() {
    for hook in egress_hooks() {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            let before = node.inbound(NODE4);
            let index = interfaces::index_of("nic").unwrap();
            let hold = Hold::place(index, *hook).unwrap_or_else(|e| panic!("{hook:?}: {e}"));
            let (to_node, to_peer) = (at(NODE4, 22), at(PEER4, 443));
            assert!(node.peer.inside(|| is_kept_out(&to_node)), "{hook:?}");
            assert!(is_kept_out(&to_peer), "{hook:?}");
            let policy = rules_from_lines("out tcp 443 to any accept");
            let options = ApplyOptions {
                egress_hook: *hook,
                held: vec!["nic".to_owned()],
                ..sandbox.options("nic")
            };
            apply(&policy, &options).unwrap_or_else(|e| panic!("{hook:?}: {e}"));
            hold.let_pass();
            before.goes_on();
            assert!(reaches(&to_peer), "{hook:?}");
            assert!(node.peer.inside(|| is_kept_out(&to_node)), "{hook:?}");
            end(sandbox, "nic");
        });
    }
}

/// What lets everything pass does so before it is gone.
#[test]
fn a_hold_lets_pass_before_it_ends() {
    for hook in egress_hooks() {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let index = interfaces::index_of("sg0").unwrap();
            let sender = RawSender::new("sg0");
            let passes = || sender.send(frame("udp 192.0.2.1:5000 > 198.51.100.7:53").bytes());
            let hold = Hold::place(index, *hook).unwrap_or_else(|e| panic!("{hook:?}: {e}"));
            assert!(!passes(), "{hook:?}");
            hold.let_pass();
            assert!(passes(), "{hook:?}");
            drop(hold);
            assert!(passes() && !has_qdisc("sg0"), "{hook:?}");
        });
    }
}

/// A hold that is not followed by a policy ends without a trace, and leaves what others have there.
#[test]
fn a_hold_that_ends_leaves_what_it_found() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let index = interfaces::index_of("sg0").unwrap();
        let sender = RawSender::new("sg0");
        let passes = || sender.send(frame("udp 192.0.2.1:5000 > 198.51.100.7:53").bytes());
        for _ in 0..2 {
            let hold = Hold::place(index, EgressHook::Clsact).unwrap();
            assert!(has_qdisc("sg0") && !passes());
            drop(hold);
            assert!(!has_qdisc("sg0") && passes());
        }
        // A qdisc that was there before stays.
        run("tc", &["qdisc", "add", "dev", "sg0", "clsact"]);
        let hold = Hold::place(index, EgressHook::Clsact).unwrap();
        assert!(!passes());
        drop(hold);
        assert!(has_qdisc("sg0") && passes());
        assert_eq!(filters("sg0"), "");
    });
}

/// Proves C11: a hold ends with its process, however that ends. What a filter leaves there goes
/// with the next policy, whose own qdisc goes with it.
#[test]
fn a_hold_ends_with_a_process_that_is_killed() {
    for hook in egress_hooks() {
        sandbox(|sandbox| {
            let waiting = Waiting::start(sandbox, *hook, Some("kill:before loading the programs"));
            let (here, peer) = (Host::here(), Host::new());
            here.join("late", &peer, "eth0");
            silent_and_up("late");
            let listener = peer.inside(|| {
                silent_and_up("eth0");
                address("eth0", &format!("{PEER4}/24"));
                listen(&at(PEER4, 80))
            });
            address("late", &format!("{NODE4}/24"));
            waiting.says("late has appeared, and nothing passes until");
            waiting.ends_by_the_fault();
            let to_peer = at(PEER4, 80);
            assert!(reaches(&to_peer), "{hook:?}");
            drop(listener);
            let is_filter = *hook == EgressHook::Clsact;
            assert_eq!(filters("late").contains("sg_hold"), is_filter);
            let options = ApplyOptions {
                egress_hook: *hook,
                ..sandbox.options("late")
            };
            let policy = rules_from_lines("in tcp 22 from any accept");
            apply(&policy, &options).unwrap_or_else(|e| panic!("{hook:?}: {e}"));
            assert!(!filters("late").contains("sg_hold"));
            assert!(is_kept_out(&to_peer), "{hook:?}");
            end(sandbox, "late");
        });
    }
}

/// Proves C12: what a killed process has left is not taken for enforcement, and goes.
#[test]
fn what_a_killed_process_leaves_is_said_and_removed() {
    sandbox(|sandbox| {
        let kept = killed_while_it_holds(sandbox, "kill:before loading the programs");
        let passes = || {
            let sender = RawSender::new("late");
            sender.send(frame("udp 192.0.2.1:5000 > 198.51.100.7:53").bytes())
        };
        assert!(filters("late").contains("sg_hold") && passes());
        for scope in [&["status"][..], &["status", "--iface", "la*"]] {
            let (code, out, err) = sgctl(sandbox, scope);
            assert!(code == Some(1) && out.contains("left behind"), "{out}{err}");
            assert_eq!(err.matches("left filters on `late`").count(), 1, "{err}");
            let bpffs = sandbox.bpffs().display();
            let remedy = format!("`sgctl --bpffs {bpffs} detach --iface late`");
            assert!(err.contains(&remedy), "{err}");
        }
        let (code, out, _) = sgctl(sandbox, &["status", "--json"]);
        let rows: serde_json::Value = serde_json::from_str(&out).expect("it is JSON");
        let expected = serde_json::json!([{
            "interface": "late", "ifindex": interfaces::index_of("late").unwrap(), "netns": null,
            "netns_cookie": netns::cookie().unwrap(), "health": "left-behind",
            "reason": "a `sgctl run` that was killed has left filters on `late`, which let everything \
                       pass; no policy is in force there",
        }]);
        assert_eq!((code, &rows), (Some(1), &expected), "{out}");
        let (code, out, err) = sgctl(sandbox, &["detach", "--iface", "late"]);
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(
            out.contains("a `sgctl run` that was killed has left on late"),
            "{out}"
        );
        assert!(!has_qdisc("late") && passes());
        let (code, out, err) = sgctl(sandbox, &["status"]);
        assert_eq!((code, &*out), (Some(0), "nothing is attached\n"), "{err}");
        drop(kept);
    });
}

/// Killed at any step of a hold, a process leaves nothing, or what `detach` removes.
#[test]
fn killed_at_any_step_it_leaves_what_can_be_removed() {
    for step in [
        "adding the filters of a hold",
        "deleting the filters of a hold",
    ] {
        for moment in ["before", "after"] {
            sandbox(|sandbox| {
                let kept = killed_while_it_holds(sandbox, &format!("kill:{moment} {step}"));
                let there = filters("late");
                let (_, status, _) = sgctl(sandbox, &["status"]);
                let has_left = (moment, step.starts_with("adding"));
                match has_left {
                    ("before", true) => assert!(!has_qdisc("late"), "{there}"),
                    (_, true) => assert!(status.contains("left behind"), "{status}"),
                    // The policy is in force by then.
                    (_, false) => assert!(status.contains("enforcing"), "{status}"),
                }
                let is_left = matches!(has_left, ("after", true) | ("before", false));
                assert_eq!(
                    there.contains("sg_hold"),
                    is_left,
                    "{moment} {step}: {there}"
                );
                sgctl(sandbox, &["detach"]);
                assert!(!has_qdisc("late"), "{moment} {step}: {}", filters("late"));
                drop(kept);
            });
        }
    }
}

/// Where the policy was in force already, the same one again removes what was left.
#[test]
fn the_same_policy_again_removes_what_was_left_behind_it() {
    sandbox(|sandbox| {
        let fault = "kill:before deleting the filters of a hold";
        let kept = killed_while_it_holds(sandbox, fault);
        assert!(filters("late").contains("sg_hold"));
        let policy = kept.policy.path().join("late.yaml").display().to_string();
        let words = ["apply", &policy, "--iface", "late", "--trust-files"];
        let (code, out, err) = sgctl(sandbox, &words);
        assert!(code == Some(0) && out.contains("unchanged"), "{out}{err}");
        assert!(!filters("late").contains("sg_hold"));
        end(sandbox, "late");
    });
}

/// A hold whose process is alive is none that was left.
#[test]
fn a_hold_is_not_removed_by_others() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let index = interfaces::index_of("sg0").unwrap();
        let sender = RawSender::new("sg0");
        let passes = || sender.send(frame("udp 192.0.2.1:5000 > 198.51.100.7:53").bytes());
        let hold = Hold::place(index, EgressHook::Clsact).unwrap();
        for command in ["status", "detach"] {
            let (code, out, err) = sgctl(sandbox, &[command]);
            assert_eq!((code, &*out), (Some(0), "nothing is attached\n"), "{err}");
        }
        assert!(!passes());
        drop(hold);
        assert!(passes());
    });
}

/// Another tool's filter in the place of a hold stays, and nothing is said to be held.
#[test]
fn a_hold_takes_no_place_of_others() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let index = interfaces::index_of("sg0").unwrap();
        run("tc", &["qdisc", "add", "dev", "sg0", "ingress"]);
        assert!(Hold::place(index, EgressHook::Clsact).is_err());
        run("tc", &["qdisc", "del", "dev", "sg0", "ingress"]);
        // Their filter has the preference and the handle of a hold's.
        let hold = Hold::place(index, EgressHook::Clsact).unwrap();
        let theirs = filters("sg0");
        drop(hold);
        assert!(
            theirs.contains("pref 2") && theirs.contains("handle 0x2"),
            "{theirs}"
        );
        run("tc", &["qdisc", "add", "dev", "sg0", "clsact"]);
        let add = "filter add dev sg0 egress pref 2 handle 2 bpf bytecode";
        let words: Vec<&str> = add.split(' ').chain(["1,6 0 0 0,"]).collect();
        run("tc", &words);
        let theirs = filters("sg0");
        assert!(Hold::place(index, EgressHook::Clsact).is_err());
        assert_eq!(filters("sg0"), theirs);
    });
}

/// Without --iface and --netns, namespaces with a name are looked at as well.
#[test]
fn what_is_left_in_a_namespace_with_a_name_is_found() {
    sandbox(|sandbox| {
        let kept = killed_while_it_holds(sandbox, "kill:before loading the programs");
        // Named in the sandbox's mount namespace alone.
        std::fs::create_dir_all("/run/netns").expect("root may make it");
        run("mount", &["-t", "tmpfs", "names", "/run/netns"]);
        let id = gettid().to_string();
        run("ip", &["netns", "attach", "node9", &id]);
        let elsewhere = |words: &[&str]| {
            let inside = Host::new();
            inside.inside(|| sgctl(sandbox, words))
        };
        let (code, out, err) = elsewhere(&["status"]);
        assert!(code == Some(1) && out.contains("node9"), "{out}{err}");
        let bpffs = sandbox.bpffs().display();
        let remedy = format!("`sgctl --bpffs {bpffs} --netns node9 detach --iface late`");
        assert!(err.contains(&remedy), "{err}");
        let (code, out, err) = elsewhere(&["detach"]);
        assert!(
            code == Some(0) && out.contains("in namespace node9"),
            "{out}{err}"
        );
        assert!(!has_qdisc("late"));
        drop(kept);
    });
}

/// From the moment at which an interface is made until it passes no packet that was not judged, and
/// until its policy is in force: the shortest times of some.
pub(crate) fn times_of_an_appearance() -> [Duration; 2] {
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..TIMES {
        sandbox(|sandbox| {
            let waiting = Waiting::start(sandbox, EgressHook::Auto, None);
            let (here, peer) = (Host::here(), Host::new());
            let appeared = Instant::now();
            here.join("late", &peer, "eth0");
            silent_and_up("late");
            peer.inside(|| silent_and_up("eth0"));
            let sender = RawSender::new("late");
            let udp = frame("udp 192.0.2.1:5000 > 198.51.100.7:53");
            while sender.send(udp.bytes()) {
                assert!(appeared.elapsed() < PATIENCE, "everything passes");
                std::thread::sleep(Duration::from_micros(500));
            }
            let held = appeared.elapsed();
            waiting.says("in force on late");
            let times = [held, appeared.elapsed()];
            assert!(!sender.send(udp.bytes()));
            waiting.ends();
            for (shortest, time) in shortest.iter_mut().zip(times) {
                *shortest = time.min(*shortest);
            }
        });
    }
    assert!(shortest[0] < SOON, "{shortest:?}");
    shortest
}

/// What outlives a `run` that was killed while it held the interface `late` by filters.
struct Kept {
    _peer: Host,
    policy: tempfile::TempDir,
}

/// Makes the interface `late`, for which a `run` waits that the fault kills.
fn killed_while_it_holds(sandbox: &Sandbox, fault: &str) -> Kept {
    let waiting = Waiting::start(sandbox, EgressHook::Clsact, Some(fault));
    let (here, peer) = (Host::here(), Host::new());
    here.join("late", &peer, "eth0");
    silent_and_up("late");
    peer.inside(|| silent_and_up("eth0"));
    let policy = waiting.ends_by_the_fault();
    Kept {
        _peer: peer,
        policy,
    }
}

/// Runs `sgctl` in the sandbox. Returns its exit code and what it has printed.
fn sgctl(sandbox: &Sandbox, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sgctl"));
    command.arg("--bpffs").arg(sandbox.bpffs()).args(words);
    let done = command.output().expect("sgctl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

fn has_qdisc(interface: &str) -> bool {
    run("tc", &["qdisc", "show", "dev", interface]).contains("clsact")
}

/// The filters of both directions.
fn filters(interface: &str) -> String {
    if !has_qdisc(interface) {
        return String::new();
    }
    let of = |hook| run("tc", &["filter", "show", "dev", interface, hook]);
    of("ingress") + &of("egress")
}

/// Ends enforcement, after which there is neither a filter nor a qdisc.
fn end(sandbox: &Sandbox, interface: &str) {
    let pins = only(sandbox, interface).pins;
    detach(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
    assert!(!has_qdisc(interface), "{}", filters(interface));
}

/// A `run` that waits for the interface `late`.
struct Waiting {
    child: Child,
    policy: Option<tempfile::TempDir>,
    lines: RefCell<BufReader<ChildStdout>>,
}

impl Waiting {
    fn start(sandbox: &Sandbox, hook: EgressHook, fault: Option<&str>) -> Waiting {
        let folder = tempfile::tempdir().expect("a folder for the policy");
        let policy = folder.path().join("late.yaml");
        std::fs::write(&policy, POLICY).expect("it can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sgctl"));
        command.arg("--bpffs").arg(sandbox.bpffs()).arg("run");
        command.arg(&policy).args(["--iface", "late", "--wait"]);
        let hook = hook.name();
        if !hook.is_empty() {
            command.args(["--egress-hook", hook]);
        }
        command.envs(fault.map(|fault| ("SG_FAULT", fault)));
        // On a guest's serial port what it says there would be in the middle of the tests' lines.
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sgctl runs");
        let out = child.stdout.take().expect("it is piped");
        let waiting = Waiting {
            child,
            policy: Some(folder),
            lines: BufReader::new(out).into(),
        };
        waiting.says("waiting for late");
        waiting
    }

    /// Waits for a line that contains `words`.
    #[track_caller]
    fn says(&self, words: &str) {
        let mut seen = String::new();
        loop {
            let before = seen.len();
            let read = self.lines.borrow_mut().read_line(&mut seen);
            if read.expect("it is text") == 0 {
                panic!("`{words}` was not said, only {seen}");
            }
            if seen[before..].contains(words) {
                return;
            }
        }
    }

    /// Waits until the fault has killed it. Returns the folder of its policy.
    fn ends_by_the_fault(mut self) -> tempfile::TempDir {
        let status = self.child.wait().expect("it is our child");
        assert!(!status.success(), "{status}");
        self.policy.take().expect("it is there until the end")
    }

    fn ends(mut self) {
        let id = Pid::from_raw(self.child.id() as i32);
        kill(id, Signal::SIGTERM).expect("it runs");
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It still runs only if the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
