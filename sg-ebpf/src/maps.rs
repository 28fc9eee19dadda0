//! Every map and load-time constant of the packet path.
//! Tables belong to one generation of a policy; counters and flows are shared by all of them.

use core::cell::UnsafeCell;

use aya_ebpf::{
    macros::map,
    maps::{Array, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use sg_common::{
    counters::SlotCounters,
    event::EventLimit,
    flow::{TIMEOUTS, Timeout},
    fragment::{FragmentKey4, FragmentKey6, FragmentValue},
    tables::{
        BLOCK_ENTRIES, Block, NEAR_BLOCKS, NEAR_NODES, NEAR_ROWS, NODE_ENTRIES, NearTables, Node,
        ROOT_ENTRIES, Root, Row, Tables,
    },
};

/// `BPF_F_MMAPABLE` (uapi/linux/bpf.h): userspace fills the tables by writing to memory.
pub(crate) const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC` (uapi/linux/bpf.h), which the kernel demands of an LPM trie.
const NO_PREALLOC: u32 = 1;

/// Plain memory of the program, which userspace fills before it is loaded.
#[repr(transparent)]
struct Filled<T>(UnsafeCell<T>);

// SAFETY: nothing writes it once the program is loaded.
unsafe impl<T> Sync for Filled<T> {}

/// Exported, or the compiler would take it for the zeros that it is here.
#[unsafe(no_mangle)]
static SG_NEAR_TABLES: Filled<NearTables> = Filled(UnsafeCell::new(NearTables {
    root4: [0; ROOT_ENTRIES],
    has_all: 0,
    unused: [0; 15],
    rows: [[0; 16]; NEAR_ROWS],
    nodes: [[0; NODE_ENTRIES]; NEAR_NODES],
    blocks: [[0; BLOCK_ENTRIES]; NEAR_BLOCKS],
}));

#[inline(always)]
fn near() -> &'static NearTables {
    // SAFETY: always there, of that type, and never written.
    unsafe { &*SG_NEAR_TABLES.0.get() }
}

// The loader sets the sizes of the tables that are maps.

#[map(name = "sg_blocks")]
static BLOCKS: Array<Block> = Array::with_max_entries(1, MMAPABLE);

#[map(name = "sg_nodes")]
static NODES: Array<Node> = Array::with_max_entries(1, MMAPABLE);

#[map(name = "sg_rows")]
static ROWS: Array<Row> = Array::with_max_entries(1, MMAPABLE);

/// IPv6 prefix → class. The key's address bytes are in wire order.
#[map(name = "sg_prefixes6")]
static PREFIXES6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(1, NO_PREALLOC);

#[map(name = "sg_counters")]
pub(crate) static COUNTERS: PerCpuArray<SlotCounters> = PerCpuArray::with_max_entries(1, 0);

/// First fragments, for the later ones to follow.
#[map(name = "sg_fragments4")]
pub(crate) static FRAGMENTS4: LruHashMap<FragmentKey4, FragmentValue> =
    LruHashMap::with_max_entries(1, 0);

#[map(name = "sg_fragments6")]
pub(crate) static FRAGMENTS6: LruHashMap<FragmentKey6, FragmentValue> =
    LruHashMap::with_max_entries(1, 0);

/// Events of rules with `log`, read by whoever watches the interface.
#[map(name = "sg_events")]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map(name = "sg_event_limit")]
pub(crate) static EVENT_LIMIT: PerCpuArray<EventLimit> = PerCpuArray::with_max_entries(1, 0);

/// Constants that the loader writes before the verifier sees the program; branches on them that
/// a policy does not need are removed there.
macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            static $name: $type = $default;
        )*
    };
}

pub(crate) use constants;

constants! {
    /// Generation of the policy that these programs enforce.
    SG_GENERATION: u32 = 0;
    /// 1 accepts essential traffic whatever the rules say.
    SG_ESSENTIAL: u8 = 1;
    /// 1 keeps flows of earlier generations as they are; 0 judges them again.
    SG_KEEP_FLOWS: u8 = 0;
    /// 0 when there is no flow and none can come about.
    SG_HAS_FLOWS: u8 = 1;
    /// 1 when all tables but those of IPv6 addresses are in `SG_NEAR_TABLES`.
    SG_HAS_NEAR_TABLES: u8 = 1;
    /// 1 when some rule asks for events.
    SG_LOGS: u8 = 1;
    /// Class of every IPv6 address that no prefix names.
    SG_DEFAULT_CLASS6: u32 = 0;
    /// 0 when the policy names no IPv6 prefix at all: the trie is then never asked.
    SG_HAS_PREFIXES6: u8 = 1;
    /// Idle seconds by `sg_common::flow::Timeout`, padded to a power of two so that an index can
    /// be masked.
    SG_TIMEOUTS: [u32; 16] = [0; 16];
}

const _: () = assert!(TIMEOUTS <= 16);

/// Reads a load-time constant. Volatile, because the compiler would otherwise fold in the default
/// that the loader replaces.
macro_rules! constant {
    ($name:ident) => {
        // SAFETY: a live static of plain data; nothing writes it once the program is loaded.
        unsafe { core::ptr::read_volatile(&raw const $name) }
    };
}

pub(crate) use constant;

pub(crate) fn keeps_flows() -> bool {
    constant!(SG_KEEP_FLOWS) != 0
}

pub(crate) fn accepts_essential() -> bool {
    constant!(SG_ESSENTIAL) != 0
}

pub(crate) fn has_flows() -> bool {
    constant!(SG_HAS_FLOWS) != 0
}

pub(crate) fn has_logging_rules() -> bool {
    constant!(SG_LOGS) != 0
}

pub(crate) fn generation() -> u32 {
    constant!(SG_GENERATION)
}

/// Idle seconds allowed in `state`.
#[inline(always)]
pub(crate) fn timeout(state: u8) -> u32 {
    let index = (state & 15) as usize;
    // SAFETY: the index is masked to the length of the array.
    unsafe { core::ptr::read_volatile((&raw const SG_TIMEOUTS).cast::<u32>().add(index)) }
}

/// Seconds for which a first fragment is remembered.
#[inline(always)]
pub(crate) fn fragment_timeout() -> u32 {
    timeout(Timeout::Fragment as u8)
}

/// Blocks and nodes as BPF maps.
pub(crate) struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn block(&self, index: u32) -> Option<&Block> {
        if constant!(SG_HAS_NEAR_TABLES) != 0 {
            return Some(&near().blocks[index as usize & (NEAR_BLOCKS - 1)]);
        }
        BLOCKS.get(index)
    }

    #[inline(always)]
    fn node(&self, index: u32) -> Option<&Node> {
        if constant!(SG_HAS_NEAR_TABLES) != 0 {
            return Some(&near().nodes[index as usize & (NEAR_NODES - 1)]);
        }
        NODES.get(index)
    }
}

#[inline(always)]
pub(crate) fn root4() -> &'static Root {
    &near().root4
}

#[inline(always)]
pub(crate) fn row(class: u32) -> Option<&'static Row> {
    if constant!(SG_HAS_NEAR_TABLES) != 0 {
        return Some(&near().rows[class as usize & (NEAR_ROWS - 1)]);
    }
    ROWS.get(class)
}

/// The class of an IPv6 address in wire order.
#[inline(always)]
pub(crate) fn class6(address: [u32; 4]) -> u32 {
    let mut class = constant!(SG_DEFAULT_CLASS6);
    if constant!(SG_HAS_PREFIXES6) != 0
        && let Some(found) = PREFIXES6.get(aya_ebpf::maps::lpm_trie::Key::new(128, address))
    {
        class = *found;
    }
    class
}
