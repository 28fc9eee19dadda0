//! Tests that load the real programs into the real kernel. They need root, and say so.

mod frames;
mod packets;
mod support;
