//! The terminal that a command was started on, or the pipe that it writes to, and whether anybody
//! is still there.

use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::SFlag;

/// What there was of a terminal at the start.
pub(super) struct Terminal {
    /// Standard input, output and error.
    streams: [bool; 3],
    /// The process has a controlling terminal, be it that no stream is connected with it.
    is_controlled: bool,
    /// Whoever started the process wants it to outlive its terminal, as nohup(1) does.
    outlives: bool,
}

impl Terminal {
    pub(super) fn find() -> Terminal {
        Terminal {
            streams: streams(),
            is_controlled: is_controlled(),
            outlives: ignores_hangup(),
        }
    }

    /// Why nobody is there any more, if so.
    pub(super) fn end(&self) -> Option<&'static str> {
        if self.is_lost() {
            return Some("the terminal has gone");
        }
        let is_broken = !self.outlives && has_no_reader(io::stdout().as_fd());
        is_broken.then_some("nobody reads standard output any more")
    }

    /// True once a terminal that was there is there no more. A stream that has been hung up is no
    /// terminal any longer: every request to it fails with EIO.
    pub(super) fn is_lost(&self) -> bool {
        let is_gone = |(before, now): (bool, bool)| before && !now;
        let any_stream = self.streams.into_iter().zip(streams()).any(is_gone);
        !self.outlives && (any_stream || (self.is_controlled && !is_controlled()))
    }

    /// What a SIGHUP means.
    pub(super) fn hangup(&mut self) -> Hangup {
        if self.is_lost() {
            return Hangup::Lost;
        }
        let now = (streams(), is_controlled());
        let is_changed = now != (self.streams, self.is_controlled);
        (self.streams, self.is_controlled) = now;
        match self.outlives && is_changed {
            true => Hangup::Outlived,
            false => Hangup::Asked,
        }
    }
}

/// What a SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// The terminal has gone.
    Lost,
    /// The terminal has gone, and the process was started so as to outlive it.
    Outlived,
    /// Somebody has sent it, and there is a terminal, or was none.
    Asked,
}

/// Whether this is the end of a pipe whose other end nobody has open: then it is in error
/// (poll(2)).
fn has_no_reader(end: BorrowedFd<'_>) -> bool {
    let is_pipe = nix::sys::stat::fstat(end).is_ok_and(|found| {
        SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
    });
    let mut asked = [PollFd::new(end, PollFlags::empty())];
    let answered = poll(&mut asked, PollTimeout::ZERO);
    let found = asked[0].revents();
    is_pipe && answered.is_ok() && found.is_some_and(|found| found.contains(PollFlags::POLLERR))
}

fn streams() -> [bool; 3] {
    [
        io::stdin().is_terminal(),
        io::stdout().is_terminal(),
        io::stderr().is_terminal(),
    ]
}

fn is_controlled() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether SIGHUP is ignored (proc_pid_status(5): a mask of signals, the first of which is
/// SIGHUP).
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_is_told_from_one_that_somebody_may_read() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!has_no_reader(writer.as_fd()));
        drop(reader);
        assert!(has_no_reader(writer.as_fd()));
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(reader);
        assert!(!has_no_reader(writer.as_fd()), "a journal may come back");
    }
}
