//! The fast path: TCP and UDP right behind an IP header, which is nearly every packet.

pub(crate) mod decide;
mod flow;
mod frame;
