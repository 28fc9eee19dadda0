//! What is refused, with which message, and that it changes nothing. Also several writers at the
//! same time.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sg_policy::policy::rules_from_lines;
use sg_testbed::{Mount, Namespace};
use sg_userspace::kernel::netns::{self, Netns};
use sg_userspace::kernel::{ApplyOptions, KernelError, apply, detach, interfaces};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::counters::counters;
use sg_userspace::observe::status::Health;

use crate::sandbox::sandbox;
use crate::support::rounds;
use crate::watching::{NODE, apply_rules, only};

#[test]
fn another_xdp_program_is_named_and_left_alone() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let index = interfaces::index_of("sg0").unwrap();
        let theirs = interfaces::xdp_program(index).unwrap();
        // Another program's attachment: its pins are on another BPF file system.
        let other = tempfile::tempdir().unwrap();
        let mount = Mount::bpffs(other.path()).unwrap();
        let options = ApplyOptions {
            bpffs: other.path().to_owned(),
            ..sandbox.options("sg0")
        };
        let error = apply(&rules_from_lines(NODE), &options).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(
            matches!(&error, KernelError::OtherXdp { program, .. } if program == "sg_inbound"),
            "{error}"
        );
        assert!(!other.path().join("sgctl").exists());
        assert_eq!(interfaces::xdp_program(index).unwrap(), theirs);
        drop(mount);
    });
}

#[test]
fn pins_of_another_layout_are_refused() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let index = interfaces::index_of("sg0").unwrap();
        let theirs = sandbox
            .pins()
            .join("v0")
            .join(netns::cookie().unwrap().to_string())
            .join(index.to_string());
        std::fs::create_dir_all(&theirs).unwrap();
        let error = apply(&rules_from_lines(NODE), &sandbox.options("sg0")).unwrap_err();
        assert!(
            matches!(&error, KernelError::OtherLayout { found, .. } if found == "0"),
            "{error}"
        );
        assert!(theirs.exists());
        assert_eq!(interfaces::xdp_program(index).unwrap(), None);
    });
}

#[test]
fn a_pinned_map_of_another_shape_is_refused() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let pins = only(sandbox, "sg0").pins;
        // Puts the map of the state record in the place of the flow table.
        let map = aya::maps::MapData::from_pin(pins.state()).unwrap();
        std::fs::remove_file(pins.flow_tags()).unwrap();
        map.pin(pins.flow_tags()).unwrap();
        let before = only(sandbox, "sg0").status().unwrap();
        let error = apply(
            &rules_from_lines("in tcp 1 from any accept"),
            &sandbox.options("sg0"),
        );
        let error = error.unwrap_err();
        assert!(matches!(&error, KernelError::OtherMap { .. }), "{error}");
        let after = only(sandbox, "sg0").status().unwrap();
        assert_eq!(
            after.policy.digest, before.policy.digest,
            "nothing has changed"
        );
        assert_eq!(after.health, Health::Enforcing);
    });
}

#[test]
fn a_damaged_state_record_is_an_error_until_detached() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, NODE, &options);
        let pins = only(sandbox, "sg0").pins;
        // Another map in the record's place is read as a record that was cut off before its first
        // byte.
        std::fs::remove_file(pins.state()).unwrap();
        aya::maps::MapData::from_pin(pins.flow_tags())
            .unwrap()
            .pin(pins.state())
            .unwrap();
        let running = interfaces::xdp_program(pins.ifindex).unwrap();
        for error in [
            apply(&rules_from_lines(NODE), &options).unwrap_err(),
            counters(&only(sandbox, "sg0")).unwrap_err(),
        ] {
            assert!(
                matches!(&error, KernelError::DamagedState { .. }),
                "{error}"
            );
            assert_eq!(error.exit_code(), 1);
        }
        assert_eq!(interfaces::xdp_program(pins.ifindex).unwrap(), running);
        detach(sandbox.bpffs(), &pins).unwrap();
        apply_rules(sandbox, NODE, &options);
        assert_eq!(
            only(sandbox, "sg0").status().unwrap().health,
            Health::Enforcing
        );
    });
}

#[test]
fn a_policy_that_does_not_fit_changes_nothing() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let mut options = sandbox.options("sg0");
        options.budget.table_bytes = 64;
        let error = apply(&rules_from_lines(NODE), &options).unwrap_err();
        assert!(matches!(error, KernelError::TooLarge(_)), "{error}");
        assert!(!sandbox.pins().exists(), "nothing was pinned");
        assert_eq!(
            interfaces::xdp_program(interfaces::index_of("sg0").unwrap()).unwrap(),
            None
        );
    });
}

#[test]
fn an_unknown_interface_is_named_with_those_there_are() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let error = apply(&rules_from_lines(NODE), &sandbox.options("eth9")).unwrap_err();
        let KernelError::NoInterface { name, known } = &error else {
            panic!("{error}");
        };
        assert_eq!(name, "eth9");
        assert!(known.contains("sg0"), "{known}");
        assert!(!sandbox.pins().exists());
    });
}

#[test]
fn interfaces_of_one_name_in_two_namespaces_do_not_collide() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply_rules(sandbox, NODE, &sandbox.options("sg0"));
        let bpffs = sandbox.bpffs().to_owned();
        let here = netns::cookie().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                Namespace::enter_new().unwrap();
                assert_ne!(netns::cookie().unwrap(), here);
                sandbox.veth("sg0", "sg1");
                apply_rules(sandbox, "in tcp 1 from any accept", &sandbox.options("sg0"));
                assert_eq!(only(sandbox, "sg0").status().unwrap().rules, 1);
                assert_eq!(attached(&bpffs, &Scope::Namespace).unwrap().len(), 1);
                assert_eq!(attached(&bpffs, &Scope::Machine).unwrap().len(), 2);
                detach(&bpffs, &only(sandbox, "sg0").pins).unwrap();
            });
        });
        assert_eq!(only(sandbox, "sg0").status().unwrap().rules, 4);
    });
}

#[test]
fn a_namespace_that_does_not_exist_is_an_error() {
    let error = Netns::from("no-such-namespace").enter().unwrap_err();
    assert!(matches!(&error, KernelError::NoNetns { .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
}

/// A writer waits for another one, but not for ever, and says for whom. Readers never wait.
#[test]
fn a_lock_that_stays_held_is_an_error() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, NODE, &options);
        let held = File::open(sandbox.pins()).expect("the directory that is locked");
        let held = Flock::lock(held, FlockArg::LockExclusive).expect("nobody else holds it");
        let refused = apply(&rules_from_lines("in all from any drop"), &options);
        let error = refused.unwrap_err();
        assert!(matches!(error, KernelError::Locked { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "another sgctl holds the lock on {} for more than 10 s",
                sandbox.pins().display()
            )
        );
        assert_eq!(error.exit_code(), 1);
        assert_eq!(only(sandbox, "sg0").status().unwrap().policy.generation, 1);
        drop(held);
        apply_rules(sandbox, "in all from any drop", &options);
        assert_eq!(only(sandbox, "sg0").status().unwrap().policy.generation, 2);
    });
}

/// Tries again where the others held the lock for longer than a writer waits: it is not fair.
fn apply_in_turn(rules: &str, options: &ApplyOptions) {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        match apply(&rules_from_lines(rules), options) {
            Ok(_) => return,
            Err(KernelError::Locked { .. }) if Instant::now() < deadline => {}
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn concurrent_writers_take_turns() {
    let applies = rounds(3);
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        std::thread::scope(|scope| {
            // The threads are in the namespaces of the thread that starts them.
            let writers: Vec<_> = (0..4)
                .map(|i| {
                    let options = options.clone();
                    scope.spawn(move || {
                        for round in 0..applies {
                            let rules = format!("in tcp {} from any accept", 10 * i + round + 1);
                            apply_in_turn(&rules, &options);
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
        });
        let status = only(sandbox, "sg0").status().unwrap();
        assert_eq!(status.policy.generation as usize, 4 * applies);
        assert_eq!(status.health, Health::Enforcing);
    });
}
