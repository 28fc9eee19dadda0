//! The programs of a hook, and the constants that they are loaded with.
//!
//! The first program of a hook, which is attached, decides what it can and makes a tail call for
//! the rest. The verifier checks each program by itself, and each has a stack of its own.

/// The tail-call targets of a hook: their indices in its program array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any frame, from its first byte on.
    Slow = 0,
    /// Packets that begin a flow, end it or change its state.
    Track = 1,
    /// ICMP errors that no rule accepts: whether they are about traffic of this node.
    Related = 2,
    /// Packets that are decided and counted, and of which an event may have to be written. Without
    /// this target there are no events, and nothing else changes.
    Event = 3,
}

impl Target {
    /// All of them, each at its index.
    pub const ALL: [Target; 4] = [Target::Slow, Target::Track, Target::Related, Target::Event];
}

/// The constants that the programs of a generation are loaded with, besides their tables. They lie
/// in read-only memory that is frozen before the programs are verified. The verifier knows each
/// field and removes the code behind branches that it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Config {
    /// Always zero: see [`Config::mark`].
    pub zero: u32,
    /// What flows are stamped with when the rules admit them: those of another epoch are judged
    /// again.
    pub epoch: u32,
    /// Number of the generation.
    pub generation: u32,
    /// How many groups the flow table has.
    pub flow_groups: u32,
    /// Ages at which flows expire, by state: see [`crate::flow_entry::time_out`].
    pub flow_timeouts: [u32; STATES],
    /// Seconds for which a first fragment is remembered.
    pub fragment_timeout: u32,
    /// Events that a CPU's ring can hold, a power of two.
    pub event_slots: u32,
    /// What the programs are made for: [`HAS_FLOWS`] and the bits after it.
    pub has: u8,
    /// What becomes of flows of earlier epochs: [`crate::ruling::JUDGE_OLD`] and those after
    /// it.
    pub old_flows: u8,
    /// 1 accepts essential traffic whatever the rules say (SPEC K5).
    pub essential: u8,
    /// 1 drops what is neither IPv4 nor IPv6, nor ARP (SPEC P10).
    pub arp_only: u8,
    /// 1 if the policy is not confirmed when it is loaded: see [`crate::trial`].
    pub on_trial: u8,
    /// 1 if a policy returns where this one is not confirmed; if not, everything passes then.
    pub has_fallback: u8,
    /// What passes that would be dropped, besides what rules audit: [`AUDIT_RULES`] and those
    /// after it. Only the variants of the tail-call targets that audit look at it.
    pub audits: u8,
    /// How many times the events of a CPU are halved: see
    /// [`crate::event_budget::halvings`]. There is no padding behind it.
    pub event_halvings: u8,
}

/// States that four bits tell apart, and so the ages in [`Config`]: a power of two, so that an
/// index can be masked.
pub const STATES: usize = 16;

const _: () = assert!(size_of::<Config>() == 4 * (6 + STATES) + 8);

impl Config {
    /// What the object file holds until the loader writes its own.
    pub const UNSET: Config = Config {
        zero: 0,
        epoch: 0,
        generation: 0,
        flow_groups: 1,
        flow_timeouts: [0; STATES],
        fragment_timeout: 0,
        event_slots: 1,
        has: HAS_FLOWS | HAS_BSS_TABLES,
        old_flows: crate::ruling::JUDGE_OLD,
        essential: 1,
        arp_only: 0,
        on_trial: 0,
        has_fallback: 0,
        audits: AUDIT_RULES,
        event_halvings: 0,
    };

    /// The epoch above 32 zeros: what the word of a flow begins with that this policy admits, see
    /// [`crate::flow_entry::differs_from_mark`]. The packet path reads both fields at once.
    pub const fn mark(&self) -> u64 {
        (self.epoch as u64) << 32
    }
}

// What `Config::audits` may be (SPEC C9).

/// What rules audit and nothing else.
pub const AUDIT_RULES: u8 = 0;
/// What no rule matches, unknown fragments, flows that are revoked, and frames that are not IP.
pub const AUDIT_ALL: u8 = 1;
/// What is malformed too.
pub const AUDIT_EVERYTHING: u8 = 2;

// The bits of `Config::has`. There are two variants of the first program: one for flows and tables
// in .bss and nothing else, and one that asks for each bit.

/// There may be flows.
pub const HAS_FLOWS: u8 = 1;
/// All lines of the tables are in the programs' own memory.
pub const HAS_BSS_TABLES: u8 = 2;
/// The programs do not enforce yet. They run the whole path, so that flows which the rules admit
/// are entered and change their states, but they pass every frame, and count and log none: for
/// the moment of attaching, in which one direction is judged before the other.
pub const REMEMBERS: u8 = 4;
/// Some packets are to be logged.
pub const HAS_LOGS: u8 = 8;
/// The packet path traces every packet, for its developers: all take the slow path.
pub const HAS_TRACE: u8 = 16;
/// A TCP flow of the table may be a cut one (see [`crate::flow::CUT`]): it is looked for also
/// where the rules pass both directions, and nothing else is asked of the table.
pub const MAY_HAVE_CUT: u8 = 32;
/// The variant that asks for each bit is taken also where the other one would do. Only the bench
/// sets it, to measure what the other one saves.
pub const ASKS_FOR_EACH: u8 = 64;

// SAFETY: integers without padding, as is asserted above; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Config {}
