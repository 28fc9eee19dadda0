//! The terminal while it shows the screen: raw mode and the alternate screen, and back to what was
//! before, whether the process ends by itself, by a panic or by a signal.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::failure::Failure;

/// The signals that ask a process to end. The terminal is restored first.
pub(super) const ENDING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
];

/// To the alternate screen, without a cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
/// Colours off, the cursor back, and to the screen before.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// The modes of the terminal before the screen was shown, and while it is.
struct Modes {
    before: Termios,
    ours: Termios,
}

/// Present while the screen is shown. Whoever writes to the terminal holds the lock.
static SHOWN: Mutex<Option<Modes>> = Mutex::new(None);

/// The screen is shown as long as this lives.
pub(super) struct Shown(());

impl Shown {
    /// Shows the screen. From now on signals and panics restore the terminal.
    pub(super) fn begin() -> Result<Shown, Failure> {
        let wait = thread::Builder::new().name("signals".into());
        wait.spawn(wait_for_signals)
            .map_err(|e| failed("preparing to wait for signals", e))?;
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Its message would be lost on the alternate screen.
            restore();
            before(panic);
        }));
        enter()?;
        Ok(Shown(()))
    }

    /// Gives the terminal back to the shell until the user continues this command.
    pub(super) fn suspend(&self) -> Result<(), Failure> {
        restore();
        // To the whole process group, as the terminal does it, so that the shell sees it.
        kill(Pid::from_raw(0), Signal::SIGTSTP).map_err(|e| failed("stopping", e.into()))?;
        enter()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        restore();
    }
}

fn enter() -> Result<(), Failure> {
    let mut shown = lock();
    let stdin = io::stdin();
    let failed = |e: Errno| failed("setting the terminal's modes", e.into());
    let before = tcgetattr(&stdin).map_err(failed)?;
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).map_err(failed)?;
    // The kernel may not have taken all of it.
    let ours = tcgetattr(&stdin).map_err(failed)?;
    *shown = Some(Modes { before, ours });
    let mut out = io::stdout();
    out.write_all(ENTER)
        .and_then(|()| out.flush())
        .map_err(written)
}

/// Restores the terminal, unless that was done.
fn restore() {
    let Some(mut shown) = lock_soon() else {
        return;
    };
    let Some(modes) = shown.take() else { return };
    leave();
    // If this process was orphaned, the shell may have set its own modes meanwhile.
    if tcgetattr(io::stdin()).is_ok_and(|now| now == modes.ours) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &modes.before);
    }
}

/// Goes back to the screen that was shown before, unless the terminal takes no more output: the end
/// of the command must not wait for it.
pub(super) fn leave() {
    const PATIENCE: u16 = 1000;
    let mut out = io::stdout();
    let takes_more = {
        let mut asked = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
        poll(&mut asked, PollTimeout::from(PATIENCE)).is_ok_and(|ready| ready > 0)
    };
    if takes_more {
        let _ = out.write_all(LEAVE).and_then(|()| out.flush());
    }
}

fn lock() -> MutexGuard<'static, Option<Modes>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lock, unless its holder keeps it: then a write to the terminal does not return, and another
/// one would not either.
fn lock_soon() -> Option<MutexGuard<'static, Option<Modes>>> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        match SHOWN.try_lock() {
            Ok(shown) => return Some(shown),
            Err(TryLockError::Poisoned(shown)) => return Some(shown.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
    None
}

/// Standard output as long as the screen is shown. What comes later is discarded.
pub(super) struct Out;

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match *lock() {
            Some(_) => io::stdout().write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match *lock() {
            Some(_) => io::stdout().flush(),
            None => Ok(()),
        }
    }
}

/// Waits for a signal that asks to end. All threads have them blocked.
fn wait_for_signals() {
    let asked: SigSet = ENDING.into_iter().collect();
    loop {
        if let Ok(by) = asked.wait() {
            // An orphan is in the background, where changing the modes would stop it.
            let _ = SigSet::from(Signal::SIGTTOU).thread_block();
            restore();
            die(by);
        }
    }
}

/// Ends this process as the signal does by itself, so that the shell sees why.
pub(super) fn die(by: Signal) -> ! {
    let _ = emulate_default_handler(by as i32);
    std::process::exit(128 + by as i32)
}

/// A failure to write: a terminal that was closed is no error of ours.
pub(super) fn written(source: io::Error) -> Failure {
    match source.raw_os_error() {
        Some(libc::EIO | libc::EPIPE) => Failure::BrokenPipe,
        _ => failed("writing to the terminal", source),
    }
}

fn failed(what: &'static str, source: io::Error) -> Failure {
    Failure::Io { what, source }
}
