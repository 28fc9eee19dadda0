//! `sgctl man`: writes the manual pages, one for each command, for those who package sgctl. They
//! are made of the same definitions as the help, whose paragraphs and examples become sections.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man as Page;

use super::context::Context;
use super::failure::Failure;
use super::files;

/// Write the manual pages, one for each command
#[derive(Args)]
#[command(
    hide = true,
    after_help = "\
Examples:
  sgctl man --out /usr/share/man/man1
  sgctl man --out . && man ./sgctl-apply.1"
)]
pub(super) struct Man {
    /// The directory to write into, which is made if it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The day that the pages bear
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "")]
    date: String,
}

impl Man {
    pub(super) fn run(self, context: &Context, mut command: Command) -> Result<(), Failure> {
        let failed = |path: &Path, error| files::not_written("writing manual pages", path, error);
        fs::create_dir_all(&self.out).map_err(|e| failed(&self.out, e))?;
        command.build();
        let mut pages = Vec::new();
        collect(&command, &self.date, &mut pages).map_err(|source| Failure::Io {
            what: "making the manual pages",
            source,
        })?;
        for (name, text) in &pages {
            let path = self.out.join(name);
            fs::write(&path, text).map_err(|e| failed(&path, e))?;
        }
        let count = pages.len();
        context
            .out
            .say(&format!("{count} pages in {}\n", self.out.display()))
    }
}

/// The pages of a command and of those below it, with the names of their files.
fn collect(command: &Command, date: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    // `help` is a command for the terminal. It has no page to point to.
    let listed = match command.find_subcommand("help") {
        Some(_) => command
            .clone()
            .mut_subcommand("help", |help| help.hide(true)),
        None => command.clone(),
    };
    let page = Page::new(listed)
        .date(date)
        .manual("sgctl")
        .source(format!("sgctl {}", env!("CARGO_PKG_VERSION")));
    let mut out = Vec::new();
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    synopsis(command, &mut out);
    page.render_description_section(&mut out)?;
    let help = Help::of(command);
    help.prose(&mut out);
    let mut options = Vec::new();
    page.render_options_section(&mut options)?;
    out.extend_from_slice(spaced(&String::from_utf8_lossy(&options)).as_bytes());
    let is_shown = |below: &&Command| !below.is_hide_set() && below.get_name() != "help";
    let below: Vec<&Command> = command.get_subcommands().filter(is_shown).collect();
    if !below.is_empty() {
        page.render_subcommands_section(&mut out)?;
    }
    help.sections(&mut out);
    see_also(command, &mut out);
    pages.push((page.get_filename(), out));
    for command in below {
        collect(command, date, pages)?;
    }
    Ok(())
}

/// A section with `.sp` for each empty line, in the place of two line breaks around one.
fn spaced(section: &str) -> String {
    section.replace("\n.br\n\n.br\n", "\n.sp\n")
}

/// How the command is called, as its help says it.
fn synopsis(command: &Command, out: &mut Vec<u8>) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage:").unwrap_or(&usage);
    lines(out, "SYNOPSIS", usage.lines().map(str::trim));
}

fn see_also(command: &Command, out: &mut Vec<u8>) {
    out.extend_from_slice(b".SH \"SEE ALSO\"\n");
    if command.get_name() != "sgctl" {
        out.extend_from_slice(b".BR sgctl (1),\n");
    }
    out.extend_from_slice(b".BR sgctl\\-policy (5)\n");
}

/// What stands below the options in the help.
struct Help {
    prose: Vec<String>,
    /// A heading, and lines that stay as they are.
    sections: Vec<(String, Vec<String>)>,
    exit: Option<String>,
}

impl Help {
    fn of(command: &Command) -> Help {
        let text = command.get_after_help().map(ToString::to_string);
        let text = text.unwrap_or_default();
        let mut help = Help {
            prose: Vec::new(),
            sections: Vec::new(),
            exit: None,
        };
        for block in text.split("\n\n").filter(|block| !block.is_empty()) {
            let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
            if let Some(heading) = first.strip_suffix(':')
                && rest.starts_with(' ')
            {
                let lines = rest.lines();
                let lines = lines.map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned());
                help.sections
                    .push((heading.to_uppercase(), lines.collect()));
            } else if let Some(codes) = block.strip_prefix("Exit codes:") {
                help.exit = Some(codes.trim().replace('\n', " "));
            } else {
                help.prose.push(block.replace('\n', " "));
            }
        }
        help
    }

    fn prose(&self, out: &mut Vec<u8>) {
        for paragraph in &self.prose {
            out.extend_from_slice(format!(".PP\n{}\n", escaped(paragraph)).as_bytes());
        }
    }

    fn sections(&self, out: &mut Vec<u8>) {
        for (heading, text) in &self.sections {
            lines(out, heading, text.iter().map(String::as_str));
        }
        if let Some(codes) = &self.exit {
            let text = format!(".SH \"EXIT STATUS\"\n{}\n", escaped(codes));
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The columns of a section on a narrow terminal: 80 without its indentation.
const COLUMNS: usize = 73;

/// A section whose lines stay as they are. It begins further left where they are long.
fn lines<'a>(out: &mut Vec<u8>, heading: &str, lines: impl Iterator<Item = &'a str>) {
    let mut text = String::new();
    let mut is_wide = false;
    for line in lines {
        is_wide |= line.chars().count() > COLUMNS;
        text.push_str(&escaped(line));
        text.push('\n');
    }
    let heading = escaped(heading);
    let text = match is_wide {
        true => format!(".SH \"{heading}\"\n.in 2n\n.nf\n{text}.fi\n.in\n"),
        false => format!(".SH \"{heading}\"\n.nf\n{text}.fi\n"),
    };
    out.extend_from_slice(text.as_bytes());
}

/// A line of text as roff has it: no escape, no request, and a hyphen that can be copied into a
/// shell.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_request() {
        assert_eq!(escaped("--set a\\b"), "\\-\\-set a\\eb");
        assert_eq!(escaped(".5 seconds"), "\\&.5 seconds");
        assert_eq!(escaped("'eth*'"), "\\&'eth*'");
    }

    #[test]
    fn help_becomes_sections() {
        let command = Command::new("sgctl").after_help(
            "Some prose.\n\nWords:\n  IF  an interface\n\nExamples:\n  sgctl x\n  sgctl y\n\n\
             Exit codes: 0 done,\n1 not.",
        );
        let help = Help::of(&command);
        assert_eq!(help.prose, ["Some prose."]);
        let headings: Vec<&str> = help
            .sections
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(headings, ["WORDS", "EXAMPLES"]);
        assert_eq!(help.sections[1].1, ["sgctl x", "sgctl y"]);
        assert_eq!(help.exit.as_deref(), Some("0 done, 1 not."));
    }

    /// What stays as it is fits 80 columns: with the usual indentation, or else with a small one.
    #[test]
    fn long_lines_begin_further_left() {
        let of = |line: &str| {
            let mut out = Vec::new();
            lines(&mut out, "EXAMPLES", [line].into_iter());
            String::from_utf8(out).unwrap()
        };
        assert!(!of(&"x".repeat(73)).contains(".in"));
        let wide = of(&"x".repeat(74));
        assert!(wide.contains("\n.in 2n\n.nf\nxxx"), "{wide}");
        assert!(wide.ends_with("xxx\n.fi\n.in\n"), "{wide}");
        let mut command = crate::cli::command();
        command.build();
        let mut commands = vec![&command];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands());
            for (heading, lines) in Help::of(command).sections {
                let longest = lines.iter().map(|line| line.chars().count()).max();
                assert!(longest <= Some(78), "{}: {heading}", command.get_name());
            }
        }
    }

    /// Every command has a page, with all that its help has.
    #[test]
    fn each_command_has_a_page() {
        let mut command = crate::cli::command();
        command.build();
        let mut pages = Vec::new();
        collect(&command, "2026-01-02", &mut pages).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["sgctl.1", "sgctl-apply.1", "sgctl-templates-show.1"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.contains(&"sgctl-man.1"), "{names:?}");
        for (name, page) in &pages {
            let page = String::from_utf8_lossy(page);
            let heading = |name: &str| format!(".SH \"{name}\"");
            assert!(page.contains(&heading("SYNOPSIS")), "{name}: {page}");
            assert!(page.contains(&heading("SEE ALSO")), "{name}: {page}");
            assert!(!page.contains("\n.br\n\n"), "{name}: {page}");
            // Whatever page it names is there.
            let named = page.lines().filter_map(|line| line.strip_suffix("(1)"));
            for named in named.map(|name| name.replace('\\', "") + ".1") {
                assert!(names.contains(&named.as_str()), "{name} names {named}");
            }
        }
    }
}
