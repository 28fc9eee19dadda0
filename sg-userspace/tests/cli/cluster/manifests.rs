//! `deploy/kubernetes` at a real API server: what it takes, keeps and gives back.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::super::kubernetes::{deploy, knows_components, lost, objects_of};
use super::network::Network;
use super::programs::{ControlPlane, program};

/// The manifests are applied, read back with every key, changed, and removed.
#[test]
#[ignore = "needs an API server, which `cargo xtask test --kubernetes` builds"]
fn the_api_server_takes_every_key_of_the_manifests() {
    let network = Network::new();
    let plane = ControlPlane::start(&network);
    let base = deploy("base").display().to_string();
    let namespace = deploy("base/namespace.yaml").display().to_string();

    plane.kubectl(&["apply", "-k", &base, "--dry-run=client"], "");
    // What is in a namespace can be tried only where there is the namespace.
    plane.kubectl(&["apply", "-f", &namespace], "");
    plane.kubectl(&["apply", "-k", &base, "--dry-run=server"], "");
    let none = plane.object(&["daemonsets,configmaps", "-n", "sgctl"]);
    let names = none["items"].as_array().expect("a list").iter();
    let ours = names.filter(|it| it["metadata"]["name"].as_str().is_some_and(is_ours));
    assert_eq!(ours.count(), 0, "a dry run has made {none:#}");

    plane.kubectl(&["apply", "-k", &base], "");
    assert_kept(&plane, "base");
    let again = plane.kubectl(&["apply", "-k", &base], "");
    let lines: Vec<&str> = again.lines().collect();
    assert_eq!(lines.len(), 3, "{again}");
    assert!(
        lines.iter().all(|line| line.ends_with(" unchanged")),
        "{again}"
    );

    a_misspelled_key_is_noticed(&plane);
    a_pod_is_admitted(&plane);
    another_policy_is_another_template(&network, &plane);
    the_example_is_taken(&plane);

    let detach = deploy("detach").display().to_string();
    plane.kubectl(&["apply", "-k", &detach, "--dry-run=client"], "");
    plane.kubectl(&["apply", "-k", &detach, "--dry-run=server"], "");
    plane.kubectl(&["apply", "-k", &detach], "");
    assert_kept(&plane, "detach");
    let one = &daemon_set(&plane)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(one["args"], json!(["detach"]));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(one[probe].is_null(), "{probe} is left: {one:#}");
    }
    plane.kubectl(&["delete", "--wait=false", "-k", &detach], "");
    let gone = plane.try_kubectl(&["get", "-n", "sgctl", "daemonset", "sgctl"], "");
    gone.fails(1, "NotFound");
}

fn is_ours(name: &str) -> bool {
    name.starts_with("sgctl")
}

fn daemon_set(plane: &ControlPlane) -> Value {
    plane.object(&["daemonset", "sgctl", "-n", "sgctl"])
}

/// Every key of each object of a kustomization is in what the API server gives back.
#[track_caller]
fn assert_kept(plane: &ControlPlane, folder: &str) {
    for (kind, given) in objects_of(&program("kubectl"), folder) {
        assert_same(plane, &kind, given);
    }
}

#[track_caller]
fn assert_same(plane: &ControlPlane, kind: &str, mut given: Value) {
    // The label by which the objects were listed.
    if let Some(labels) = given["metadata"]["labels"].as_object_mut() {
        labels.remove("built");
    }
    if let Some(metadata) = given["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
        if metadata.get("labels") == Some(&json!({})) {
            metadata.remove("labels");
        }
    }
    if let Some(object) = given.as_object_mut() {
        object.remove("status");
    }
    let name = given["metadata"]["name"].as_str().expect("a name");
    let mut words = vec![kind, name];
    if let Some(namespace) = given["metadata"]["namespace"].as_str() {
        words.extend(["-n", namespace]);
    }
    let kept = plane.object(&words);
    let lost = lost(&given, &kept, kind);
    assert!(lost.is_empty(), "{lost:#?}");
}

/// The test of the test: a key that there is not is refused, and lost where that is not looked at.
fn a_misspelled_key_is_noticed(plane: &ControlPlane) {
    let mut wrong = objects_of(&program("kubectl"), "base")["DaemonSet"].clone();
    wrong["metadata"]["name"] = "misspelled".into();
    wrong["spec"]["template"]["spec"]["hostNetwrok"] = true.into();
    let text = wrong.to_string();
    let ran = plane.try_kubectl(&["apply", "-f", "-"], &text);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.err.contains("hostNetwrok"), "{}", ran.all());
    plane.kubectl(&["apply", "--validate=false", "-f", "-"], &text);
    let kept = plane.object(&["daemonset", "misspelled", "-n", "sgctl"]);
    let lost = lost(&wrong["spec"], &kept["spec"], "spec");
    let expected = ["spec.template.spec.hostNetwrok is true, and for kubectl null"];
    assert_eq!(lost, expected);
    plane.kubectl(&["delete", "-n", "sgctl", "daemonset", "misspelled"], "");
}

/// A pod as the DaemonSet's controller, which is not here, would make it.
fn a_pod_is_admitted(plane: &ControlPlane) {
    let template = &daemon_set(plane)["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"],
        "spec": template["spec"],
    });
    pod["metadata"]["name"] = "sgctl-pod".into();
    pod["metadata"]["namespace"] = "sgctl".into();
    let shown = plane.kubectl(
        &["create", "--dry-run=server", "-o", "json", "-f", "-"],
        &pod.to_string(),
    );
    let admitted: Value = serde_json::from_str(&shown).expect("JSON");
    // The number of the class that it names.
    assert_eq!(admitted["spec"]["priority"], 2_000_001_000, "{shown}");
}

/// A copy of the base with a policy that is made of its own.
pub(super) fn base_with(network: &Network, change: impl FnOnce(&str) -> String) -> String {
    let folder = network.dir.path().join("base");
    fs::create_dir_all(&folder).expect("the folder is writable");
    for file in fs::read_dir(deploy("base")).expect("it is there") {
        let file = file.expect("it is readable");
        fs::copy(file.path(), folder.join(file.file_name())).expect("the folder is writable");
    }
    let path = folder.join("policy.yaml");
    let policy = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, change(&policy)).expect("it is ours");
    folder.display().to_string()
}

/// A rollout is a change of the template, which another policy has to be.
fn another_policy_is_another_template(network: &Network, plane: &ControlPlane) {
    let before = daemon_set(plane);
    let copied = base_with(network, |policy| {
        policy.replace("admin: []", "admin: [198.51.100.7]")
    });
    plane.kubectl(&["apply", "-k", &copied], "");
    let after = daemon_set(plane);
    let volume = |set: &Value| set["spec"]["template"]["spec"]["volumes"][1].clone();
    assert_ne!(volume(&before), volume(&after));
    let generation = |set: &Value| set["metadata"]["generation"].as_u64().expect("a number");
    assert_eq!(generation(&after), generation(&before) + 1);
}

/// The overlay with metrics, where a kubectl is installed that knows components. Without its
/// ServiceMonitor: Debian's Go builds an API server that ends when it is given a custom resource,
/// since a library of that Kubernetes (reflect2) knows the maps of older Go only.
fn the_example_is_taken(plane: &ControlPlane) {
    if !knows_components() {
        println!("  overlays/example is left out: the kubectl on the PATH is older than 1.21");
        return;
    }
    let mut objects = objects_of(Path::new("kubectl"), "overlays/example");
    assert!(objects.remove("ServiceMonitor").is_some());
    for (kind, object) in objects {
        plane.kubectl(&["apply", "-f", "-"], &object.to_string());
        assert_same(plane, &kind, object);
    }
    println!("  overlays/example is taken, but for its ServiceMonitor, which is not tried");
}
