//! What a policy means: text → rules (`policy`) → tables (`compile`), and the naive reference
//! that both are compared with (`oracle`). No unsafe code, no BPF, no operating system: its tests
//! need neither root nor a nightly compiler.
//!
//! ```
//! use sg_policy::{compile::Budget, compile_policy, policy::load_text};
//!
//! let text = "inbound:\n  - {protocol: tcp, ports: 22, from: 192.0.2.0/24, action: accept}\n";
//! let loaded = load_text("policy.yaml", text, None, &[]).unwrap();
//! assert_eq!(loaded.policy.rules.len(), 1);
//!
//! // Each rule has a counter slot; here there is one rule.
//! let tables = compile_policy(&loaded.policy, &[32], Budget::default()).unwrap();
//! assert_eq!(tables.sizes().address_classes, 2, "the network, and all other addresses");
//!
//! // A mistake is told with its place and what was expected.
//! let wrong = load_text("policy.yaml", &text.replace("22", "70000"), None, &[]).unwrap_err();
//! assert!(wrong.to_string().contains("policy.yaml:2"));
//! ```
#![forbid(unsafe_code)]
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

pub mod compile;
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
