//! Loads a policy's programs without attaching them, runs them on frames with `BPF_PROG_TEST_RUN`,
//! and finds the counter that moved.

use std::collections::BTreeMap;

use aya::programs::{ProgramInfo, TestRun, TestRunOptions};
use sg_common::counters::SlotCounters;
use sg_common::verdict::{Action, Direction, FIRST_RULE_SLOT, Reason, reason_slot};
use sg_policy::compile::{Budget, Compiled};
use sg_policy::compile_policy;
use sg_policy::policy::{Policy, rules_from_lines};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::pins::{InterfacePins, PinTree};
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;
use sg_userspace::kernel::{CounterReader, EgressHook, KernelError};

use crate::sandbox::{Sandbox, require_root};

/// Whether the test runs in a guest of `cargo xtask test --kernels`, whose processors are emulated
/// and slow.
pub(crate) fn is_guest() -> bool {
    std::env::var_os("SG_GUEST").is_some()
}

/// How often to repeat a random test: less often in a guest.
pub(crate) fn rounds(usual: usize) -> usize {
    if is_guest() { usual.div_ceil(4) } else { usual }
}

/// The release of the running kernel, as `uname -r` prints it.
pub(crate) fn kernel_release() -> String {
    let path = "/proc/sys/kernel/osrelease";
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.trim().to_owned()
}

/// Whether the running kernel is this version or a later one.
pub(crate) fn is_kernel_since(major: u32, minor: u32) -> bool {
    let release = kernel_release();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
    let version = next().zip(next());
    version.unwrap_or_else(|| panic!("`{release}` has no version")) >= (major, minor)
}

/// The outbound hooks of the running kernel. The first is the one that `auto` chooses.
pub(crate) fn egress_hooks() -> &'static [EgressHook] {
    if is_kernel_since(6, 6) {
        &[EgressHook::Tcx, EgressHook::Clsact]
    } else {
        &[EgressHook::Clsact]
    }
}

/// Maps for programs that are not attached, pinned in the sandbox so that the test can read their
/// flow table.
pub(crate) fn pinned_maps(sandbox: &Sandbox, max_flows: u32) -> (SharedMaps, InterfacePins) {
    let pins = PinTree::new(sandbox.bpffs())
        .interface(1, 1)
        .expect("the tree is readable");
    pins.create().unwrap_or_else(|e| panic!("{e}"));
    let shared = SharedMaps {
        pins: Some(pins.clone()),
        counter_map: 0,
        counter_slots: 64,
        max_flows,
    };
    (shared, pins)
}

/// A policy whose programs are loaded and not attached.
pub(crate) struct Enforcer {
    pub(crate) policy: Policy,
    pub(crate) programs: Programs,
    counters: CounterReader,
    last: Vec<SlotCounters>,
}

/// What happened to a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) accept: bool,
    /// The counter that moved: `in 1`, `out 2 reply`, or a reason such as `no-match`.
    pub(crate) counter: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Enforcer {
    /// Loads the rules, given as lines of text.
    pub(crate) fn new(rules: &str) -> Self {
        Self::of(rules_from_lines(rules))
    }

    pub(crate) fn of(policy: Policy) -> Self {
        Self::sharing(policy, 1, SharedMaps::default())
    }

    /// Loads a later generation. It uses the maps of an earlier one if those are pinned.
    pub(crate) fn sharing(policy: Policy, generation: u32, shared: SharedMaps) -> Self {
        let options = Generation::of(&policy, generation);
        Self::loaded_by(policy, &options, &shared, Programs::load)
    }

    /// Loads the policy with `load`, as `generation` says.
    pub(crate) fn loaded_by(
        policy: Policy,
        generation: &Generation,
        shared: &SharedMaps,
        load: impl FnOnce(&Compiled, &Generation, &SharedMaps) -> Result<Programs, KernelError>,
    ) -> Self {
        require_root();
        let rules = policy.rules.len() as u32;
        let slots: Vec<u32> = (FIRST_RULE_SLOT..FIRST_RULE_SLOT + rules).collect();
        let compiled = compile_policy(&policy, &slots, Budget::default()).expect("tables fit");
        let shared = SharedMaps {
            counter_slots: FIRST_RULE_SLOT + rules,
            max_flows: 4096,
            ..shared.clone()
        };
        let programs = load(&compiled, generation, &shared)
            .unwrap_or_else(|e| panic!("the programs do not load: {e}"));
        let counters = programs.counters().expect("the counters are there");
        Enforcer {
            policy,
            programs,
            last: counters.all().expect("the counters can be read"),
            counters,
        }
    }

    /// Runs the hook of `direction` on `frame` and returns whether it accepts. Does not read the
    /// counters.
    pub(crate) fn run(&mut self, direction: Direction, frame: &[u8]) -> bool {
        run_hook(&mut self.programs, direction, frame, 1).unwrap_or_else(|e| panic!("{e:?}"))
    }

    /// Runs the hook, and finds the one counter that moved.
    pub(crate) fn send(&mut self, direction: Direction, frame: &[u8]) -> Decision {
        self.send_offloaded(direction, frame, 1)
    }

    /// The same, of a frame that is `segments` packets on the wire.
    pub(crate) fn send_offloaded(
        &mut self,
        direction: Direction,
        frame: &[u8],
        segments: u32,
    ) -> Decision {
        let accept = run_hook(&mut self.programs, direction, frame, segments)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let counted = self.counters.all().expect("the counters can be read");
        let before = std::mem::replace(&mut self.last, counted);
        let moved: Vec<(u32, SlotCounters, SlotCounters)> = (0..)
            .zip(before.into_iter().zip(self.last.iter().copied()))
            .filter(|(_, (before, now))| before != now)
            .map(|(slot, (before, now))| (slot, before, now))
            .collect();
        let [(slot, before, now)] = moved[..] else {
            panic!("one counter should have moved, not {moved:?}");
        };
        let replies = now.reply_packets - before.reply_packets;
        let (packets, bytes) = if replies > 0 {
            assert_eq!((now.packets, now.bytes), (before.packets, before.bytes));
            (replies, now.reply_bytes - before.reply_bytes)
        } else {
            (now.packets - before.packets, now.bytes - before.bytes)
        };
        let mut counter = self.counter_name(slot);
        if replies > 0 {
            counter.push_str(" reply");
        }
        Decision {
            accept,
            counter,
            packets,
            bytes,
        }
    }

    /// Fails if a counter has moved since the last call of `send`.
    pub(crate) fn assert_counted_nothing(&self) {
        let counted = self.counters.all().expect("the counters can be read");
        assert_eq!(counted, self.last);
    }

    fn counter_name(&self, slot: u32) -> String {
        // A flow may name a rule of an earlier policy that this one does not have.
        let index = slot.checked_sub(FIRST_RULE_SLOT);
        if let Some(rule) = index.and_then(|index| self.policy.rules.get(index as usize)) {
            let direction = match rule.direction {
                Direction::Inbound => "in",
                Direction::Outbound => "out",
            };
            return format!("{direction} {}", rule.position);
        }
        for direction in Direction::BOTH {
            for reason in Reason::ALL {
                if reason_slot(direction, reason) == slot {
                    return reason_name(reason);
                }
            }
        }
        format!("slot {slot} without an owner")
    }
}

/// The name of a reason's counter: `no-match`, or `no-match audited`.
pub(crate) fn reason_name(reason: Reason) -> String {
    match reason.action() {
        Action::Audit => format!("{} audited", reason.name()),
        Action::Accept | Action::Drop => reason.name().to_owned(),
    }
}

/// How many instructions the verifier has explored of each program, by name.
pub(crate) fn verified_instructions(programs: &Programs) -> BTreeMap<String, u32> {
    let infos = programs.infos().unwrap_or_else(|e| panic!("{e}"));
    let count = |info: &ProgramInfo| {
        info.verified_instruction_count()
            .expect("kernels since 5.16 report the count")
    };
    infos
        .iter()
        .map(|(name, info)| ((*name).to_owned(), count(info)))
        .collect()
}

/// Why a program was not run.
#[derive(Debug)]
pub(crate) enum TestRunFailed {
    /// The kernel cannot build a socket buffer from so few bytes.
    TooShort,
}

/// The kernel may refuse a test run with an IP packet in a frame shorter than this.
const SHORTEST_SKB: usize = 14 + 40;

/// Runs the hook of `direction` on a frame that is `segments` packets on the wire. Returns whether
/// the hook accepts it.
pub(crate) fn run_hook(
    programs: &mut Programs,
    direction: Direction,
    frame: &[u8],
    segments: u32,
) -> Result<bool, TestRunFailed> {
    // Offsets in `struct __sk_buff` (include/uapi/linux/bpf.h) of the two fields that describe the
    // segments. All others are zero.
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = [0u8; 192];
    context[GSO_SEGS..GSO_SEGS + 4].copy_from_slice(&segments.to_ne_bytes());
    context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&1000u32.to_ne_bytes());
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: (segments > 1).then_some(&context),
        ..Default::default()
    };
    let result = match direction {
        Direction::Inbound => programs.inbound().unwrap().test_run(options),
        Direction::Outbound => programs.outbound().unwrap().test_run(options),
    };
    let value = match result {
        Ok(result) => result.return_value as i32,
        Err(_) if direction == Direction::Outbound && frame.len() < SHORTEST_SKB => {
            return Err(TestRunFailed::TooShort);
        }
        Err(e) => panic!("test run of {} bytes: {e:?}", frame.len()),
    };
    // The return values: XDP_DROP is 1, XDP_PASS 2, TC_ACT_UNSPEC -1, TC_ACT_SHOT 2.
    match (direction, value) {
        (Direction::Inbound, 1) | (Direction::Outbound, 2) => Ok(false),
        (Direction::Inbound, 2) | (Direction::Outbound, -1) => Ok(true),
        other => panic!("the hook returned {other:?}"),
    }
}

/// Runs the rows one after the other, with the same flow table. Each row has a description, the
/// direction, the frame, and `accept` or `drop` with the counter that must move by one packet of
/// the frame's length.
pub(crate) fn table(rules: &str, rows: &[(&str, &str, crate::frames::Frame, &str)]) {
    rows_of(&mut Enforcer::new(rules), rows);
}

pub(crate) fn rows_of(enforcer: &mut Enforcer, rows: &[(&str, &str, crate::frames::Frame, &str)]) {
    for (sentence, direction, frame, expected) in rows {
        let direction = match *direction {
            "in" => Direction::Inbound,
            "out" => Direction::Outbound,
            other => panic!("`{other}` is no direction"),
        };
        let decision = enforcer.send(direction, frame.bytes());
        let verdict = if decision.accept { "accept" } else { "drop" };
        assert_eq!(
            format!("{verdict} {}", decision.counter),
            *expected,
            "{sentence}"
        );
        assert_eq!(
            (decision.packets, decision.bytes),
            (1, frame.bytes().len() as u64),
            "{sentence}: packets and bytes"
        );
    }
}
