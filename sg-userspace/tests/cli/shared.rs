//! A BPF file system that several namespaces, interfaces and other tools share: each command acts
//! on its own scope and nothing else.

use std::path::Path;
use std::process::Command;

use super::world::{Ran, World, file, ip};

const NO_PING: &str = "\
name: silent
inbound: [{protocol: icmp, from: any, action: drop}]
outbound: [{protocol: all, to: any, action: accept}]
";

/// Two interfaces of the node and one of the peer are enforced. `second` uses a filter on a clsact
/// qdisc that another tool has added, and another tool has a pin on the same BPF file system.
struct Shared {
    world: World,
    policy: String,
    foreign_pin: std::path::PathBuf,
}

impl Shared {
    fn new() -> Shared {
        let world = World::new();
        let node = &world.node;
        let words = format!("-n {node} link add second type veth peer name third");
        ip(&words.split(' ').collect::<Vec<_>>());
        tc(node, "qdisc add dev second clsact");
        let policy = file(world.dir.path(), "silent.yaml", NO_PING);
        let shared = Shared {
            foreign_pin: world.bpffs.join("other-tool/map"),
            policy,
            world,
        };
        shared.apply_everywhere();
        // Any map serves as the other tool's pin: it is a second name of the same object.
        let ours = shared.world.pin_dir().join("counters_0");
        std::fs::create_dir(shared.world.bpffs.join("other-tool")).expect("a folder beside ours");
        std::fs::hard_link(ours, &shared.foreign_pin).expect("a pin of another tool");
        shared
    }

    fn apply_everywhere(&self) {
        let World { node, peer, .. } = &self.world;
        for (netns, iface, more) in [
            (node, "nic", &[][..]),
            (node, "second", &["--egress-hook", "clsact"]),
            (peer, "nic", &[]),
        ] {
            let words = [&["apply", &self.policy, "--iface", iface], more].concat();
            self.sgctl(Some(netns), &words).ok();
        }
    }

    /// Runs `sgctl` with this BPF file system, in one namespace or for the whole machine.
    fn sgctl(&self, netns: Option<&str>, words: &[&str]) -> Ran {
        let bpffs = self.world.bpffs.display().to_string();
        let netns = netns.map_or(vec![], |netns| vec!["--netns", netns]);
        super::world::run(&[&netns[..], &["--bpffs", &bpffs], words].concat())
    }

    /// Checks what is enforced by the XDP programs, by pings and by `status`.
    #[track_caller]
    fn assert_enforced(&self, nic: bool, second: bool, peers_nic: bool) {
        let World { node, peer, .. } = &self.world;
        for (netns, iface, is_enforced) in [
            (node, "nic", nic),
            (node, "second", second),
            (peer, "nic", peers_nic),
        ] {
            assert_eq!(has_xdp(netns, iface), is_enforced, "{iface} in {netns}");
        }
        assert_answered(peer, "192.0.2.1", !nic);
        assert_answered(node, "192.0.2.2", !peers_nic);
        let listed = self.sgctl(None, &["status"]).ok().out;
        let expected = usize::from(nic) + usize::from(second) + usize::from(peers_nic);
        assert_eq!(listed.matches("silent").count(), expected, "{listed}");
        assert!(self.foreign_pin.exists(), "another tool's pin stays");
        let shown = tc(node, "qdisc show dev second");
        assert!(shown.contains("clsact"), "another's clsact stays: {shown}");
        let shown = tc(node, "filter show dev second egress");
        let ours = shown.matches("bpf").count() > 0;
        assert_eq!(ours, second, "our filter: {shown}");
    }
}

fn tc(netns: &str, words: &str) -> String {
    let ran = Command::new("tc")
        .args(["-n", netns])
        .args(words.split(' '))
        .output();
    let ran = Ran::of(&ran.expect("the tests need iproute2"));
    assert_eq!(ran.code, 0, "tc {words}: {}", ran.all());
    ran.out
}

fn has_xdp(netns: &str, iface: &str) -> bool {
    let shown = Command::new("ip")
        .args(["-n", netns, "link", "show", "dev", iface])
        .output()
        .expect("ip starts");
    String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
}

fn has_seen_reply(netns: &str, address: &str) -> bool {
    let words = [
        "netns", "exec", netns, "ping", "-q", "-c", "2", "-i", "0.05",
    ];
    let ping = Command::new("ip")
        .args(words)
        .args(["-W", "0.3", address])
        .output();
    ping.expect("the tests need ping").status.success()
}

/// Checks whether pings get a reply. On a busy machine a reply can be late, so a reply that is
/// expected has several attempts.
#[track_caller]
fn assert_answered(netns: &str, address: &str, expected: bool) {
    let attempts = if expected { 20 } else { 1 };
    let has_seen_reply = (0..attempts).any(|_| has_seen_reply(netns, address));
    assert_eq!(has_seen_reply, expected, "{address} from {netns}");
}

/// Without --iface `detach` acts on the whole namespace that --netns names. It leaves what others
/// have on the same BPF file system and the same interfaces.
#[test]
fn detach_takes_one_namespace() {
    let shared = Shared::new();
    let World { node, peer, .. } = &shared.world;
    shared.assert_enforced(true, true, true);
    let detached = shared.sgctl(Some(node), &["detach"]).ok().out;
    assert_eq!(detached.matches("detached").count(), 2, "{detached}");
    shared.assert_enforced(false, false, true);
    // The second `detach` finds nothing in this namespace, although other namespaces still have
    // attachments.
    let again = shared.sgctl(Some(node), &["detach"]).ok().out;
    assert_eq!(again, "nothing is attached\n");
    shared.assert_enforced(false, false, true);
    shared.apply_everywhere();
    let one = shared.sgctl(Some(node), &["detach", "--iface", "nic"]);
    assert_eq!(one.ok().out.matches("detached").count(), 1);
    shared.assert_enforced(false, true, true);
    let other = shared.sgctl(Some(peer), &["detach"]).ok().out;
    assert_eq!(other.matches("detached").count(), 1, "{other}");
    shared.assert_enforced(false, true, false);
}

/// Without --netns and --iface `detach` acts on all namespaces, but only on this BPF file system.
#[test]
fn detach_takes_the_machine_and_nothing_of_another_file_system() {
    let shared = Shared::new();
    let World { node, peer, .. } = &shared.world;
    let other = shared.world.dir.bpffs("other").unwrap();
    let on_other = |words: &[&str]| {
        let other = path(&other);
        super::world::run(&[&["--netns", node, "--bpffs", &other], words].concat())
    };
    on_other(&["apply", &shared.policy, "--iface", "third"]).ok();
    let detached = shared.sgctl(None, &["detach"]).ok().out;
    assert_eq!(detached.matches("detached").count(), 3, "{detached}");
    for place in [node, peer] {
        assert!(detached.contains(place.as_str()), "{detached}");
    }
    shared.assert_enforced(false, false, false);
    assert!(has_xdp(node, "third"), "it is on another file system");
    let listed = on_other(&["status"]).ok().out;
    assert!(listed.contains("enforcing"), "{listed}");
    on_other(&["detach"]).ok();
    assert!(!has_xdp(node, "third"));
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
