//! `deploy/systemd/sgctl@.service`, by systemd itself: how exposed it is, and what it does on a
//! small machine that boots, goes down and boots again.
//!
//! `cargo xtask test --boot` boots ten times, with half a minute before an interface appears;
//! otherwise there are three boots, and a moment.

mod installed;
mod machine;
mod packaged;
mod scripts;
mod traffic;

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use machine::{Machine, Running};
use sg_testbed::wait_for;

use super::world::{Ran, inside, ip};

/// How often to boot.
const BOOTS: &str = "SG_BOOTS";

const UNIT: &str = "sgctl@eth0.service";
const POLICY: &str = "name: node\n\
                      inbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n\
                      outbound: [{protocol: all, to: any, action: accept}]\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (include/uapi/linux/capability.h).
const CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;

fn unit_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/sgctl@.service")
}

/// The unit as an instance of a folder.
fn instance(dir: &Path) -> String {
    let path = dir.join(UNIT);
    let text = fs::read_to_string(unit_file()).unwrap();
    // `verify` looks whether the programs are there.
    let text = text.replace("/usr/bin/sgctl", env!("CARGO_BIN_EXE_sgctl"));
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Its exposure as `systemd-analyze security` has it, from 0 to 10.
#[test]
fn the_unit_is_hardened_and_has_no_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let unit = instance(dir.path());
    let analyze = |words: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(words).arg(&unit);
        Ran::of(&command.output().expect("the tests need systemd"))
    };
    let ran = analyze(&["security", "--offline=true", "--no-pager", "--threshold=30"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    let overall = ran.out.lines().find(|line| line.contains("Overall"));
    println!("{}", overall.unwrap_or(&ran.out));
    let ran = analyze(&["verify", "--man=no"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.all());
}

#[test]
fn a_service_keeps_a_node_enforced() {
    let boots: u32 = match std::env::var(BOOTS) {
        Ok(text) => text.parse().expect("a number of boots"),
        Err(_) => 3,
    };
    let late_by = match boots > 3 {
        true => Duration::from_secs(30),
        false => Duration::from_secs(1),
    };
    let mut machine = Machine::small();
    machine.write("etc/sgctl/eth0.yaml", POLICY);
    let running = machine.boot(&["eth0", "eth1", "eth2"]);
    assert_eq!(running.xdp("eth0"), None);
    running.systemctl(&["enable", "--now", "sgctl@eth0"]);
    assert_eq!(running.status("eth0")["health"], "enforcing");
    it_holds_no_other_capability(&running);
    it_leaves_the_policy_however_it_ends(&running);
    one_unit_for_several_interfaces(&running);
    off(running);
    for boot in 1..boots {
        let is_late = boot % 2 == 1;
        let interfaces: &[&str] = if is_late { &[] } else { &["eth0"] };
        let started = Instant::now();
        let running = machine.boot(interfaces);
        println!("boot {boot}: {:.1} s", started.elapsed().as_secs_f64());
        assert_eq!(running.property(UNIT, "ActiveState"), "active");
        if is_late {
            let status = running.property(UNIT, "StatusText");
            assert_eq!(status, "waiting for eth0");
            std::thread::sleep(late_by);
            an_interface_appears(&running);
        }
        assert_eq!(running.status("eth0")["health"], "enforcing");
        assert_eq!(running.property(UNIT, "NRestarts"), "0");
        assert_eq!(running.property(UNIT, "Result"), "success");
        if boot + 1 == boots {
            running.systemctl(&["disable", "--now", "sgctl@eth0"]);
            assert_eq!(running.xdp("eth0"), None);
            let ran = running.run(&["sgctl", "status", "--json"]);
            assert_eq!(ran.trim(), "[]");
        }
        off(running);
        if !is_late {
            let seen = machine.read("out/at-network");
            let of_eth0 = seen.split_once("eth0").expect("it is there").1;
            assert!(
                of_eth0.contains("prog/xdp"),
                "not before the network: {seen}"
            );
        }
    }
}

/// Shuts down. What was in force is in force to the end.
fn off(running: Running<'_>) {
    let root = running.bpffs.join("sgctl");
    let had_pins = root.exists();
    running.power_off();
    assert_eq!(root.exists(), had_pins);
}

fn it_holds_no_other_capability(running: &Running<'_>) {
    let pid = running.property(UNIT, "MainPID");
    let status = running.run(&["cat", &format!("/proc/{pid}/status")]);
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}"))
            .trim()
            .to_owned()
    };
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(
            u64::from_str_radix(&field(set), 16),
            Ok(CAPABILITIES),
            "{set}"
        );
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    assert_eq!((&*field("NoNewPrivs:"), &*field("Seccomp:")), ("1", "2"));
}

fn it_leaves_the_policy_however_it_ends(running: &Running<'_>) {
    let program = running.xdp("eth0").expect("it is attached");
    let is_as_before = |after: &str| {
        assert_eq!(running.xdp("eth0"), Some(program), "after {after}");
        let status = running.status("eth0");
        assert_eq!(status["health"], "enforcing", "after {after}");
        assert_eq!(status["policy"]["generation"], 1, "after {after}");
    };
    running.systemctl(&["restart", UNIT]);
    is_as_before("a restart");
    running.systemctl(&["stop", UNIT]);
    is_as_before("a stop");
    running.systemctl(&["start", UNIT]);
    running.systemctl(&["kill", "--signal=KILL", UNIT]);
    wait_for("it is started again", PATIENCE, || {
        running.property(UNIT, "NRestarts") == "1"
            && running.property(UNIT, "ActiveState") == "active"
    });
    is_as_before("SIGKILL");
    // A process that hangs is ended by the watchdog.
    let folder = "/etc/systemd/system/sgctl@eth0.service.d";
    let script =
        format!("mkdir -p {folder} && printf '[Service]\\nWatchdogSec=2\\n' > {folder}/w.conf");
    running.run(&["sh", "-c", &script]);
    running.systemctl(&["daemon-reload"]);
    running.systemctl(&["restart", UNIT]);
    running.systemctl(&["kill", "--signal=STOP", UNIT]);
    wait_for("the watchdog ends it", PATIENCE, || {
        running.property(UNIT, "NRestarts") != "0"
            && running.property(UNIT, "ActiveState") == "active"
    });
    is_as_before("the watchdog");
    running.run(&["rm", "-r", folder]);
    running.systemctl(&["daemon-reload"]);
    running.systemctl(&["restart", UNIT]);
    // The policy is read again.
    let edit = "sed -i 's/ports: 22/ports: 23/' /etc/sgctl/eth0.yaml";
    running.run(&["sh", "-c", edit]);
    running.systemctl(&["reload", UNIT]);
    wait_for("the policy is replaced", PATIENCE, || {
        running.status("eth0")["policy"]["generation"] == 2
    });
    running.systemctl(&["disable", "--now", "sgctl@eth0"]);
    assert_eq!(running.xdp("eth0"), None, "{}", running.journal());
    running.systemctl(&["enable", "--now", "sgctl@eth0"]);
    assert_eq!(running.status("eth0")["health"], "enforcing");
}

/// `uplinks.conf` names the interfaces of `uplinks.yaml`. The unit is started and not enabled, so
/// that stopping it ends enforcement, and a restart does not.
fn one_unit_for_several_interfaces(running: &Running<'_>) {
    let unit = "sgctl@uplinks.service";
    let conf = "SGCTL_IFACE=--iface eth1 --iface eth2";
    let script = format!(
        "cp /etc/sgctl/eth0.yaml /etc/sgctl/uplinks.yaml && echo '{conf}' > /etc/sgctl/uplinks.conf"
    );
    running.run(&["sh", "-c", &script]);
    running.systemctl(&["start", unit]);
    let programs = ["eth1", "eth2"].map(|name| running.xdp(name));
    assert!(programs.iter().all(Option::is_some), "{programs:?}");
    assert_eq!(running.status("eth2")["shared_with"][0], "eth1");
    running.systemctl(&["restart", unit]);
    assert_eq!(["eth1", "eth2"].map(|name| running.xdp(name)), programs);
    running.systemctl(&["stop", unit]);
    assert_eq!(["eth1", "eth2"].map(|name| running.xdp(name)), [None, None]);
    assert_eq!(running.property(unit, "Result"), "success");
    assert_eq!(running.status("eth0")["health"], "enforcing");
}

/// Makes the interface that the unit waits for. From the moment at which it exists, nothing is
/// received that is sent to it.
fn an_interface_appears(running: &Running<'_>) {
    let socket = inside(&running.node, || UdpSocket::bind("0.0.0.0:9")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let addresses = [
        (&running.peer, "198.51.100.2/24"),
        (&running.node, "198.51.100.1/24"),
    ];
    running.add("eth0");
    // A network manager takes longer to set an interface up than it takes to hold it. The test
    // waits, so that this holds on a busy machine too.
    wait_for("it is held", PATIENCE, || {
        running
            .journal()
            .contains("eth0 has appeared, and nothing passes until")
    });
    for (namespace, address) in addresses {
        ip(&["-n", namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", namespace, "addr", "add", address, "dev", "eth0"]);
    }
    let send = || {
        inside(&running.peer, || {
            let own = UdpSocket::bind("198.51.100.2:0").unwrap();
            let _ = own.send_to(b"x", "198.51.100.1:9");
        });
    };
    wait_for("the policy is in force", PATIENCE, || {
        send();
        running.xdp("eth0").is_some()
    });
    wait_for("the service says so", PATIENCE, || {
        running.property(UNIT, "StatusText").contains("on eth0")
    });
    for _ in 0..100 {
        send();
    }
    let received = socket.recv(&mut [0; 16]);
    assert!(
        matches!(&received, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{received:?}"
    );
    for line in running.journal().lines() {
        if line.contains("appeared") || line.contains("in force on") {
            println!("{line}");
        }
    }
}
