//! `cargo xtask fuzz`: the agreement tests, with random seeds, for as long as one likes.
//! A failure is shrunk and written into the folder of cases that every test run replays.

use std::process::Command;

use anyhow::Result;

use crate::{
    setup::{self, Needs},
    shell, test_binaries,
};

/// Read by the test itself.
const MINUTES: &str = "SG_FUZZ_MINUTES";
const SEED: &str = "SG_FUZZ_SEED";

/// Compare the kernel's programs with the reference on random policies and packets
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz --minutes 30
  cargo xtask fuzz --minutes 1 --seed 4711   # begins where a failure was found

What fails is shrunk and written to sg-userspace/tests/cases; commit it, and every test run replays it.")]
pub(crate) struct Args {
    /// How long to go on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,

    /// The seed of the first policy; the next one has the next seed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let way = test_binaries::way_to_root()?;
    setup::ensure(Needs::Tools)?;
    let mut command = fuzz(args)?;
    test_binaries::run_as_root(&mut command, &way)?;
    shell::run(&mut command)
}

fn fuzz(args: &Args) -> Result<Command> {
    let mut command = shell::cargo(&shell::workspace()?);
    command
        .args([
            "test",
            "--package",
            "sg-userspace",
            "--test",
            "kernel",
            "--",
        ])
        .args(["--ignored", "--exact", "fuzz::goes_on", "--nocapture"])
        .env(MINUTES, args.minutes.to_string());
    match args.seed {
        Some(seed) => command.env(SEED, seed.to_string()),
        None => command.env_remove(SEED),
    };
    Ok(command)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_test_learns_how_long_and_from_where() {
        let run = "cargo test --package sg-userspace --test kernel -- \
                   --ignored --exact fuzz::goes_on --nocapture";
        for (typed, expected) in [
            (
                vec!["fuzz", "--minutes", "5"],
                format!("SG_FUZZ_MINUTES=5 {run}"),
            ),
            (
                vec!["fuzz", "--minutes", "1", "--seed", "47"],
                format!("SG_FUZZ_MINUTES=1 SG_FUZZ_SEED=47 {run}"),
            ),
        ] {
            let line = Line::try_parse_from(&typed).unwrap();
            assert_eq!(shell::describe(&fuzz(&line.args).unwrap()), expected);
        }
        assert!(Line::try_parse_from(["fuzz", "--minutes", "0"]).is_err());
    }
}
