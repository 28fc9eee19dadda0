//! The tables of a running generation, read back from the kernel: what `explain --iface` asks, so
//! that its answer is what the interface really does.

use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, MapError, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use sg_common::tables::{
    BLOCK_ENTRIES, Block, Kind, NEAR_BLOCKS, NEAR_NODES, NEAR_ROWS, NODE_ENTRIES, NearTables, Node,
    ROOT_ENTRIES, Row, Tables, judge, walk16,
};
use sg_common::verdict::{Direction, Verdict};

use super::pins::InterfacePins;
use super::programs::NEAR;
use super::state::State;
use super::{KernelError, sys};

/// A table's words: a copy, or the map's own memory.
enum Words {
    Copied(Vec<u32>),
    Mapped(sys::MapMemory),
}

impl Words {
    fn get(&self) -> &[u32] {
        match self {
            Words::Copied(words) => words,
            Words::Mapped(memory) => memory.words(),
        }
    }
}

pub struct LiveTables {
    root4: Vec<u32>,
    blocks: Words,
    nodes: Words,
    rows: Words,
    prefixes6: Map,
    default_class6: u32,
}

impl LiveTables {
    /// Opens the tables of the program that the interface's inbound link runs.
    pub fn open(pins: &InterfacePins, state: &State) -> Result<Self, KernelError> {
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
        let memory = |name: &str| {
            let info = find(name)?;
            let map = MapData::from_id(info.id()).map_err(failed)?;
            let len = info.value_size() as usize * info.max_entries() as usize;
            sys::MapMemory::read_only(map.fd().as_fd(), len).map_err(|e| KernelError::io(what, e))
        };
        let near = MapData::from_id(find(NEAR)?.id()).map_err(failed)?;
        let mut bytes = vec![0u8; size_of::<NearTables>()];
        if near.info().map_err(failed)?.value_size() as usize != bytes.len() {
            return Err(missing("of this layout"));
        }
        sys::lookup(near.fd().as_fd(), &0, &mut bytes).map_err(|e| KernelError::io(what, e))?;
        let (words, _) = bytes.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|w| u32::from_ne_bytes(*w)).collect();
        let part = |at: usize, len: usize| words[at / 4..][..len].to_vec();
        let has_all = words[offset_of!(NearTables, has_all) / 4] != 0;
        let table = |name: &str, at: usize, len: usize| match has_all {
            true => Ok(Words::Copied(part(at, len))),
            false => memory(name).map(Words::Mapped),
        };
        let trie = MapData::from_id(find("sg_prefixes6")?.id()).map_err(failed)?;
        Ok(LiveTables {
            root4: part(offset_of!(NearTables, root4), ROOT_ENTRIES),
            blocks: table(
                "sg_blocks",
                offset_of!(NearTables, blocks),
                NEAR_BLOCKS * BLOCK_ENTRIES,
            )?,
            nodes: table(
                "sg_nodes",
                offset_of!(NearTables, nodes),
                NEAR_NODES * NODE_ENTRIES,
            )?,
            rows: table("sg_rows", offset_of!(NearTables, rows), NEAR_ROWS * 16)?,
            prefixes6: Map::from_map_data(trie).map_err(failed)?,
            default_class6: state.default_class6,
        })
    }

    /// The verdict of the rules in force.
    pub fn decide(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        let class = match remote {
            IpAddr::V4(a) => {
                let a = u32::from(a);
                entry::<1>(&self.root4, a >> 16).and_then(|[entry]| walk16(self, *entry, a as u16))
            }
            IpAddr::V6(a) => LpmTrie::<_, [u8; 16], u32>::try_from(&self.prefixes6)
                .ok()
                .and_then(|trie| trie.get(&Key::new(128, a.octets()), 0).ok())
                .or(Some(self.default_class6)),
        };
        match class.and_then(|class| entry::<16>(self.rows.get(), class)) {
            Some(row) => judge(self, row as &Row, direction, kind as u8, number),
            None => Verdict::no_match(direction),
        }
    }
}

impl Tables for LiveTables {
    fn block(&self, index: u32) -> Option<&Block> {
        entry(self.blocks.get(), index)
    }

    fn node(&self, index: u32) -> Option<&Node> {
        entry(self.nodes.get(), index)
    }
}

/// Item `index` of a table of `N`-word items.
fn entry<const N: usize>(words: &[u32], index: u32) -> Option<&[u32; N]> {
    let start = (index as usize).checked_mul(N)?;
    words.get(start..start.checked_add(N)?)?.try_into().ok()
}
