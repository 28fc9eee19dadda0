//! The files that a policy is read from: whether they may be believed, and when they change.

pub mod trust;
pub mod watch;

/// How many symbolic links the kernel follows in one path (`MAXSYMLINKS`, include/linux/namei.h).
const MOST_LINKS: usize = 40;
