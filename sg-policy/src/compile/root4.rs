//! The first level of IPv4: an entry for each /16.

use sg_common::lookup::{NARROW_BITS, Root};

use super::{
    arena::{Arena, Beside, Steps},
    budget::TooLarge,
    nodes::{Builder, Extent, Prefer, Range, for_each_range},
    row::Row,
};

/// Fills `root` with `steps` over all addresses, whose classes have `rows`, and stores the nodes
/// below it; returns whether leaves are narrow.
pub(super) fn fill(
    arena: &mut Arena,
    root: &mut Root,
    steps: &Steps,
    rows: &[Row],
    extent: &mut Extent,
) -> Result<bool, TooLarge> {
    let is_narrow = steps.iter().all(|(_, class)| class >> NARROW_BITS == 0);
    let mut builder = Builder {
        arena,
        prefer: Prefer::Memory,
        known: &[],
        extent,
    };
    for_each_range(steps, 0, 1 << 16, root, |steps, base| {
        let range = Range {
            origin: base,
            bits: 16,
            above: 0,
            is_narrow,
            beside: match is_narrow {
                true => Beside::Anything,
                false => Beside::PortsOf {
                    classes: steps,
                    rows,
                },
            },
        };
        builder.table(steps, base, range)
    })?;
    Ok(is_narrow)
}
