//! The embedded BPF object, and the names of its programs and maps.

use sg_common::event_budget::EventWatch;
use sg_common::flow_ports::PORT_COUNTS;

/// The BPF object with all programs.
#[doc(hidden)]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sg-ebpf"));

pub(super) const INBOUND: &str = "sg_inbound";
pub(super) const OUTBOUND: &str = "sg_outbound";

/// The map that the loader makes of the programs' .bss section.
pub(super) const BSS: &str = ".bss";
/// The array map of the lines, if they do not fit into .bss.
pub(super) const ARRAY: &str = "sg_lines";

/// The names of the placements in pins: .bss, or an array map.
pub(super) const BSS_PIN: &str = "bss";
pub(super) const ARRAY_PIN: &str = "array";

/// The map that the loader makes of the section with the counts of flows by local port.
pub(super) const FLOW_PORTS: &str = ".bss.flow_ports";
pub(super) const PORT_COUNTS_LEN: usize = PORT_COUNTS * size_of::<u64>();

/// The map that the loader makes of the section in which a watcher says that it watches.
pub(super) const EVENT_WATCH: &str = ".bss.event_watch";
pub(super) const EVENT_WATCH_LEN: usize = size_of::<EventWatch<u64>>();
