//! The flow table in userspace: its maps are mapped into memory, and the algorithm is the same as
//! in the packet path, so that neither side ever waits.

mod change;
mod cut;
mod secret;
mod table;
mod tuple;

pub use change::Written;
pub(super) use secret::{FlowKeys, keys_of};
pub use table::FlowTable;
pub(super) use table::{groups_at, port_counts};
pub use tuple::{FlowEntry, key_of};
