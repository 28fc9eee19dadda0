//! `deploy/kubernetes` and docs/kubernetes.md: what `kubectl` makes of the manifests, and what
//! their policies decide.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::world::{Ran, file, run};

pub(super) fn deploy(folder: &str) -> PathBuf {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    deploy.join(folder)
}

/// `kubectl` without a cluster, and with nothing of the user's.
fn kubectl(words: &[&str], input: &str) -> String {
    kubectl_of(Path::new("kubectl"), words, input)
}

/// A certain one.
fn kubectl_of(program: &Path, words: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(words)
        .env("KUBECONFIG", "/dev/null")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("the tests need kubectl, which `cargo xtask setup` installs: {e}")
        });
    let mut stdin = child.stdin.take().expect("it is piped");
    // A kubectl that refuses its arguments does not read its input, and says why.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let ran = Ran::of(&child.wait_with_output().expect("kubectl ends"));
    assert_eq!(ran.code, 0, "kubectl {words:?}: {}", ran.all());
    ran.out
}

/// Since 1.21 kubectl knows components, which the overlay has.
pub(super) fn knows_components() -> bool {
    let version = kubectl(&["version", "--client", "-o", "json"], "");
    let version: Value = serde_json::from_str(&version).expect("it is JSON");
    let minor = version["clientVersion"]["minor"]
        .as_str()
        .unwrap_or_default();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u32>().expect("a minor version") >= 21
}

/// The objects of a kustomization, by their kind.
pub(super) fn objects(folder: &str) -> BTreeMap<String, Value> {
    objects_of(Path::new("kubectl"), folder)
}

/// As a certain kubectl makes them: names have a hash, which not all of them make in one way. The
/// label that is added makes kubectl print JSON.
pub(super) fn objects_of(kubectl: &Path, folder: &str) -> BTreeMap<String, Value> {
    let path = deploy(folder).display().to_string();
    let built = kubectl_of(kubectl, &["kustomize", &path], "");
    let label = [
        "label",
        "--local",
        "--overwrite",
        "-f",
        "-",
        "-o",
        "json",
        "built=1",
    ];
    let shown = kubectl_of(kubectl, &label, &built);
    let all = serde_json::Deserializer::from_str(&shown).into_iter::<Value>();
    let mut found = BTreeMap::new();
    for one in all.map(|one| one.expect("kubectl prints JSON")) {
        let items = match one["kind"] == "List" {
            true => one["items"].as_array().cloned().unwrap_or_default(),
            false => vec![one],
        };
        for item in items {
            let kind = item["kind"].as_str().expect("a kind").to_owned();
            assert!(found.insert(kind, item).is_none(), "one of each kind");
        }
    }
    found
}

/// What of `given` is not in `known`: a key that is misspelled is no key that kubectl's types have.
pub(super) fn lost(given: &Value, known: &Value, at: &str) -> Vec<String> {
    match (given, known) {
        (Value::Object(given), known) => given
            .iter()
            .flat_map(|(key, value)| lost(value, &known[key], &format!("{at}.{key}")))
            .collect(),
        (Value::Array(given), Value::Array(known)) if given.len() == known.len() => given
            .iter()
            .zip(known)
            .enumerate()
            .flat_map(|(i, (given, known))| lost(given, known, &format!("{at}[{i}]")))
            .collect(),
        (given, known) if given == known => Vec::new(),
        (given, known) => vec![format!("{at} is {given}, and for kubectl {known}")],
    }
}

/// The DaemonSet as kubectl writes it out again, which knows its keys and their types.
fn typed(daemon_set: &Value) -> Value {
    let set = [
        "set",
        "serviceaccount",
        "--local",
        "-f",
        "-",
        "-o",
        "json",
        "default",
    ];
    serde_json::from_str(&kubectl(&set, &daemon_set.to_string())).expect("JSON")
}

fn assert_typed(daemon_set: &Value) {
    let lost = lost(daemon_set, &typed(daemon_set), "it");
    assert!(lost.is_empty(), "{lost:#?}");
}

pub(super) fn container(daemon_set: &Value) -> &Value {
    let containers = &daemon_set["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

pub(super) fn words(list: &Value) -> Vec<String> {
    let all = list.as_array().expect("a list").iter();
    all.map(|one| one.as_str().expect("text").to_owned())
        .collect()
}

/// What is misspelled is found: the test of the test.
#[test]
fn a_key_that_kubectl_does_not_know_is_noticed() {
    let mut daemon_set = objects("base")["DaemonSet"].clone();
    daemon_set["spec"]["template"]["spec"]["hostNetwrok"] = true.into();
    let lost = lost(&daemon_set, &typed(&daemon_set), "it");
    assert_eq!(
        lost,
        ["it.spec.template.spec.hostNetwrok is true, and for kubectl null"]
    );
}

/// The DaemonSet is what it has to be: no more of the node than it needs, and a rollout that stops
/// at the first node whose policy was undone.
#[test]
fn the_daemon_set_takes_little_and_rolls_out_node_by_node() {
    let objects = objects("base");
    let kinds: Vec<&str> = objects.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["ConfigMap", "DaemonSet", "Namespace"]);
    let daemon_set = &objects["DaemonSet"];
    assert_typed(daemon_set);
    let spec = &daemon_set["spec"];
    assert_eq!(spec["updateStrategy"]["type"], "RollingUpdate");
    // Two pods of one node would be two `run`s on one interface.
    let rolling = serde_json::json!({"maxUnavailable": 1});
    assert_eq!(spec["updateStrategy"]["rollingUpdate"], rolling);

    let pod = &spec["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
    for none in ["hostPID", "hostIPC", "initContainers", "serviceAccountName"] {
        assert!(pod[none].is_null(), "{none}");
    }
    let volumes = &pod["volumes"];
    assert_eq!(volumes.as_array().map(Vec::len), Some(2));
    assert_eq!(volumes[0]["hostPath"]["path"], "/sys/fs/bpf");
    // The name has a hash of the policy, so that another policy is another pod.
    let name = objects["ConfigMap"]["metadata"]["name"]
        .as_str()
        .expect("a name");
    assert!(name.starts_with("sgctl-policy-"), "{name}");
    assert_eq!(volumes[1]["configMap"]["name"], name);

    let container = container(daemon_set);
    let security = &container["securityContext"];
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(words(&security["capabilities"]["drop"]), ["ALL"]);
    let added = words(&security["capabilities"]["add"]);
    assert_eq!(added, ["BPF", "PERFMON", "NET_ADMIN"]);
    let page = deploy("../../docs/kubernetes.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    for one in added {
        let row = format!("| `CAP_{one}` | ");
        assert!(
            page.contains(&row),
            "docs/kubernetes.md says nothing of {one}"
        );
    }
    for argument in ["--persist", "--confirm-within=60s"] {
        assert!(
            words(&container["args"]).contains(&argument.to_owned()),
            "{argument}"
        );
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let command = words(&container[probe]["exec"]["command"]);
        assert_eq!(command[..2], ["/usr/bin/sgctl", "status"], "{probe}");
    }
}

/// The base's DaemonSet as `detach` has to be: a command that ends, on all nodes at once.
fn without_a_policy(base: &Value) -> Value {
    let mut end = base.clone();
    end["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = "100%".into();
    let pod = &mut end["spec"]["template"]["spec"];
    let container = pod["containers"][0].as_object_mut().expect("a container");
    for key in ["env", "startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(container.remove(key).is_some(), "the base has no {key}");
    }
    container.insert("args".to_owned(), serde_json::json!(["detach"]));
    let no_policy = |list: Option<&mut Value>| {
        let list = list.and_then(Value::as_array_mut).expect("a list");
        list.retain(|one| one["name"] != "policy");
    };
    no_policy(container.get_mut("volumeMounts"));
    no_policy(pod.get_mut("volumes"));
    end
}

/// The other kustomizations: metrics, another policy, and the end of enforcement.
#[test]
fn overlays_change_what_they_are_for() {
    let end = objects("detach");
    assert_typed(&end["DaemonSet"]);
    assert_eq!(
        end["DaemonSet"],
        without_a_policy(&objects("base")["DaemonSet"])
    );
    if !knows_components() {
        eprintln!(
            "this kubectl is older than 1.21 and knows no components: overlays/example is not tried"
        );
        return;
    }
    let example = objects("overlays/example");
    assert_typed(&example["DaemonSet"]);
    let one = container(&example["DaemonSet"]);
    let args = words(&one["args"]);
    assert!(
        args.contains(&"--metrics=$(NODE_IP):9750".to_owned()),
        "{args:?}"
    );
    let env = one["env"].as_array().expect("a list");
    let of = |name: &str| {
        env.iter()
            .find(|it| it["name"] == name)
            .expect("it is there")
    };
    assert_eq!(of("SGCTL_IFACE")["value"], "ens5");
    assert_eq!(
        of("NODE_IP")["valueFrom"]["fieldRef"]["fieldPath"],
        "status.hostIP"
    );
    assert_eq!(one["image"], "registry.example/platform/sgctl:0.1.0");
    let port = example["Service"]["spec"]["ports"][0]["name"].clone();
    assert_eq!(
        example["ServiceMonitor"]["spec"]["endpoints"][0]["port"],
        port
    );
    let labels = &example["DaemonSet"]["spec"]["template"]["metadata"]["labels"];
    let selector = example["Service"]["spec"]["selector"]
        .as_object()
        .expect("labels");
    for (key, value) in selector {
        assert_eq!(&labels[key], value, "{key}");
    }
}

/// The policies of the ConfigMaps are valid, and let the kubelet, pods and NodePorts be reached.
#[test]
fn the_policies_of_the_config_maps_are_valid() {
    let dir = tempfile::tempdir().expect("a folder");
    let folders: &[&str] = match knows_components() {
        true => &["base", "overlays/example"],
        false => &["base"],
    };
    for folder in folders {
        let map = &objects(folder)["ConfigMap"];
        let text = map["data"]["policy.yaml"].as_str().expect("a policy");
        let path = file(dir.path(), "policy.yaml", text);
        // The base admits no administrator: each cluster names its own.
        let allowed = match *folder {
            "base" => vec!["ssh-closed"],
            _ => Vec::new(),
        };
        let checked = run(&["check", &path, "--json"]).ok().json();
        let found = checked["findings"].as_array().expect("a list").iter();
        let warnings = found
            .filter(|it| it["severity"] == "warning")
            .map(|it| &it["code"]);
        assert_eq!(
            warnings.collect::<Vec<_>>(),
            allowed,
            "{folder}: {checked:#}"
        );
        for (question, verdict) in [
            ("in tcp 10.0.0.9 10.0.0.5:10250", "accept"),
            ("in tcp 203.0.113.9 10.0.0.5:10250", "drop"),
            ("in tcp 203.0.113.9 10.0.0.5:22", "drop"),
            ("in tcp 172.20.3.4 172.20.9.9:8080", "accept"),
            ("in tcp 10.0.4.3 10.0.0.5:30080", "accept"),
            ("out tcp 10.0.0.2:6443 10.0.0.5", "accept"),
        ] {
            let mut words = vec!["explain", &path, "--json"];
            words.extend(question.split(' '));
            let answer = run(&words).ok().json();
            assert_eq!(
                answer["verdict"], verdict,
                "{folder}: {question}: {answer:#}"
            );
        }
    }
}

/// The policies in docs/kubernetes.md, by their names.
fn policies_of_the_page() -> BTreeMap<String, String> {
    let page = deploy("../../docs/kubernetes.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks = page.split("```yaml\n").skip(1);
    let of = |block: &str| {
        let (policy, _) = block.split_once("```").expect("the block ends");
        let name = policy
            .strip_prefix("name: ")
            .and_then(|rest| rest.lines().next());
        (
            name.expect("it begins with its name").to_owned(),
            policy.to_owned(),
        )
    };
    blocks.map(of).collect()
}

/// Each policy of the page is valid without a warning, and decides what the page says of the access
/// methods.
#[test]
fn policies_of_the_page_are_valid_and_decide_what_it_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let asked: [(&str, &[(&str, &str)]); 6] = [
        ("guarded", &[("in tcp 10.0.0.2 10.0.0.5:10250", "accept")]),
        (
            "flannel",
            &[
                // A pod of another node: the overlay, whatever is in it.
                ("in udp 10.0.0.7 10.0.0.5:8472", "accept"),
                ("in udp 203.0.113.9 10.0.0.5:8472", "drop"),
                ("in tcp 10.0.9.3 10.0.0.5:30080", "accept"),
                ("in tcp 10.0.9.3 10.0.0.5:10256", "accept"),
                ("in tcp 203.0.113.9 10.0.0.5:30080", "drop"),
            ],
        ),
        (
            "calico",
            &[
                // A NodePort that another node has forwarded, and a pod's own packet.
                ("in tcp 10.0.0.7 10.244.1.2:8080", "accept"),
                ("in tcp 10.244.3.4 10.244.1.2:8080", "accept"),
                ("in 4 10.0.0.7 10.0.0.5", "accept"),
                ("in 4 203.0.113.9 10.0.0.5", "drop"),
                ("in tcp 10.0.0.7 10.0.0.5:179", "accept"),
                ("in tcp 203.0.113.9 10.244.1.2:8080", "drop"),
            ],
        ),
        (
            "cilium",
            &[
                ("in udp 10.0.0.7 10.0.0.5:8472", "accept"),
                ("in tcp 10.0.0.7 10.0.0.5:4240", "accept"),
                ("in icmp 10.0.0.7 10.0.0.5", "accept"),
                ("in tcp 203.0.113.9 10.0.0.5:4244", "drop"),
            ],
        ),
        (
            "cloud",
            &[
                ("in tcp 203.0.113.9 10.0.0.5:30080", "accept"),
                ("in tcp 203.0.113.9 10.0.0.5:8080", "drop"),
                ("in tcp 10.244.3.4 10.244.1.2:8080", "accept"),
                ("in tcp 10.0.9.3 10.0.0.5:10256", "accept"),
                ("out tcp 169.254.169.254:80 10.0.0.5", "accept"),
                ("out tcp 203.0.113.9:25 10.0.0.5", "drop"),
            ],
        ),
        (
            "control-plane",
            &[
                ("in tcp 10.0.0.7 10.0.0.2:6443", "accept"),
                ("in tcp 10.244.3.4 10.0.0.2:6443", "accept"),
                ("in tcp 10.0.0.3 10.0.0.2:2380", "accept"),
                ("in tcp 10.0.0.7 10.0.0.2:2379", "drop"),
            ],
        ),
    ];
    let mut policies = policies_of_the_page();
    for (name, questions) in asked {
        let text = policies
            .remove(name)
            .unwrap_or_else(|| panic!("the page has no {name}"));
        let path = file(dir.path(), &format!("{name}.yaml"), &text);
        let checked = run(&["check", "--strict", &path]);
        assert_eq!(checked.code, 0, "{name}: {}", checked.all());
        for (question, verdict) in questions {
            let mut words = vec!["explain", &path, "--json"];
            words.extend(question.split(' '));
            let answer = run(&words).ok().json();
            assert_eq!(
                answer["verdict"], *verdict,
                "{name}: {question}: {answer:#}"
            );
        }
    }
    assert!(
        policies.is_empty(),
        "nobody asks about {:?}",
        policies.keys()
    );
}
