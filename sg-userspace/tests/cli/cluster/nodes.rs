//! sgctl on both nodes, each with a BPF file system of its own.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::super::world::{Ran, sgctl};
use super::network::{NODES, Network, Who};
use super::policies::Policy;

pub(super) struct Nodes {
    bpffs: Vec<(Who, PathBuf)>,
}

impl Nodes {
    pub(super) fn new(network: &Network) -> Nodes {
        let mount = |node: Who| {
            let name = format!("bpf-{node}");
            let made = network.dir.bpffs(&name);
            (node, made.expect("the kernel has BPF file systems"))
        };
        Nodes {
            bpffs: NODES.map(mount).to_vec(),
        }
    }

    fn command(&self, network: &Network, node: Who) -> Command {
        let found = self.bpffs.iter().find(|(its, _)| *its == node);
        let mut command = sgctl(&["--netns", network.netns(node), "--bpffs"]);
        command.arg(&found.expect("a node").1);
        command
    }

    fn run(&self, network: &Network, node: Who, words: &[&str]) -> Ran {
        let mut command = self.command(network, node);
        let ran = command.args(words).args(["--iface", "eth0"]).output();
        Ran::of(&ran.expect("sgctl starts"))
    }

    /// Puts a policy in force on both nodes.
    #[track_caller]
    pub(super) fn apply(&self, network: &Network, policy: &Policy) {
        let words: Vec<&str> = policy.words.iter().map(String::as_str).collect();
        for node in NODES {
            let ran = self.run(network, node, &[&["apply"][..], &words].concat());
            assert_eq!(ran.code, 0, "{}: {}", policy.name, ran.all());
            let status = self.run(network, node, &["status", "--json"]).json();
            assert_eq!(status[0]["health"], "enforcing", "{status:#}");
        }
    }

    /// Ends enforcement on both.
    #[track_caller]
    pub(super) fn detach(&self, network: &Network) {
        for node in NODES {
            let ran = self.run(network, node, &["detach"]);
            assert_eq!(ran.code, 0, "{}", ran.all());
        }
    }

    #[track_caller]
    pub(super) fn counters(&self, network: &Network, node: Who) -> Value {
        let counters = self.run(network, node, &["counters", "--json"]);
        counters.ok().json()[0].clone()
    }
}
