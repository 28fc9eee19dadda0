//! What a policy means, in three steps: text → rules ([`policy`]) → partition ([`partition`]) →
//! tables ([`compile`](mod@compile)). The tables are what the packet path looks packets up in.
//! [`analysis`] has what else follows from a partition: rules that do nothing, and the difference
//! of two policies. The [`oracle`] answers the same questions by walking through the rules, slowly
//! and obviously; tests compare each step with it.
//!
//! No unsafe code, no BPF, no operating system: the tests need neither root nor a nightly compiler.
//!
//! ```
//! use std::net::IpAddr;
//!
//! use sg_common::{
//!     protocol::{IPPROTO_TCP, Kind},
//!     verdict::{Action, Direction, FIRST_RULE_SLOT},
//! };
//! use sg_policy::{
//!     compile::{Budget, compile},
//!     oracle::{Packet, first_match},
//!     partition::{Partition, Verdicts},
//!     policy::load_text,
//! };
//!
//! let text = "
//! inbound:
//!   - {protocol: tcp, ports: 22, from: 192.0.2.7, action: drop}
//!   - {protocol: tcp, ports: 20-30, from: 192.0.2.0/24, action: accept}
//! ";
//! let (direction, port) = (Direction::Inbound, 22);
//! let remote: IpAddr = "192.0.2.8".parse().unwrap();
//!
//! // Text → rules. A mistake is reported with its place and what was expected there.
//! let policy = load_text("policy.yaml", text, None, &[]).unwrap().policy;
//! assert_eq!(policy.rules[1].summary, "tcp 20-30 from 192.0.2.0/24");
//! let wrong = load_text("policy.yaml", &text.replace("22", "70000"), None, &[]).unwrap_err();
//! assert!(wrong.to_string().starts_with("policy.yaml:3:"));
//!
//! // Rules → partition: rule 1 is the first that matches.
//! let partition = Partition::new(&policy);
//! let class = partition.class_of(remote);
//! assert_eq!(partition.rule(class, direction, Kind::Tcp, port), Some(1));
//!
//! // Partition → tables, in which a rule is its action and its counter slot.
//! let slots = [FIRST_RULE_SLOT, FIRST_RULE_SLOT + 1];
//! let verdicts = Verdicts::new(&policy, &slots);
//! let tables = compile(&partition, &verdicts, Budget::default()).unwrap();
//! let verdict = tables.decide(direction, remote, Kind::Tcp, port);
//! assert!(verdict.is_accept());
//! assert_eq!(verdict.slot(), slots[1]);
//!
//! // The oracle says the same.
//! let packet = Packet { direction, remote, protocol: IPPROTO_TCP, port, icmp: (0, 0) };
//! let rule = first_match(&policy, &packet);
//! assert_eq!(rule, Some(1));
//! assert_eq!(policy.rules[1].action, Action::Accept);
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]
// No panic is reachable from a packet, a file or a flag.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo
    )
)]

pub mod analysis;
pub mod compile;
pub mod edges;
pub mod formats;
pub mod oracle;
pub mod partition;
pub mod policy;
#[doc(hidden)]
pub mod testing;

use compile::{Budget, Compiled, TooLarge, compile};
use partition::{Partition, Verdicts};
use policy::Policy;

/// The tables of a policy in one call, for those who need nothing of its partition. Rule `i` is
/// counted in counter slot `slots[i]`.
///
/// # Errors
/// [`TooLarge`] if the tables would take more memory than `budget`.
///
/// # Panics
/// If there is not one slot for each rule.
pub fn compile_policy(
    policy: &Policy,
    slots: &[u32],
    budget: Budget,
) -> Result<Compiled, TooLarge> {
    compile(
        &Partition::new(policy),
        &Verdicts::new(policy, slots),
        budget,
    )
}
