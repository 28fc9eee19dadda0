//! docs/install.md, in a clean Debian system that systemd boots: each command of the page is run as
//! it is written there, in the order of the page, and succeeds. Where one asks, the answer is yes.
//!
//! `cargo xtask test --packages` makes the system and the package, and runs this.

use std::fs;
use std::path::Path;

use super::machine::{Machine, Running, SYSTEM};
use super::packaged::{ARCHIVE, PACKAGES, given};
use super::traffic::INTERFACE;
use super::{UNIT, off};
use crate::operating::page::{Part, parts};
use crate::world::Ran;

/// Where the commands are typed, with what the page says is there: the package, and the program
/// that `cargo xtask dist` builds, which is the one in the package.
const FOLDER: &str = "/root";
const PACKAGE: &str = "sgctl_0.0.0_amd64.deb";

/// Who follows the page has an enforced node, and in the end nothing is left of it.
#[test]
#[ignore = "needs the packages of cargo xtask test --packages"]
fn the_page_about_installing_does_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let mut machine = Machine::of_system(&given(ARCHIVE));
    let package = machine.path(SYSTEM).join("root").join(PACKAGE);
    fs::copy(given(PACKAGES).join("now.deb"), package).expect("the package was made");
    let running = machine.boot(&[INTERFACE]);
    let unpack = format!(
        "dpkg --extract {PACKAGE} of-dist && mv of-dist/usr/bin/sgctl . && ./sgctl --version"
    );
    typed(&running, &unpack);
    let mut was_enforced = false;
    for part in parts(&page) {
        let Part::Step(step) = part else {
            panic!("the page has commands only, not {part:?}");
        };
        println!("{}", step.line);
        let printed = typed(&running, &step.command);
        assert_eq!(step.shown.0, step.shown.1, "it shows what a command prints");
        if step.command == "sgctl status" {
            let status = running.status(INTERFACE);
            assert_eq!(status["health"], "enforcing", "{printed}");
            assert_eq!(running.property(UNIT, "ActiveState"), "active");
            was_enforced = true;
        }
    }
    assert!(was_enforced, "the page looks at what is enforced");
    assert_eq!(running.xdp(INTERFACE), None);
    assert!(!running.bpffs.join("sgctl").exists(), "pins are left");
    let left = running.try_run(&["sh", "-c", "command -v sgctl"]);
    assert_eq!(left.out, "");
    off(running);
}

/// Types a command, which has to succeed. Returns what it prints.
#[track_caller]
fn typed(running: &Running<'_>, command: &str) -> String {
    let script = format!("cd {FOLDER}; yes | {{ {command}\n}}");
    let ran: Ran = running.try_run(&["bash", "-c", &script]);
    assert_eq!(
        ran.code,
        0,
        "{command}: {}\n{}",
        ran.all(),
        running.journal()
    );
    ran.all()
}
