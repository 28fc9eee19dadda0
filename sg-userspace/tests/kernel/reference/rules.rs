//! The rules of a policy, evaluated twice: by the oracle, which walks the list, and by the compiled
//! tables on the host. The two must agree (P2).

use std::cell::RefCell;
use std::collections::HashMap;

use sg_common::protocol::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind, icmp_number,
    other_number,
};
use sg_common::verdict::{Action, Direction, Reason, reason_slot};
use sg_policy::compile::Compiled;
use sg_policy::oracle;
use sg_policy::policy::{AuditScope, Policy};

/// The verdict of one direction's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ruling {
    pub(crate) accept: bool,
    /// Whether the packet passes although it is to be dropped (C9). `accept` is false then.
    pub(crate) audit: bool,
    /// The counter slot of the rule, or of no-match.
    pub(crate) slot: u32,
}

pub(crate) struct Rules {
    /// The policy for the oracle.
    pub(crate) policy: Policy,
    pub(crate) compiled: Compiled,
    /// The counter slot of each rule of `policy`.
    pub(crate) slots: Vec<u32>,
    /// What is evaluated beside it, if anything is.
    pub(crate) candidate: Option<Beside>,
    /// The first question for which the oracle and the tables differ.
    pub(crate) disagreement: RefCell<Option<String>>,
}

/// A candidate, which changes no verdict.
pub(crate) struct Beside {
    pub(crate) policy: Policy,
    /// The counter slot of each pair of rules: of the enforced policy, and of the candidate.
    pub(crate) slots: HashMap<(Direction, Option<usize>, Option<usize>), u32>,
}

impl Rules {
    /// The slot of the pair of rules, if the candidate would decide otherwise.
    fn pair(&self, question: &oracle::Packet, enforced: Option<usize>) -> Option<u32> {
        let beside = self.candidate.as_ref()?;
        let candidate = oracle::first_match(&beside.policy, question);
        let passes = |policy: &Policy, rule: Option<usize>| {
            rule.map_or(policy.no_match(), |rule| policy.rules[rule].action)
                .passes()
        };
        if passes(&self.policy, enforced) == passes(&beside.policy, candidate) {
            return None;
        }
        let pair = (question.direction, enforced, candidate);
        Some(*beside.slots.get(&pair).unwrap_or(&u32::MAX))
    }

    pub(crate) fn ask(&self, question: &oracle::Packet) -> Ruling {
        let first = oracle::first_match(&self.policy, question);
        let mut by_oracle = match first {
            None if self.policy.audit == AuditScope::Rules => Ruling {
                accept: false,
                audit: false,
                slot: reason_slot(question.direction, Reason::NoMatch),
            },
            None => Ruling {
                accept: false,
                audit: true,
                slot: reason_slot(question.direction, Reason::NoMatchAudited),
            },
            Some(rule) => Ruling {
                accept: self.policy.rules[rule].action == Action::Accept,
                audit: self.policy.rules[rule].action == Action::Audit,
                slot: self.slots[rule],
            },
        };
        if let Some(slot) = self.pair(question, first) {
            by_oracle.slot = slot;
        }
        let icmp = match question.remote.is_ipv4() {
            true => IPPROTO_ICMP,
            false => IPPROTO_ICMPV6,
        };
        let (kind, number) = match question.protocol {
            IPPROTO_TCP => (Kind::Tcp, question.port),
            IPPROTO_UDP => (Kind::Udp, question.port),
            IPPROTO_SCTP => (Kind::Sctp, question.port),
            p if p == icmp => (Kind::Icmp, icmp_number(question.icmp.0, question.icmp.1)),
            p => (Kind::Other, other_number(p)),
        };
        let verdict = self
            .compiled
            .decide(question.direction, question.remote, kind, number);
        let by_tables = Ruling {
            accept: verdict.is_accept(),
            audit: verdict.is_audit(),
            slot: verdict.slot(),
        };
        if by_tables != by_oracle {
            self.disagreement.borrow_mut().get_or_insert_with(|| {
                format!("{question:?}: oracle {by_oracle:?}, compiled tables {by_tables:?}")
            });
        }
        by_oracle
    }

    /// The ruling on the packet, if it lets the packet pass.
    pub(crate) fn passing(&self, question: &oracle::Packet) -> Option<Ruling> {
        Some(self.ask(question)).filter(|ruling| ruling.accept || ruling.audit)
    }
}
