//! Reads the tables of a running generation back from the kernel, so that `explain --iface` and
//! seeding get the verdicts of the programs in force.

use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use sg_common::lookup::{BssTables, LINE_WORDS, Line, Plain, ROOT_ENTRIES, Shape};
use sg_common::protocol::Kind;
use sg_common::verdict::{Direction, Verdict};

use super::super::error::KernelError;
use super::super::pins::InterfacePins;
use super::super::records::Records;
use super::super::state::State;
use super::super::{inspect, sys};
use super::object::{ARRAY_PIN, BSS_PIN};
use super::targets;
use sg_policy::compile::decide;

/// A copy of the tables of a running program.
pub struct LiveTables {
    root4: Vec<u32>,
    lines: Vec<Line>,
    shape: Shape,
}

impl LiveTables {
    /// Reads the tables of the programs that the interface runs. If nothing is attached, reads
    /// those that the record names.
    pub fn of_running(pins: &InterfacePins, state: &State) -> Result<Self, KernelError> {
        let inbound = match inspect::attached(pins) {
            Ok([inbound, _]) => inbound,
            // Links cannot be opened on a read-only file system.
            Err(KernelError::ReadOnly { .. }) => None,
            Err(error) => return Err(error),
        };
        // Behind a gate the record says which policy decides.
        let records = Records::read(pins)?;
        let first = inbound.filter(|id| {
            let gate = records.on_trial_behind(Direction::Inbound, *id);
            gate.is_none()
        });
        Self::open(pins, first.unwrap_or(state.inbound_program))
    }

    /// Reads the tables of the generation whose inbound program has the id `program`.
    pub(in crate::kernel) fn open(pins: &InterfacePins, program: u32) -> Result<Self, KernelError> {
        let found = targets::pinned_program(pins, Direction::Inbound, program)?;
        let Some((generation, _)) = found else {
            return Err(unknown("the running program is not pinned".into()));
        };
        let open = |place| {
            let path = pins.tables(place, generation);
            sys::open_pin_to_read(&path).map_err(|e| KernelError::at_pin("opening", &path, e))
        };
        Self::read(open(BSS_PIN)?.as_fd(), || open(ARRAY_PIN))
    }

    /// Reads the tables of a generation. `array` opens the array map, if the tables are in
    /// one.
    pub(in crate::kernel) fn read<F: AsFd>(
        bss: BorrowedFd<'_>,
        array: impl FnOnce() -> Result<F, KernelError>,
    ) -> Result<Self, KernelError> {
        let failed = |e| KernelError::io(READING, e);
        let bytes = sys::read_array(bss).map_err(failed)?;
        let other_layout = || unknown("its tables have another layout".into());
        let bytes = bytes
            .get(..size_of::<BssTables>())
            .ok_or_else(other_layout)?;
        let (words, _) = bytes.as_chunks::<4>();
        const ROOT_AT: usize = offset_of!(BssTables, root4);
        const { assert!(offset_of!(BssTables, lines) == ROOT_AT + ROOT_ENTRIES * 4) };
        let words = words.iter().skip(ROOT_AT / 4);
        let mut words = words.map(|w| u32::from_ne_bytes(*w));
        let root4: Vec<u32> = words.by_ref().take(ROOT_ENTRIES).collect();

        let mut lines = lines_of(words);
        if Shape::is_elsewhere(&lines) {
            let bytes = sys::read_array(array()?.as_fd()).map_err(failed)?;
            let (words, _) = bytes.as_chunks::<4>();
            lines = lines_of(words.iter().map(|w| u32::from_ne_bytes(*w)));
        }
        let shape = Shape::from_lines(&lines).ok_or_else(other_layout)?;
        Ok(LiveTables {
            root4,
            lines,
            shape,
        })
    }

    /// The verdict of the rules in force.
    pub fn decide(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        decide(&self.plain(), direction, remote, kind, number)
    }

    pub(in crate::kernel) fn plain(&self) -> Plain<'_> {
        Plain {
            root4: &self.root4,
            lines: &self.lines,
            shape: &self.shape,
        }
    }
}

const READING: &str = "reading the tables of the running policy";

fn unknown(reason: String) -> KernelError {
    KernelError::Refused {
        what: READING.into(),
        reason,
        help: "apply the policy again".into(),
    }
}

fn lines_of(words: impl Iterator<Item = u32>) -> Vec<Line> {
    let words: Vec<u32> = words.collect();
    let (lines, _) = words.as_chunks::<LINE_WORDS>();
    lines.iter().map(|words| Line(*words)).collect()
}
