//! The testbed itself, which needs root: veth pairs carry packets, nothing is left when it ends,
//! and what a killed process has left goes with the next one.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sg_testbed::{Host, Mount, Scratch, interfaces, mounts, require_root};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_veth_pair_joins_two_hosts() {
    require_root();
    let (one, other) = (Host::new(), Host::new());
    one.join("left", &other, "right");
    let addresses = |last| -> [IpAddr; 2] {
        [
            Ipv4Addr::new(192, 0, 2, last).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        ]
    };
    for (host, interface, last) in [(&one, "left", 1), (&other, "right", 2)] {
        host.inside(|| {
            interfaces::set_up(interface).unwrap();
            for address in addresses(last) {
                let length = if address.is_ipv4() { 24 } else { 64 };
                interfaces::add_address(interface, address, length).unwrap();
            }
        });
    }
    one.wait_for_carrier("left");
    other.wait_for_carrier("right");
    for (from, to) in addresses(1).into_iter().zip(addresses(2)) {
        let receiver = other.inside(|| UdpSocket::bind((to, 9000)).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = one.inside(|| UdpSocket::bind((from, 0)).unwrap());
        sender.send_to(b"hello", (to, 9000)).unwrap();
        let mut buffer = [0; 16];
        let (len, source) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], source.ip()), (&b"hello"[..], from));
    }
}

#[test]
fn an_interface_that_does_not_exist_is_an_error() {
    require_root();
    let host = Host::new();
    let set_up = host.inside(|| interfaces::set_up("none"));
    assert_eq!(set_up.unwrap_err().raw_os_error(), Some(nix::libc::ENODEV));
    let twice = || interfaces::add_veth((host.namespace(), "a"), (host.namespace(), "b"));
    twice().unwrap();
    assert_eq!(twice().unwrap_err().raw_os_error(), Some(nix::libc::EEXIST));
}

#[test]
fn nobody_else_sees_private_mounts() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let mounted = || {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        mounts.contains(&dir.path().display().to_string())
    };
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            mounts::make_private().unwrap();
            let mount = Mount::bpffs(dir.path()).unwrap();
            assert!(mounted());
            drop(mount);
            assert!(!mounted());
            // Nobody unmounts it: it goes with this thread, whose mount namespace alone has it.
            std::mem::forget(Mount::bpffs(dir.path()).unwrap());
            assert!(mounted());
        });
        inside.join().unwrap();
    });
    assert!(!mounted());
}

/// Names what it has made, and waits to be killed.
#[test]
#[ignore = "the process that `a_killed_process_leaves_nothing_for_long` starts"]
fn a_process_that_is_killed() {
    let scratch = Scratch::new("sgtestbed").unwrap();
    let bpffs = scratch.bpffs("bpf").unwrap();
    let namespace = scratch.namespace("node").unwrap();
    println!("\nmade {} {namespace}", bpffs.display());
    std::thread::sleep(PATIENCE);
}

#[test]
fn a_killed_process_leaves_nothing_for_long() {
    require_root();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_process_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let made = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("made ").map(str::to_owned))
        .expect("the child names what it has made");
    let (bpffs, namespace) = made.split_once(' ').unwrap();
    let left = [
        PathBuf::from(bpffs),
        Path::new("/run/netns").join(namespace),
    ];
    assert!(left.iter().all(|path| path.exists()), "{left:?}");
    // While it lives, nobody touches what it has.
    drop(Scratch::new("sgtestbed").unwrap());
    assert!(left.iter().all(|path| path.exists()), "{left:?}");

    child.kill().unwrap();
    child.wait().unwrap();
    let scratch = Scratch::new("sgtestbed").unwrap();
    assert!(!left.iter().any(|path| path.exists()), "{left:?}");
    let folder = scratch.path().to_owned();
    assert!(folder.is_dir());
    drop(scratch);
    assert!(!folder.exists());
}
