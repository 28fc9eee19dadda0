//! Several interfaces under one policy: they share flows, each has its own counters, and adding or
//! removing one does not affect the others (K1).

mod clsact;
mod faults;
mod flows;
mod membership;
mod moved;
mod reloads;

use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::{Applied, ApplyOptions, apply};
use sg_userspace::observe::status::Health;

use crate::sandbox::Sandbox;
use crate::watching::only;

/// The names of an uplink's two ends: the node's and the router's.
const UPLINKS: [(&str, &str); 2] = [("up0", "far0"), ("up1", "far1")];

/// Two veth pairs, with options for the node's ends of both.
fn uplinks(sandbox: &Sandbox) -> ApplyOptions {
    for (near, far) in UPLINKS {
        sandbox.veth(near, far);
    }
    both(sandbox)
}

fn both(sandbox: &Sandbox) -> ApplyOptions {
    on(sandbox, &["up0", "up1"])
}

fn on(sandbox: &Sandbox, interfaces: &[&str]) -> ApplyOptions {
    ApplyOptions {
        interfaces: interfaces.iter().map(|name| (*name).into()).collect(),
        ..sandbox.options("up0")
    }
}

fn put(rules: &str, options: &ApplyOptions) -> Applied {
    apply(&rules_from_lines(rules), options).unwrap_or_else(|e| panic!("{e}"))
}

/// The ids of both programs that an interface runs.
fn programs(sandbox: &Sandbox, interface: &str) -> [u32; 2] {
    let one = only(sandbox, interface);
    let found = one.inspect().unwrap_or_else(|e| panic!("{e}"));
    sg_common::verdict::Direction::BOTH
        .map(|direction| found.running(direction).expect("a program runs"))
}

fn health(sandbox: &Sandbox, interface: &str) -> Health {
    only(sandbox, interface).status().unwrap().health
}
