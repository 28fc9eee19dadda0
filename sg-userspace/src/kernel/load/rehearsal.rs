//! What the programs in force would do with a packet, found out without doing it: a private copy of
//! them, with the tables in force and the same options, judges frames in test runs
//! (`BPF_PROG_TEST_RUN`). Counters, flows, fragments and events are the copy's own, nothing of it
//! is pinned or attached, and the flow table in force is only read: the flow that a frame belongs
//! to is copied into the private table first, with its times.

use std::net::IpAddr;

use aya::programs::{TestRun as _, TestRunOptions};
use sg_common::counters::SlotCounters;
use sg_common::flow::FlowKind;
use sg_common::flow_entry::{Contents, FlowKey};
use sg_common::protocol::Kind;
use sg_common::verdict::{Direction, Verdict};

use super::super::error::KernelError;
use super::super::flow_memory::FlowTable;
use super::super::pins::InterfacePins;
use super::super::shared::CounterReader;
use super::super::state::State;
use super::generation::Generation;
use super::programs::Programs;
use super::shared_maps::SharedMaps;
use super::tables::LiveTables;

/// Room for the flows of one question.
const FLOWS: u32 = 64;

/// The private copy.
pub struct Rehearsal {
    programs: Programs,
    table: FlowTable,
    counters: CounterReader,
    /// What they have counted so far: nothing else moves them.
    counted: Vec<SlotCounters>,
    tables: LiveTables,
}

/// A flow as the copy has to know it.
pub(crate) type KnownFlow = (FlowKey, Contents, FlowKind);

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub passes: bool,
    /// The counter slot in which it was counted, and no other.
    pub slot: u32,
    /// Whether it was counted as a reply.
    pub is_reply: bool,
}

impl Rehearsal {
    /// Loads a copy of the programs in force on an interface, whose record is `state`.
    pub fn of(pins: &InterfacePins, state: &State) -> Result<Rehearsal, KernelError> {
        let tables = LiveTables::of_running(pins, state)?;
        let options = Generation {
            // The gate is left out: which policy decides is said by the record.
            on_trial: false,
            log_level: 0,
            ..Generation::recorded(state)
        };
        let shared = SharedMaps::private(state.owners().map(|owner| owner.slot), FLOWS);
        let programs = Programs::load_tables(&tables.plain(), &options, &shared)?;
        let table = programs.private_flows(&options.timeouts)?;
        let counters = programs.counters()?;
        Ok(Rehearsal {
            programs,
            table,
            counted: counters.all()?,
            counters,
            tables,
        })
    }

    /// Forgets all flows, and remembers a copy of this one.
    pub(crate) fn begin_with(&self, flow: Option<&KnownFlow>, now: u64) {
        self.table.remove_where(|_| true);
        if let Some((key, contents, kind)) = flow {
            self.table.copy(key, contents, *kind, now);
        }
    }

    /// Judges a frame.
    ///
    /// # Errors
    /// If the kernel refuses the test run, or the frame was not counted exactly once.
    pub fn judge(&mut self, direction: Direction, frame: &[u8]) -> Result<Judged, KernelError> {
        let passes = passes(&mut self.programs, direction, frame)?;
        let now = self.counters.all()?;
        let before = std::mem::replace(&mut self.counted, now);
        let moved = (0u32..).zip(before.iter().zip(&self.counted));
        let mut moved = moved.filter(|(_, (before, now))| before != now);
        let (first, more) = (moved.next(), moved.next());
        match (first, more) {
            (Some((slot, (before, now))), None) => Ok(Judged {
                passes,
                slot,
                is_reply: is_once(before, now)?,
            }),
            _ => Err(uncounted()),
        }
    }

    /// The verdict of the rules in force.
    pub fn rules(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        self.tables.decide(direction, remote, kind, number)
    }
}

/// Whether the one packet that was counted is a reply.
fn is_once(before: &SlotCounters, now: &SlotCounters) -> Result<bool, KernelError> {
    let packets = now.packets.wrapping_sub(before.packets);
    let replies = now.reply_packets.wrapping_sub(before.reply_packets);
    match (packets, replies) {
        (1, 0) => Ok(false),
        (0, 1) => Ok(true),
        _ => Err(uncounted()),
    }
}

fn uncounted() -> KernelError {
    KernelError::Refused {
        what: "running a copy of the programs in force on a packet".into(),
        reason: "it was not counted exactly once".into(),
        help: "please report this, with the policy and the packet".into(),
    }
}

/// Runs the attached program of a direction on a frame. Whether it lets the frame pass.
pub(in crate::kernel) fn passes(
    programs: &mut Programs,
    direction: Direction,
    frame: &[u8],
) -> Result<bool, KernelError> {
    let options = TestRunOptions {
        data_in: Some(frame),
        ..Default::default()
    };
    let result = match direction {
        Direction::Inbound => programs.inbound()?.test_run(options),
        Direction::Outbound => programs.outbound()?.test_run(options),
    };
    let what = "running a copy of the programs on a packet";
    let value = result.map_err(|e| KernelError::bpf(what, e))?.return_value as i32;
    // XDP_PASS is 2, and TC_ACT_UNSPEC -1 (uapi/linux/bpf.h, uapi/linux/pkt_cls.h).
    Ok(match direction {
        Direction::Inbound => value == 2,
        Direction::Outbound => value == -1,
    })
}
