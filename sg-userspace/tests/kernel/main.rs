//! Tests that load the real programs into the real kernel. They need root, and say so.

mod agreement;
mod attach;
mod budget;
mod facts;
mod flows;
mod frames;
mod guest;
mod hosts;
mod namespace;
mod packets;
mod sandbox;
mod seed;
mod seed_meanwhile;
mod stack;
mod support;
