//! The embedded BPF object, and by which names its programs and maps are known.

use sg_common::flow_ports::PORT_COUNTS;

/// The BPF object with all programs, as it was built.
#[doc(hidden)]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sg-ebpf"));

pub(super) const INBOUND: &str = "sg_inbound";
pub(super) const OUTBOUND: &str = "sg_outbound";

/// The section of the programs' plain memory, as the loader names its map.
pub(super) const BSS: &str = ".bss";
/// The map of all lines that are not near.
pub(super) const ARRAY: &str = "sg_lines";

/// Where tables are, as their pins are called: in the programs' own memory, or in a map of their
/// own.
pub(super) const BSS_PIN: &str = "bss";
pub(super) const ARRAY_PIN: &str = "array";

/// Counts of flows by local port: a section of the programs' memory, as the loader names its map.
pub(super) const FLOW_PORTS: &str = ".bss.flow_ports";
pub(super) const PORT_COUNTS_LEN: usize = PORT_COUNTS * size_of::<u64>();
