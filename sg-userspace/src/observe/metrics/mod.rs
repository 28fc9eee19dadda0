//! Metrics in OpenMetrics: what `sgctl metrics` prints and `sgctl run --metrics` serves (O5).
//!
//! `reader` reads the kernel, `known` keeps what seldom changes of an interface, `sample` is what
//! was read, `labels` names series, `families` says which there are, and `format` writes the two
//! text formats.
//!
//! What could not be read is absent, and never zero.

mod events;
mod families;
mod format;
mod known;
mod labels;
mod reader;
mod sample;

pub use events::EventCounts;
pub use families::{FAMILIES, FamilyInfo, Kind};
pub use format::{Format, expose, expose_into};
pub use reader::Reader;
pub use sample::Sample;
