//! Whether anybody still reads what a command prints, and whether it goes on when its terminal
//! closes.

use std::fs;
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

/// Whether SIGHUP is ignored, as in what nohup(1) starts. /proc/self/status has a mask of ignored
/// signals whose first bit is SIGHUP (proc_pid_status(5)).
pub(super) fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}
