//! Fault points of test builds: before and after each step that changes the kernel or a pin, a command
//! can be made to fail or to be killed. A build without debug assertions has none of it.
//!
//! `SG_FAULT` is `kill:POINT` or `fail:POINT`; `SG_FAULT_TRACE` names a file to which every point that
//! is passed is appended, so that a test learns the points from a run without a fault. A point is named
//! `before STEP` or `after STEP`, with ` #2` and so on where a step is repeated.

use std::io;

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

#[cfg(debug_assertions)]
mod points {
    use std::collections::HashMap;
    use std::env::var;
    use std::fs::OpenOptions;
    use std::io::{self, Write as _};
    use std::sync::{Mutex, OnceLock, PoisonError};

    pub(super) struct Faults {
        kills: bool,
        at: Option<String>,
        trace: Option<String>,
        passed: Mutex<HashMap<String, u32>>,
    }

    /// As the environment asks for them; `None` where it does not.
    pub(super) fn faults() -> Option<&'static Faults> {
        static FAULTS: OnceLock<Option<Faults>> = OnceLock::new();
        let read = || {
            let wanted = var("SG_FAULT").ok();
            let trace = var("SG_FAULT_TRACE").ok();
            if wanted.is_none() && trace.is_none() {
                return None;
            }
            // What is neither is passed by: a test that asks for it sees no fault.
            let kind_and_point = wanted.as_deref().and_then(|wanted| wanted.split_once(':'));
            Some(Faults {
                kills: kind_and_point.is_some_and(|(kind, _)| kind == "kill"),
                at: kind_and_point.map(|(_, point)| point.to_owned()),
                trace,
                passed: Mutex::default(),
            })
        };
        FAULTS.get_or_init(read).as_ref()
    }

    impl Faults {
        pub(super) fn pass(&self, side: &str, step: &str) -> io::Result<()> {
            let mut point = format!("{side} {step}");
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            let times = passed.entry(point.clone()).or_default();
            *times += 1;
            if *times > 1 {
                point.push_str(&format!(" #{times}"));
            }
            if let Some(path) = &self.trace {
                let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                writeln!(file, "{point}")?;
            }
            if self.at.as_ref() != Some(&point) {
                return Ok(());
            }
            if self.kills {
                // SAFETY: no pointers; the process ends here, as by any other's SIGKILL.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        }
    }
}
