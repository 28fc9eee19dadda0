//! `sgctl show`: the policy in force, or one that was, as the YAML of a policy file.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sg_policy::formats::{Style, write};
use sg_policy::policy::Policy;
use sg_userspace::kernel::history::{HEAD_LINES, candidate};
use sg_userspace::kernel::state::PolicyRecord;
use sg_userspace::kernel::who::Who;
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::history::Past;

use super::attachment::only_one;
use super::candidate::none_on;
use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::files;
use super::patience::Patience;
use super::units::clean;
use super::words::in_netns;

/// With --output, a set with more entries than this is a file.
const ENTRIES_INLINE: usize = 1000;

const WRITING: &str = "writing the policy";

/// The policy in force, or an earlier one, as a policy file
#[derive(Args)]
#[command(after_help = "\
Prints YAML that can be applied again: the policy with its sets, with what `--set` and set files gave
them, independent of the files that it was read from. Applying it changes nothing, as long as the same
policy is in force: its digest is the same. The lines at the top say where and since when it is in
force, and who applied it.

With --output DIR it becomes files: NAME.yaml, and beside it a set file for each set with more than
1,000 entries. A file that is there with other contents is not overwritten.

Examples:
  sgctl show --iface eth0 > eth0.yaml
  sgctl show --iface eth0 --generation 3
  sgctl show --iface eth0 --output /etc/sgctl
  sgctl show --candidate

Exit codes: 0 done, 1 nothing is attached or that policy is not kept, 2 usage, 3 not permitted.")]
pub(super) struct Show {
    /// The interface; not needed where only one policy is in force
    #[arg(long, value_name = "IF")]
    iface: Option<String>,

    /// An earlier policy that `sgctl history` lists
    #[arg(long, value_name = "N")]
    generation: Option<u32>,

    /// The candidate that is evaluated beside the policy in force
    #[arg(long, conflicts_with = "generation")]
    candidate: bool,

    /// Write files into this directory, which is made if it is missing
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    output: Option<PathBuf>,

    #[command(flatten)]
    json: Json,
}

/// `show --json`.
#[derive(Serialize)]
struct Shown<'a> {
    interface: &'a str,
    netns: Option<&'a str>,
    #[serde(flatten)]
    policy: &'a What,
    /// The policy file.
    text: &'a str,
}

/// What is shown.
#[derive(Serialize)]
#[serde(untagged)]
enum What {
    Policy(Past),
    Candidate {
        name: String,
        digest: String,
        /// Since when it is evaluated (RFC 3339).
        since: String,
        /// The policy that it is beside.
        beside: PolicyRecord,
    },
}

impl What {
    /// The lines that say where and since when it is what it is.
    fn lines(&self, place: &str) -> [String; HEAD_LINES] {
        match self {
            What::Policy(past) => {
                let by = past.by.as_ref().map(|who: &Who| format!(" by {who}"));
                let ended = match &past.ended {
                    None => "in force".to_owned(),
                    Some(ended) => match &ended.at {
                        Some(at) => format!("{} {at}", ended.how.name()),
                        None => ended.how.name().to_owned(),
                    },
                };
                [
                    format!("{place}, generation {}, {ended}", past.generation),
                    format!("applied {}{}", past.applied_at, by.unwrap_or_default()),
                    past.digest.clone(),
                ]
            }
            What::Candidate {
                digest,
                since,
                beside,
                ..
            } => [
                format!(
                    "{place}, a candidate beside {}, generation {}",
                    beside.name, beside.generation
                ),
                format!("evaluated since {since}"),
                digest.clone(),
            ],
        }
    }
}

impl Show {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let one = self.attached(context)?;
        let place = one.condition_if_known();
        let patience = Patience::with("reading the policy");
        let (past, policy) = self.what(&one)?;
        let style = match self.output {
            None => Style::default(),
            Some(_) => Style {
                entries_inline: ENTRIES_INLINE,
            },
        };
        let written = write(&policy, style);
        drop(patience);
        let netns = place.netns.as_deref();
        if self.json.json {
            return context.out.json(&Shown {
                interface: &place.interface,
                netns,
                policy: &past,
                text: &written.yaml,
            });
        }
        let text = head(&place.interface, netns, &past) + &written.yaml;
        let Some(dir) = &self.output else {
            return context.out.print(&text);
        };
        fs::create_dir_all(dir).map_err(|e| files::not_written(WRITING, dir, e))?;
        let name = format!("{}.yaml", file_name(&policy.name));
        let mut out = String::new();
        let files = written.files.iter().map(|file| (&file.name, &file.text));
        for (name, text) in files.chain([(&name, &text)]) {
            let path = dir.join(name);
            put(&path, text)?;
            let _ = writeln!(out, "wrote {}", path.display());
        }
        context.out.say(&out)
    }

    fn what(&self, one: &Attached) -> Result<(What, Policy), Failure> {
        if !self.candidate {
            let (past, policy) = one.policy(self.generation)?;
            return Ok((What::Policy(past), policy));
        }
        let state = one.state()?;
        let Some(record) = &state.candidate else {
            return Err(none_on(&state.interface).into());
        };
        let what = What::Candidate {
            name: record.name.clone(),
            digest: record.digest.clone(),
            since: record.since.clone(),
            beside: state.policy.clone(),
        };
        Ok((what, candidate(&one.pins, record)?))
    }

    /// The attachment that is meant.
    fn attached(&self, context: &Context) -> Result<Attached, Failure> {
        let ifaces = Ifaces {
            names: self.iface.iter().cloned().collect(),
        };
        only_one::<Show>(context, "show", &ifaces)
    }
}

/// The comments before the policy.
fn head(interface: &str, netns: Option<&str>, what: &What) -> String {
    let place = format!("{interface}{}", in_netns(netns));
    what.lines(&place)
        .iter()
        .map(|line| format!("# {}\n", clean(line)))
        .collect()
}

/// A policy's name as that of a file.
fn file_name(name: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() || "-_+".contains(c) {
        true => c,
        false => '-',
    };
    let name: String = name.chars().map(plain).collect();
    match name.trim_start_matches('-') {
        "" => "policy".to_owned(),
        name => name.to_owned(),
    }
}

/// Writes a file, unless one with other contents is there.
fn put(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::from(files::not_written(WRITING, path, error));
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    match file {
        Ok(mut file) => {
            let written = file
                .write_all(text.as_bytes())
                .and_then(|()| file.sync_all());
            written.map_err(|error| {
                // Half a policy must not be taken for one.
                let _ = fs::remove_file(path);
                failed(error)
            })
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match fs::read(path) {
            Ok(there) if there == text.as_bytes() => Ok(()),
            _ => Err(failed(io::Error::new(
                e.kind(),
                "exists with other contents",
            ))),
        },
        Err(error) => Err(failed(error)),
    }
}
