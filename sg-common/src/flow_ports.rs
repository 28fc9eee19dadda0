//! How many flows there are at each range of local ports. A packet to ports at which there is
//! none belongs to no flow, which is known from one word that stays in the nearest cache.
//!
//! Connections that a node opens come from its ephemeral ports, and packets that are aimed at its
//! services, or scan it, go to other ports. So a port shares its count with its neighbours only.
//!
//! A flow is counted before it is entered, and no longer after it has gone: a count that is zero
//! is true. A process that is killed in between leaves a count too high, which costs time and
//! nothing else.

/// How many neighbouring ports share a count, as a power of two.
const NEIGHBOURS: u32 = 6;

/// Counts of a table.
pub const PORT_COUNTS: usize = 1 << (16 - NEIGHBOURS);

/// The count of a local port: the low 16 bits of a flow's name. What is above does not matter.
#[inline(always)]
pub const fn count_of(local_port: u64) -> usize {
    (local_port >> NEIGHBOURS) as usize & (PORT_COUNTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_entry::FlowKey;

    #[test]
    fn neighbours_share_a_count_and_no_other_ports_do() {
        let mut ports = [0u32; PORT_COUNTS];
        for port in 0..=u16::MAX {
            let index = count_of(port.into());
            assert_eq!(index, usize::from(port / 64));
            ports[index] += 1;
            assert_eq!(count_of(FlowKey::name(port, !port, 17, true)), index);
        }
        assert!(ports.iter().all(|&ports| ports == 64));
    }
}
