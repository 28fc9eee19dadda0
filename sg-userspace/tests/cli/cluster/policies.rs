//! The policies under which services are reached, and what each says of a packet.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::world::{file, run};
use super::network::Network;
use super::page;
use super::wire::{Direction, Opening};

/// Ranges of this network, in the place of the example's.
const RANGES: [&str; 6] = [
    "--set",
    "pods=10.244.0.0/16",
    "--set",
    "nodes=10.0.0.0/24",
    "--set",
    "balancers=10.0.9.0/28",
];

/// What an address that is routed to nodes needs.
const SERVICE_PORT: &str = "name: service-port\n\
    inbound: [{protocol: tcp, ports: 80, from: any, action: accept}]\n";

pub(super) struct Policy {
    pub(super) name: &'static str,
    /// Its files, and what sets hold.
    pub(super) words: Vec<String>,
    /// What it has been asked about.
    asked: BTreeMap<String, bool>,
}

pub(super) fn all(network: &Network) -> Vec<Policy> {
    let deploy = |name: &str| {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
        deploy.join(name).display().to_string()
    };
    let dir = network.dir.path();
    let calico = file(dir, "calico.yaml", &page::policy("calico"));
    let port = file(dir, "service-port.yaml", SERVICE_PORT);
    let example = deploy("overlays/example/policy.yaml");
    let words = [
        ("tke", vec!["builtin:tke"]),
        ("tke-minimal", vec!["builtin:tke-minimal"]),
        ("base", vec![&deploy("base/policy.yaml")]),
        ("calico", vec![&calico]),
        (
            "example with a service's port",
            with_ranges(&[&example, &port]),
        ),
        // The last one is in force when the cluster is changed: it admits least.
        ("example", with_ranges(&[&example])),
    ]
    .map(|(name, words)| (name, words.iter().map(|it| (*it).to_owned()).collect()));
    let policy = |(name, words)| Policy {
        name,
        words,
        asked: BTreeMap::new(),
    };
    words.into_iter().map(policy).collect()
}

/// Files, with this network's ranges in their sets.
fn with_ranges<'a>(files: &[&'a str]) -> Vec<&'a str> {
    [files, &RANGES].concat()
}

impl Policy {
    /// Whether `sgctl explain` lets a packet pass.
    pub(super) fn passes(&mut self, packet: &Opening) -> bool {
        let protocol = if packet.is_udp { "udp" } else { "tcp" };
        let ((source, _), (target, port)) = (packet.source, packet.target);
        let question = match packet.direction {
            Direction::In => format!("in {protocol} {source} {target}:{port}"),
            Direction::Out => format!("out {protocol} {target}:{port} {source}"),
        };
        if let Some(known) = self.asked.get(&question) {
            return *known;
        }
        let mut words: Vec<&str> = vec!["explain", "--json"];
        words.extend(self.words.iter().map(String::as_str));
        words.extend(question.split(' '));
        let answer = run(&words).ok().json();
        let passes = answer["verdict"] == "accept";
        self.asked.insert(question, passes);
        passes
    }
}
