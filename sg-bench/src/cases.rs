//! The rows that are measured live, as a table: what arrives, which policy is in force, and with
//! which empty program each is compared.

use std::path::Path;

use anyhow::Result;
use sg_common::verdict::Direction;
use sg_policy::policy::Policy;

use crate::enforcer::Stage;
use crate::missing::Missing;
use crate::peers;
use crate::policies::{self, Workload};

/// With what a row is compared, unless it is watched: an empty program that drops or passes every
/// packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    Drop,
    Pass,
}

/// One row.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Of the packets: inbound ones meet XDP, outbound ones the tc egress hook.
    pub(crate) direction: Direction,
    pub(crate) floor: Floor,
    pub(crate) build: fn(&Inputs<'_>) -> Result<Workload>,
    /// How many flows are opened before measuring, and how many the flow table can hold.
    pub(crate) flows: u32,
    pub(crate) max_flows: u32,
    /// A policy that is evaluated beside it, if there is one.
    pub(crate) candidate: Option<fn() -> Result<Policy>>,
    /// If it was applied to be confirmed, whether it was.
    pub(crate) trial: Option<Stage>,
    /// Whether a watcher reads the events of what is dropped. The row is then compared with the
    /// same program without a watcher.
    pub(crate) is_watched: bool,
}

impl Case {
    /// Whether another filter than the enforcer is measured.
    pub(crate) fn is_peer(&self) -> bool {
        ["live/nft/", "live/xdp-filter/"]
            .iter()
            .any(|begin| self.name.starts_with(begin))
    }
}

pub(crate) struct Inputs<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) data: Option<&'a Path>,
}

impl Inputs<'_> {
    /// The folder of real data.
    pub(crate) fn data(&self) -> Result<&Path> {
        Ok(self.data.ok_or(Missing::Data)?)
    }
}

const fn case(
    name: &'static str,
    floor: Floor,
    build: fn(&Inputs<'_>) -> Result<Workload>,
) -> Case {
    Case {
        name,
        direction: Direction::Inbound,
        floor,
        build,
        flows: 0,
        max_flows: 65_536,
        candidate: None,
        trial: None,
        is_watched: false,
    }
}

const fn flows(
    name: &'static str,
    flows: u32,
    max_flows: u32,
    build: fn(&Inputs<'_>) -> Result<Workload>,
) -> Case {
    Case {
        name,
        direction: Direction::Inbound,
        floor: Floor::Pass,
        build,
        flows,
        max_flows,
        candidate: None,
        trial: None,
        is_watched: false,
    }
}

const fn beside(candidate: fn() -> Result<Policy>, case: Case) -> Case {
    Case {
        candidate: Some(candidate),
        ..case
    }
}

const fn on_trial(stage: Stage, case: Case) -> Case {
    Case {
        trial: Some(stage),
        ..case
    }
}

const fn watched(case: Case) -> Case {
    Case {
        is_watched: true,
        ..case
    }
}

const fn outbound(case: Case) -> Case {
    Case {
        direction: Direction::Outbound,
        ..case
    }
}

const fn nft_flows(
    name: &'static str,
    flows: u32,
    build: fn(&Inputs<'_>) -> Result<Workload>,
) -> Case {
    Case {
        name,
        direction: Direction::Inbound,
        floor: Floor::Drop,
        build,
        flows,
        max_flows: 0,
        candidate: None,
        trial: None,
        is_watched: false,
    }
}

/// The row of a program that does nothing but look at the packet: what every other one pays too.
pub(crate) const TOUCH: &str = "live/touch";

/// `live/tke/drop` with a candidate that would accept half of the packets.
pub(crate) const CANDIDATE: &str = "live/candidate";

/// `live/tke/drop` once it was confirmed.
pub(crate) const CONFIRMED: &str = "live/trial/confirmed";

/// `live/tke/drop` while somebody watches what is dropped.
pub(crate) const WATCHED: &str = "live/watched";

/// Rows that are measured in turn, since they are compared with each other. All of a group are
/// about packets of one direction.
pub(crate) const GROUPS: &[&[Case]] = &[
    &[
        case(TOUCH, Floor::Drop, |_| policies::tke_drop()),
        case("live/tke/drop", Floor::Drop, |_| policies::tke_drop()),
        case("live/tke/accept", Floor::Pass, |_| policies::tke_accept()),
        beside(
            policies::tke_candidate,
            case(CANDIDATE, Floor::Drop, |_| policies::tke_candidate_drop()),
        ),
        on_trial(
            Stage::Waits,
            case("live/trial/waits", Floor::Drop, |_| policies::tke_drop()),
        ),
        on_trial(
            Stage::Confirmed,
            case(CONFIRMED, Floor::Drop, |_| policies::tke_drop()),
        ),
        watched(case(WATCHED, Floor::Drop, |_| policies::tke_drop())),
    ],
    &[
        case("live/rules/10", Floor::Drop, |_| policies::rules(10)),
        case("live/rules/100", Floor::Drop, |_| policies::rules(100)),
        case("live/rules/1k", Floor::Drop, |_| policies::rules(1000)),
        case("live/rules/10k", Floor::Drop, |_| policies::rules(10_000)),
        case("live/xdp-filter/10", Floor::Drop, |_| peers::xdp_filter(10)),
        case("live/xdp-filter/1k", Floor::Drop, |_| {
            peers::xdp_filter(1000)
        }),
        case("live/xdp-filter/10k", Floor::Drop, |_| {
            peers::xdp_filter(10_000)
        }),
    ],
    &[
        case("live/prefixes/10", Floor::Drop, |i| {
            policies::prefixes(10, i.folder)
        }),
        case("live/prefixes/1k", Floor::Drop, |i| {
            policies::prefixes(1000, i.folder)
        }),
        case("live/prefixes/100k", Floor::Drop, |i| {
            policies::prefixes(100_000, i.folder)
        }),
        case("live/prefixes/1m", Floor::Drop, |i| {
            policies::prefixes(1_000_000, i.folder)
        }),
        case("live/hosts/1m", Floor::Drop, |i| {
            policies::hosts(1_000_000, i.folder)
        }),
    ],
    &[
        case("live/prefixes6/10", Floor::Drop, |i| {
            policies::prefixes6(10, i.folder)
        }),
        case("live/prefixes6/1k", Floor::Drop, |i| {
            policies::prefixes6(1000, i.folder)
        }),
        case("live/prefixes6/100k", Floor::Drop, |i| {
            policies::prefixes6(100_000, i.folder)
        }),
    ],
    &[
        case("live/ipsum", Floor::Drop, |i| {
            policies::ipsum(i.data()?, i.folder)
        }),
        case("live/classbench/acl1_1k", Floor::Drop, |i| {
            policies::classbench("acl1_1k", i.data()?)
        }),
        case("live/classbench/acl1_8k", Floor::Drop, |i| {
            policies::classbench("acl1_8k", i.data()?)
        }),
        case("live/classbench/ipc1_8k", Floor::Drop, |i| {
            policies::classbench("ipc1_8k", i.data()?)
        }),
    ],
    &[
        flows("live/flow/1k", 1000, 2048, |_| policies::flow(1000)),
        flows("live/flow/64k", 65_536, 131_072, |_| policies::flow(65_536)),
        flows("live/flow/1m", 1_000_000, 2_097_152, |_| {
            policies::flow(1_000_000)
        }),
        case("live/flow/new", Floor::Pass, |_| policies::new_flows()),
    ],
    &[
        outbound(case("live/out/tke", Floor::Pass, |_| policies::tke_out())),
        outbound(case("live/out/rules/1k", Floor::Drop, |_| {
            policies::rules_out(1000)
        })),
        outbound(flows("live/out/flow/1k", 1000, 2048, |_| {
            policies::flow_out(1000)
        })),
        outbound(flows("live/out/flow/64k", 65_536, 131_072, |_| {
            policies::flow_out(65_536)
        })),
        outbound(case("live/out/flow/new", Floor::Pass, |_| {
            policies::new_flows_out()
        })),
    ],
    &[
        case("live/nft/tke/drop", Floor::Drop, |_| peers::nft_tke_drop()),
        case("live/nft/rules/10", Floor::Drop, |_| peers::nft_rules(10)),
        case("live/nft/rules/100", Floor::Drop, |_| peers::nft_rules(100)),
        case("live/nft/rules/1k", Floor::Drop, |_| peers::nft_rules(1000)),
        case("live/nft/rules/10k", Floor::Drop, |_| {
            peers::nft_rules(10_000)
        }),
        case("live/nft/prefixes/10", Floor::Drop, |i| {
            peers::nft_prefixes(10, i.folder)
        }),
        case("live/nft/prefixes/1k", Floor::Drop, |i| {
            peers::nft_prefixes(1000, i.folder)
        }),
        case("live/nft/prefixes/100k", Floor::Drop, |i| {
            peers::nft_prefixes(100_000, i.folder)
        }),
        case("live/nft/prefixes/1m", Floor::Drop, |i| {
            peers::nft_prefixes(1_000_000, i.folder)
        }),
        case("live/nft/ipsum", Floor::Drop, |i| {
            peers::nft_ipsum(i.data()?, i.folder)
        }),
    ],
    // Each in a namespace of its own, since connection tracking has one table in each.
    &[nft_flows("live/nft/flow/1k", 1000, |_| {
        peers::nft_flow(1000)
    })],
    &[nft_flows("live/nft/flow/64k", 65_536, |_| {
        peers::nft_flow(65_536)
    })],
    &[Case {
        name: "live/flood/syn",
        direction: Direction::Inbound,
        floor: Floor::Drop,
        build: |_| policies::flood(),
        flows: 65_536,
        max_flows: 131_072,
        candidate: None,
        trial: None,
        is_watched: false,
    }],
];

pub(crate) fn cases() -> impl Iterator<Item = &'static Case> {
    GROUPS.iter().flat_map(|group| group.iter())
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    cases().map(|case| case.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_group_go_in_one_direction() {
        for group in GROUPS {
            let first = group[0].direction;
            assert!(group.iter().all(|case| case.direction == first));
        }
    }

    #[test]
    fn no_two_rows_have_the_same_name() {
        let mut names: Vec<&str> = names().collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }
}
