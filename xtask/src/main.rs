//! `cargo xtask`: sets up, builds, runs, tests, measures, fuzzes, lints and packages this
//! workspace. One file per command; this one only parses the command line.

mod bench;
mod book;
mod build;
mod clauses;
mod dependencies;
mod dist;
mod files;
mod fuzz;
mod generated;
mod image;
mod imports;
mod kernels;
mod kubernetes;
mod links;
mod lint;
mod packages;
mod root;
mod run;
mod setup;
mod shell;
mod term;
mod test;
mod test_binaries;
mod toolchains;
mod troubleshooting;
#[cfg(test)]
mod typed;
mod versions;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Set-up, build, run, test and lint of this workspace
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Cli {
    Setup(setup::Args),
    Build(build::Args),
    Run(run::Args),
    Test(test::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    Image(image::Args),
    Lint(lint::Args),
    Clauses(clauses::Args),
    Dist(dist::Args),
    Book(book::Args),
    Troubleshooting(troubleshooting::Args),
}

fn main() -> ExitCode {
    if let Some(ended) = dist::wrap_if_asked() {
        return ended;
    }
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            term::error(&error);
            root::exit_code(&error)
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    match cli {
        Cli::Setup(args) => setup::command(&args),
        Cli::Build(args) => build::command(&args),
        Cli::Run(args) => run::command(args),
        Cli::Test(args) => test::command(&args),
        Cli::Bench(args) => bench::command(&args),
        Cli::Fuzz(args) => fuzz::command(&args),
        Cli::Image(args) => image::command(&args),
        Cli::Lint(args) => lint::command(&args),
        Cli::Clauses(args) => clauses::command(&args),
        Cli::Dist(args) => dist::command(&args),
        Cli::Book(args) => book::command(&args),
        Cli::Troubleshooting(args) => troubleshooting::command(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
