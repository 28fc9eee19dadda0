//! Loads a policy's programs without attaching them, and pushes frames through them by
//! `BPF_PROG_TEST_RUN`, watching which counter moves.

use std::collections::HashMap;

use aya::programs::{TestRun, TestRunOptions};
use sg_common::counters::SlotCounters;
use sg_common::verdict::{Direction, FIRST_RULE_SLOT, Reason, reason_slot};
use sg_userspace::compile::{Budget, compile};
use sg_userspace::kernel::EgressHook;
use sg_userspace::kernel::programs::{Generation, Programs, SharedMaps};
use sg_userspace::policy::{Policy, rules_from_lines};

use crate::sandbox::require_root;

/// Whether this runs in a guest of `cargo xtask test --kernels`, whose processors are emulated.
pub(crate) fn is_guest() -> bool {
    std::env::var_os("SG_GUEST").is_some()
}

/// How often to repeat something random: less often where processors are emulated.
pub(crate) fn rounds(usual: usize) -> usize {
    if is_guest() { usual.div_ceil(4) } else { usual }
}

/// The running kernel, as `uname -r` prints it.
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

/// The outbound hooks of the running kernel, the one that it prefers first.
pub(crate) fn egress_hooks() -> &'static [EgressHook] {
    if is_kernel_since(6, 6) {
        &[EgressHook::Tcx, EgressHook::Clsact]
    } else {
        &[EgressHook::Clsact]
    }
}

/// A policy in the kernel, attached to nothing.
pub(crate) struct Enforcer {
    pub(crate) policy: Policy,
    programs: Programs,
    last: HashMap<u32, SlotCounters>,
    slots: u32,
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
    /// Rules as lines of text.
    pub(crate) fn new(rules: &str) -> Self {
        Self::of(rules_from_lines(rules))
    }

    pub(crate) fn of(policy: Policy) -> Self {
        Self::sharing(policy, 1, SharedMaps::default())
    }

    /// A later generation, with the maps of an earlier one where they are pinned.
    pub(crate) fn sharing(policy: Policy, generation: u32, shared: SharedMaps) -> Self {
        require_root();
        let rules = policy.rules.len() as u32;
        let slots: Vec<u32> = (FIRST_RULE_SLOT..FIRST_RULE_SLOT + rules).collect();
        let compiled = compile(&policy, &slots, Budget::default()).expect("tables fit");
        let slots = FIRST_RULE_SLOT + rules;
        let shared = SharedMaps {
            counter_slots: slots,
            max_flows: 4096,
            ..shared
        };
        let programs = Programs::load(&compiled, &Generation::of(&policy, generation), &shared)
            .unwrap_or_else(|e| panic!("the programs do not load: {e}"));
        Enforcer {
            policy,
            programs,
            last: HashMap::new(),
            slots,
        }
    }

    /// Runs the hook of `direction` on `frame`, without looking at the counters. True if accepted.
    pub(crate) fn run(&mut self, direction: Direction, frame: &[u8]) -> bool {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..Default::default()
        };
        let result = match direction {
            Direction::Inbound => self.programs.inbound().unwrap().test_run(options),
            Direction::Outbound => self.programs.outbound().unwrap().test_run(options),
        };
        let value = result
            .unwrap_or_else(|e| panic!("test run of {} bytes: {e:?}", frame.len()))
            .return_value as i32;
        // XDP_DROP 1, XDP_PASS 2; TC_ACT_UNSPEC -1, TC_ACT_SHOT 2.
        match (direction, value) {
            (Direction::Inbound, 1) | (Direction::Outbound, 2) => false,
            (Direction::Inbound, 2) | (Direction::Outbound, -1) => true,
            other => panic!("the hook answered {other:?}"),
        }
    }

    /// Runs the hook and finds the one counter that moved.
    pub(crate) fn send(&mut self, direction: Direction, frame: &[u8]) -> Decision {
        let accept = self.run(direction, frame);
        let mut moved = Vec::new();
        for slot in 0..self.slots {
            let now = self.slot(slot);
            let before = self.last.insert(slot, now).unwrap_or_default();
            if now != before {
                moved.push((slot, before, now));
            }
        }
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

    /// Of the inbound and the outbound program.
    pub(crate) fn verified_instructions(&mut self) -> [u32; 2] {
        let inbound = self.programs.inbound().unwrap().info().unwrap();
        let outbound = self.programs.outbound().unwrap().info().unwrap();
        [inbound, outbound].map(|info| {
            info.verified_instruction_count()
                .expect("kernels since 5.16 tell the count")
        })
    }

    pub(crate) fn load_time(&self) -> std::time::Duration {
        self.programs.load_time
    }

    fn slot(&self, slot: u32) -> SlotCounters {
        let counters = self.programs.counters().expect("the counters are there");
        let mut sum = SlotCounters::default();
        for cpu in counters.get(&slot, 0).expect("the slot exists").iter() {
            sum.packets += cpu.packets;
            sum.bytes += cpu.bytes;
            sum.reply_packets += cpu.reply_packets;
            sum.reply_bytes += cpu.reply_bytes;
        }
        sum
    }

    fn counter_name(&self, slot: u32) -> String {
        if let Some(index) = slot.checked_sub(FIRST_RULE_SLOT) {
            let rule = &self.policy.rules[index as usize];
            let direction = match rule.direction {
                Direction::Inbound => "in",
                Direction::Outbound => "out",
            };
            return format!("{direction} {}", rule.position);
        }
        for direction in Direction::BOTH {
            for reason in Reason::ALL {
                if reason_slot(direction, reason) == slot {
                    return reason.name().to_owned();
                }
            }
        }
        format!("slot {slot} of nobody")
    }
}

/// Pushes frames through one enforcer in turn. Each row: a sentence, the direction, the frame, and
/// `accept` or `drop` followed by the counter that must move, by one packet of the frame's length.
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
