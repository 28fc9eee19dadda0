//! Two processes: one draws, and the one before it waits for that and restores the terminal
//! however it ends, by SIGKILL too. If the waiting one is killed, the other one is told, and
//! restores the terminal itself. Only who kills both at once has to type `reset`.

use std::io;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::terminal::{self, ENDING};
use crate::cli::failure::Failure;

/// Does `work` in a process of its own, and restores the terminal if that one has not.
pub(super) fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let modes = tcgetattr(io::stdin()).map_err(|e| failed("reading the terminal's modes", e))?;
    let mut waited: SigSet = ENDING.into_iter().collect();
    for asked in waited.iter().chain([Signal::SIGCHLD]) {
        // A shell may have started us with one of them ignored. Without a terminal there is nothing
        // to do here, and without SIGCHLD nothing to wait for.
        // SAFETY: no function of ours becomes a handler.
        unsafe { signal(asked, SigHandler::SigDfl) }
            .map_err(|e| failed("preparing to wait for signals", e))?;
    }
    waited.add(Signal::SIGCHLD);
    // From now on they are waited for, also in the other process, which inherits this.
    waited
        .thread_block()
        .map_err(|e| failed("preparing to wait for signals", e))?;
    let parent = getpid();
    // SAFETY: no thread was started, so the copy is complete.
    match unsafe { fork() }.map_err(|e| failed("starting the process that draws", e))? {
        ForkResult::Child => {
            let told = set_pdeathsig(Signal::SIGTERM);
            told.map_err(|e| failed("preparing to wait for signals", e))?;
            // If the other one is gone already, nobody waits for this one.
            if getppid() != parent {
                return Ok(());
            }
            work()
        }
        ForkResult::Parent { child } => watch(child, &waited, &modes),
    }
}

/// Waits for the end of the process that draws, and ends like it.
fn watch(child: Pid, waited: &SigSet, modes: &Termios) -> Result<(), Failure> {
    let status = loop {
        match waited.wait() {
            Ok(Signal::SIGCHLD) => match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {}
                Ok(status) => break status,
                Err(e) => return Err(failed("waiting for the process that draws", e)),
            },
            // It may have ended already; then SIGCHLD comes next.
            Ok(asked) => drop(kill(child, asked)),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(failed("waiting for signals", e)),
        }
    };
    // If the modes are as before, the terminal is restored, or was never changed.
    if tcgetattr(io::stdin()).is_ok_and(|now| now != *modes) {
        terminal::leave();
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, modes);
    }
    match status {
        WaitStatus::Exited(_, 0) => Ok(()),
        // It has said why.
        WaitStatus::Exited(_, code) => Err(Failure::Told(u8::try_from(code).unwrap_or(1))),
        WaitStatus::Signaled(_, by, _) if ENDING.contains(&by) => terminal::die(by),
        WaitStatus::Signaled(_, by, _) => Err(Failure::Io {
            what: "drawing the screen",
            source: io::Error::other(format!("its process was ended by {by}")),
        }),
        other => Err(Failure::Io {
            what: "waiting for the process that draws",
            source: io::Error::other(format!("{other:?}")),
        }),
    }
}

fn failed(what: &'static str, error: Errno) -> Failure {
    Failure::Io {
        what,
        source: error.into(),
    }
}
