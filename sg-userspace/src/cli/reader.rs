//! Whether anybody still reads what a command prints.

use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::SFlag;

/// Whether this is the writing end of a pipe without a reader. Then poll(2) reports an error.
pub(super) fn has_no_reader(end: BorrowedFd<'_>) -> bool {
    let is_pipe = nix::sys::stat::fstat(end).is_ok_and(|found| {
        SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
    });
    let mut asked = [PollFd::new(end, PollFlags::empty())];
    let answered = poll(&mut asked, PollTimeout::ZERO);
    let found = asked[0].revents();
    is_pipe && answered.is_ok() && found.is_some_and(|found| found.contains(PollFlags::POLLERR))
}
