//! What every command needs to know, and the argument that nearly all have.

use std::path::PathBuf;

use clap::Args;
use sg_userspace::observe::attached::Scope;

use super::screen::Screen;

/// `--json`, of every command that reads.
#[derive(Args)]
pub(super) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// What every command needs to know.
pub(super) struct Context {
    pub(super) netns: Option<String>,
    pub(super) bpffs: PathBuf,
    pub(super) out: Screen,
    pub(super) err: Screen,
}

impl Context {
    /// The named interface, else all of the current namespace.
    pub(super) fn here(&self, iface: Option<&String>) -> Scope {
        iface.map_or(Scope::Namespace, |name| Scope::Interface(name.clone()))
    }

    /// The named interface, else all of the namespace that --netns named, else all there are.
    pub(super) fn everywhere(&self, iface: Option<&String>) -> Scope {
        match (iface, &self.netns) {
            (None, None) => Scope::Machine,
            _ => self.here(iface),
        }
    }
}
