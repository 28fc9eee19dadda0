//! `sgctl metrics`: everything that is counted, once, as OpenMetrics. What `run --metrics` serves
//! is made in the same way; `server` and `http` serve it.

mod http;
pub(super) mod server;
mod textfile;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sg_userspace::kernel::{KernelError, interfaces};
use sg_userspace::observe::attached::{Scope, other_layouts};
use sg_userspace::observe::metrics::{Format, Reader, expose_into};

use super::context::{Context, Ifaces};
use super::failure::Failure;

/// Everything that is counted, as metrics for Prometheus
#[derive(Args)]
#[command(
    name = "metrics",
    after_help = "\
Without --textfile it prints OpenMetrics. --textfile writes the text format that the textfile collector of
node_exporter reads; the file is replaced by renaming another one, so that it is always whole. To be
scraped, `sgctl run --metrics 127.0.0.1:9750` serves the same.

What could not be read is left out, and so is what there is nothing of: a series that is there and is 0 was
counted.

Examples:
  sgctl metrics --iface eth0
  sgctl metrics --textfile /var/lib/prometheus/node-exporter/sgctl.prom
  sgctl metrics --format text | promtool check metrics

Exit codes: 0 done, also where nothing is attached, 1 the state is wrong or the file cannot be written, 2
usage, 3 not permitted."
)]
pub(super) struct Metrics {
    #[command(flatten)]
    ifaces: Ifaces,
    /// Write to this file instead, in the text format
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    textfile: Option<PathBuf>,
    /// The format on standard output
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "openmetrics")]
    format: Choice,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// OpenMetrics 1.0
    Openmetrics,
    /// The older text format of Prometheus, 0.0.4
    Text,
}

impl From<Choice> for Format {
    fn from(choice: Choice) -> Format {
        match choice {
            Choice::Openmetrics => Format::OpenMetrics,
            Choice::Text => Format::Text,
        }
    }
}

impl Metrics {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let scope = context.here(&self.ifaces);
        if let Some(other) = other_layouts(&context.bpffs, &scope)?.into_iter().next() {
            return Err(other.into());
        }
        let format = match self.textfile {
            Some(_) => Format::Text,
            None => self.format.into(),
        };
        let text = text_into(String::new(), &mut reader(context, scope), format)?;
        match &self.textfile {
            None => context.out.print(&text),
            Some(path) => textfile::write(path, &text),
        }
    }
}

/// Reads what is attached in a scope. Interfaces that are named should be.
fn reader(context: &Context, scope: Scope) -> Reader {
    let expected = match &scope {
        Scope::Interfaces(names) => names
            .iter()
            .filter(|name| !interfaces::is_pattern(name))
            .cloned()
            .collect(),
        _ => Vec::new(),
    };
    Reader::new(&context.bpffs, scope, expected)
}

/// In the memory of an earlier text.
fn text_into(memory: String, reader: &mut Reader, format: Format) -> Result<String, KernelError> {
    expose_into(reader.read()?, format, memory)
}
