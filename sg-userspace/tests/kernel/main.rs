//! Tests that load the real programs into the real kernel. They need root, and say so.

mod agreement;
mod attach;
mod budget;
mod facts;
mod flow_model;
mod flow_race;
mod flows;
mod frames;
mod fuzz;
mod guest;
mod hosts;
mod namespace;
mod packets;
mod reference;
mod refusals;
mod reload;
mod sandbox;
mod seed;
mod seed_meanwhile;
mod signals;
mod specialised;
mod stack;
mod support;
mod traffic;
mod watching;
mod world;
