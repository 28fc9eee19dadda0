//! Makes errors of what the operating system, the verifier and aya say: that something is not
//! permitted, that memory is short, that a pin is not there, or that a program is refused.

use std::io;
use std::path::Path;

use aya::programs::ProgramError;

use super::error::KernelError;
use super::machine::capabilities::{Capability, TO_ENFORCE, TO_ENTER_AND_MOUNT, missing, remedy};

impl KernelError {
    /// The error for a refused step that needs these capabilities.
    pub(crate) fn not_permitted(what: impl Into<String>, needed: &[Capability]) -> Self {
        KernelError::NotPermitted {
            what: what.into(),
            help: remedy(needed),
        }
    }

    /// The error for a refused step in entering a network namespace or mounting a file system.
    pub fn may_not_enter(what: impl Into<String>) -> Self {
        KernelError::not_permitted(what, TO_ENTER_AND_MOUNT)
    }

    /// Fails before anything is changed if this process cannot load or attach programs.
    pub(super) fn unless_may_enforce(interface: &str) -> Result<(), Self> {
        match missing(TO_ENFORCE).is_empty() {
            true => Ok(()),
            false => {
                let what = format!("attaching programs to {interface}");
                Err(KernelError::not_permitted(what, TO_ENFORCE))
            }
        }
    }

    /// The error for an operating system error, which may be one of permission.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => KernelError::not_permitted(what, TO_ENFORCE),
            _ => KernelError::Io {
                help: short_of(&source).map(str::to_owned),
                what,
                source,
            },
        }
    }

    /// The error for a step at a pin, such as opening or reading it, that may not be there.
    pub(crate) fn at_pin(doing: &str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let what = format!("{doing} {}", path.as_ref().display());
        match source.raw_os_error() {
            Some(libc::ENOENT) => KernelError::MissingPin { what },
            _ => KernelError::io(what, source),
        }
    }

    /// The error for any error of aya, with the reason of the operating system and the end of the
    /// verifier's log.
    pub(crate) fn bpf(what: impl Into<String>, error: impl std::error::Error + 'static) -> Self {
        let what = what.into();
        let mut reasons = vec![shortened(&error.to_string())];
        let mut help = "the kernel's own message is above; `sgctl status` shows what is attached, docs list \
                        the kernel versions";
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        // The verifier refuses a program with EACCES as well.
        let mut is_verified = false;
        while let Some(e) = source {
            is_verified |= has_verifier_log(e);
            if let Some(io) = e.downcast_ref::<io::Error>()
                && matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES))
                && !is_verified
            {
                return KernelError::not_permitted(what, TO_ENFORCE);
            }
            if let Some(io) = e.downcast_ref::<io::Error>() {
                help = short_of(io).unwrap_or(help);
            }
            let text = shortened(&e.to_string());
            if !reasons.iter().any(|r| r.contains(&text)) {
                reasons.push(text);
            }
            source = e.source();
        }
        KernelError::Refused {
            what,
            reason: reasons.join(": "),
            help: help.into(),
        }
    }
}

/// The remedy if memory was short.
fn short_of(error: &io::Error) -> Option<&'static str> {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)).then_some(
        "the machine is short of memory, or this process's control group has reached its limit; the flow \
         table takes most of what is needed (--max-flows)",
    )
}

/// Whether the verifier has looked at the program, and so decided about it.
fn has_verifier_log(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { verifier_log, .. }) => !verifier_log.to_string().is_empty(),
        _ => false,
    }
}

/// The first line and the last ones. The verifier's log lists every explored instruction, and has
/// the reason at its end.
fn shortened(text: &str) -> String {
    const LAST: usize = 8;
    let lines: Vec<&str> = text.trim_end().lines().collect();
    if lines.len() <= LAST + 1 {
        return lines.join("\n");
    }
    format!(
        "{}\n...\n{}",
        lines[0],
        lines[lines.len() - LAST..].join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_report_the_end_is_kept() {
        assert_eq!(shortened("one line\n"), "one line");
        let few: Vec<String> = (0..9).map(|i| i.to_string()).collect();
        assert_eq!(shortened(&few.join("\n")), few.join("\n"));
        let many: Vec<String> = (0..900).map(|i| i.to_string()).collect();
        assert_eq!(
            shortened(&many.join("\n")),
            "0\n...\n892\n893\n894\n895\n896\n897\n898\n899"
        );
    }
}
