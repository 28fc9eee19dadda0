//! The policies in `examples/policies`: each is valid without a warning, and decides what its
//! comments say.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::world::run;

/// A question to `explain`, the verdict, and the position of the rule that decides, or 0 if none
/// does.
type Asked = (&'static str, &'static str, u64);

const EXAMPLES: [(&str, &[Asked]); 8] = [
    (
        "bastion",
        &[
            ("in tcp 198.51.100.9 10.9.0.1:22", "accept", 1),
            ("in tcp 203.0.113.9 10.9.0.1:22", "drop", 0),
            ("in tcp [2001:db8:10::9] [2001:db8:9::1]:22", "accept", 1),
            ("in icmpv6 2001:db8:10::9 2001:db8:9::1", "accept", 3),
            ("out tcp 10.0.7.7:22 10.9.0.1", "accept", 1),
            ("out tcp 10.1.7.7:22 10.9.0.1", "drop", 0),
            ("out tcp 10.0.7.7:3306 10.9.0.1", "drop", 0),
            ("out udp 8.8.8.8:53 10.9.0.1", "drop", 0),
        ],
    ),
    (
        "block-list",
        &[
            ("in tcp 203.0.113.9 198.18.0.1:443", "drop", 1),
            ("in tcp 203.0.113.129 198.18.0.1:443", "accept", 2),
            ("in tcp 192.0.2.110 198.18.0.1:443", "drop", 1),
            ("in tcp 192.0.2.111 198.18.0.1:443", "accept", 2),
            ("in udp [2001:db8:bad::1] [2001:db8::5]:443", "drop", 1),
            ("in tcp 192.0.2.17 198.18.0.1:22", "drop", 1),
            ("out tcp 192.0.2.17:25 198.18.0.1", "drop", 1),
            ("out tcp 192.0.2.18:25 198.18.0.1", "accept", 2),
        ],
    ),
    (
        "database",
        &[
            ("in tcp 10.60.0.4 10.50.0.11:5432", "accept", 1),
            ("in tcp 10.60.1.4 10.50.0.11:5432", "drop", 0),
            ("in tcp [fd00:60::4] [fd00:50::11]:5432", "accept", 1),
            ("in tcp 10.30.0.10 10.50.0.11:5432", "drop", 0),
            ("out tcp 10.50.0.12:5432 10.50.0.11", "accept", 1),
            ("out tcp 10.60.0.4:5432 10.50.0.11", "drop", 0),
            ("out tcp 93.184.216.34:443 10.50.0.11", "drop", 0),
        ],
    ),
    (
        "default-deny-outbound",
        &[
            ("in tcp 10.1.2.3 10.0.0.9:8443", "accept", 1),
            ("in tcp 203.0.113.9 10.0.0.9:8443", "drop", 0),
            ("out udp 10.0.0.2:53 10.0.0.9", "accept", 1),
            ("out tcp 10.0.0.20:443 10.0.0.9", "accept", 4),
            ("out tcp 10.0.0.21:443 10.0.0.9", "drop", 0),
            ("out tcp [2001:db8::1]:443 [fd00::9]", "drop", 0),
            ("out icmp 10.0.0.2 10.0.0.9", "drop", 0),
        ],
    ),
    (
        "dual-stack",
        &[
            ("in tcp 203.0.113.9 198.18.0.1:443", "accept", 1),
            ("in tcp [2001:db8:99::9] [2001:db8::5]:443", "accept", 1),
            ("in tcp [2001:db8:99::9] [2001:db8::5]:22", "drop", 0),
            ("in icmp 203.0.113.9 198.18.0.1", "accept", 4),
            ("in icmpv6 2001:db8:99::9 2001:db8::5", "accept", 5),
            ("in icmp:13 203.0.113.9 198.18.0.1", "drop", 0),
            ("out tcp [2001:db8:99::9]:25 [2001:db8::5]", "accept", 1),
        ],
    ),
    (
        "kubernetes-control-plane",
        &[
            ("in tcp 10.0.1.5 10.0.0.10:6443", "accept", 1),
            ("in tcp 203.0.113.65 10.0.0.10:6443", "accept", 1),
            ("in tcp 203.0.113.1 10.0.0.10:6443", "drop", 0),
            ("in tcp 10.0.0.11 10.0.0.10:2380", "accept", 2),
            ("in tcp 10.0.1.5 10.0.0.10:2379", "drop", 0),
            ("in udp 10.0.2.5 10.0.0.10:8472", "accept", 4),
            ("in tcp 198.51.100.8 10.0.0.10:22", "drop", 0),
            ("out tcp 10.0.1.5:10250 10.0.0.10", "accept", 1),
        ],
    ),
    (
        "kubernetes-node",
        &[
            ("in tcp 172.16.9.9 10.0.1.5:4240", "accept", 1),
            // A packet to a NodePort that another node has forwarded to this one.
            ("in tcp 10.0.2.7 172.16.1.1:8080", "accept", 2),
            ("in tcp 10.0.9.7 10.0.1.5:30080", "accept", 3),
            ("in tcp 10.0.9.7 10.0.1.5:32768", "drop", 0),
            ("in tcp 203.0.113.9 10.0.1.5:30080", "drop", 0),
            ("in tcp 203.0.113.9 10.0.1.5:10250", "drop", 0),
            ("out tcp 203.0.113.10:6443 10.0.1.5", "accept", 2),
            ("out tcp 203.0.113.11:6443 10.0.1.5", "drop", 0),
        ],
    ),
    (
        "web-behind-load-balancer",
        &[
            ("in tcp 10.20.1.9 10.10.0.1:8443", "accept", 1),
            // A client that bypasses the load balancer.
            ("in tcp 203.0.113.9 10.10.0.1:8443", "drop", 0),
            ("in tcp 10.30.0.11 10.10.0.1:9100", "accept", 2),
            ("in tcp 10.30.0.12 10.10.0.1:9100", "drop", 0),
            ("out tcp 10.50.0.63:5432 10.10.0.1", "accept", 1),
            ("out tcp 10.50.0.64:5432 10.10.0.1", "drop", 0),
        ],
    ),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/policies")
}

#[test]
fn every_example_is_asked_about() {
    let policies = std::fs::read_dir(folder()).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let is_policy = path
            .extension()
            .is_some_and(|extension| extension == "yaml");
        is_policy.then(|| path.file_stem().unwrap().to_string_lossy().into_owned())
    });
    let asked = EXAMPLES.map(|(name, _)| name.to_owned());
    assert_eq!(policies.collect::<BTreeSet<_>>(), BTreeSet::from(asked));
}

/// Proves that the examples are clean: with `--strict` a warning is an error.
#[test]
fn examples_are_valid_and_draw_no_warning() {
    for (name, _) in EXAMPLES {
        let path = folder().join(name).with_extension("yaml");
        let ran = run(&["check", "--strict", path.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.all());
    }
}

#[test]
fn examples_decide_what_they_are_for() {
    for (name, questions) in EXAMPLES {
        let path = folder().join(name).with_extension("yaml");
        for (question, verdict, position) in questions {
            let mut words = vec!["explain", path.to_str().unwrap(), "--json"];
            words.extend(question.split(' '));
            let answer = run(&words).ok().json();
            assert_eq!(
                answer["verdict"], *verdict,
                "{name}: {question}: {answer:#}"
            );
            let by = answer["rule"]["position"].as_u64().unwrap_or(0);
            assert_eq!(by, *position, "{name}: {question}: {answer:#}");
        }
    }
}

/// Packages install it. It has to be a policy, since people begin with it.
#[test]
fn the_packaged_example_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/etc/example.yaml");
    let ran = run(&["check", "--strict", path]);
    assert_eq!(ran.code, 0, "{}", ran.all());
}
