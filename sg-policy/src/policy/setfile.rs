//! Set files: one entry on a line, comments that `#` or `;` begins, blank lines: public block
//! lists can be used as they are. An error names the set file, the line and the column.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clip::clip;
use super::errors::{At, Problem};
use super::kind::{self, Kind};
use super::loading::{Ctx, SetFile};
use super::read::{self, ALL_SET_BYTES, FileText, Role, SET_BYTES, SET_FILES, Unreadable};
use super::set_name::is_set_name;
use super::source::Source;

/// Reads the file `path` (as written at `at`) as a set. `None` after an error.
pub(crate) fn load<K: Kind>(ctx: &mut Ctx<'_>, at: At, path: &str) -> Option<SetFile<K::Value>> {
    let Some(base) = &ctx.source.base else {
        let problem = Problem::new("no-files", "this policy is built in and cannot read files")
            .help("give the entries in a list, or with `--set`");
        ctx.error(at, problem);
        return None;
    };
    let full = base.join(path);
    if let Some(known) = K::files(ctx.loading).get(&full) {
        return known.clone();
    }
    let value = read_file::<K>(ctx, at, &full);
    K::files(ctx.loading).insert(full, value.clone());
    value
}

fn read_file<K: Kind>(ctx: &mut Ctx<'_>, at: At, path: &Path) -> Option<SetFile<K::Value>> {
    let what = Role::Set {
        noun: K::NOUN,
        path,
    };
    let text = match ctx.loading.given_files.remove(path) {
        Some(text) => Ok(text.into()),
        None => read_from_disk(ctx, path, what),
    };
    let text = match text {
        Ok(text) => text,
        // What is inside the file is reported there, all else where the file is named.
        Err(e) if e.at == At::WHOLE => {
            ctx.error(at, e.problem);
            return None;
        }
        Err(e) => {
            let source = named(path, String::new().into());
            ctx.loading.report.push(&source, e.at, e.problem);
            return None;
        }
    };
    let source = named(path, text);
    let mut file = Ctx {
        source: &source,
        loading: ctx.loading,
    };
    let (mut value, text) = entries::<K>(&mut file)?;
    K::finish(&mut value);
    if let Err(problem) = kind::charge::<K>(file.loading, &value) {
        file.error(At::WHOLE, problem);
        return None;
    }
    Some(SetFile {
        value: Arc::new(value),
        text: text.into(),
    })
}

/// Reads a set file, if all that were read and this one are not too much.
fn read_from_disk(ctx: &mut Ctx<'_>, path: &Path, what: Role<'_>) -> Result<FileText, Unreadable> {
    let loading = &mut *ctx.loading;
    loading.files.push(path.to_owned());
    loading.set_files += 1;
    if loading.set_files > SET_FILES {
        return Err(
            Problem::new("too-large", "the policy names too many set files")
                .expected(format!("at most {SET_FILES} of them"))
                .help("join those that are named together: a set may have any number of entries")
                .into(),
        );
    }
    let too_much = || {
        Problem::new("too-large", "the policy's set files add up to too much")
            .expected(format!("at most {ALL_SET_BYTES} bytes in all"))
            .help(
                "leave out what no rule needs; a file that is named in two spellings is read twice",
            )
    };
    if loading.set_bytes > ALL_SET_BYTES {
        return Err(too_much().into());
    }
    let text = read::read_file(path, SET_BYTES, what, loading.believe);
    loading.set_bytes += match &text {
        Ok(read) => read.text.len() as u64,
        Err(unreadable) => unreadable.bytes,
    };
    match loading.set_bytes > ALL_SET_BYTES {
        true => Err(too_much().into()),
        false => text,
    }
}

fn named(path: &Path, FileText { text, is_hidden }: FileText) -> Source {
    let name = path.to_string_lossy();
    Source {
        // A terminal shall not obey what a policy calls a file.
        name: name.replace(char::is_control, "?"),
        text,
        is_hidden,
        base: path.parent().map(PathBuf::from),
        stem: String::new(),
    }
}

fn entries<K: Kind>(ctx: &mut Ctx<'_>) -> Option<(K::Value, String)> {
    let source = ctx.source;
    let errors = ctx.loading.report.count();
    let mut value = K::Value::default();
    let mut text = String::new();
    let mut start = 0;
    for (line, raw) in (1..).zip(source.text.split('\n')) {
        let content = raw.split(['#', ';']).next().unwrap_or_default();
        let content = match line {
            1 => content.trim_start_matches('\u{feff}'),
            _ => content,
        };
        let word = content.trim();
        if !word.is_empty() {
            let at = || {
                let indent = raw.find(word).unwrap_or_default();
                let before = raw.get(..indent).unwrap_or_default();
                At {
                    line,
                    column: before.chars().count() as u32 + 1,
                    start: (start + indent) as u32,
                    end: (start + indent + word.len()) as u32,
                }
            };
            match parse::<K>(word) {
                Ok(literal) => {
                    ctx.odd::<K>(literal, word, at);
                    K::add(&mut value, literal);
                    if !text.is_empty() {
                        text.push(',');
                    }
                    text.push_str(word);
                }
                Err(problem) => ctx.error(at(), problem),
            }
            if K::size(&value) > K::limit() {
                let at = At { line, ..At::FIRST };
                ctx.error(at, kind::too_many::<K>());
                return None;
            }
        }
        start += raw.len() + 1;
    }
    (ctx.loading.report.count() == errors).then_some((value, text))
}

fn parse<K: Kind>(word: &str) -> Result<K::Literal, Problem> {
    let problem = match word {
        word if word.contains([',', ' ', '\t']) && !word.contains('-') => Problem::new(
            "set-file",
            format!("`{}` is more than one entry", clip(word)),
        )
        .expected("one entry on each line")
        .help("put each on a line of its own; comments start with `#` or `;`"),
        word if is_set_name(word) => Problem::new(
            "set-file",
            format!("`{}` is a name, and a set file holds none", clip(word)),
        )
        .expected("a literal on each line")
        .help("nest sets in the policy file: name both in one list"),
        word => return kind::literal::<K>(word),
    };
    Err(problem)
}
