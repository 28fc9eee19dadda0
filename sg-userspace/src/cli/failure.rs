//! The failures of commands, and their exit codes. How they are printed is in `report`.

use std::fmt::Display;
use std::io;

use clap::Args;
use clap::error::ErrorKind;
use miette::Diagnostic;
use sg_policy::policy::{Finding, PolicyErrors};
use sg_userspace::kernel::KernelError;
use sg_userspace::kernel::attempted::Attempted;

use super::files::IoAt;
use super::placed::placed;
use crate::lab::LabError;

#[derive(Debug)]
pub(super) enum Failure {
    Policy(PolicyErrors),
    Kernel(KernelError),
    Lab(LabError),
    /// The policy drops what its own guard names: an error for each of that.
    Guard(Vec<Finding>),
    /// Arguments that are wrong in a way that clap does not check.
    Usage(Box<clap::Error>),
    /// The reader of standard output has closed it, which is no error.
    BrokenPipe,
    Io {
        what: &'static str,
        source: io::Error,
    },
    /// The same at a file or an address that the user has named.
    IoAt(IoAt),
    /// The failure was printed already. The number is the exit code.
    Told(u8),
}

impl From<PolicyErrors> for Failure {
    fn from(errors: PolicyErrors) -> Self {
        Failure::Policy(errors)
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Failure::Kernel(error)
    }
}

impl From<IoAt> for Failure {
    fn from(error: IoAt) -> Self {
        Failure::IoAt(error)
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Failure::Lab(error)
    }
}

impl Failure {
    /// A usage error of the command with this name and these arguments.
    pub(super) fn usage<A: Args>(command: &'static str, message: impl Display) -> Failure {
        let whole = format!("sgctl {command}");
        let mut command = A::augment_args(clap::Command::new(command).bin_name(whole));
        Failure::Usage(Box::new(command.error(ErrorKind::ValueValidation, message)))
    }

    /// The failure to print what was done, which says that it was done.
    pub(super) fn after_all(self) -> Failure {
        match self {
            Failure::Io { source, .. } => Failure::Io {
                what: "done as asked, but that could not be written to standard output",
                source,
            },
            other => other,
        }
    }

    /// The failure after a report that has it: it is not printed again, unless the report was not
    /// printed.
    pub(super) fn once(self, printed: Result<(), Failure>) -> Failure {
        match printed {
            Ok(()) => Failure::Told(self.exit_code()),
            Err(_) => self,
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Failure::Policy(_) | Failure::Guard(_) | Failure::Io { .. } | Failure::IoAt(_) => 1,
            Failure::Kernel(error) => error.exit_code(),
            Failure::Lab(error) => error.exit_code(),
            Failure::Usage(_) => 2,
            Failure::BrokenPipe => 0,
            Failure::Told(code) => *code,
        }
    }

    /// The policy that was to be put in force, for each interface where its programs may run after
    /// this failure.
    pub(super) fn attempted(&self) -> &[Attempted] {
        match self {
            Failure::Kernel(error) => error.attempted(),
            _ => &[],
        }
    }

    /// What is in force after the failure, if the error says so.
    pub(super) fn standing(&self) -> Option<&str> {
        match self {
            Failure::Kernel(KernelError::Halfway { standing, .. }) => Some(standing),
            _ => None,
        }
    }

    /// The failure in the common form of errors and findings (A4).
    pub(super) fn findings(&self) -> Vec<Finding> {
        let of = |code: &'static str, error: &dyn Diagnostic| {
            let finding = Finding::error(code, placed(&error.to_string()));
            match error.help() {
                Some(help) => vec![finding.help(placed(&help.to_string()))],
                None => vec![finding],
            }
        };
        match self {
            Failure::Policy(errors) => errors.findings(),
            Failure::Guard(errors) => errors.clone(),
            Failure::Kernel(error) => of(error.code_name(), error),
            Failure::Lab(error) => of(error.code_name(), error),
            Failure::Usage(error) => vec![usage(&error.to_string())],
            Failure::Io { what, source } => {
                vec![Finding::error("io", format!("{what}: {source}"))]
            }
            Failure::IoAt(error) => of("io", error),
            Failure::BrokenPipe | Failure::Told(_) => Vec::new(),
        }
    }
}

/// Splits clap's message: the error is the first paragraph, and help is in those after it.
fn usage(said: &str) -> Finding {
    let mut paragraphs = said.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let help: Vec<String> = paragraphs
        .filter(|paragraph| !paragraph.is_empty())
        .collect();
    let finding = Finding::error("usage", message);
    match help.is_empty() {
        true => finding,
        false => finding.help(help.join("; ")),
    }
}
