//! A pod of the DaemonSet in `deploy/kubernetes` on a node: what it enforces, when it is ready, and
//! what it leaves.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::container::{Container, Place, Volume};
use super::kubernetes::{container, objects};
use super::world::{World, inside};

/// A pod of the DaemonSet on the node of a world.
struct Pod<'a> {
    world: &'a World,
    container: Container,
}

impl<'a> Pod<'a> {
    /// Starts it, with these in the place of variables and times.
    fn start(
        world: &'a World,
        manifest: &Value,
        volume: &Path,
        values: &[(&str, &str)],
    ) -> Pod<'a> {
        let place = Place {
            netns: &world.node,
            bpffs: &world.bpffs,
            root: world.dir.path().join("root"),
        };
        let container = Container::start(&place, manifest, volume, values);
        Pod { world, container }
    }

    #[track_caller]
    fn becomes(&self, probe: &str, code: i32) {
        let mut last = None;
        let patience = Duration::from_secs(60);
        for _ in 0..patience.as_millis() / 200 {
            let ran = self.container.probe(probe);
            if ran.code == code {
                return;
            }
            last = Some(ran.all());
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("{probe} has not become {code}: {last:?}");
    }

    /// Whether the node answers at this port.
    fn answers(&self, port: u16) -> bool {
        let at: SocketAddr = ([192, 0, 2, 1], port).into();
        let connect = || TcpStream::connect_timeout(&at, Duration::from_millis(700)).is_ok();
        inside(&self.world.peer, connect)
    }
}

fn policy(name: &str, port: u16, out: &str) -> String {
    format!(
        "name: {name}\n\
         inbound: [{{protocol: tcp, ports: {port}, from: any, action: accept}}]\n\
         outbound: [{{protocol: {out}, to: any, action: accept}}]\n"
    )
}

/// Proves C4 and C11: a pod of the DaemonSet, with the capabilities and mounts that it lists and no
/// others, enforces its policy, becomes ready when that has confirmed itself, follows the
/// ConfigMap, undoes a policy that cuts the node off and is not ready then; its end, also by a
/// kill, leaves what is in force, and the next pod takes it over.
#[test]
fn a_pod_enforces_follows_its_config_map_and_leaves_enforcement() {
    let world = World::new();
    let manifests = objects("base");
    let manifest = container(&manifests["DaemonSet"]);
    let listen = |port: u16| {
        inside(&world.node, || TcpListener::bind(("192.0.2.1", port))).expect("a free port")
    };
    let _listeners = [listen(8080), listen(8081)];
    let _api = inside(&world.peer, || TcpListener::bind("192.0.2.2:6443")).expect("a free port");
    let first = policy("first", 8080, "tcp");
    let mut volume = Volume::new(world.dir.path().join("volume"), &first);
    let values = [
        ("$(SGCTL_IFACE)", "nic"),
        ("$(KUBERNETES_SERVICE_HOST)", "192.0.2.2"),
        ("$(KUBERNETES_SERVICE_PORT)", "6443"),
        ("--confirm-within=60s", "--confirm-within=4s"),
    ];
    let at = volume.at.clone();
    let pod = Pod::start(&world, manifest, &at, &values);
    pod.becomes("startupProbe", 0);
    pod.becomes("readinessProbe", 0);
    pod.container.probe("livenessProbe").ok();
    let held = std::fs::read_to_string(format!("/proc/{}/status", pod.container.process))
        .expect("it runs");
    let held: Vec<&str> = held
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(name, _)| ["CapPrm", "CapEff", "CapBnd", "NoNewPrivs"].contains(name))
        .map(|(_, value)| value)
        .collect();
    // CAP_BPF is 39, CAP_PERFMON 38 and CAP_NET_ADMIN 12 in include/uapi/linux/capability.h.
    let three = format!("{:016x}", 1_u64 << 39 | 1 << 38 | 1 << 12);
    assert_eq!(held, [&three, &three, &three, "1"]);
    assert!(pod.answers(8080) && !pod.answers(8081), "it enforces");

    volume.set(&policy("second", 8081, "tcp"));
    pod.container.running.says("confirmed second on nic");
    pod.becomes("readinessProbe", 0);
    assert!(
        !pod.answers(8080) && pod.answers(8081),
        "it follows the ConfigMap"
    );

    volume.set(&policy("bad", 8080, "udp"));
    pod.becomes("readinessProbe", 1);
    pod.container
        .running
        .says("was not confirmed and is undone on nic: second, ");
    assert!(!pod.answers(8080) && pod.answers(8081), "it is undone");
    let ran = pod.container.probe("readinessProbe");
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.out.contains("bad, generation "), "{}", ran.all());
    pod.container.probe("livenessProbe").ok();

    let enforces_without_a_pod = || {
        let status = world.run(&["status", "--json"]).ok().json();
        assert_eq!(status[0]["policy"]["name"], "second", "{status}");
        assert_eq!(status[0]["health"], "enforcing", "{status}");
    };
    drop(pod);
    enforces_without_a_pod();
    // The next pod has the same policy, and does not try it again.
    let pod = Pod::start(&world, manifest, &at, &values);
    pod.container
        .running
        .says("not tried again: bad, generation ");
    pod.becomes("livenessProbe", 0);
    assert_eq!(pod.container.probe("readinessProbe").code, 1);
    enforces_without_a_pod();
    volume.set(&policy("third", 8080, "tcp"));
    pod.becomes("readinessProbe", 0);
    assert!(
        pod.answers(8080) && !pod.answers(8081),
        "another policy is tried"
    );

    assert_eq!(pod.container.terminate(), Some(0));
    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status[0]["policy"]["name"], "third", "{status}");
    assert_eq!(status[0]["health"], "enforcing", "{status}");
}
