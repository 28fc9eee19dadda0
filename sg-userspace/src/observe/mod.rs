//! Reads what the kernel has counted and remembers. Nothing here changes anything.

pub mod counters;
