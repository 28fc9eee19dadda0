//! The arguments of a command as if they were typed, for tests.

use clap::{Args, Parser};

#[derive(Parser)]
struct Line<T: Args> {
    #[command(flatten)]
    args: T,
}

/// Parses what is typed behind the name of a command.
pub(crate) fn parse<T: Args>(words: &str) -> Result<T, clap::Error> {
    let words = ["command"].into_iter().chain(words.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args)
}

/// Parses what is right.
pub(crate) fn typed<T: Args>(words: &str) -> T {
    parse(words).unwrap_or_else(|error| panic!("{words}: {error}"))
}
