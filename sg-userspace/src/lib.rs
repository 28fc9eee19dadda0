//! The part of `sgctl` that touches the kernel. Data flows one way: text → rules → tables (both in
//! `sg-policy`) → kernel (`kernel`) → counters and flows (`observe`). Arrows point down only.
//!
//! Which rule of a built-in policy decides a packet needs no privilege:
//!
//! ```
//! use sg_common::verdict::{Action, Direction};
//! use sg_policy::policy::{PolicyInput, load};
//! use sg_userspace::observe::explain::{Question, Transport, explain_policy};
//!
//! let loaded = load(&[PolicyInput::Builtin("tke".into())], &[]).unwrap();
//! let answer = explain_policy(
//!     &loaded.policy,
//!     &Question {
//!         direction: Direction::Inbound,
//!         transport: Transport::Protocol(6),
//!         remote: "203.0.113.9".parse().unwrap(),
//!         remote_port: None,
//!         local: "10.0.0.5".parse().unwrap(),
//!         local_port: Some(22),
//!     },
//! );
//! assert_eq!(answer.verdict, Action::Accept);
//! assert_eq!(answer.rule.unwrap().summary, "tcp 22 from 0.0.0.0/0");
//! ```
//!
//! [`kernel::apply()`] puts a policy in force, which needs root.
// No panic is reachable from a packet, a file, a flag or the state directory.
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

pub mod kernel;
pub mod observe;
pub mod sources;
