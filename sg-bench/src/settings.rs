//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Measure what a packet, a connection, a load and a replacement cost
#[derive(Debug, Parser)]
#[command(name = "sg-bench")]
pub(crate) struct Settings {
    /// Rows to measure, or the beginnings of their names: `live/tke`, `code`; all when none is
    /// named
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Fewer and shorter windows
    #[arg(long)]
    pub(crate) quick: bool,

    /// Also write the rows to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Also write the rows into the tables of this document
    #[arg(long, value_name = "FILE")]
    pub(crate) write_doc: Option<PathBuf>,

    /// The sgctl that is measured, where a row is about the whole process
    #[arg(long, value_name = "FILE")]
    pub(crate) sgctl: Option<PathBuf>,

    /// Only say which rows there are
    #[arg(long)]
    pub(crate) list: bool,

    #[arg(skip)]
    pub(crate) rounds: usize,
    #[arg(skip)]
    pub(crate) window: Duration,
    /// Slow windows that are discarded in all: see `windows::Patience`.
    #[arg(skip)]
    pub(crate) patience: u32,
    /// The folder of real data.
    #[arg(skip)]
    pub(crate) data: Option<PathBuf>,
}

impl Settings {
    pub(crate) fn from_environment() -> Self {
        let mut settings = Settings::parse();
        let data = std::env::var_os("SG_DATA").filter(|value| !value.is_empty());
        settings.data = data.map(PathBuf::from);
        (settings.rounds, settings.window, settings.patience) = match settings.quick {
            true => (4, Duration::from_millis(60), 30),
            false => (12, Duration::from_millis(200), 1000),
        };
        settings
    }

    /// What to type for the same rows.
    pub(crate) fn command(&self) -> String {
        let mut words = vec!["cargo xtask bench"];
        words.extend(self.names.iter().map(String::as_str));
        if self.quick {
            words.push("--quick");
        }
        words.push("--write-doc");
        words.join(" ")
    }

    /// Packets of one test run.
    pub(crate) fn test_runs(&self) -> u32 {
        if self.quick { 100_000 } else { 400_000 }
    }

    /// Whether the row is asked for: by its name, or by the first parts of it.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|asked| matches(asked, name))
    }

    /// What was asked for and is no row.
    pub(crate) fn unknown<'a>(&'a self, known: &[String]) -> Option<&'a str> {
        let is_known = |asked: &str| known.iter().any(|name| matches(asked, name));
        self.names
            .iter()
            .map(String::as_str)
            .find(|asked| !is_known(asked))
    }
}

fn matches(asked: &str, name: &str) -> bool {
    name.strip_prefix(asked.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn names_match_by_whole_parts() {
        assert!(matches("live/tke", "live/tke/drop"));
        assert!(matches("live/", "live/tke/drop"));
        assert!(matches("live/rules/10", "live/rules/10"));
        assert!(!matches("live/rules/10", "live/rules/100"));
        assert!(!matches("live/prefixes", "live/prefixes6/10"));
    }
}
