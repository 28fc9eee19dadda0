//! `sgctl completions`: prints the script by which a shell completes what is typed. The script asks
//! `sgctl` itself: see [`super::complete`].

use clap::Args;
use clap_complete::Shell;

use super::complete;
use super::context::Context;
use super::failure::Failure;

/// Print the completion script of a shell
#[derive(Args)]
#[command(after_help = "\
Commands, options and their values are completed: interfaces, network namespaces, builtins and files,
the sets of the policies on the line, and the rules and generations of what is in force. The script
asks sgctl for them. What is in force only root may ask.

Examples:
  sgctl completions bash > /etc/bash_completion.d/sgctl
  sgctl completions zsh > \"${fpath[1]}/_sgctl\"
  sgctl completions fish > ~/.config/fish/completions/sgctl.fish")]
pub(super) struct Completions {
    /// The shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let script = complete::script(self.shell).map_err(|source| Failure::Io {
            what: "writing the script",
            source,
        })?;
        context.out.print(&String::from_utf8_lossy(&script))
    }
}
