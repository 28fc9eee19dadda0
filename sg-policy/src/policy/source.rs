//! A text and its name in errors.

use std::path::{Path, PathBuf};

/// A text that is read whole before anything of it is understood.
#[derive(Debug)]
pub(crate) struct Source {
    /// The path as given, `<stdin>`, `builtin:NAME` or `--set`.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Whether errors show nothing of the text: see [`FileText`](super::read::FileText).
    pub(crate) is_hidden: bool,
    /// Where `file:` paths start; `None` where there may be none (a built-in).
    pub(crate) base: Option<PathBuf>,
    /// The policy's name when the text gives none.
    pub(crate) stem: String,
}

impl Source {
    pub(crate) fn of_text(name: &str, text: &str) -> Source {
        Source {
            name: name.to_owned(),
            text: text.to_owned(),
            is_hidden: false,
            base: None,
            stem: stem_of(Path::new(name)),
        }
    }
}

/// The file name without its extension, as the name of a policy: short, and without control
/// characters and `|`.
pub(crate) fn stem_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let bad = |c: char| c.is_control() || c == '|';
    let name: String = stem
        .chars()
        .map(|c| if bad(c) { '-' } else { c })
        .take(128)
        .collect();
    match name.trim() {
        "" => "policy".to_owned(),
        name => name.to_owned(),
    }
}
