//! `sgctl`: parses the command line and calls one function for each command. `lab` is what the
//! command of that name runs; everything else is in the library.
// No panic is reachable from a packet, a file, a flag or the state directory.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo
    )
)]

mod cli;
#[cfg(test)]
mod fixtures;
mod lab;

fn main() -> std::process::ExitCode {
    cli::main()
}
