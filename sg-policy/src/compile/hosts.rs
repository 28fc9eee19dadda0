//! Single IPv4 addresses of long lists, in a table of their own: one line each, however they are
//! scattered.

use sg_common::lookup::{HOSTS, Line, host_bucket};

use super::{arena::Arena, budget::TooLarge};

/// Fewer single addresses than this stay among the prefixes: a lookup of theirs takes as long
/// there, and one of any other address does without the hosts table.
const LEAST: usize = 1 << 18;
/// Hosts to a line on average; a line has room for twice as many.
const LOAD: usize = 4;

/// Where the hosts are; see `Shape`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts {
    pub(super) at: u32,
    pub(super) buckets: u32,
}

/// Stores hosts and their classes. Those that find no room stay in `hosts`, and all of them if
/// they are too few for a table.
pub(super) fn store(arena: &mut Arena, hosts: &mut Vec<(u32, u32)>) -> Result<Hosts, TooLarge> {
    if hosts.len() < LEAST || arena.without().hosts {
        return Ok(Hosts::default());
    }
    let buckets = hosts.len().div_ceil(LOAD) as u32;
    let at = arena.take_lines(buckets as usize)?;
    for bucket in 0..buckets {
        // An empty place holds an address of another bucket: it is never looked for here.
        let foreign = (0..).find(|&address| host_bucket(address, buckets) != bucket);
        let mut line = Line::EMPTY;
        line.0[..HOSTS].fill(foreign.unwrap_or(0));
        *arena.line_mut(at + bucket) = line;
    }
    let mut filled = vec![0u8; buckets as usize];
    hosts.retain(|&(address, class)| {
        let bucket = host_bucket(address, buckets);
        let filled = &mut filled[bucket as usize];
        let place = usize::from(*filled);
        if place == HOSTS {
            return true;
        }
        *filled += 1;
        let line = arena.line_mut(at + bucket);
        line.0[place] = address;
        line.0[HOSTS + place] = class;
        false
    });
    Ok(Hosts { at, buckets })
}
