//! The command line as far as it is written, from which it follows which namespace and which
//! policies a value is chosen from.

use std::path::{Path, PathBuf};

use sg_policy::policy::PolicyInput;
use sg_userspace::kernel::bpffs;
use sg_userspace::kernel::netns::Netns;
use sg_userspace::observe::attached::{Attached, Scope, attached};

pub(super) struct Line {
    words: Vec<String>,
}

impl Line {
    /// What the shell hands over behind `--`.
    pub(super) fn read() -> Line {
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        Line {
            words: words.skip_while(|word| word != "--").skip(1).collect(),
        }
    }

    /// The value of an option that was written last.
    fn value(&self, option: &str) -> Option<&str> {
        let glued = |word: &'_ str| {
            let rest = word.strip_prefix(option)?;
            rest.strip_prefix('=').map(str::len)
        };
        let at = self
            .words
            .iter()
            .rposition(|word| word == option || glued(word).is_some())?;
        match glued(&self.words[at]) {
            Some(length) => {
                let word = &self.words[at];
                word.get(word.len() - length..)
            }
            None => self.words.get(at + 1).map(String::as_str),
        }
    }

    /// The interfaces that are named. The word at the cursor may be half of a name.
    fn interfaces(&self) -> Vec<String> {
        let behind = self
            .words
            .windows(2)
            .filter(|pair| pair[0] == "--iface")
            .map(|pair| pair[1].clone());
        let glued = self
            .words
            .iter()
            .filter_map(|word| word.strip_prefix("--iface="))
            .map(str::to_owned);
        behind.chain(glued).collect()
    }

    /// The policies that are named: builtins, and files that exist.
    pub(super) fn policies(&self) -> Vec<PolicyInput> {
        let inputs = self.words.iter().skip(1).map(|word| word.as_str());
        let inputs = inputs.map(|word| word.strip_prefix("--candidate=").unwrap_or(word));
        let named = inputs.map(PolicyInput::from).filter(|input| match input {
            PolicyInput::Builtin(_) => true,
            PolicyInput::File(path) => path.is_file(),
            PolicyInput::Stdin => false,
        });
        let mut policies: Vec<PolicyInput> = named.collect();
        // `templates show NAME` names a builtin without saying so.
        if let Some(show) = self.words.iter().position(|word| word == "show")
            && self.words.get(show.wrapping_sub(1)).map(String::as_str) == Some("templates")
            && let Some(name) = self.words.get(show + 1)
        {
            policies.push(PolicyInput::Builtin(name.clone()));
        }
        policies
    }

    /// Enters the namespace that --netns names. False if that cannot be done.
    pub(super) fn enter(&self) -> bool {
        self.value("--netns")
            .is_none_or(|name| Netns::from(name).enter().is_ok())
    }

    /// The attachments that the command is about: those of the interfaces that are named, if any.
    pub(super) fn attached(&self) -> Vec<Attached> {
        let default = Path::new(bpffs::DEFAULT_PATH);
        let bpffs = self.value("--bpffs").map_or(default.into(), PathBuf::from);
        if !self.enter() {
            return Vec::new();
        }
        let all = |scope: &Scope| attached(&bpffs, scope).unwrap_or_default();
        let named = self.interfaces();
        let found = match named.is_empty() {
            true => Vec::new(),
            false => all(&Scope::Interfaces(named)),
        };
        match found.is_empty() {
            true => all(&Scope::Namespace),
            false => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line {
            words: text.split(' ').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn the_last_value_of_an_option_counts() {
        let two = line("sgctl --netns a counters --netns=b --iface");
        assert_eq!(two.value("--netns"), Some("b"));
        assert_eq!(two.value("--iface"), None);
        assert_eq!(two.value("--net"), None);
        assert_eq!(line("sgctl --netns a").value("--netns"), Some("a"));
        assert_eq!(line("sgctl --netns=").value("--netns"), Some(""));
    }

    #[test]
    fn interfaces_are_named_in_two_ways() {
        let named = line("sgctl flows --iface eth0 --iface=eth1 --rule").interfaces();
        assert_eq!(named, ["eth0", "eth1"]);
    }

    #[test]
    fn policies_are_builtins_and_files_that_exist() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let named = line(&format!("sgctl apply builtin:tke {file} none.yaml --set")).policies();
        assert_eq!(
            named,
            [
                PolicyInput::Builtin("tke".into()),
                PolicyInput::File(file.into())
            ]
        );
        let shown = line("sgctl templates show web --set").policies();
        assert_eq!(shown, [PolicyInput::Builtin("web".into())]);
    }
}
