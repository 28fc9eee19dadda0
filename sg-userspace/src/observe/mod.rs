//! Reads the kernel's counters, events and flows. Nothing here changes anything.

pub mod attached;
pub mod candidate;
pub mod counters;
pub mod decided;
pub mod events;
pub mod explain;
pub mod filter;
pub mod flows;
pub mod history;
pub mod inquiry;
pub mod left;
pub mod metrics;
pub mod pace;
pub mod pin_watch;
pub mod readiness;
pub mod sampler;
pub mod status;
pub mod trace;
pub mod way;
