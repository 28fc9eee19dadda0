//! What one load carries from file to file: the errors, the limits and what has been read.
//! A [`Ctx`] is that plus the text at hand, so that an error is one call.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::errors::{At, Problem, Report};
use super::finding::{Finding, Location};
use super::model::Remote;
use super::read::Believe;
use super::source::Source;

/// The most rules of one load.
pub const RULES: usize = 100_000;
/// The most address prefixes of one load, over all sets and rules (a shared set counts once).
pub const PREFIXES: usize = 16 << 20;
/// The most port ranges of one load, over all sets and rules.
pub const PORT_RANGES: usize = 8 << 20;

/// Sorted, disjoint, inclusive ranges.
pub(crate) type PortRanges = Vec<(u16, u16)>;

/// What a set file holds.
#[derive(Clone, Debug)]
pub(crate) struct SetFile<V> {
    pub(crate) value: Arc<V>,
    /// Its entries as they are written, joined by commas.
    pub(crate) text: Arc<str>,
}

#[derive(Debug, Default)]
pub(crate) struct Loading {
    pub(crate) report: Report,
    /// Findings about single values.
    pub(crate) findings: Vec<Finding>,
    /// Every file that was read.
    pub(crate) files: Vec<PathBuf>,
    /// Set files by path, for many sets may name one file; `None` is one with errors.
    pub(crate) address_files: HashMap<PathBuf, Option<SetFile<Remote>>>,
    pub(crate) port_files: HashMap<PathBuf, Option<SetFile<PortRanges>>>,
    /// Set files that are not read from disk, since their texts are known.
    pub(crate) given_files: HashMap<PathBuf, String>,
    /// Which files are believed; without it all are.
    pub(crate) believe: Option<Believe>,
    /// How many set files were read, and how many bytes in all.
    pub(crate) set_files: usize,
    pub(crate) set_bytes: u64,
    pub(crate) prefixes: usize,
    pub(crate) port_ranges: usize,
    pub(crate) rules: usize,
}

impl Loading {
    /// Every file that was read, once.
    pub(crate) fn take_files(&mut self) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let mut files = std::mem::take(&mut self.files);
        files.retain(|file| seen.insert(file.clone()));
        files
    }
}

/// One text being walked.
pub(crate) struct Ctx<'a> {
    pub(crate) source: &'a Source,
    pub(crate) loading: &'a mut Loading,
}

impl Ctx<'_> {
    pub(crate) fn error(&mut self, at: At, problem: Problem) {
        self.loading.report.push(self.source, at, problem);
    }

    pub(crate) fn location(&self, at: At) -> Location {
        Location {
            file: self.source.name.clone(),
            line: at.line,
            column: at.column,
        }
    }
}
