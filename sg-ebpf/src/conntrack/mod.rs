//! Flows: what admitted packets leave behind, and how their replies find it.

pub(crate) mod belongs;
pub(crate) mod flows;
mod step;
pub(crate) mod table;
pub(crate) mod traits;
pub(crate) mod unless_cut;
mod watched;
