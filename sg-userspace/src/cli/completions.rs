//! `sgctl completions`: prints the completion script of a shell. It is generated from the same
//! definitions as the help.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::context::Context;
use super::failure::Failure;

/// Print the completion script of a shell
#[derive(Args)]
#[command(after_help = "\
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
    pub(super) fn run<C: CommandFactory>(self, context: &Context) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "sgctl", &mut script);
        context.out.print(&String::from_utf8_lossy(&script))
    }
}
