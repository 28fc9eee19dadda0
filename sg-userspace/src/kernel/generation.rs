//! What a generation of programs is told at load.

use sg_common::flow::TIMEOUTS;

use super::state::State;
use sg_policy::policy::{Established, NonIp, Policy};

/// What a generation is told at load.
#[derive(Clone, Debug)]
pub struct Generation {
    pub number: u32,
    pub essential: bool,
    pub non_ip: NonIp,
    /// What becomes of flows that earlier policies admitted.
    pub established: Established,
    pub timeouts: [u32; TIMEOUTS],
    /// Flows are looked up and remembered. Without them there must be none in the tables that
    /// might concern a packet which the rules accept.
    pub has_flows: bool,
    /// A TCP flow of the tables may be a cut one: see
    /// [`MAY_HAVE_CUT`](sg_common::program::MAY_HAVE_CUT), and
    /// [`FlowTable::may_have_cut`](super::flow_tables::FlowTable::may_have_cut) for when that has
    /// to be so. Takes `has_flows`.
    pub may_have_cut: bool,
    /// They pass everything and only remember what the rules admit: see
    /// [`REMEMBERS`](sg_common::program::REMEMBERS).
    pub only_remembers: bool,
    /// Tables that fit are put where the programs find them without a lookup. False only to try
    /// the other way.
    pub may_be_in_bss: bool,
    /// The programs ask for each thing that they may need, also where a variant is made for what
    /// there is: see [`ASKS_FOR_EACH`](sg_common::program::ASKS_FOR_EACH). True only to measure
    /// what that variant saves.
    pub asks_for_each: bool,
    /// Some rule asks for events, or what no rule matches is logged.
    pub has_logging_rules: bool,
    /// Log level of the packet path (1 error … 5 trace); zero removes logging from it.
    pub log_level: u8,
}

impl Generation {
    pub fn of(policy: &Policy, number: u32) -> Self {
        Generation {
            number,
            essential: policy.essential,
            non_ip: policy.non_ip,
            established: policy.established,
            timeouts: policy.timeouts,
            has_flows: true,
            may_have_cut: false,
            only_remembers: false,
            may_be_in_bss: true,
            asks_for_each: false,
            has_logging_rules: policy.logs(),
            log_level: 0,
        }
    }

    /// What the generation of a record was told, but that it has logging rules, which the tables
    /// tell too.
    pub(super) fn recorded(state: &State) -> Self {
        Generation {
            number: state.policy.generation,
            essential: state.essential,
            non_ip: state.non_ip,
            established: state.established,
            timeouts: state.timeouts,
            has_flows: state.has_flows,
            may_have_cut: state.may_have_cut,
            only_remembers: false,
            may_be_in_bss: true,
            asks_for_each: false,
            has_logging_rules: true,
            log_level: state.log_level,
        }
    }
}
