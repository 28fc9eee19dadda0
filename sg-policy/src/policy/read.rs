//! Reads texts: policy files, set files and standard input, never more than a limit allows.
//! What cannot be read at all becomes a [`Problem`] here.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::clip::clip;
use super::errors::{At, Problem};

/// The largest policy file, in bytes.
pub const POLICY_BYTES: u64 = 16 << 20;
/// The largest set file, in bytes.
pub const SET_BYTES: u64 = 64 << 20;
/// The most bytes of all set files of one load together. One that is named in two spellings counts
/// twice.
pub const ALL_SET_BYTES: u64 = 256 << 20;
const EVERYBODY_READS: u32 = 0o004;

/// The most set files of one load.
pub const SET_FILES: usize = 10_000;

/// Looks at a file that is open and has not been read, and says why it is not believed, if it is
/// not.
pub type Believe = fn(&Path, &File) -> Result<(), Distrust>;

/// Why a file is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distrust {
    /// What is wrong with it, as the end of a sentence that begins with the file.
    pub why: String,
    /// What to do about it.
    pub help: String,
}

/// A text that could not be read, and the place in it where reading failed.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) at: At,
    pub(crate) problem: Problem,
    /// How many bytes were read all the same.
    pub(crate) bytes: u64,
}

impl From<Problem> for Unreadable {
    fn from(problem: Problem) -> Unreadable {
        Unreadable {
            at: At::WHOLE,
            problem,
            bytes: 0,
        }
    }
}

/// What was read of a file.
#[derive(Debug)]
pub(crate) struct FileText {
    pub(crate) text: String,
    /// Whether errors show nothing of the text. Somebody else than the reader may have chosen
    /// which file is read: who wrote the policy that names a set file, or who made a symbolic
    /// link. What not everybody may read is not for their eyes, nor for a log.
    pub(crate) is_hidden: bool,
}

impl From<String> for FileText {
    fn from(text: String) -> FileText {
        FileText {
            text,
            is_hidden: false,
        }
    }
}

/// What a text is read for.
#[derive(Clone, Copy)]
pub(crate) enum Role<'a> {
    Policy,
    PolicyOnStandardInput,
    /// `noun` is what the set is made of, such as `address`.
    Set {
        noun: &'static str,
        path: &'a Path,
    },
}

impl fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Policy => f.write_str("policy file"),
            Role::PolicyOnStandardInput => f.write_str("policy on standard input"),
            Role::Set { noun, path } => {
                write!(f, "{noun} set file `{}`", clip(&path.to_string_lossy()))
            }
        }
    }
}

/// Reads a regular file of at most `limit` bytes as UTF-8, if it is believed. Errors name `what` it
/// is.
pub(crate) fn read_file(
    path: &Path,
    limit: u64,
    what: Role<'_>,
    believe: Option<Believe>,
) -> Result<FileText, Unreadable> {
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let metadata = fs::metadata(path).map_err(|e| unreadable(&e, what))?;
    is_regular(&metadata, what)?;
    if metadata.len() > limit {
        return Err(too_big(what, limit).into());
    }
    let file = File::open(path).map_err(|e| unreadable(&e, what))?;
    // It may be another one by now.
    let metadata = file.metadata().map_err(|e| unreadable(&e, what))?;
    is_regular(&metadata, what)?;
    if let Some(believe) = believe {
        believe(path, &file).map_err(|Distrust { why, help }| {
            Problem::new("untrusted-file", format!("the {what} {why}"))
                .expected("a file that nobody else can change")
                .help(help)
        })?;
    }
    Ok(FileText {
        text: read_limited(file, limit, what)?,
        is_hidden: metadata.mode() & EVERYBODY_READS == 0 && is_chosen_by_others(path, what),
    })
}

/// Whether somebody else than the reader may have chosen the file.
fn is_chosen_by_others(path: &Path, what: Role<'_>) -> bool {
    match what {
        Role::Set { .. } => true,
        Role::Policy | Role::PolicyOnStandardInput => {
            !fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
        }
    }
}

fn is_regular(metadata: &fs::Metadata, what: Role<'_>) -> Result<(), Problem> {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        return Err(
            Problem::new("unreadable", format!("the {what} is a directory"))
                .expected("a regular file")
                .help("name the file in it"),
        );
    }
    if !file_type.is_file() {
        return Err(Problem::new(
            "unreadable",
            format!("the {what} is a pipe, socket or device, not a regular file"),
        )
        .expected("a regular file")
        .help("write it to a file first, or pass a policy on standard input as `-`"));
    }
    Ok(())
}

/// Reads standard input to its end, at most `limit` bytes.
pub(crate) fn read_stdin(limit: u64, what: Role<'_>) -> Result<String, Unreadable> {
    read_limited(io::stdin().lock(), limit, what)
}

fn read_limited(reader: impl Read, limit: u64, what: Role<'_>) -> Result<String, Unreadable> {
    let mut bytes = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| unreadable(&e, what))?;
    if bytes.len() as u64 > limit {
        return Err(too_big(what, limit).into());
    }
    if bytes.is_empty() {
        return Err(Problem::new("empty-file", format!("the {what} is empty"))
            .help("a write may have been cut short; a file that is empty on purpose says so in a `#` comment, and a policy without rules is `inbound: []`")
            .into());
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let head = String::from_utf8_lossy(e.as_bytes().get(..valid).unwrap_or_default());
        let line_start = head.rfind('\n').map_or(0, |n| n + 1);
        let column = head.get(line_start..).unwrap_or_default().chars().count() + 1;
        let line = head.bytes().filter(|b| *b == b'\n').count() + 1;
        Unreadable {
            at: At {
                line: line as u32,
                column: column as u32,
                start: valid as u32,
                end: valid as u32,
            },
            problem: Problem::new("not-utf8", format!("the {what} is not UTF-8 text"))
                .expected("UTF-8")
                .help("save it as UTF-8; it may be a binary or a compressed file"),
            bytes: e.as_bytes().len() as u64,
        }
    })
}

fn too_big(what: Role<'_>, limit: u64) -> Problem {
    Problem::new(
        "too-large",
        format!("the {what} is larger than {} MiB", limit >> 20),
    )
    .expected(format!("at most {limit} bytes"))
    .help("split it, or check that it is the right file")
}

fn unreadable(error: &io::Error, what: Role<'_>) -> Problem {
    let problem = Problem::new("unreadable", format!("cannot read the {what}: {error}"));
    match error.kind() {
        io::ErrorKind::NotFound if matches!(what, Role::Set { .. }) => problem.help(
            "check the path: a set file is looked up from the directory of the policy file that names it",
        ),
        io::ErrorKind::NotFound => problem.help(
            "check the path; a built-in policy is named `builtin:NAME` (`sgctl templates` lists them)",
        ),
        io::ErrorKind::PermissionDenied => problem.help("make it readable for this user"),
        _ => problem.help("check the path and the file system"),
    }
}
