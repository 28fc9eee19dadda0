//! `sgctl`: parses the command line and hands over to one function per command.
//! Everything that does something is in the library; this binary reads arguments and prints.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
