//! Suggestions for a command that does not exist. A command that ends enforcement is only suggested
//! if the user almost spelled it.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Names that other tools have for our commands.
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

/// Replaces clap's suggestion, which only compares spellings, by our own. `words` are those of the
/// command line, and `sgctl` has the commands that exist.
pub(super) fn mend(mut error: clap::Error, words: &[String], sgctl: &clap::Command) -> clap::Error {
    if error.kind() == ErrorKind::MissingRequiredArgument {
        return name_interface(error, words);
    }
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let suggestion = suggestion(word, sgctl);
    error.remove(ContextKind::SuggestedSubcommand);
    if let Some(command) = suggestion {
        let value = ContextValue::Strings(vec![command]);
        error.insert(ContextKind::SuggestedSubcommand, value);
    }
    error
}

/// Says where an interface belongs if it was given among the policies.
fn name_interface(mut error: clap::Error, words: &[String]) -> clap::Error {
    let is_missing = matches!(
        error.get(ContextKind::InvalidArg),
        Some(ContextValue::Strings(missing)) if missing.iter().any(|arg| arg.starts_with("--iface"))
    );
    if let Some(name) = stray_interface(words).filter(|_| is_missing) {
        let tip = format!("the interface is named with '--iface {name}'");
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

/// The word that names an interface: one that exists, or the last word if it looks like a name of
/// one and not like a policy.
fn stray_interface(words: &[String]) -> Option<&String> {
    let here = sg_userspace::kernel::interfaces::names();
    let known = words.iter().skip(1).find(|word| here.contains(word));
    let last = || match words {
        [.., before, last] if !before.starts_with('-') && could_be_interface(last) => Some(last),
        _ => None,
    };
    known.or_else(last)
}

fn could_be_interface(word: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'@');
    !word.starts_with('-')
        && (1..16).contains(&word.len())
        && word.bytes().all(is_plain)
        && !std::path::Path::new(word).exists()
}

fn suggestion(word: &str, sgctl: &clap::Command) -> Option<String> {
    let word = word.to_lowercase();
    if let Some((_, command)) = ELSEWHERE.iter().find(|(other, _)| *other == word) {
        return Some((*command).to_owned());
    }
    let names = sgctl.get_subcommands().map(|c| c.get_name().to_owned());
    let distance = |name: &String| strsim::osa_distance(&word, name);
    names
        .filter(|name| distance(name) <= if name == "detach" { 1 } else { 2 })
        .min_by_key(distance)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn nothing_that_ends_enforcement_is_suggested_by_likeness() {
        let command = super::super::Cli::command();
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
            assert_eq!(suggestion(word, &command).as_deref(), expected, "{word}");
        }
        for (_, name) in ELSEWHERE {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }
}
