//! A pod of the DaemonSet in `deploy/kubernetes` as a container runtime would run it: with the
//! arguments, probes, mounts and capabilities of the manifest.
//!
//! `SG_IMAGE_ROOT` names an unpacked image to run instead of this build (`cargo xtask image
//! --check`).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sg_testbed::wait_for;

use super::kubernetes::{container, objects, words};
use super::run::Running;
use super::world::{Ran, World, file, inside};

/// What a container runtime does before it starts the process of a pod: mounts of its own, a root
/// that cannot be written, a process namespace. `$1` is the root, `$2` the BPF file system, `$3`
/// the volume of the policy.
const PREPARE: &str = r#"
set -e
root=$1 bpf=$2 volume=$3
shift 3
mount --bind "$root" "$root"
# Without an image: the libraries and the binary of this build.
if [ -n "$SG_TEST_BINARY" ]; then
    for at in lib lib64 usr/lib; do mount --bind "/$at" "$root/$at"; done
    mount --bind "$SG_TEST_BINARY" "$root/usr/bin/sgctl"
fi
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind "$bpf" "$root/sys/fs/bpf"
mount --bind "$volume" "$root/etc/sgctl"
mount -o remount,bind,ro "$root/etc/sgctl"
mount -o remount,bind,ro "$root"
"#;

/// Ends in the process of the pod, with the capabilities of the manifest and no others.
const ENTER: &str = r#"
exec setpriv --bounding-set="-all,$SG_TEST_CAPS,+sys_chroot,+setpcap" --inh-caps=-all \
    capsh --chroot="$root" --drop=cap_sys_chroot,cap_setpcap --no-new-privs --shell=/usr/bin/sgctl -- "$@"
"#;

/// A pod of the DaemonSet on the node of a world.
struct Pod<'a> {
    world: &'a World,
    manifest: &'a Value,
    root: PathBuf,
    running: Running,
    /// The process of `run`.
    process: String,
}

impl<'a> Pod<'a> {
    /// Starts it with the manifest's arguments, with these in the place of variables and times.
    fn start(
        world: &'a World,
        manifest: &'a Value,
        volume: &Path,
        values: &[(&str, &str)],
    ) -> Pod<'a> {
        let image = std::env::var_os("SG_IMAGE_ROOT");
        let root = match &image {
            Some(root) => PathBuf::from(root),
            None => world.dir.path().join("root"),
        };
        if image.is_none() {
            for at in [
                "lib",
                "lib64",
                "usr/lib",
                "usr/bin",
                "proc",
                "sys",
                "etc/sgctl",
            ] {
                std::fs::create_dir_all(root.join(at)).expect("the folder is writable");
            }
            std::fs::write(root.join("usr/bin/sgctl"), "").expect("the folder is writable");
        }
        let args = words(&manifest["args"]).into_iter().map(|word| {
            let replaced = |word: String, (name, value): &(&str, &str)| word.replace(name, value);
            values.iter().fold(word, replaced)
        });
        // Shared, as systemd mounts it on a node: a container's mount of it sees later mounts too.
        sg_testbed::run(
            "mount",
            &["--make-shared", &world.bpffs.display().to_string()],
        );
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", world.node))
            .args([
                "unshare",
                "--mount",
                "--propagation",
                "slave",
                "--pid",
                "--fork",
                "--kill-child=KILL",
            ])
            .args(["sh", "-c", &format!("{PREPARE}{ENTER}"), "sh"])
            .args([&root, &world.bpffs, volume])
            .args(args)
            .env("SG_TEST_CAPS", capabilities(manifest));
        if image.is_none() {
            command.env("SG_TEST_BINARY", env!("CARGO_BIN_EXE_sgctl"));
        }
        let running = Running::of(&mut command);
        let parent = running.child.id();
        let mut process = String::new();
        wait_for("the process of the pod", Duration::from_secs(60), || {
            let found = child_of(parent).filter(|(_, name)| name == "sgctl");
            process = found.map(|(id, _)| id).unwrap_or_default();
            !process.is_empty()
        });
        Pod {
            world,
            manifest,
            root,
            running,
            process,
        }
    }

    /// Runs the command of a probe as the kubelet does, in the same container.
    fn probe(&self, name: &str) -> Ran {
        let command = words(&self.manifest[name]["exec"]["command"]);
        let script = format!("set -e\nroot=$1\nshift\n{ENTER}");
        let ran = Command::new("nsenter")
            .args(["--target", &self.process, "--mount", "--pid", "--net"])
            .args(["sh", "-c", &script, "sh"])
            .arg(&self.root)
            .args(&command[1..])
            .env("SG_TEST_CAPS", capabilities(self.manifest))
            .output();
        Ran::of(&ran.expect("the tests need util-linux"))
    }

    #[track_caller]
    fn becomes(&self, probe: &str, code: i32) {
        let mut last = None;
        let patience = Duration::from_secs(60);
        for _ in 0..patience.as_millis() / 200 {
            let ran = self.probe(probe);
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

/// The process that another one has started, and its name.
fn child_of(parent: u32) -> Option<(String, String)> {
    let all = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    all.into_iter().find_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // `4711 (sgctl) S 4710 …`: the name may have spaces and parentheses.
        let (head, rest) = stat.rsplit_once(')')?;
        let (id, name) = head.split_once(" (")?;
        let its: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (its == parent).then(|| (id.to_owned(), name.to_owned()))
    })
}

/// For setpriv: `+bpf,+perfmon,+net_admin`.
fn capabilities(manifest: &Value) -> String {
    let added = words(&manifest["securityContext"]["capabilities"]["add"]);
    let added = added.iter().map(|name| format!("+{}", name.to_lowercase()));
    added.collect::<Vec<_>>().join(",")
}

/// The volume of a ConfigMap, as the kubelet makes and changes it.
struct Volume {
    at: PathBuf,
    number: u32,
}

impl Volume {
    fn new(at: PathBuf, policy: &str) -> Volume {
        std::fs::create_dir(&at).expect("the folder is writable");
        // As on a node; in the container it is mounted read-only.
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&at, open).expect("it is root's");
        let mut volume = Volume { at, number: 0 };
        volume.set(policy);
        symlink("..data/policy.yaml", volume.at.join("policy.yaml"))
            .expect("the folder is writable");
        volume
    }

    fn set(&mut self, policy: &str) {
        self.number += 1;
        let name = format!("..{}", self.number);
        std::fs::create_dir(self.at.join(&name)).expect("the folder is writable");
        file(&self.at.join(&name), "policy.yaml", policy);
        symlink(&name, self.at.join("..data_tmp")).expect("the folder is writable");
        std::fs::rename(self.at.join("..data_tmp"), self.at.join("..data")).expect("it is there");
        // The kubelet removes what was there before.
        let before = self.at.join(format!("..{}", self.number - 1));
        let _ = std::fs::remove_dir_all(before);
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
    pod.probe("livenessProbe").ok();
    let held = std::fs::read_to_string(format!("/proc/{}/status", pod.process)).expect("it runs");
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
    pod.running.says("confirmed second on nic");
    pod.becomes("readinessProbe", 0);
    assert!(
        !pod.answers(8080) && pod.answers(8081),
        "it follows the ConfigMap"
    );

    volume.set(&policy("bad", 8080, "udp"));
    pod.becomes("readinessProbe", 1);
    pod.running
        .says("was not confirmed and is undone on nic: second, ");
    assert!(!pod.answers(8080) && pod.answers(8081), "it is undone");
    let ran = pod.probe("readinessProbe");
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.out.contains("bad, generation "), "{}", ran.all());
    pod.probe("livenessProbe").ok();

    let enforces_without_a_pod = || {
        let status = world.run(&["status", "--json"]).ok().json();
        assert_eq!(status[0]["policy"]["name"], "second", "{status}");
        assert_eq!(status[0]["health"], "enforcing", "{status}");
    };
    drop(pod);
    enforces_without_a_pod();
    // The next pod has the same policy, and does not try it again.
    let pod = Pod::start(&world, manifest, &at, &values);
    pod.running.says("not tried again: bad, generation ");
    pod.becomes("livenessProbe", 0);
    assert_eq!(pod.probe("readinessProbe").code, 1);
    enforces_without_a_pod();
    volume.set(&policy("third", 8080, "tcp"));
    pod.becomes("readinessProbe", 0);
    assert!(
        pod.answers(8080) && !pod.answers(8081),
        "another policy is tried"
    );

    let process = pod.process.parse().expect("a number");
    kill(Pid::from_raw(process), Signal::SIGTERM).expect("it runs");
    let mut running = pod.running;
    let code = running.child.wait().expect("it ends").code();
    assert_eq!(code, Some(0));
    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status[0]["policy"]["name"], "third", "{status}");
    assert_eq!(status[0]["health"], "enforcing", "{status}");
}
