//! What follows from partitions, exactly and with a packet that shows it: rules that decide
//! nothing, rules that change nothing ([`idle()`]), and the traffic that two policies decide
//! differently ([`diff`](mod@diff)). [`findings`] is all that `check` says of a policy. Which rules
//! nearly decide a packet ([`near`]) follows from the rules alone.

pub mod access;
pub mod diff;
mod effects;
mod findings;
pub mod idle;
mod lint;
pub mod near;
mod products;
mod reach;
mod traffic;
mod witness;

pub use diff::{Change, Diff, Logging, Row, Setting, diff};
pub use findings::{findings, listed};
pub use idle::{Idle, Why, idle};
pub use near::{Miss, Near, nearest};
pub use traffic::{Service, Traffic, prefixes_of};
