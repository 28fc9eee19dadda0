//! Loads, attaches, pins and replaces programs. No other code talks to BPF.

// Puts a policy in force, in three steps.
mod apply;
pub mod attempted;
mod commit;
mod fixed;
mod found;
mod options;
mod os_error;
mod outcome;
mod owners;
mod plan;
mod prepare;
pub mod self_check;
mod slots;
mod start;
mod watch;

// Takes it out of force: confirmed or undone, returned to, detached.
mod again;
mod confirm;
mod detach;
mod fallback;
mod gate;
pub mod held;
mod removal;
pub mod trial;

// Loads programs and their tables.
mod load;

// Attaches programs to the hooks of an interface.
pub mod hold;
mod hooks;
mod link_kind;
pub mod links;
pub mod tc;

// What is pinned and written down.
mod blob;
pub mod history;
mod how;
pub mod pins;
pub mod records;
pub mod run_lock;
pub mod state;
pub mod who;
pub(crate) mod zero;

// Finds out what is attached where, and what is wrong with it.
mod condition;
pub mod error;
pub mod inspect;
pub mod location;

// Flows, counters and events.
pub mod event_counts;
pub mod event_ring;
pub mod event_watch;
mod flow_memory;
pub mod flow_tables;
pub mod impact;
pub mod kill;
mod map_memory;
pub mod seed;
mod shared;
pub(crate) mod sums;

// The machine: file system, rights, interfaces, namespaces.
mod machine;
mod sys;

// For tests.
mod faults;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

pub use apply::{Preview, apply, apply_reviewed, preview};
pub use condition::{Fault, FaultCode, NoRecord, standing_on};
pub(crate) use confirm::over;
pub use confirm::{confirm, confirm_generation, undo};
pub use detach::{detach, detach_each, tidy_up};
pub use error::KernelError;
pub(crate) use load::targets;
pub use load::{frame, generation, object, programs, rehearsal, shared_maps, tables};
pub use machine::places::name_of as netns_name;
pub use machine::{bpffs, interfaces, link_watch, listening, netns, own_addresses};
pub(crate) use machine::{capabilities, places};
pub use options::{ApplyOptions, CandidateOption, DEFAULT_MAX_FLOWS, EgressHook, XdpMode};
pub use outcome::{Applied, AppliedTo, Decided, EndedCandidate, Outcome};
pub use seed::{Cut, Seeded, Unseen, UnseenKind};
pub use shared::CounterReader;
pub(crate) use shared::owned_counters;
#[cfg(test)]
pub(crate) use sys::set_acl;
pub(crate) use sys::{has_acl, is_open_for_writing};
pub use zero::{Zero, set_zero};
