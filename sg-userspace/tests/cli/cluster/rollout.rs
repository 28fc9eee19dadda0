//! A policy goes from node to node: `deploy/kubernetes` is rolled out by Kubernetes' own controller
//! of DaemonSets, with nothing changed in it but the policy.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::world::Ran;
use super::kubelet::{Event, Kubelets};
use super::manifests::base_with;
use super::network::{NODES, Network, Who};
use super::nodes::Nodes;
use super::programs::ControlPlane;
use super::{changes, services};

/// Longer than a pod has to be ready before the next one is replaced (`minReadySeconds`).
const A_WHILE: Duration = Duration::from_secs(30);

/// Proves C4 and C11, in a cluster: a policy under which a node reaches its API server comes to one
/// node after the other. One that cuts the node off is undone on the first node, and no other one
/// ever has it; taking it back touches that node alone. Both nodes enforce at every moment, and
/// after the DaemonSet too.
#[test]
#[ignore = "needs the programs of a cluster, which `cargo xtask test --kubernetes` builds"]
fn a_policy_that_cuts_nodes_off_stops_at_the_first_one() {
    let begun = Instant::now();
    let network = Network::new();
    let mut plane = ControlPlane::start(&network);
    plane.kubectl(&["apply", "-f", "-"], &services::objects());
    plane.start_proxies();
    plane.start_controllers();
    let nodes = Nodes::new(&network);
    let mut cluster = Cluster {
        network: &network,
        plane: &plane,
        nodes: &nodes,
        kubelets: Kubelets::new(&network, &plane, &nodes),
        begun,
    };
    changes::wait_for_the_api(&network);
    cluster.say("both nodes reach the API server by its service");
    cluster.apply(|base| base.to_owned());
    cluster.is_over("node");
    cluster.say("the base's policy is in force on both nodes");
    a_good_policy_comes_to_each(&mut cluster);
    let first = a_bad_policy_comes_to_one(&mut cluster);
    it_is_taken_back_there(&mut cluster, first);
    a_node_that_is_down_is_waited_for(&mut cluster);
    the_end_leaves_both_enforced(&mut cluster);
}

fn a_good_policy_comes_to_each(cluster: &mut Cluster) {
    cluster.apply(|base| {
        let named = base.replace("name: node\n", "name: good\n");
        named.replace("admin: []", "admin: [198.51.100.7]")
    });
    cluster.is_over("good");
    let events = &cluster.kubelets.events;
    let first = events[0].0;
    let second = other(first);
    let expected = [first, second].map(|node| {
        use Event::{Ended, Ready, Started};
        [(node, Ended), (node, Started), (node, Ready)]
    });
    assert_eq!(*events, expected.concat());
    cluster.say(&format!(
        "a good policy came to {first}, and then to {second}"
    ));
}

/// Returns the node that has had it.
fn a_bad_policy_comes_to_one(cluster: &mut Cluster) -> Who {
    let pods = NODES.map(|node| cluster.kubelets.pod(node));
    cluster.apply(|base| {
        let named = base.replace("name: node\n", "name: bad\n");
        let all = "{protocol: all, to: any, action: accept, name: all}";
        named.replace(all, "{protocol: udp, to: any, action: accept}")
    });
    cluster.work_until("a pod of the bad policy", |it| {
        it.events.iter().any(|(_, event)| *event == Event::Started)
    });
    let first = cluster.kubelets.events[0].0;
    let second = other(first);
    let kept = cluster.kubelets.pod(second);
    assert!(pods.contains(&kept), "{second} has another pod");
    let (network, nodes) = (cluster.network, cluster.nodes);
    let mut is_on_trial = false;
    cluster.work_until("the bad policy to be undone", |it| {
        let of_first = in_force(network, nodes, first);
        is_on_trial |= of_first == "bad";
        assert_eq!(in_force(network, nodes, second), "good");
        assert_eq!(it.ready(), [second]);
        is_on_trial && of_first == "good"
    });
    cluster.say(&format!("a bad policy was undone on {first}"));
    cluster.work_for_a_while(|it| {
        assert_eq!(it.ready(), [second]);
        assert_eq!(it.pod(second), kept);
    });
    cluster.assert_in_force("good");
    let has_ended = |node| ends(network, nodes, node);
    assert!(has_ended(first).contains(&"bad: undone".to_owned()));
    assert!(!has_ended(second).iter().any(|it| it.starts_with("bad")));
    let ready = cluster.kubelets.readiness(first);
    let said = "was not confirmed and is undone";
    assert!(ready.out.contains(said), "{}", ready.all());
    let ran = cluster.rollout(&["status", "--timeout=3s"]);
    assert_eq!(ran.code, 1, "{}", ran.all());
    cluster.say(&format!(
        "{second} never had it, and the rollout stands still"
    ));
    first
}

fn it_is_taken_back_there(cluster: &mut Cluster, first: Who) {
    let second = other(first);
    let kept = cluster.kubelets.pod(second);
    let ran = cluster.rollout(&["undo"]);
    assert_eq!(ran.code, 0, "{}", ran.all());
    cluster.is_over("good");
    assert_eq!(cluster.kubelets.pod(second), kept, "it was touched");
    cluster.say(&format!(
        "taken back: {first} is ready again, and {second} has the same pod"
    ));
}

fn a_node_that_is_down_is_waited_for(cluster: &mut Cluster) {
    let [up, down] = NODES;
    let kept = cluster.kubelets.pod(up);
    cluster.kubelets.goes_down(down);
    cluster.apply(|base| base.replace("name: node\n", "name: next\n"));
    cluster.work_for_a_while(|it| assert_eq!(it.pod(up), kept));
    cluster.assert_in_force("good");
    cluster.kubelets.comes_back();
    cluster.is_over("next");
    cluster.say(&format!("the rollout has waited for {down}"));
}

fn the_end_leaves_both_enforced(cluster: &mut Cluster) {
    let delete = ["-n", "sgctl", "delete", "--wait=false", "daemonset/sgctl"];
    cluster.plane.kubectl(&delete, "");
    cluster.work_until("the end of both pods", |it| it.is_idle());
    cluster.assert_in_force("next");
    cluster.say("the DaemonSet is deleted, and both nodes enforce");
}

struct Cluster<'a> {
    network: &'a Network,
    plane: &'a ControlPlane<'a>,
    nodes: &'a Nodes,
    kubelets: Kubelets<'a>,
    begun: Instant,
}

impl Cluster<'_> {
    fn say(&self, what: &str) {
        println!("{:4} s  {what}", self.begun.elapsed().as_secs());
    }

    /// Applies the base with a policy that is made of its own. Events are those since then.
    fn apply(&mut self, change: impl FnOnce(&str) -> String) {
        let folder = base_with(self.network, change);
        self.plane.kubectl(&["apply", "-k", &folder], "");
        self.kubelets.events.clear();
    }

    fn rollout(&self, words: &[&str]) -> Ran {
        let rollout = ["-n", "sgctl", "rollout", words[0], "daemonset/sgctl"];
        let words = [&rollout[..], &words[1..]].concat();
        self.plane.try_kubectl(&words, "")
    }

    /// Both nodes enforce at every moment once they have begun, whatever their pods do.
    #[track_caller]
    fn work_until(&mut self, what: &str, mut is_so: impl FnMut(&Kubelets) -> bool) {
        let (network, nodes) = (self.network, self.nodes);
        self.kubelets.work_until(what, |it| {
            for node in NODES {
                assert_enforces(network, nodes, node);
            }
            is_so(it)
        });
    }

    #[track_caller]
    fn work_for_a_while(&mut self, mut look: impl FnMut(&Kubelets)) {
        let until = Instant::now() + A_WHILE;
        self.work_until("the time to pass", |it| {
            look(it);
            Instant::now() > until
        });
    }

    /// Waits until kubectl, which follows the DaemonSet's status, says that the rollout is over:
    /// both pods are ready, and this policy is in force on both nodes.
    #[track_caller]
    fn is_over(&mut self, name: &str) {
        let has_begun = name != "node";
        let (network, nodes) = (self.network, self.nodes);
        self.kubelets.work_until("both pods", |it| {
            for node in NODES.into_iter().filter(|_| has_begun) {
                assert_enforces(network, nodes, node);
            }
            it.ready() == NODES
                && NODES
                    .iter()
                    .all(|node| in_force(network, nodes, node) == name)
        });
        let begun = Instant::now();
        while self.rollout(&["status", "--timeout=1s"]).code != 0 {
            assert!(begun.elapsed() < A_WHILE, "the rollout is not over");
        }
    }

    #[track_caller]
    fn assert_in_force(&self, name: &str) {
        for node in NODES {
            assert_eq!(in_force(self.network, self.nodes, node), name, "{node}");
        }
    }
}

fn other(node: Who) -> Who {
    let other = NODES.into_iter().find(|it| *it != node);
    other.expect("there are two")
}

/// `undone` is until somebody has tidied up: the policy before is in force. A look in the middle of
/// a change sees some of both policies, so that it is repeated.
#[track_caller]
fn assert_enforces(network: &Network, nodes: &Nodes, node: Who) {
    let begun = Instant::now();
    loop {
        let status = nodes.status(network, node);
        let health = status["health"].as_str().unwrap_or_default();
        if ["enforcing", "undone"].contains(&health) {
            return;
        }
        let is_long_ago = begun.elapsed() > Duration::from_secs(5);
        assert!(!is_long_ago, "{node}: {status:#}");
    }
}

/// The name of the policy that is in force on a node, if there is one.
fn in_force(network: &Network, nodes: &Nodes, node: Who) -> String {
    let status = nodes.status(network, node);
    let name = status["policy"]["name"].as_str();
    name.unwrap_or_default().to_owned()
}

/// The policies that a node remembers, and how each has ended.
fn ends(network: &Network, nodes: &Nodes, node: Who) -> Vec<String> {
    let history = nodes.history(network, node);
    let text = |value: &Value| value.as_str().unwrap_or("in force").to_owned();
    let policies = history["policies"].as_array().expect("a list").iter();
    let shown = policies.map(|it| {
        let (name, ended) = (text(&it["name"]), text(&it["ended"]["how"]));
        format!("{name}: {ended}")
    });
    shown.collect()
}
