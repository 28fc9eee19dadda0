//! The options that all commands share, and the arguments that several have.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use sg_userspace::kernel::{netns, netns_name};
use sg_userspace::observe::attached::Scope;

use super::screen::Screen;

/// `--json`, of every command that reads.
#[derive(Args)]
pub(super) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `--iface`, of the commands that are about everything without it.
#[derive(Args)]
pub(super) struct Ifaces {
    /// Only this interface, or those that match a pattern such as 'eth*'; may be repeated
    #[arg(long = "iface", alias = "interface", value_name = "IF")]
    pub(super) names: Vec<String>,
}

/// Parses the time between two readings, in seconds.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let expected = "expected seconds from 0.1 to 86400, such as 1 or 0.5";
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(expected.to_owned()),
    }
}

/// The options that all commands share.
pub(super) struct Context {
    pub(super) netns: Option<String>,
    pub(super) bpffs: PathBuf,
    pub(super) out: Screen,
    pub(super) err: Screen,
}

impl Context {
    /// The name of the network namespace that the command is about, if it has one: that of --netns,
    /// or else the one that `ip netns` has for the current one.
    pub(super) fn netns_name(&self) -> Option<String> {
        let current = || netns_name(netns::cookie().ok()?);
        self.netns.clone().or_else(current)
    }

    /// The network namespace that the command is about, in words.
    pub(super) fn place(&self) -> String {
        match &self.netns {
            None => "this network namespace".to_owned(),
            Some(name) => format!("the network namespace `{name}`"),
        }
    }

    /// What an error says where none of its interfaces will do.
    pub(super) fn any_interface(&self) -> String {
        format!("any interface of {}", self.place())
    }

    /// The named interfaces, or else all of the current namespace.
    pub(super) fn here(&self, ifaces: &Ifaces) -> Scope {
        match ifaces.names.is_empty() {
            true => Scope::Namespace,
            false => Scope::Interfaces(ifaces.names.clone()),
        }
    }

    /// The named interfaces, or else all of the namespace that --netns names, or else all
    /// namespaces.
    pub(super) fn everywhere(&self, ifaces: &Ifaces) -> Scope {
        match (ifaces.names.is_empty(), &self.netns) {
            (true, None) => Scope::Machine,
            _ => self.here(ifaces),
        }
    }
}
