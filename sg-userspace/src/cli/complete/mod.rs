//! Completion in shells: a script in the shell asks `sgctl` itself, which knows what can stand at
//! the cursor. The options and commands come from their definitions; here is what the values are
//! chosen from. It only reads, and says nothing where it may not.

mod line;
mod shells;
mod values;

use std::process::ExitCode;

use clap::Command;
use clap_complete::CompleteEnv;
use clap_complete::engine::ArgValueCompleter;

pub(super) use shells::script;
use shells::{SHELLS, VARIABLE};

/// Answers a shell that asks what can stand at the cursor. `None` if none asks.
pub(super) fn answer(command: fn() -> Command) -> Option<ExitCode> {
    let asked = CompleteEnv::with_factory(|| with_values(command()))
        .var(VARIABLE)
        .shells(SHELLS);
    let folder = std::env::current_dir().ok();
    match asked.try_complete(std::env::args_os(), folder.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        Err(error) => {
            // If standard error is closed, there is nobody to tell.
            let _ = error.print();
            Some(ExitCode::from(2))
        }
    }
}

/// The command line, each of whose arguments knows what its values are chosen from. They are told
/// apart by the name that the help gives to the value.
fn with_values(command: Command) -> Command {
    let name = command.get_name().to_owned();
    command
        .mut_args(|arg| {
            let value = arg.get_value_names().and_then(<[_]>::first);
            let value = value.map_or("", |value| value.as_str());
            match (arg.get_id().as_str(), value) {
                ("name", _) if name == "show" => arg.add(ArgValueCompleter::new(values::templates)),
                (_, "IF") => arg.add(ArgValueCompleter::new(values::interfaces)),
                (_, "NAME|PATH") => arg.add(ArgValueCompleter::new(values::namespaces)),
                (_, "POLICY") => arg.add(ArgValueCompleter::new(values::policies)),
                (_, "WORD") => arg.add(ArgValueCompleter::new(values::question)),
                (_, "NAME=VALUE[,VALUE...]") => arg.add(ArgValueCompleter::new(values::sets)),
                (_, "NAME|POSITION") => arg.add(ArgValueCompleter::new(values::rules)),
                (_, "REASON") => arg.add(ArgValueCompleter::new(values::reasons)),
                (_, "STATE") => arg.add(ArgValueCompleter::new(values::states)),
                (_, "COLUMN") => arg.add(ArgValueCompleter::new(values::columns)),
                (_, "PROTO") => arg.add(ArgValueCompleter::new(values::protocols)),
                (_, "GENERATION") | ("generation", _) => {
                    arg.add(ArgValueCompleter::new(values::generations))
                }
                _ => arg,
            }
        })
        .mut_subcommands(with_values)
}
