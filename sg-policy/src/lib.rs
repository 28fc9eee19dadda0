//! What a policy means: text → rules (`policy`) → tables (`compile`), and the naive reference
//! that both are compared with (`oracle`). No unsafe code, no BPF, no operating system: its tests
//! need neither root nor a nightly compiler.
//!
//! ```
//! use sg_policy::{
//!     compile::{Budget, compile},
//!     policy::load_text,
//! };
//!
//! let text = "inbound:\n  - {protocol: tcp, ports: 22, from: 192.0.2.0/24, action: accept}\n";
//! let loaded = load_text("policy.yaml", text, None, &[]).unwrap();
//! assert_eq!(loaded.policy.rules.len(), 1);
//!
//! // Each rule has a counter slot; here there is one rule.
//! let tables = compile(&loaded.policy, &[32], Budget::default()).unwrap();
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
pub mod policy;
#[doc(hidden)]
pub mod testing;
