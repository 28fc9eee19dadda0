//! The tables of a running generation, read back from the kernel: what `explain --iface` asks, so
//! that its answer is what the interface really does.

use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::{MapData, MapError, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use sg_common::lookup::{LINE_WORDS, Line, NearTables, Plain, ROOT_ENTRIES, Shape};
use sg_common::protocol::Kind;
use sg_common::verdict::{Direction, Verdict};

use super::pins::InterfacePins;
use super::programs::{FAR, NEAR};
use super::{KernelError, sys};
use crate::compile::decide;

/// A copy of what a running program looks up.
pub struct LiveTables {
    root4: Vec<u32>,
    lines: Vec<Line>,
    shape: Shape,
}

impl LiveTables {
    /// Reads the tables of the program that the interface's inbound link runs.
    pub fn open(pins: &InterfacePins) -> Result<Self, KernelError> {
        let what = "reading the tables of the running policy";
        let failed = |e: MapError| KernelError::bpf(what, e);
        let missing = |name: &str| KernelError::Refused {
            what: what.into(),
            reason: format!("the running program has no map `{name}`"),
            help: "apply the policy again".into(),
        };
        let link = PinnedLink::from_pin(pins.xdp_link()).map_err(|e| KernelError::bpf(what, e))?;
        let id = FdLink::from(link)
            .info()
            .map_err(|e| KernelError::bpf(what, e))?
            .program_id();
        let maps = loaded_programs()
            .filter_map(Result::ok)
            .find(|p| p.id() == id)
            .and_then(|p| p.map_ids().ok().flatten())
            .unwrap_or_default();
        let find = |name: &str| {
            maps.iter()
                .filter_map(|id| MapInfo::from_id(*id).ok())
                .find(|info| info.name_as_str() == Some(name))
                .ok_or_else(|| missing(name))
        };
        let near = MapData::from_id(find(NEAR)?.id()).map_err(failed)?;
        let mut bytes = vec![0u8; size_of::<NearTables>()];
        if near.info().map_err(failed)?.value_size() as usize != bytes.len() {
            return Err(missing("of this layout"));
        }
        sys::lookup(near.fd().as_fd(), &0, &mut bytes).map_err(|e| KernelError::io(what, e))?;
        let (words, _) = bytes.as_chunks::<4>();
        const ROOT_AT: usize = offset_of!(NearTables, root4);
        const { assert!(offset_of!(NearTables, lines) == ROOT_AT + ROOT_ENTRIES * 4) };
        let words = words.iter().skip(ROOT_AT / 4);
        let mut words = words.map(|w| u32::from_ne_bytes(*w));
        let root4: Vec<u32> = words.by_ref().take(ROOT_ENTRIES).collect();

        let info = find(FAR)?;
        let mut lines = lines_of(words);
        if Shape::is_elsewhere(&lines) {
            let map = MapData::from_id(info.id()).map_err(failed)?;
            let len = info.value_size() as usize * info.max_entries() as usize;
            let memory = sys::MapMemory::read_only(map.fd().as_fd(), len)
                .map_err(|e| KernelError::io(what, e))?;
            lines = lines_of(memory.words().iter().copied());
        }
        let shape = Shape::from_lines(&lines).ok_or_else(|| missing("of this layout"))?;
        Ok(LiveTables {
            root4,
            lines,
            shape,
        })
    }

    /// The verdict of the rules in force.
    pub fn decide(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        let tables = Plain {
            root4: &self.root4,
            lines: &self.lines,
            shape: &self.shape,
        };
        decide(&tables, direction, remote, kind, number)
    }
}

fn lines_of(words: impl Iterator<Item = u32>) -> Vec<Line> {
    let words: Vec<u32> = words.collect();
    let (lines, _) = words.as_chunks::<LINE_WORDS>();
    lines.iter().map(|words| Line(*words)).collect()
}
