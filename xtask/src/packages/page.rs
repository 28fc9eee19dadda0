//! The commands of docs/install.md, which are run in the clean system as they stand there.

use anyhow::{Result, bail};

/// What is not run there; the page says why.
const NOT_RUN: [&str; 2] = ["dnf install ./sgctl-*.x86_64.rpm", "cargo xtask build"];

/// The commands behind the prompt of root, in the order of the page. A block that is neither such
/// commands nor known not to be run is an error.
pub(super) fn commands(page: &str) -> Result<Vec<String>> {
    let mut commands = Vec::new();
    let blocks = page.split("```").skip(1).step_by(2);
    for block in blocks {
        let (info, lines) = block.split_once('\n').unwrap_or((block, ""));
        for line in lines.lines() {
            match (info, line.strip_prefix("# ")) {
                ("console", Some(command)) => commands.push(command.to_owned()),
                ("text", None) if NOT_RUN.contains(&line) => {}
                _ => bail!("docs/install.md: `{line}` is run by no test"),
            }
        }
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_no_command_that_nothing_runs() {
        let page = include_str!("../../../docs/install.md");
        let commands = commands(page).expect("every block is known");
        for begin in ["apt install", "systemctl enable", "install -m", "apt purge"] {
            assert!(commands.iter().any(|it| it.starts_with(begin)), "{begin}");
        }
        // Indented text would be a block of another form.
        let indented = page.lines().find(|line| line.starts_with("    "));
        assert_eq!(indented, None);
    }

    #[test]
    fn a_block_that_is_not_known_is_an_error() {
        let page = "```console\n# a\n# b\n```\n";
        assert_eq!(commands(page).expect("two commands"), ["a", "b"]);
        assert!(commands("```console\n$ a\n```\n").is_err());
        assert!(commands("```text\nmake install\n```\n").is_err());
    }
}
