//! The log of `run` when something is over by itself: hooks that are right again, counters that can
//! be read again, an interface that comes back.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;

use super::run::policy;
use super::run_log::Log;
use super::world::{World, file, ip};

/// Lets each repair fail, which is an apply and checks itself as the first one has.
const NO_REPAIR: &str = "refuse:before the self-check #2";

/// A pin under another name, as somebody leaves it who tidies up by hand.
struct Aside {
    pin: PathBuf,
    aside: PathBuf,
}

impl Aside {
    fn put(folder: &Path, pin: &str) -> Aside {
        let aside = Aside {
            pin: folder.join(pin),
            aside: folder.join("aside"),
        };
        std::fs::rename(&aside.pin, &aside.aside).unwrap();
        aside
    }

    fn put_back(self) {
        std::fs::rename(&self.aside, &self.pin).unwrap();
    }
}

fn start(world: &World) -> Log {
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let mut log = Log::start_with(world, &[&path], &[("SG_FAULT", NO_REPAIR)]);
    log.says("applied");
    log
}

/// Proves A4 and C12: damage that `run` has reported and could not repair, and that somebody else
/// undoes, is over in the log too, once and with what it was.
#[test]
fn hooks_that_are_right_again_have_recovered() {
    let world = World::new();
    let mut log = start(&world);
    let of_attachment = world.pin_dir().parent().unwrap().to_owned();
    let pin = Aside::put(&of_attachment, "fragments4");
    let damaged = log.says("damaged");
    assert_eq!(damaged["faults"][0]["code"], "incomplete", "{damaged:#}");
    log.says("repair_failed");
    pin.put_back();
    let recovered = log.says("recovered");
    assert_eq!(
        recovered["message"],
        "nic: what was wrong with the hooks is right again"
    );
    assert_eq!(
        recovered["was"], damaged["faults"][0]["message"],
        "{recovered:#}"
    );
    log.ends(
        Signal::SIGTERM,
        &[
            ("applied", "info"),
            ("damaged", "error"),
            ("repair_failed", "error"),
            ("recovered", "info"),
            ("detached", "info"),
        ],
    );
    world.assert_untouched();
}

/// Proves A4: counters that could not be read for a while are reported when that begins and when it
/// is over, once each, though they are read twice a second.
#[test]
fn an_error_that_is_over_is_reported() {
    let world = World::new();
    let mut log = start(&world);
    let pin = Aside::put(&world.pin_dir(), "counters_0");
    let error = log.says("error");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("the counters cannot be read:"),
        "{message}"
    );
    assert!(message.contains("counters_0"), "{message}");
    // That each repair fails is said as well: the pin is missing.
    log.has_said("repair_failed");
    pin.put_back();
    let over = log.says("error_over");
    assert_eq!(over["message"], "the counters can be read again");
    let was = over["error"].as_str().unwrap();
    assert!(message.contains(was), "{message}: {was}");
    log.has_said("recovered");
    let said = log.said();
    for event in ["error", "error_over", "recovered"] {
        let times = said.iter().filter(|(name, _)| name == event).count();
        assert_eq!(times, 1, "{event}: {said:?}");
    }
    assert!(said.contains(&("error_over".to_owned(), "info".to_owned())));
}

/// Proves A4: an interface that was moved to another network namespace and back is gone and here
/// again, and its policy has been in force all the time.
#[test]
fn an_interface_that_comes_back_is_here_again() {
    let world = World::new();
    // Nothing there has the index of the interface, which keeps it on both ways.
    let other = world.dir.namespace("other").unwrap();
    let mut log = start(&world);
    ip(&["-n", &world.node, "link", "set", "nic", "netns", &other]);
    let gone = log.says("gone");
    assert_eq!(gone["interface"], "nic");
    assert_eq!(gone["moved_to"], json!(other), "{gone:#}");
    ip(&["-n", &other, "link", "set", "nic", "netns", &world.node]);
    let back = log.says("back");
    assert_eq!(
        (&back["interface"], &back["message"]),
        (&json!("nic"), &json!("nic is here again"))
    );
    assert!(world.has_xdp());
    log.ends(
        Signal::SIGTERM,
        &[
            ("applied", "info"),
            ("gone", "warning"),
            ("back", "info"),
            ("detached", "info"),
        ],
    );
    world.assert_untouched();
}
