//! An `apply` to several interfaces that fails or is killed at any of its steps.

use sg_userspace::kernel::{detach, interfaces};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::status::Health;

use super::{UPLINKS, uplinks};
use crate::probe::{Probe, Seen};
use crate::sandbox::sandbox;

/// Proves C1 and C12 for two interfaces: where a step of `apply` fails, all directions of both run
/// one policy; where it is killed, each runs the old one or the new one, and `status` calls
/// enforcing only what is. An interface that joins never disturbs the other. The next `apply` puts
/// everything right.
#[test]
fn a_fault_at_any_step_leaves_one_policy_everywhere() {
    sandbox(|sandbox| {
        uplinks(sandbox);
        let dir = tempfile::tempdir().expect("a directory");
        let trace = dir.path().join("points");
        let policy = |name: &str, port: u16| {
            let rule = |end: &str| {
                format!("[{{protocol: udp, ports: {port}, {end}: any, action: accept}}]")
            };
            let text = format!("inbound: {}\noutbound: {}\n", rule("from"), rule("to"));
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("it can be written");
            path.display().to_string()
        };
        let (a, b) = (policy("a", 1000), policy("b", 2000));
        let run = |policy: &str, interfaces: &[&str], fault: Option<&str>| {
            let _ = std::fs::remove_file(&trace);
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sgctl"));
            command.arg("--bpffs").arg(sandbox.bpffs());
            command.args(["apply", policy, "--max-flows", "64"]);
            for name in interfaces {
                command.args(["--iface", name]);
            }
            command.env("SG_FAULT_TRACE", &trace);
            if let Some(fault) = fault {
                command.env("SG_FAULT", fault);
            }
            command.output().expect("sgctl starts")
        };
        let passed = || -> Vec<String> {
            let points = std::fs::read_to_string(&trace).expect("a build with fault points");
            points.lines().map(str::to_owned).collect()
        };
        let clean = || {
            for one in attached(sandbox.bpffs(), &Scope::Namespace).unwrap() {
                detach(sandbox.bpffs(), &one.pins).unwrap_or_else(|e| panic!("{e}"));
            }
            sg_userspace::kernel::tidy_up(sandbox.bpffs()).unwrap();
            assert!(!sandbox.pins().exists(), "pins are left");
        };
        const BOTH: [&str; 2] = ["up0", "up1"];
        let mut probes = UPLINKS.map(|(near, far)| Probe::new(near, far));
        // The policy and the interfaces before, and the policy that is applied to both.
        let scenarios: [(&str, &[&str], &str); 3] =
            [(&a, &BOTH, &b), (&a, &["up0"], &a), (&a, &["up0"], &b)];
        for (number, (before, on, next)) in scenarios.into_iter().enumerate() {
            let set_up = || assert!(run(before, on, None).status.success());
            set_up();
            assert!(run(next, &BOTH, None).status.success());
            let points = passed();
            assert!(points.len() > 40, "{points:?}");
            clean();
            // A sample, of other points for each scenario.
            let every = 17;
            for (at, point) in points.iter().enumerate().skip(number).step_by(every) {
                let kind = ["fail", "kill"][(at / every) % 2];
                set_up();
                let output = run(next, &BOTH, Some(&format!("{kind}:{point}")));
                let error = String::from_utf8_lossy(&output.stderr);
                let when = format!("{on:?}, {kind} {point}: {} {error}", output.status);
                let seen = [probes[0].look(), probes[1].look()];
                let when = format!("{when} {seen:?}");
                let joins = on.len() == 1;
                for (interface, seen) in seen.iter().enumerate() {
                    let allowed: &[Seen] = match interface {
                        1 if joins => &[Seen::Open, Seen::A, Seen::B],
                        0 if before == next => &[Seen::A],
                        _ => &[Seen::A, Seen::B],
                    };
                    assert!(seen.iter().all(|seen| allowed.contains(seen)), "{when}");
                    if kind == "fail" {
                        assert_eq!(seen[0], seen[1], "{when}: half of a policy");
                    }
                }
                if kind == "fail" && !(joins && seen[1] == [Seen::Open; 2]) {
                    assert_eq!(seen[0], seen[1], "{when}: two policies");
                }
                let rows = attached(sandbox.bpffs(), &Scope::Namespace).unwrap();
                let enforcing = rows.iter().filter(|one| {
                    one.state.is_ok()
                        && one
                            .status()
                            .is_ok_and(|row| row.health == Health::Enforcing)
                });
                let enforcing: Vec<u32> = enforcing.map(|one| one.pins.ifindex).collect();
                for (interface, seen) in BOTH.iter().zip(&seen) {
                    let index = interfaces::index_of(interface).unwrap();
                    let is_one = seen[0] == seen[1] && seen[0] != Seen::Open;
                    assert!(
                        is_one || !enforcing.contains(&index),
                        "{when}: {enforcing:?}"
                    );
                }
                if enforcing.len() == 2 {
                    assert_eq!(seen[0], seen[1], "{when}: both are called enforcing");
                }
                let again = run(&b, &BOTH, None);
                let error = String::from_utf8_lossy(&again.stderr);
                assert!(again.status.success(), "{when}: then {error}");
                for probe in &mut probes {
                    assert_eq!(probe.look(), [Seen::B; 2], "{when}: then");
                }
                clean();
            }
        }
    });
}
