//! The slow path: any frame from its first byte on.

pub(crate) mod extension;
pub(crate) mod fragments;
pub(crate) mod judge;
pub(crate) mod parse;
pub(crate) mod quoted;
pub(crate) mod related;
pub(crate) mod transport;
