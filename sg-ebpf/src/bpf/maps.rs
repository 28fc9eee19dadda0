//! Every map and load-time constant of the packet path.
//! Tables belong to one generation of a policy; counters and flows are shared by all of them.

use core::{cell::UnsafeCell, marker::PhantomData};

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, ProgramArray},
};
use sg_common::{
    counters::CounterSlot,
    event::{EventRing, EventSlot},
    event_budget::{EventCounts, EventWatch},
    fragment::{FragmentKey4, FragmentKey6, FragmentValue},
    lookup::{
        BSS_LINES, BssTables, HASH_KEY_ROOM, Keys2Words, LINE_UNITS, LINE_WORDS, Line,
        ROOT_ENTRIES, Shape, Tables,
    },
    program::{
        AUDIT_ALL, AUDIT_EVERYTHING, Config, HAS_BSS_TABLES, HAS_FLOWS, HAS_LOGS, HAS_TRACE,
        MAY_HAVE_CUT, REMEMBERS, Target,
    },
    ruling::Policy,
};

use crate::bpf::word::SharedWord;

/// `BPF_F_MMAPABLE` (uapi/linux/bpf.h): userspace fills the tables by writing to memory.
pub(crate) const MMAPABLE: u32 = 1 << 10;

/// Plain memory of the program, which userspace fills before it is loaded.
#[repr(transparent)]
struct Filled<T>(UnsafeCell<T>);

// SAFETY: nothing writes it once the program is loaded.
unsafe impl<T> Sync for Filled<T> {}

/// Exported, or the compiler would take it for the zeros that it is here.
#[unsafe(no_mangle)]
static SG_BSS_TABLES: Filled<BssTables> = Filled(UnsafeCell::new(BssTables {
    flow_keys: [0; HASH_KEY_ROOM],
    root4: [0; ROOT_ENTRIES],
    lines: [Line::EMPTY; BSS_LINES],
}));

/// The address of a static, or of a place in it, in one instruction. The compiler does not see
/// which static it is: it would fold in the default of a constant that the loader replaces, and
/// take another instruction for an offset. The address is loaded anew each time, instead of being
/// kept on the stack.
macro_rules! address_of {
    ($name:ident + $offset:expr, $type:ty) => {{
        let place: *const $type;
        // SAFETY: loads an address.
        unsafe {
            core::arch::asm!(
                "{0} = {1} + {2} ll",
                out(reg) place,
                sym $name,
                const $offset,
                options(nomem, nostack, preserves_flags)
            );
        }
        place
    }};
}

/// Where a field of the tables in .bss begins.
macro_rules! bss_at {
    ($field:ident as $type:ty) => {{
        let place = address_of!(
            SG_BSS_TABLES + core::mem::offset_of!(BssTables, $field),
            $type
        );
        // SAFETY: no static is at address zero, for which the compiler would look.
        unsafe { core::hint::assert_unchecked(!place.is_null()) };
        place
    }};
}

/// The multipliers of the flows' hash.
#[inline(always)]
pub(crate) fn flow_keys() -> &'static [u64; HASH_KEY_ROOM] {
    // SAFETY: always there, of that type, and never written.
    unsafe { &(*SG_BSS_TABLES.0.get()).flow_keys }
}

/// The lines of a policy that has too many for .bss; the loader sets the size.
#[map(name = "sg_lines")]
static LINES: Array<Line> = Array::with_max_entries(1, MMAPABLE);

#[map(name = "sg_counters")]
pub(crate) static COUNTERS: PerCpuArray<CounterSlot> = PerCpuArray::with_max_entries(1, 0);

/// First fragments, for the later ones to follow.
#[map(name = "sg_fragments4")]
pub(crate) static FRAGMENTS4: LruHashMap<FragmentKey4, FragmentValue> =
    LruHashMap::with_max_entries(1, 0);

#[map(name = "sg_fragments6")]
pub(crate) static FRAGMENTS6: LruHashMap<FragmentKey6, FragmentValue> =
    LruHashMap::with_max_entries(1, 0);

// The tail-call targets, by [`Target`]. One array cannot hold programs of both hooks.

#[map(name = "sg_in_targets")]
pub(crate) static INBOUND_TARGETS: ProgramArray =
    ProgramArray::with_max_entries(Target::ALL.len() as u32, 0);

#[map(name = "sg_out_targets")]
pub(crate) static OUTBOUND_TARGETS: ProgramArray =
    ProgramArray::with_max_entries(Target::ALL.len() as u32, 0);

/// What each CPU has done with its events; the loader sets the number of CPUs.
#[map(name = "sg_event_rings")]
pub(crate) static EVENT_RINGS: Array<EventRing<SharedWord>> = Array::with_max_entries(1, MMAPABLE);

/// The events of all CPUs, as many for each as [`event_slots`] says.
#[map(name = "sg_event_slots")]
pub(crate) static EVENT_SLOTS: Array<EventSlot<SharedWord>> = Array::with_max_entries(1, MMAPABLE);

/// What each CPU has done with the events of each counter slot; as long as the counters.
#[map(name = "sg_event_counts")]
pub(crate) static EVENT_COUNTS: PerCpuArray<EventCounts> = PerCpuArray::with_max_entries(1, 0);

/// Whether somebody watches. In the programs' own memory, where a dropped packet finds it without a
/// lookup. The section is a map by itself, so that all generations can share it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.event_watch")]
static SG_EVENT_WATCH: EventWatch<SharedWord> = EventWatch {
    tick: SharedWord::zero(),
    snap: SharedWord::zero(),
};

/// See [`EventWatch`].
#[inline(always)]
pub(crate) fn event_watch() -> &'static EventWatch<SharedWord> {
    &SG_EVENT_WATCH
}

// What the loader writes before the verifier sees the programs. Exported, so that it finds them.

#[unsafe(no_mangle)]
static SG_CONFIG: Config = Config::UNSET;

#[unsafe(no_mangle)]
static SG_SHAPE: Shape = Shape::UNSET;

/// The constants that the programs were loaded with. The address is taken anew each time: see
/// [`address_of`].
#[inline(always)]
pub(crate) fn config() -> &'static Config {
    let place = address_of!(SG_CONFIG + 0, Config);
    // SAFETY: a live static of plain data; nothing writes it once the program is loaded.
    unsafe { &*place }
}

/// See [`Config::mark`]: both fields in one instruction.
#[inline(always)]
pub(crate) fn mark() -> u64 {
    const _: () = assert!(
        core::mem::offset_of!(Config, zero) == 0 && core::mem::offset_of!(Config, epoch) == 4
    );
    let place = address_of!(SG_CONFIG + 0, u64);
    // SAFETY: the first eight bytes of a live static of plain data that is aligned to eight;
    // nothing writes it once the program is loaded.
    unsafe { *place }
}

/// Where things are in the tables; otherwise as [`config`].
#[inline(always)]
pub(crate) fn shape() -> &'static Shape {
    let place = address_of!(SG_SHAPE + 0, Shape);
    // SAFETY: as above.
    unsafe { &*place }
}

/// The policy in force, as the rulings on flows ask about it.
pub(crate) struct InForce;

impl Policy for InForce {
    #[inline(always)]
    fn epoch(&self) -> u32 {
        config().epoch
    }

    #[inline(always)]
    fn old_flows(&self) -> u8 {
        config().old_flows
    }
}

pub(crate) fn accepts_essential() -> bool {
    config().essential != 0
}

pub(crate) fn passes_only_arp() -> bool {
    config().arp_only != 0
}

/// A set of bits of `sg_common::program`.
pub(crate) fn has() -> u8 {
    config().has
}

pub(crate) fn has_flows() -> bool {
    has() & HAS_FLOWS != 0
}

/// See [`REMEMBERS`].
pub(crate) fn only_remembers() -> bool {
    has() & REMEMBERS != 0
}

pub(crate) fn has_logging_rules() -> bool {
    has() & HAS_LOGS != 0
}

/// See [`MAY_HAVE_CUT`].
pub(crate) fn may_have_cut() -> bool {
    has() & MAY_HAVE_CUT != 0
}

/// Whether all that would be dropped passes, but for what is malformed: see [`AUDIT_ALL`].
pub(crate) fn audits_all() -> bool {
    config().audits >= AUDIT_ALL
}

/// Whether what is malformed passes too: see [`AUDIT_EVERYTHING`].
pub(crate) fn audits_everything() -> bool {
    config().audits >= AUDIT_EVERYTHING
}

pub(crate) fn is_traced() -> bool {
    has() & HAS_TRACE != 0
}

/// The policy was not confirmed when it was loaded: see [`sg_common::trial`].
pub(crate) fn began_on_trial() -> bool {
    config().on_trial != 0
}

/// A policy returns if this one is not confirmed.
pub(crate) fn has_fallback() -> bool {
    config().has_fallback != 0
}

/// Events that a CPU's ring can hold.
#[inline(always)]
pub(crate) fn event_slots() -> u32 {
    config().event_slots
}

/// See [`Config::event_halvings`].
pub(crate) fn event_halvings() -> u8 {
    config().event_halvings
}

pub(crate) fn generation() -> u32 {
    config().generation
}

/// Seconds for which a first fragment is remembered.
#[inline(always)]
pub(crate) fn fragment_timeout() -> u32 {
    config().fragment_timeout
}

/// What a variant of the first program is made for.
pub(crate) trait Variant {
    /// See [`HAS_BSS_TABLES`].
    fn has_bss_tables() -> bool;
    /// See [`HAS_FLOWS`].
    fn has_flows() -> bool;
    /// See [`REMEMBERS`].
    fn only_remembers() -> bool;
    /// See [`HAS_LOGS`].
    fn has_logs() -> bool;
    /// See [`MAY_HAVE_CUT`].
    fn may_have_cut() -> bool;
    /// Whether the fast path counts the events that are not to be written. If not, the slow path
    /// has all packets while somebody watches what is dropped.
    fn counts_events() -> bool;
}

/// For flows and tables in .bss, with nothing to be logged and no flow that may be cut: as nearly
/// every policy has it.
pub(crate) struct Specialised;
/// For any policy: tests the load-time constant at each step.
pub(crate) struct Generic;

impl Variant for Specialised {
    #[inline(always)]
    fn has_bss_tables() -> bool {
        true
    }

    #[inline(always)]
    fn has_flows() -> bool {
        true
    }

    #[inline(always)]
    fn only_remembers() -> bool {
        false
    }

    #[inline(always)]
    fn has_logs() -> bool {
        false
    }

    #[inline(always)]
    fn may_have_cut() -> bool {
        false
    }

    #[inline(always)]
    fn counts_events() -> bool {
        true
    }
}

impl Variant for Generic {
    #[inline(always)]
    fn has_bss_tables() -> bool {
        has() & HAS_BSS_TABLES != 0
    }

    #[inline(always)]
    fn has_flows() -> bool {
        has_flows()
    }

    #[inline(always)]
    fn only_remembers() -> bool {
        only_remembers()
    }

    #[inline(always)]
    fn has_logs() -> bool {
        has_logging_rules()
    }

    #[inline(always)]
    fn may_have_cut() -> bool {
        may_have_cut()
    }

    /// For the sake of the verifier's budget.
    #[inline(always)]
    fn counts_events() -> bool {
        false
    }
}

/// Loads an entry. The compiler does not see that it has 32 bits: it would test the sign, which
/// takes two shifts.
#[inline(always)]
fn load(entry: &u32) -> u64 {
    let wide: u64;
    // SAFETY: loads what the reference refers to.
    unsafe {
        core::arch::asm!(
            "{wide} = *(u32 *)({entry} + 0)",
            wide = lateout(reg) wide,
            entry = in(reg) entry,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    wide
}

/// The tables of the generation.
pub(crate) struct KernelTables<F: Variant>(PhantomData<F>);

impl<F: Variant> KernelTables<F> {
    pub(crate) const GET: Self = Self(PhantomData);
}

impl<F: Variant> Tables for KernelTables<F> {
    #[inline(always)]
    fn root4(&self, high: u16) -> u64 {
        let root = bss_at!(root4 as u32);
        // SAFETY: the list is as long as there are numbers of 16 bits.
        load(unsafe { &*root.add(high.into()) })
    }

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        if F::has_bss_tables() {
            let lines = bss_at!(lines as Line);
            // SAFETY: the index is masked to the number of lines, a power of two.
            return Some(unsafe { &*lines.add(index as usize & (BSS_LINES - 1)) });
        }
        LINES.get(index)
    }

    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        if F::has_bss_tables() {
            let words = bss_at!(lines as u32);
            let index = index as usize & (BSS_LINES * LINE_WORDS - 1);
            // SAFETY: the index is masked to the number of words, a power of two.
            return Some(load(unsafe { &*words.add(index) }));
        }
        let line = LINES.get(index / LINE_WORDS as u32)?;
        Some(load(&line.0[index as usize % LINE_WORDS]))
    }

    #[inline(always)]
    fn unit(&self, index: u32) -> Option<u64> {
        if F::has_bss_tables() {
            let units = bss_at!(lines as u64);
            let index = index as usize & (BSS_LINES * LINE_UNITS as usize - 1);
            // SAFETY: the index is masked to the number of units, a power of two.
            return Some(unsafe { *units.add(index) });
        }
        let line = LINES.get(index / LINE_UNITS)?;
        Some(line.pairs()[(index % LINE_UNITS) as usize])
    }

    #[inline(always)]
    fn keys2(&self, index: u32) -> Option<&Keys2Words> {
        const LEN: usize = size_of::<Keys2Words>();
        let offset = index as usize * size_of::<u64>();
        if F::has_bss_tables() {
            let keys2 = bss_at!(lines as Keys2Words);
            let offset = offset & (BSS_LINES * size_of::<Line>() - LEN);
            // SAFETY: the offset is masked to the length of all lines, a power of two, and to
            // what keys2 begin at.
            return Some(unsafe { &*keys2.byte_add(offset) });
        }
        let keys2 = core::ptr::from_ref(LINES.get(index / LINE_UNITS)?).cast::<Keys2Words>();
        // SAFETY: as above, with one line.
        Some(unsafe { &*keys2.byte_add(offset & (size_of::<Line>() - LEN)) })
    }

    #[inline(always)]
    fn shape(&self) -> &Shape {
        shape()
    }

    #[inline(always)]
    fn host_buckets(&self) -> u32 {
        // Hosts are many, and what is in .bss is little.
        if F::has_bss_tables() {
            return 0;
        }
        shape().host_buckets
    }
}
