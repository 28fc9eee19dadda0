//! Reads what the kernel has counted and remembers. Nothing here changes anything.

pub mod attached;
pub mod counters;
pub mod events;
pub mod explain;
pub mod flows;
pub mod pin_watch;
pub mod trace;
pub mod watch;
