//! The flows of an attachment, read for printing.

use serde::Serialize;
use sg_userspace::kernel::flow_tables::{FlowTableUse, table_use_with};
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::flows::{Flow, Wanted, list};
use sg_userspace::observe::status::Standing;

use crate::cli::failure::Failure;

/// How many flows are printed for people, unless they say otherwise.
pub(super) const SHOWN: usize = 100;

/// The flows of an attachment.
#[derive(Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    pub(super) standing: Standing,
    /// The other interfaces that share this table. Left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) shared_with: Vec<String>,
    /// All interfaces that share it, this one first: each may be without its policy.
    pub(super) interfaces: Vec<Standing>,
    /// The number of flows in the table, whatever the filters and the limit.
    pub(super) total: usize,
    /// How many of them the filters take, whatever the limit.
    pub(super) matching: usize,
    pub(super) tables: Tables,
    pub(super) flows: Vec<Flow>,
}

/// The use of the tables since the interface was first attached.
#[derive(Serialize)]
pub(super) struct Tables {
    pub(super) half_open: FlowTableUse,
    pub(super) established: FlowTableUse,
}

pub(super) fn listed(one: &Attached, wanted: &Wanted) -> Result<Listed, Failure> {
    let listing = list(one, wanted)?;
    let [half_open, established] = table_use_with(&one.pins, listing.live)?;
    let own = Standing::of(one);
    let others = one.others();
    let mut interfaces = vec![own.clone()];
    interfaces.extend(others.iter().map(Standing::of));
    Ok(Listed {
        standing: own,
        shared_with: one.shared_with(),
        interfaces,
        total: listing.total,
        matching: listing.matching,
        tables: Tables {
            half_open,
            established,
        },
        flows: listing.flows,
    })
}
