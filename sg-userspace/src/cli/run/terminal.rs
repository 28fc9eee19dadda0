//! The terminal that a command was started on, or the pipe that it writes to, and whether the other
//! end is still open.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use crate::cli::reader::{has_no_reader, ignores_hangup};

/// The state of the terminal at the start.
pub(super) struct Terminal {
    /// Whether standard input, output and error were terminals.
    streams: [bool; 3],
    /// Whether the process has a controlling terminal, even if no stream is connected to it.
    is_controlled: bool,
    /// Whether the process must outlive its terminal, because it was started with SIGHUP ignored,
    /// as nohup(1) does.
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

    /// Why the session has to end, if its terminal or reader is gone.
    pub(super) fn end(&self) -> Option<&'static str> {
        if self.is_lost() {
            return Some("the terminal has gone");
        }
        let is_broken = !self.outlives && has_no_reader(io::stdout().as_fd());
        is_broken.then_some("nobody reads standard output any more")
    }

    /// Whether the terminal was closed. After a hangup a stream is no terminal any more: every
    /// request to it fails with EIO.
    pub(super) fn is_lost(&self) -> bool {
        let is_gone = |(before, now): (bool, bool)| before && !now;
        let any_stream = self.streams.into_iter().zip(streams()).any(is_gone);
        !self.outlives && (any_stream || (self.is_controlled && !is_controlled()))
    }

    /// Handles a SIGHUP: returns what it means.
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

/// The meaning of a SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// The terminal was closed.
    Lost,
    /// The terminal was closed, and the process must outlive it.
    Outlived,
    /// A process has sent it: the terminal is still open, or there was none.
    Asked,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_without_a_reader_is_distinguished_from_one_that_may_get_one() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!has_no_reader(writer.as_fd()));
        drop(reader);
        assert!(has_no_reader(writer.as_fd()));
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(reader);
        assert!(!has_no_reader(writer.as_fd()), "a journal may come back");
    }
}
