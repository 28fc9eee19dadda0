//! Flows: what admitted packets leave behind, and how their replies find it.

pub(crate) mod flows;
pub(crate) mod table;
