//! The options of a generation of programs, set when it is loaded.

use sg_common::flow::{TIMEOUTS, Timeout, seconds};
use sg_common::flow_entry::time_out;
use sg_common::program::{
    ASKS_FOR_EACH, AUDIT_ALL, AUDIT_EVERYTHING, AUDIT_RULES, Config, HAS_BSS_TABLES, HAS_FLOWS,
    HAS_LOGS, HAS_TRACE, MAY_HAVE_CUT, REMEMBERS, STATES,
};
use sg_common::ruling::{FLUSH_OLD, InForce, JUDGE_OLD, KEEP_OLD};

use super::super::state::State;
use sg_policy::policy::{AuditScope, Established, NonIp, Policy};

/// The options of a generation.
#[derive(Clone, Debug)]
pub struct Generation {
    pub number: u32,
    /// Which flows need not be judged again: those of this epoch. It is the number of the
    /// generation that began it, and stays where a policy is loaded again that means the same.
    pub epoch: u32,
    pub essential: bool,
    pub non_ip: NonIp,
    /// What happens to flows that earlier policies admitted.
    pub established: Established,
    pub timeouts: [u32; TIMEOUTS],
    /// Whether flows are looked up and entered. If not, no flow in the tables may concern a packet
    /// that the rules accept.
    pub has_flows: bool,
    /// Whether a TCP flow in the tables may be cut: see [`MAY_HAVE_CUT`], and
    /// [`FlowTable::may_have_cut`](super::super::flow_tables::FlowTable::may_have_cut) for when it
    /// must be true. It is false where `has_flows` is.
    pub may_have_cut: bool,
    /// Whether these are the remembering programs: see [`REMEMBERS`].
    pub only_remembers: bool,
    /// Whether tables that fit are put into .bss. False only in tests of array maps.
    pub may_be_in_bss: bool,
    /// Whether the programs check for each thing that they may need, even if there is a variant
    /// for this case: see [`ASKS_FOR_EACH`]. True only to measure what that variant saves.
    pub asks_for_each: bool,
    /// Whether some rule logs, or packets that no rule matches are logged.
    pub has_logging_rules: bool,
    /// Whether the policy is not confirmed when it is loaded: see [`sg_common::trial`]. Then its
    /// gates are loaded as well, and the word of its trial has to be pinned.
    pub on_trial: bool,
    /// Whether a policy returns where this one is not confirmed.
    pub has_fallback: bool,
    /// Whether anything passes that would be dropped: then other programs are the tail-call
    /// targets.
    pub audits: bool,
    /// What does, besides what rules audit.
    pub audit: AuditScope,
    /// Log level of the packet path (1 error … 5 trace). With zero the verifier removes its
    /// logging.
    pub log_level: u8,
}

impl Generation {
    pub fn of(policy: &Policy, number: u32) -> Self {
        Generation {
            number,
            epoch: number,
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
            on_trial: false,
            has_fallback: false,
            audits: policy.audits(),
            audit: policy.audit,
            log_level: 0,
        }
    }

    /// The constants that its programs are loaded with: for a flow table of so many groups, event
    /// rings of so many slots, and tables that are in .bss or in an array map.
    pub(in crate::kernel) fn config(
        &self,
        flow_groups: u32,
        event_slots: u32,
        event_halvings: u8,
        is_in_bss: bool,
    ) -> Config {
        let has = [
            (is_in_bss, HAS_BSS_TABLES),
            (self.has_flows, HAS_FLOWS),
            (self.may_have_cut, MAY_HAVE_CUT),
            (self.only_remembers, REMEMBERS),
            (self.has_logging_rules, HAS_LOGS),
            (self.log_level > 0, HAS_TRACE),
            (self.asks_for_each, ASKS_FOR_EACH),
        ];
        let bits = has.map(|(is_so, bit)| u8::from(is_so) * bit);
        Config {
            zero: 0,
            epoch: self.epoch,
            generation: self.number,
            flow_groups,
            flow_timeouts: ages(&self.timeouts),
            fragment_timeout: self.timeouts[Timeout::Fragment as usize],
            event_slots,
            has: bits.iter().fold(0, |bits, bit| bits | bit),
            old_flows: self.old_flows(),
            essential: self.essential.into(),
            arp_only: (self.non_ip == NonIp::ArpOnly).into(),
            on_trial: self.on_trial.into(),
            has_fallback: self.has_fallback.into(),
            audits: match self.audit {
                AuditScope::Rules => AUDIT_RULES,
                AuditScope::Policy => AUDIT_ALL,
                AuditScope::All => AUDIT_EVERYTHING,
            },
            event_halvings,
        }
    }

    /// What becomes of flows that earlier policies admitted, as the programs are told.
    pub(in crate::kernel) fn old_flows(&self) -> u8 {
        match self.established {
            Established::Revalidate => JUDGE_OLD,
            Established::Keep => KEEP_OLD,
            Established::Flush => FLUSH_OLD,
        }
    }

    /// What becomes of flows that earlier policies admitted, as the rulings on flows take it.
    pub(in crate::kernel) fn in_force(&self) -> InForce {
        InForce {
            epoch: self.epoch,
            old_flows: self.old_flows(),
        }
    }

    /// The options of a generation from its record. Whether it has logging rules is taken as true,
    /// since the tables say it as well.
    pub(in crate::kernel) fn recorded(state: &State) -> Self {
        Generation {
            number: state.policy.generation,
            epoch: state.epoch,
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
            on_trial: state.open_trial().is_some(),
            has_fallback: false,
            audits: state.audits(),
            audit: state.policy.audit.unwrap_or_default(),
            log_level: state.log_level,
        }
    }
}

/// The ages at which flows expire, by state.
pub(in crate::kernel) fn ages(timeouts: &[u32; TIMEOUTS]) -> [u32; STATES] {
    let mut ages = [0; STATES];
    for (age, state) in ages.iter_mut().zip(0..) {
        *age = time_out(seconds(timeouts, state));
    }
    ages
}
