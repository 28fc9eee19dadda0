//! What the user does: waits for keys and changes of the terminal's size.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crossterm::event::{self, Event, KeyEvent};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What has come.
pub(super) enum Input {
    Keys(Vec<KeyEvent>),
    /// The terminal is gone.
    End,
}

/// Lets changes of the terminal's size interrupt the waiting, from now on.
pub(super) fn prepare() -> io::Result<()> {
    event::poll(Duration::ZERO).map(drop)
}

/// Waits for keys or another size, at most for so long.
pub(super) fn wait(longest: Duration) -> io::Result<Input> {
    let stdin = io::stdin();
    let mut asked = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    // Rounded up, so that the last fraction of a millisecond is not spent in a loop.
    let longest = longest.as_millis().saturating_add(1).min(60_000);
    let longest = PollTimeout::from(u16::try_from(longest).unwrap_or(u16::MAX));
    match poll(&mut asked, longest) {
        // A signal such as SIGWINCH.
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e.into()),
    }
    // crossterm would read the end of a closed terminal again and again.
    let found = asked[0].revents().unwrap_or(PollFlags::empty());
    if found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
        return Ok(Input::End);
    }
    let mut keys = Vec::new();
    while event::poll(Duration::ZERO)? {
        // The size is asked for whenever the screen is drawn.
        if let Event::Key(key) = event::read()? {
            keys.push(key);
        }
    }
    Ok(Input::Keys(keys))
}
