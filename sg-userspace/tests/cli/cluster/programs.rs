//! The programs of a cluster: etcd, the API server, controllers, a kube-proxy on each node, and
//! kubectl.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sg_testbed::wait_for;

use super::super::world::Ran;
use super::network::{CLUSTER_CIDR, NODES, Network, Who, address};

/// The variable that names the folder of the cluster's programs.
const FOLDER: &str = "SG_KUBERNETES";

/// How long a cluster may take to be there.
const PATIENCE: Duration = Duration::from_secs(180);

/// The API server's address and port.
const SERVER: &str = "https://10.0.0.2:6443";

/// Whoever has it may do everything.
const TOKEN: &str = "of-the-tests";

pub(super) fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os(FOLDER).unwrap_or_else(|| {
        panic!(
            "{FOLDER} does not name the programs of a cluster: `cargo xtask test --kubernetes` \
             builds them and runs this test"
        )
    });
    Path::new(&folder).join(name)
}

/// A program that runs until this is dropped; it also ends with the test's thread. If the test has
/// failed by then, the last that it said is printed.
struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(network: &Network, who: Who, name: &str, words: &[&str]) -> Daemon {
        let log = network.dir.path().join(format!("{name}.{who}.log"));
        let file = File::create(&log).expect("the folder is writable");
        let copy = file.try_clone().expect("a descriptor");
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", network.netns(who)))
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program(name))
            .args(words)
            // Nothing of the user's.
            .env("HOME", network.dir.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .spawn();
        Daemon {
            name: format!("{name} of {who}"),
            child: child.unwrap_or_else(|e| panic!("{name}: {e}")),
            log,
        }
    }

    #[track_caller]
    fn assert_runs(&mut self) {
        let ended = self.child.try_wait().expect("its state can be read");
        assert!(ended.is_none(), "{} has ended: {ended:?}", self.name);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            println!("{} said last:\n{last}\n", self.name);
        }
    }
}

/// etcd, an API server and controllers in the control plane's namespace, and the proxies of the
/// nodes.
pub(super) struct ControlPlane<'a> {
    network: &'a Network,
    daemons: Vec<Daemon>,
}

impl<'a> ControlPlane<'a> {
    pub(super) fn start(network: &'a Network) -> ControlPlane<'a> {
        let dir = network.dir.path();
        let path = |name: &str| dir.join(name).display().to_string();
        fs::write(
            dir.join("tokens.csv"),
            format!("{TOKEN},tests,1,system:masters\n"),
        )
        .expect("the folder is writable");
        fs::write(dir.join("kubeconfig"), kubeconfig()).expect("the folder is writable");
        let key = path("accounts.key");
        sg_testbed::run("openssl", &["genrsa", "-out", &key, "2048"]);

        let etcd = Daemon::start(
            network,
            "API",
            "etcd",
            &[
                &format!("--data-dir={}", path("etcd")),
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        );
        let server = Daemon::start(
            network,
            "API",
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379",
                "--service-cluster-ip-range=10.96.0.0/16",
                &format!("--bind-address={}", address("API")),
                &format!("--advertise-address={}", address("API")),
                // It makes a certificate of its own.
                &format!("--cert-dir={}", path("certificates")),
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-key-file={key}"),
                &format!("--service-account-signing-key-file={key}"),
                &format!("--token-auth-file={}", path("tokens.csv")),
                "--authorization-mode=RBAC",
                // No controller makes the accounts that it would look for.
                "--disable-admission-plugins=ServiceAccount",
            ],
        );
        let mut plane = ControlPlane {
            network,
            daemons: vec![etcd, server],
        };
        wait_for("the API server", PATIENCE, || {
            for daemon in &mut plane.daemons {
                daemon.assert_runs();
            }
            let ready = run_kubectl(network, &["get", "--raw", "/readyz"], "");
            ready.code == 0
        });
        plane
    }

    /// A kube-proxy on each node, which translates addresses with iptables.
    pub(super) fn start_proxies(&mut self) {
        let config = self.network.dir.path().join("kubeconfig");
        for node in NODES {
            kubelet_rules(self.network, node);
            self.daemons.push(Daemon::start(
                self.network,
                node,
                "kube-proxy",
                &[
                    &format!("--kubeconfig={}", config.display()),
                    &format!("--hostname-override={}", node.to_lowercase()),
                    "--proxy-mode=iptables",
                    &format!("--cluster-cidr={CLUSTER_CIDR}"),
                    "--healthz-bind-address=0.0.0.0:10256",
                    // What there is of connection tracking is the machine's.
                    "--conntrack-max-per-core=0",
                    "--conntrack-tcp-timeout-established=0",
                    "--conntrack-tcp-timeout-close-wait=0",
                    "--iptables-min-sync-period=100ms",
                ],
            ));
        }
    }

    /// The controllers that make pods of a DaemonSet, and end what belonged to one that is deleted.
    pub(super) fn start_controllers(&mut self) {
        let config = self.network.dir.path().join("kubeconfig");
        self.daemons.push(Daemon::start(
            self.network,
            "API",
            "kube-controller-manager",
            &[
                &format!("--kubeconfig={}", config.display()),
                "--controllers=daemonset,garbagecollector",
                // It is alone.
                "--leader-elect=false",
            ],
        ));
    }

    /// What kubectl says, which must succeed.
    #[track_caller]
    pub(super) fn kubectl(&self, words: &[&str], input: &str) -> String {
        let ran = self.try_kubectl(words, input);
        assert_eq!(ran.code, 0, "kubectl {words:?}: {}", ran.all());
        ran.out
    }

    pub(super) fn try_kubectl(&self, words: &[&str], input: &str) -> Ran {
        run_kubectl(self.network, words, input)
    }

    /// An object as the API server has it.
    #[track_caller]
    pub(super) fn object(&self, words: &[&str]) -> Value {
        let shown = self.kubectl(&[&["get", "-o", "json"][..], words].concat(), "");
        serde_json::from_str(&shown).expect("kubectl prints JSON")
    }
}

impl Drop for ControlPlane<'_> {
    fn drop(&mut self) {
        // What was started last goes first: one that misses another one has much to say.
        while self.daemons.pop().is_some() {}
    }
}

fn kubeconfig() -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: tests\n\
         clusters: [{{name: tests, cluster: {{server: \"{SERVER}\", insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: tests, user: {{token: {TOKEN}}}}}]\n\
         contexts: [{{name: tests, context: {{cluster: tests, user: tests}}}}]\n"
    )
}

/// Debian's kubectl, in the control plane's namespace.
fn run_kubectl(network: &Network, words: &[&str], input: &str) -> Ran {
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", network.netns("API")))
        .arg(program("kubectl"))
        .args(words)
        .env("KUBECONFIG", network.dir.path().join("kubeconfig"))
        .env("HOME", network.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tests need util-linux");
    let mut stdin = child.stdin.take().expect("it is piped");
    // One that refuses its arguments does not read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    Ran::of(&child.wait_with_output().expect("kubectl ends"))
}

/// What a kubelet and a pod network have on a node, neither of which is here: packets that
/// kube-proxy has marked to be dropped are, and pods go out with the node's address.
fn kubelet_rules(network: &Network, node: Who) {
    for words in [
        "-t nat -N KUBE-MARK-DROP",
        "-t nat -A KUBE-MARK-DROP -j MARK --or-mark 0x8000",
        "-t filter -N KUBE-FIREWALL",
        "-t filter -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
        "-t filter -A INPUT -j KUBE-FIREWALL",
        "-t filter -A OUTPUT -j KUBE-FIREWALL",
        "-t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.0.0.0/8 -j MASQUERADE",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        network.run(node, "iptables", &words);
    }
}
