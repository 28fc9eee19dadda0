//! The commands that messages name, as they have to be typed: with the `--netns` and the `--bpffs`
//! that this command was given.

use std::borrow::Cow;
use std::path::Path;
use std::sync::OnceLock;

use sg_userspace::kernel::bpffs::DEFAULT_PATH;
use textwrap::core::display_width;

/// How a command in a message begins.
const COMMAND: &str = "`sgctl ";

/// Commands that are the same everywhere.
const ANYWHERE: [&str; 2] = ["check", "templates"];

/// What the commands of this process's messages need. Nothing where it was not started.
static GIVEN: OnceLock<Options> = OnceLock::new();

#[derive(Debug, Default)]
struct Options {
    /// `--netns NAME`, or nothing.
    netns: Option<String>,
    /// `--bpffs DIR`, or nothing.
    bpffs: Option<String>,
}

impl Options {
    fn of(netns: Option<&str>, bpffs: &Path) -> Options {
        // The usual place may be written in another way.
        let is_usual = bpffs == Path::new(DEFAULT_PATH)
            || bpffs
                .canonicalize()
                .is_ok_and(|it| it == Path::new(DEFAULT_PATH));
        let bpffs = (!is_usual).then(|| bpffs.display().to_string());
        Options {
            netns: netns.map(|name| format!("--netns {}", quoted(name))),
            bpffs: bpffs.map(|path| format!("--bpffs {}", quoted(&path))),
        }
    }

    fn add_to<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.netns.is_none() && self.bpffs.is_none() {
            return Cow::Borrowed(text);
        }
        let mut parts = text.split(COMMAND);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for rest in parts {
            out.push_str(COMMAND);
            let command = rest.split('`').next().unwrap_or_default();
            let word = command.split_whitespace().next().unwrap_or_default();
            // A process, and no command to be typed: that one has arguments.
            let is_process = command == "run";
            let has = |option: &str| command.split_whitespace().any(|word| word == option);
            if !is_process && !ANYWHERE.contains(&word) {
                let netns = self.netns.iter().filter(|_| !has("--netns"));
                let bpffs = self.bpffs.iter().filter(|_| !has("--bpffs"));
                for option in netns.chain(bpffs) {
                    out.push_str(option);
                    out.push(' ');
                }
            }
            out.push_str(rest);
        }
        Cow::Owned(out)
    }
}

/// Remembers what this process was given.
pub(super) fn given(netns: Option<&str>, bpffs: &Path) {
    // It is given once.
    let _ = GIVEN.set(Options::of(netns, bpffs));
}

/// A text with what its commands need to do here what they do there.
pub(super) fn placed(text: &str) -> Cow<'_, str> {
    match GIVEN.get() {
        Some(options) => options.add_to(text),
        None => Cow::Borrowed(text),
    }
}

/// A text about an interface in this network namespace, where that is not the current one.
pub(super) fn placed_in<'a>(text: &'a str, netns: Option<&str>) -> Cow<'a, str> {
    let netns = netns.map(|name| format!("--netns {}", quoted(name)));
    Options { netns, bpffs: None }.add_to(text)
}

/// What is said and the command that says more, on one line: the command as it has to be typed if
/// that fits, else without `sgctl` and its options, else not at all.
pub(super) fn with_command(what: String, command: &str, width: Option<usize>) -> String {
    let typed = placed(&format!("{what}: {COMMAND}{command}`")).into_owned();
    let named = format!("{what}: `{command}`");
    let has_room = |line: &String| width.is_none_or(|width| display_width(line) <= width);
    [typed, named].into_iter().find(has_room).unwrap_or(what)
}

/// A word as a shell takes it.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@%+=".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => Cow::Borrowed(word),
        false => Cow::Owned(format!("'{}'", word.replace('\'', r"'\''"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_what_was_given() {
        let options = |netns, bpffs: &str| Options::of(netns, Path::new(bpffs));
        let both = options(Some("node1"), "/run/my pins");
        for (options, text, expected) in [
            (&both, "no command", "no command"),
            (
                &both,
                "`sgctl status` says more, `sgctl detach --iface eth0` ends it",
                "`sgctl --netns node1 --bpffs '/run/my pins' status` says more, \
                 `sgctl --netns node1 --bpffs '/run/my pins' detach --iface eth0` ends it",
            ),
            (
                &both,
                "`sgctl --netns node2 detach`",
                "`sgctl --bpffs '/run/my pins' --netns node2 detach`",
            ),
            (
                &both,
                "another `sgctl run` looks after it; see `sgctl check p.yaml`",
                "another `sgctl run` looks after it; see `sgctl check p.yaml`",
            ),
            (
                &options(Some("a'b"), DEFAULT_PATH),
                "`sgctl run POLICY --iface eth0`",
                r"`sgctl --netns 'a'\''b' run POLICY --iface eth0`",
            ),
            (
                &options(None, "/sys/fs/bpf/"),
                "`sgctl status`",
                "`sgctl status`",
            ),
        ] {
            let placed = options.add_to(text);
            assert_eq!(placed, expected);
            // A text may come by twice.
            assert_eq!(options.add_to(&placed), expected);
        }
        let more = |width| with_command("3 more".into(), "status", width);
        let all = [None, Some(22), Some(21), Some(16), Some(15)].map(more);
        let typed = "3 more: `sgctl status`";
        let named = "3 more: `status`";
        assert_eq!(all, [typed, typed, named, named, "3 more"]);
        assert_eq!(placed_in("`sgctl confirm`", None), "`sgctl confirm`");
        let there = placed_in("`sgctl confirm`", Some("node2"));
        assert_eq!(
            both.add_to(&there),
            "`sgctl --bpffs '/run/my pins' --netns node2 confirm`"
        );
    }
}
