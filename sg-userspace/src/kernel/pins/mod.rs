//! The layout of pins: `<bpffs>/sgctl/v<layout>/<netns cookie>/<attachment>/` has what the
//! interfaces of an attachment share (flows, fragments, events). In it, each interface has a
//! directory, named by its index, with its own links, programs, counters and record. The directory
//! of an attachment is removed with its last interface, so that nothing is left.

mod interface;
mod lock;
mod names;
mod removal;
mod runs;
mod tree;

pub use interface::InterfacePins;
pub use lock::WriteLock;
pub(super) use removal::unpin;
pub use tree::PinTree;
