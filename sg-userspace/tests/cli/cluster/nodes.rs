//! sgctl on both nodes, each with a BPF file system of its own.

use std::path::{Path, PathBuf};
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

    /// The BPF file system of a node.
    pub(super) fn bpffs(&self, node: Who) -> &Path {
        let found = self.bpffs.iter().find(|(its, _)| *its == node);
        &found.expect("a node").1
    }

    fn command(&self, network: &Network, node: Who) -> Command {
        let mut command = sgctl(&["--netns", network.netns(node), "--bpffs"]);
        command.arg(self.bpffs(node));
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
            let status = self.status(network, node);
            assert_eq!(status["health"], "enforcing", "{status:#}");
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
    pub(super) fn status(&self, network: &Network, node: Who) -> Value {
        let status = self.run(network, node, &["status", "--json"]);
        status.json()[0].clone()
    }

    #[track_caller]
    pub(super) fn history(&self, network: &Network, node: Who) -> Value {
        let history = self.run(network, node, &["history", "--json"]);
        history.ok().json()[0].clone()
    }

    #[track_caller]
    pub(super) fn counters(&self, network: &Network, node: Who) -> Value {
        let counters = self.run(network, node, &["counters", "--json"]);
        counters.ok().json()[0].clone()
    }
}
