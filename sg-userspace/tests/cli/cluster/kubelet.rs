//! What the kubelets of both nodes do for the pods of the DaemonSet, of which there are no others:
//! a pod's container is started as the pod lists it, its probes are asked, the pod's status says
//! what they answer, and what is deleted ends. What the scheduler does for such a pod is done here
//! too: it is bound to the node that it names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::container::{Container, Place, Volume};
use super::super::world::Ran;
use super::network::{NODES, Network, Who, address};
use super::nodes::Nodes;
use super::programs::ControlPlane;
use super::services::API;

/// Where the pods are.
const PODS: &str = "/api/v1/namespaces/sgctl/pods";

/// How long a step of a rollout may take: a policy is on trial for a minute.
const PATIENCE: Duration = Duration::from_secs(240);

pub(super) struct Kubelets<'a> {
    network: &'a Network,
    plane: &'a ControlPlane<'a>,
    nodes: &'a Nodes,
    /// By their unique names.
    pods: BTreeMap<String, Pod>,
    /// A node that is down.
    down: Option<Who>,
    /// What has happened since this was emptied.
    pub(super) events: Vec<(Who, Event)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Started,
    Ready,
    NotReady,
    Ended,
}

struct Pod {
    node: Who,
    container: Container,
    // What its startup and readiness probes have answered.
    is_started: bool,
    is_ready: bool,
}

impl<'a> Kubelets<'a> {
    pub(super) fn new(
        network: &'a Network,
        plane: &'a ControlPlane<'a>,
        nodes: &'a Nodes,
    ) -> Kubelets<'a> {
        for node in NODES {
            let name = node.to_lowercase();
            let labels = ["kubernetes.io/os=linux", "kubernetes.io/arch=amd64"];
            plane.kubectl(&[&["label", "node", &name][..], &labels].concat(), "");
        }
        Kubelets {
            network,
            plane,
            nodes,
            pods: BTreeMap::new(),
            down: None,
            events: Vec::new(),
        }
    }

    /// Does what there is to do until `is_so`, looking each time.
    #[track_caller]
    pub(super) fn work_until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let events = &self.events;
            assert!(
                Instant::now() < deadline,
                "waited for {what}, saw {events:?}"
            );
            self.work();
        }
    }

    /// The nodes whose pods are ready.
    pub(super) fn ready(&self) -> Vec<Who> {
        let ready = |node: &Who| self.pods.values().any(|it| it.node == *node && it.is_ready);
        NODES.into_iter().filter(ready).collect()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pods.is_empty()
    }

    /// The unique name of a node's pod.
    pub(super) fn pod(&self, node: Who) -> String {
        let mut of_it = self.pods.iter().filter(|(_, pod)| pod.node == node);
        let (name, _) = of_it.next().expect("it has a pod");
        assert!(of_it.next().is_none(), "{node} has two pods");
        name.clone()
    }

    /// A node is down: nobody does anything there, and its pods are not ready, as the controller of
    /// nodes, which is not here, would say of them.
    pub(super) fn goes_down(&mut self, node: Who) {
        self.down = Some(node);
        let listed = self.listed();
        for pod in listed.iter().filter(|it| node_of(it) == Some(node)) {
            self.set_status(pod, node, false);
        }
        for pod in self.pods.values_mut().filter(|it| it.node == node) {
            pod.is_ready = false;
        }
    }

    pub(super) fn comes_back(&mut self) {
        self.down = None;
    }

    /// What the readiness probe of a node's pod says.
    pub(super) fn readiness(&self, node: Who) -> Ran {
        self.pods[&self.pod(node)].container.probe("readinessProbe")
    }

    fn listed(&self) -> Vec<Value> {
        let listed = self.plane.object(&["pods", "-n", "sgctl"]);
        listed["items"].as_array().expect("a list").clone()
    }

    fn work(&mut self) {
        for pod in &self.listed() {
            let unique = text(&pod["metadata"]["uid"]).to_owned();
            let node = node_of(pod);
            if node.is_none() {
                self.bind(pod);
            } else if node == self.down {
                // Nobody is there.
            } else if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.end(pod, &unique);
            } else if !self.pods.contains_key(&unique) {
                self.start(pod, unique);
            } else {
                self.probe(pod, &unique);
            }
        }
    }

    /// The controller has written into the pod which node it is for.
    fn bind(&self, pod: &Value) {
        let affinity = &pod["spec"]["affinity"]["nodeAffinity"];
        let terms =
            &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        let field = &terms[0]["matchFields"][0];
        assert_eq!(field["key"], "metadata.name", "{pod:#}");
        let name = text(&pod["metadata"]["name"]);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": field["values"][0]},
        });
        let path = format!("{PODS}/{name}/binding");
        let create = ["create", "--raw", &path, "-f", "-"];
        self.plane.kubectl(&create, &binding.to_string());
    }

    fn start(&mut self, pod: &Value, unique: String) {
        let node = node_of(pod).expect("it is bound");
        let manifest = &pod["spec"]["containers"][0];
        let root = self.network.dir.path().join(&unique);
        std::fs::create_dir(&root).expect("the folder is writable");
        let volume = self.volume(pod, root.join("volume"));
        let place = Place {
            netns: self.network.netns(node),
            bpffs: self.nodes.bpffs(node),
            root: root.join("root"),
        };
        // What the kubelet adds to the variables of the manifest.
        let api = API.to_string();
        let mut values = vec![
            ("$(KUBERNETES_SERVICE_HOST)".to_owned(), api.as_str()),
            ("$(KUBERNETES_SERVICE_PORT)".to_owned(), "443"),
        ];
        for variable in manifest["env"].as_array().expect("a list") {
            let name = format!("$({})", text(&variable["name"]));
            values.push((name, text(&variable["value"])));
        }
        let values: Vec<_> = values
            .iter()
            .map(|(name, it)| (name.as_str(), *it))
            .collect();
        let container = Container::start(&place, manifest, &volume.at, &values);
        let started = Pod {
            node,
            container,
            is_started: false,
            is_ready: false,
        };
        self.set_status(pod, node, false);
        self.pods.insert(unique, started);
        self.events.push((node, Event::Started));
    }

    /// The volume of the ConfigMap that a pod names.
    fn volume(&self, pod: &Value, at: PathBuf) -> Volume {
        let volumes = pod["spec"]["volumes"].as_array().expect("a list").iter();
        let names = volumes.filter_map(|it| it["configMap"]["name"].as_str());
        let names: Vec<&str> = names.collect();
        let [name] = names[..] else {
            panic!("one ConfigMap, and not {names:?}")
        };
        let map = self.plane.object(&["configmap", name, "-n", "sgctl"]);
        Volume::new(at, text(&map["data"]["policy.yaml"]))
    }

    /// Until the startup probe has succeeded once no other is asked.
    fn probe(&mut self, pod: &Value, unique: &str) {
        let its = self.pods.get_mut(unique).expect("it was started");
        let node = its.node;
        let ended = its.container.running.child.try_wait();
        let ended = ended.expect("its state can be read");
        if let Some(status) = ended {
            let lines: Vec<String> = its.container.running.lines.try_iter().collect();
            panic!("the container of {node} has ended, {status}: {lines:#?}");
        }
        if !its.is_started {
            its.is_started = its.container.probe("startupProbe").code == 0;
            return;
        }
        let live = its.container.probe("livenessProbe");
        assert_eq!(live.code, 0, "{node}: {}", live.all());
        let is_ready = its.container.probe("readinessProbe").code == 0;
        if is_ready != its.is_ready {
            its.is_ready = is_ready;
            self.set_status(pod, node, is_ready);
            let event = if is_ready {
                Event::Ready
            } else {
                Event::NotReady
            };
            self.events.push((node, event));
        }
    }

    fn set_status(&self, pod: &Value, node: Who, is_ready: bool) {
        let now = jiff::Timestamp::now().to_string();
        let status = if is_ready { "True" } else { "False" };
        let condition =
            |kind: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
        let mut pod = pod.clone();
        pod["status"] = json!({
            "phase": "Running",
            "hostIP": address(node),
            "podIP": address(node),
            "startTime": now,
            "conditions": [condition("Ready"), condition("ContainersReady")],
        });
        // Whatever has changed in it meanwhile: the status is the kubelet's alone.
        let metadata = pod["metadata"].as_object_mut().expect("an object");
        metadata.remove("resourceVersion");
        let path = format!("{PODS}/{}/status", text(&pod["metadata"]["name"]));
        let replace = ["replace", "--raw", &path, "-f", "-"];
        self.plane.kubectl(&replace, &pod.to_string());
    }

    fn end(&mut self, pod: &Value, unique: &str) {
        if let Some(its) = self.pods.remove(unique) {
            assert_eq!(its.container.terminate(), Some(0), "{}", its.node);
            self.events.push((its.node, Event::Ended));
        }
        let name = text(&pod["metadata"]["name"]);
        let delete = ["delete", "pod", name, "-n", "sgctl"];
        let at_once = ["--grace-period=0", "--force", "--wait=false"];
        self.plane.kubectl(&[&delete[..], &at_once].concat(), "");
    }
}

/// The node to which a pod is bound.
fn node_of(pod: &Value) -> Option<Who> {
    let name = pod["spec"]["nodeName"].as_str()?;
    let of = |node: &Who| node.to_lowercase() == name;
    Some(NODES.into_iter().find(of).expect("one of the nodes"))
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}
