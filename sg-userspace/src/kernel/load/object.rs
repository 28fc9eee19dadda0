//! The embedded BPF object, and the names of its programs and maps.

use std::sync::LazyLock;

use sg_common::event_budget::EventWatch;
use sg_common::flow_ports::PORT_COUNTS;
use sha2::{Digest, Sha256};

/// The BPF object with all programs.
#[doc(hidden)]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sg-ebpf"));

/// Tells this object from those of other builds, in the record of a policy: one that was put in
/// force by another build is loaded anew when it is applied again.
pub(in crate::kernel) fn digest() -> &'static str {
    static DIGEST: LazyLock<String> = LazyLock::new(|| {
        let bytes = Sha256::digest(OBJECT);
        let hex = bytes.iter().take(16).map(|byte| format!("{byte:02x}"));
        hex.collect()
    });
    &DIGEST
}

pub(in crate::kernel) const INBOUND: &str = "sg_inbound";
pub(in crate::kernel) const OUTBOUND: &str = "sg_outbound";

/// The map that the loader makes of the programs' .bss section.
pub(in crate::kernel) const BSS: &str = ".bss";
/// The array map of the lines, if they do not fit into .bss.
pub(in crate::kernel) const ARRAY: &str = "sg_lines";

/// The names of the placements in pins: .bss, or an array map.
pub(in crate::kernel) const BSS_PIN: &str = "bss";
pub(in crate::kernel) const ARRAY_PIN: &str = "array";

/// The map that the loader makes of the section with the counts of flows by local port.
pub(in crate::kernel) const FLOW_PORTS: &str = ".bss.flow_ports";
pub(in crate::kernel) const PORT_COUNTS_LEN: usize = PORT_COUNTS * size_of::<u64>();

/// The map that the loader makes of the section in which a watcher says that it watches.
pub(in crate::kernel) const EVENT_WATCH: &str = ".bss.event_watch";
pub(in crate::kernel) const EVENT_WATCH_LEN: usize = size_of::<EventWatch<u64>>();
