//! What is suggested for a command that there is none of: never one that ends enforcement, unless it
//! was all but spelled out.

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What other tools call our commands.
const ELSEWHERE: [(&str, &str); 33] = [
    ("add", "apply"),
    ("attach", "apply"),
    ("enforce", "apply"),
    ("install", "apply"),
    ("load", "apply"),
    ("reload", "apply"),
    ("replace", "apply"),
    ("restore", "apply"),
    ("start", "run"),
    ("daemon", "run"),
    ("serve", "run"),
    ("watch", "run"),
    ("delete", "detach"),
    ("del", "detach"),
    ("disable", "detach"),
    ("remove", "detach"),
    ("rm", "detach"),
    ("stop", "detach"),
    ("uninstall", "detach"),
    ("unload", "detach"),
    ("lint", "check"),
    ("validate", "check"),
    ("verify", "check"),
    ("match", "explain"),
    ("test", "explain"),
    ("trace", "explain"),
    ("conntrack", "flows"),
    ("connections", "flows"),
    ("sessions", "flows"),
    ("stats", "counters"),
    ("list", "status"),
    ("ls", "status"),
    ("demo", "lab"),
];

/// Puts our suggestion in the place of clap's, which goes by likeness alone.
pub(super) fn mend(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let suggestion = suggestion(word);
    error.remove(ContextKind::SuggestedSubcommand);
    if let Some(command) = suggestion {
        let value = ContextValue::Strings(vec![command]);
        error.insert(ContextKind::SuggestedSubcommand, value);
    }
    error
}

fn suggestion(word: &str) -> Option<String> {
    let word = word.to_lowercase();
    if let Some((_, command)) = ELSEWHERE.iter().find(|(other, _)| *other == word) {
        return Some((*command).to_owned());
    }
    let command = super::Cli::command();
    let names = command.get_subcommands().map(|c| c.get_name().to_owned());
    let distance = |name: &String| strsim::osa_distance(&word, name);
    names
        .filter(|name| distance(name) <= if name == "detach" { 1 } else { 2 })
        .min_by_key(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_ends_enforcement_is_suggested_by_likeness() {
        for (word, expected) in [
            ("trace", Some("explain")),
            ("stauts", Some("status")),
            ("chekc", Some("check")),
            ("detatch", Some("detach")),
            ("stop", Some("detach")),
            ("teach", None),
            ("fetch", None),
            ("frobnicate", None),
        ] {
            assert_eq!(suggestion(word).as_deref(), expected, "{word}");
        }
        let command = super::super::Cli::command();
        for (_, name) in ELSEWHERE {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }
}
