//! Commands on pseudo-terminals.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::pty::{OpenptyResult, Winsize};

pub(super) fn size(columns: u16, lines: u16) -> Winsize {
    Winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Begins a session whose terminal is standard input. All calls are async-signal-safe, so this may
/// be done between fork and exec.
pub(super) fn take_terminal() -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: the request takes no pointer.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Starts a command on a terminal, with what it writes there, piece by piece. The pieces end with
/// the command only if the caller drops `pty.slave`.
pub(super) fn start(mut command: Command, pty: &OpenptyResult) -> (Child, Receiver<Vec<u8>>) {
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    command.stdin(slave()).stdout(slave()).stderr(slave());
    // SAFETY: `take_terminal` makes async-signal-safe calls only.
    unsafe { command.pre_exec(take_terminal) };
    let child = command.spawn().unwrap();
    let mut reader = File::from(pty.master.try_clone().unwrap());
    let (sender, written) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            let _ = sender.send(buffer[..length].to_vec());
        }
    });
    (child, written)
}
