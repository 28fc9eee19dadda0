//! The packages, in a clean Debian system that systemd boots: installed, upgraded, downgraded and
//! removed as on a node, under traffic, with a reboot and a kill in between. One version is built
//! from an older commit, so that the programs in the kernel are replaced too.
//!
//! `cargo xtask test --packages` makes the system and the packages, and runs this.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sg_testbed::wait_for;

use super::machine::{Machine, Running, SYSTEM};
use super::traffic::{Counted, INTERFACE, POLICY, Traffic, age_of_the_flow, set_up_network};
use super::{UNIT, off};
use crate::world::ip;

/// The archive of the system.
pub(super) const ARCHIVE: &str = "SG_PACKAGES_SYSTEM";

/// The folder with `older.deb`, `now.deb`, and both for RPM.
pub(super) const PACKAGES: &str = "SG_PACKAGES";

const PATIENCE: Duration = Duration::from_secs(60);

/// Within how many milliseconds an interface is enforced that appears, at best of several times and
/// also on a busy machine.
const SOON: f64 = 2000.0;

/// What a system writes as it runs, and package managers to remember what is installed.
const NOT_LISTED: [&str; 16] = [
    "dev",
    "old",
    "out",
    "packages",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/rpm",
    "var/lib/systemd",
    "var/log",
    "var/tmp",
];

/// How one kind of package is put in and taken out.
struct Packager {
    kind: &'static str,
    /// Whatever version was there before.
    put: &'static [&'static str],
    remove: &'static [&'static str],
    /// What is there after a removal and was not there before.
    leaves: &'static [&'static str],
}

const DEBIAN: Packager = Packager {
    kind: "deb",
    put: &[
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "--option=APT::Sandbox::User=root",
        "--option=Dpkg::Use-Pty=0",
        "--yes",
        "--quiet",
        "--allow-downgrades",
        "install",
    ],
    remove: &[
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "--option=Dpkg::Use-Pty=0",
        "--yes",
        "--quiet",
        "purge",
        "sgctl",
    ],
    leaves: &[],
};

/// The system is Debian's, whose `rpm` knows of no other package and does not like to be used. What
/// a person has written stays, and so do folders that other packages own where all are of RPM.
const RPM: Packager = Packager {
    kind: "rpm",
    put: &[
        "rpm",
        "--force-debian",
        "--nodeps",
        "--oldpackage",
        "--upgrade",
    ],
    remove: &["rpm", "--force-debian", "--erase", "sgctl"],
    leaves: &[
        "etc/sgctl",
        "etc/sgctl/eth0.yaml",
        "usr/share/fish",
        "usr/share/fish/vendor_completions.d",
        "usr/share/zsh/site-functions",
    ],
};

/// C13 as a node has it, with packages for Debian.
#[test]
#[ignore = "needs the packages of cargo xtask test --packages"]
fn debian_keeps_a_node_enforced() {
    keeps_a_node_enforced(&DEBIAN);
}

/// The same with packages for RPM.
#[test]
#[ignore = "needs the packages of cargo xtask test --packages"]
fn rpm_keeps_a_node_enforced() {
    keeps_a_node_enforced(&RPM);
}

fn keeps_a_node_enforced(packager: &Packager) {
    let mut machine = Machine::of_system(&given(ARCHIVE));
    let system = machine.path(SYSTEM);
    fs::create_dir(system.join("packages")).unwrap();
    for version in ["older", "now"] {
        let name = format!("{version}.{}", packager.kind);
        fs::copy(
            given(PACKAGES).join(&name),
            system.join("packages").join(&name),
        )
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let running = machine.boot(&[INTERFACE]);
    let clean = listed(&system);
    set_up_network(&running);
    packager.put("older", &running);
    assert_eq!(
        running.xdp(INTERFACE),
        None,
        "nobody has asked for a policy"
    );
    running.run(&["sgctl", "check", "/etc/sgctl/example.yaml"]);
    fs::write(system.join("etc/sgctl/eth0.yaml"), POLICY).unwrap();
    running.systemctl(&["enable", "--now", "sgctl@eth0"]);
    assert_eq!(running.status(INTERFACE)["health"], "enforcing");
    versions_come_and_go_under_traffic(packager, &running);
    an_interface_that_appears_is_soon_enforced(&running);
    off(running);

    println!("{}: a reboot", packager.kind);
    let running = machine.boot(&[INTERFACE]);
    assert_eq!(running.status(INTERFACE)["health"], "enforcing");
    assert_eq!(running.property(UNIT, "ActiveState"), "active");
    set_up_network(&running);
    let traffic = Traffic::start(&running);
    wait_for("traffic", PATIENCE, || {
        Counted::read(&running).inbound > 400
    });
    traffic.end();
    a_removal_that_fails_leaves_everything(packager, &running);

    println!("{}: a removal", packager.kind);
    packager.remove(&running);
    let journal = running.journal();
    let ended = format!("enforcement ends: {UNIT} is disabled");
    assert!(
        journal.contains(&ended),
        "what was ended is said: {journal}"
    );
    assert_eq!(running.xdp(INTERFACE), None);
    assert!(!running.bpffs.join("sgctl").exists(), "pins are left");
    let mut expected = clean;
    expected.extend(packager.leaves.iter().map(PathBuf::from));
    let left = listed(&system);
    let differ: Vec<_> = left.symmetric_difference(&expected).collect();
    assert!(differ.is_empty(), "left or missing: {differ:?}");
    off(running);
}

/// An upgrade, a downgrade, another upgrade and a kill lose no packet, no counter and no flow.
fn versions_come_and_go_under_traffic(packager: &Packager, running: &Running<'_>) {
    let before = quiet(running);
    let traffic = Traffic::start(running);
    let opened = Instant::now();
    wait_for("the connection has an entry", PATIENCE, || {
        age_of_the_flow(running).is_some()
    });
    let mut counted = Counted::read(running).inbound;
    let mut goes_on = |after: &str| {
        let status = running.status(INTERFACE);
        assert_eq!(status["health"], "enforcing", "after {after}: {status}");
        // Both clocks count whole seconds.
        let age = age_of_the_flow(running).unwrap_or_else(|| panic!("no flow after {after}"));
        assert!(age + 2 >= opened.elapsed().as_secs(), "{age} s, {after}");
        let now = Counted::read(running).inbound;
        assert!(now > counted, "{counted} packets, then {now}: {after}");
        counted = now;
    };
    for (step, version) in [
        ("an upgrade", "now"),
        ("a downgrade", "older"),
        ("another upgrade", "now"),
    ] {
        println!("{}: {step}", packager.kind);
        let service = running.property(UNIT, "MainPID");
        packager.put(version, running);
        let restarted = running.property(UNIT, "MainPID");
        assert_ne!(restarted, service, "the service is the old one");
        let file = running.run(&["readlink", &format!("/proc/{restarted}/exe")]);
        assert_eq!(file.trim(), "/usr/bin/sgctl", "its file is the new one");
        goes_on(step);
    }
    println!("{}: a kill", packager.kind);
    running.systemctl(&["kill", "--signal=KILL", UNIT]);
    wait_for("it is started again", PATIENCE, || {
        running.property(UNIT, "NRestarts") == "1"
            && running.property(UNIT, "ActiveState") == "active"
    });
    goes_on("a kill");
    traffic.end();
    wait_for("all that was received is counted", PATIENCE, || {
        Counted::read(running).not_counted() == before.not_counted()
    });
    let after = Counted::read(running);
    assert_eq!(
        after.dropped, before.dropped,
        "packets of the traffic were dropped"
    );
    println!(
        "  {} frames received, and as many counted",
        after.inbound - before.inbound
    );
}

/// How long it takes the program as it is given to others, which is built to be fast; on a kernel
/// that cannot hold the interface, packets pass for that time. Prints each time.
fn an_interface_that_appears_is_soon_enforced(running: &Running<'_>) {
    let unit = "sgctl@late.service";
    running.run(&["cp", "/etc/sgctl/eth0.yaml", "/etc/sgctl/late.yaml"]);
    let told = || -> Vec<f64> {
        let words = ["journalctl", "--no-pager", "--output=cat", "--unit", unit];
        let said = running.run(&words);
        let lines = said
            .lines()
            .filter_map(|line| line.strip_prefix("in force on late "));
        let numbers = lines.map(|line| line.split(' ').next().unwrap().parse().unwrap());
        numbers.collect()
    };
    for time in 1..=5 {
        running.systemctl(&["start", unit]);
        assert_eq!(running.property(unit, "StatusText"), "waiting for late");
        running.add("late");
        wait_for("it is enforced", PATIENCE, || told().len() == time);
        // It is not enabled, so that this ends enforcement.
        running.systemctl(&["stop", unit]);
        ip(&["-n", &running.node, "link", "delete", "late"]);
    }
    running.run(&["rm", "/etc/sgctl/late.yaml"]);
    let took = told();
    println!("  enforced so many ms after an interface appeared: {took:?}");
    let best = took.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < SOON, "never within {SOON} ms: {took:?}");
}

/// The counters when nothing is on the wire.
fn quiet(running: &Running<'_>) -> Counted {
    let mut last = Counted::read(running);
    wait_for("silence", PATIENCE, || {
        let now = Counted::read(running);
        let is_quiet = now == last;
        last = now;
        is_quiet
    });
    last
}

/// Without sgctl nobody could end what is enforced: so it stays if it cannot end it.
fn a_removal_that_fails_leaves_everything(packager: &Packager, running: &Running<'_>) {
    println!(
        "{}: a removal that cannot end what is enforced",
        packager.kind
    );
    let mount = |flag: &str| {
        let options = format!("remount,bind,{flag}");
        running.run(&["mount", "-o", &options, "/sys/fs/bpf"]);
    };
    mount("ro");
    let ran = running.try_run(packager.remove);
    assert_ne!(ran.code, 0, "{}", ran.all());
    mount("rw");
    assert_eq!(running.status(INTERFACE)["health"], "enforcing");
    // At the next boot too; the service itself could not write either. `is-enabled` fails where it
    // is not.
    running.systemctl(&["is-enabled", UNIT]);
    running.systemctl(&["start", UNIT]);
}

impl Packager {
    fn put(&self, version: &str, running: &Running<'_>) {
        let file = format!("/packages/{version}.{}", self.kind);
        let ran = running.try_run(&[self.put, &[&file]].concat());
        assert_eq!(ran.code, 0, "{file}: {}\n{}", ran.all(), running.journal());
    }

    fn remove(&self, running: &Running<'_>) {
        let ran = running.try_run(self.remove);
        assert_eq!(ran.code, 0, "{}\n{}", ran.all(), running.journal());
    }
}

/// What xtask has put into a variable.
pub(super) fn given(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    let path = path.unwrap_or_else(|| panic!("{variable} is not set: cargo xtask test --packages"));
    path.into()
}

/// All files and folders of a system, but for `NOT_LISTED`.
fn listed(system: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(system.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if NOT_LISTED.iter().any(|name| path == Path::new(name)) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                todo.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}
