//! Tests that load the real programs into the real kernel. They need root, and say so.

mod agreement;
mod attach;
mod budget;
mod flow_model;
mod flows;
mod frames;
mod fuzz;
mod hosts;
mod packets;
mod reference;
mod sandbox;
mod seed;
mod seed_meanwhile;
mod stack;
mod support;
mod traffic;
mod world;
