//! Fault points of test builds. Before and after each step that changes the kernel or a pin, a
//! command can be made to fail or to be killed. A build without debug assertions has no fault
//! points.
//!
//! `SG_FAULT` is `kill:POINT`, `fail:POINT`, or `refuse:POINT`; the last fails there and at every
//! repetition. `SG_FAULT_TRACE` names a file to which each point is appended when it is passed, so
//! that a test learns the points from a run without a fault. `flip:N` flips a bit of word N of the
//! tables that are loaded, so that the self-check has something to find. A point is named `before
//! STEP` or `after STEP`, with ` #2` and so on if the step is repeated.

use std::borrow::Cow;
use std::io;

#[cfg(debug_assertions)]
use sg_common::{lookup::LINE_WORDS, verdict::Verdict};
use sg_policy::compile::Compiled;

/// Takes a step that changes the kernel or a pin.
#[cfg(not(debug_assertions))]
pub(super) fn step<T>(
    _name: impl FnOnce() -> String,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    act()
}

/// Takes a step that changes the kernel or a pin.
#[cfg(debug_assertions)]
pub(super) fn step<T>(
    name: impl FnOnce() -> String,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(faults) = points::faults() else {
        return act();
    };
    let name = name();
    faults.pass("before", &name)?;
    let done = act()?;
    faults.pass("after", &name)?;
    Ok(done)
}

/// The tables that are to be loaded, with a mistake if one is asked for.
#[cfg(debug_assertions)]
pub(super) fn tables(compiled: &Compiled) -> Cow<'_, Compiled> {
    let asked = std::env::var("SG_FAULT").ok();
    let word = asked.and_then(|fault| fault.strip_prefix("flip:")?.parse::<usize>().ok());
    let mut compiled = Cow::Borrowed(compiled);
    if let Some(word) = word {
        let lines = &mut compiled.to_mut().lines;
        let line = lines.get_mut(word / LINE_WORDS);
        if let Some(word) = line.and_then(|line| line.0.get_mut(word % LINE_WORDS)) {
            *word ^= Verdict::ACCEPT_BIT;
        }
    }
    compiled
}

/// The tables that are to be loaded.
#[cfg(not(debug_assertions))]
pub(super) fn tables(compiled: &Compiled) -> Cow<'_, Compiled> {
    Cow::Borrowed(compiled)
}

#[cfg(debug_assertions)]
mod points {
    use std::collections::HashMap;
    use std::env::var;
    use std::fs::OpenOptions;
    use std::io::{self, Write as _};
    use std::sync::{Mutex, OnceLock, PoisonError};

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Kill,
        Fail,
        Refuse,
    }

    struct Fault {
        kind: Kind,
        /// `before STEP` or `after STEP`.
        point: String,
        /// Which repetition of the point is meant.
        time: u32,
    }

    impl Fault {
        /// `None` if the text is no fault, in which case nothing fails and the test notices.
        fn parse(text: &str) -> Option<Fault> {
            let (kind, point) = text.split_once(':')?;
            let (point, time) = match point.rsplit_once(" #") {
                Some((point, time)) => (point, time.parse().ok()?),
                None => (point, 1),
            };
            Some(Fault {
                kind: match kind {
                    "kill" => Kind::Kill,
                    "fail" => Kind::Fail,
                    "refuse" => Kind::Refuse,
                    _ => return None,
                },
                point: point.to_owned(),
                time,
            })
        }

        fn is_at(&self, point: &str, time: u32) -> bool {
            let is_time = match self.kind {
                Kind::Refuse => time >= self.time,
                Kind::Kill | Kind::Fail => time == self.time,
            };
            self.point == point && is_time
        }
    }

    pub(super) struct Faults {
        fault: Option<Fault>,
        trace: Option<String>,
        passed: Mutex<HashMap<String, u32>>,
    }

    /// The faults that the environment asks for, if any.
    pub(super) fn faults() -> Option<&'static Faults> {
        static FAULTS: OnceLock<Option<Faults>> = OnceLock::new();
        let read = || {
            let wanted = var("SG_FAULT").ok();
            let trace = var("SG_FAULT_TRACE").ok();
            if wanted.is_none() && trace.is_none() {
                return None;
            }
            Some(Faults {
                fault: wanted.as_deref().and_then(Fault::parse),
                trace,
                passed: Mutex::default(),
            })
        };
        FAULTS.get_or_init(read).as_ref()
    }

    impl Faults {
        pub(super) fn pass(&self, side: &str, step: &str) -> io::Result<()> {
            let point = format!("{side} {step}");
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            let time = passed.entry(point.clone()).or_default();
            *time += 1;
            if let Some(path) = &self.trace {
                let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                match time {
                    1 => writeln!(file, "{point}")?,
                    _ => writeln!(file, "{point} #{time}")?,
                }
            }
            let fault = self
                .fault
                .as_ref()
                .filter(|fault| fault.is_at(&point, *time));
            let Some(fault) = fault else {
                return Ok(());
            };
            if fault.kind == Kind::Kill {
                // SAFETY: no pointers. The process ends here, as by a SIGKILL from outside.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        }
    }
}
