//! What the running kernel offers to the enforcer, printed for the table in docs/kernels.md. Each
//! line is `fact WHAT = VALUE`.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::programs::XdpMode;
use sg_common::verdict::FIRST_RULE_SLOT;
use sg_policy::compile::Budget;
use sg_policy::compile_policy;
use sg_policy::policy::{Policy, PolicyInput, load, rules_from_lines};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;
use sg_userspace::kernel::{apply, interfaces};
use sg_userspace::observe::attached::{Scope, attached};

use crate::hold::times_of_an_appearance;
use crate::sandbox::require_root;
use crate::sandbox::{ip, sandbox};
use crate::support::{kernel_release, verified_instructions};

/// The largest MTU that the kernel allows for an interface.
const LARGEST_MTU: u32 = 65535;

/// The kernel's limit of instructions that the verifier explores in one program.
const VERIFIER_LIMIT: u32 = 1_000_000;

/// A policy that needs every optional part of the programs: IPv6 prefixes, logging, flows.
const EVERYTHING: &str = "in tcp 22,80-90 from 2001:db8::/32 accept log
     in icmp 8/0 from 198.51.100.0/24 accept
     in sctp from any accept
     in all from 10.0.0.0/8 accept
     in all from any drop log
     out udp 53 to 2001:db8::/32 accept log
     out all to any accept";

pub(crate) fn fact(what: &str, value: &str) {
    println!("fact {what} = {value}");
}

#[test]
fn what_this_kernel_offers() {
    require_root();
    fact("Linux", &version());
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        apply(&rules_from_lines(""), &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        let scope = Scope::Interface("sg0".into());
        let status = attached(sandbox.bpffs(), &scope)
            .unwrap()
            .remove(0)
            .status();
        let status = status.unwrap();
        assert_ne!(status.egress_hook.name(), "");
        fact("outbound hook that `auto` takes", status.egress_hook.name());
        assert_eq!(status.xdp_mode.name(), "native");
    });
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        native_xdp("veth", "sg0", "sg1");
    });
    let [held, in_force] = times_of_an_appearance().map(|time| time.as_secs_f64() * 1e3);
    fact(
        "`run --wait`, after an interface was made",
        &format!("{held:.0} ms: it passes nothing, {in_force:.0} ms: the policy is in force"),
    );
    let tke = load(&[PolicyInput::from("builtin:tke")], &[])
        .unwrap()
        .policy;
    verified("`tke`", &tke);
    verified("everything on", &rules_from_lines(EVERYTHING));
}

/// The kernel's version. On Debian `uname -r` names only the first version of a compatible series,
/// so the exact one is read from the build string.
fn version() -> String {
    let path = "/proc/sys/kernel/version";
    let built = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let debian = built
        .split_once("Debian ")
        .map(|(_, version)| version.to_owned());
    let version = debian.clone().unwrap_or_else(kernel_release);
    let number = version.split(['-', '+', ' ']).next().unwrap_or_default();
    match debian {
        Some(_) => format!("{number} (Debian)"),
        None => number.to_owned(),
    }
}

/// Finds the largest MTU with which the driver of `interface` runs the inbound program.
pub(crate) fn native_xdp(driver: &str, interface: &str, peer: &str) -> u32 {
    let mut programs = loaded(&rules_from_lines(""));
    let index = interfaces::index_of(interface).unwrap();
    let mut is_native_with = |mtu: u32| {
        for end in [interface, peer] {
            ip(&["link", "set", "dev", end, "mtu", &mtu.to_string()]);
        }
        let program = programs.inbound().unwrap();
        match program.attach_to_if_index(index, XdpMode::Driver) {
            Ok(link) => {
                program.detach(link).unwrap();
                true
            }
            Err(_) => false,
        }
    };
    assert!(is_native_with(1500), "{driver} runs no native XDP");
    let (mut good, mut bad) = (1500, LARGEST_MTU + 1);
    if is_native_with(LARGEST_MTU) {
        good = LARGEST_MTU;
    }
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if is_native_with(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    let limit = match good {
        LARGEST_MTU => "any MTU".to_owned(),
        mtu => format!("MTU up to {mtu}"),
    };
    fact(&format!("native XDP on {driver}"), &limit);
    good
}

/// Prints how many instructions the verifier explores, and the shortest time that this takes.
fn verified(name: &str, policy: &Policy) {
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut counts = BTreeMap::new();
    for _ in 0..5 {
        let programs = loaded(policy);
        counts = verified_instructions(&programs);
        for (times, time) in times.iter_mut().zip(programs.verify_times) {
            times.push(time);
        }
    }
    let largest = counts.values().max().copied().unwrap_or_default();
    assert!((1..VERIFIER_LIMIT).contains(&largest), "{counts:?}");
    // The shortest time is the one least disturbed by other processes.
    let [inbound, outbound] = times.map(|times| {
        let shortest = times.into_iter().min().unwrap_or_default();
        shortest.as_secs_f64() * 1000.0
    });
    let both = |inbound: &str, outbound: &str| format!("{inbound} inbound, {outbound} outbound");
    let all: u32 = counts.values().sum();
    fact(
        &format!("verified instructions, {name}"),
        &format!(
            "{largest} in the largest program, {all} in all {}",
            counts.len()
        ),
    );
    fact(
        &format!("time to verify and translate, {name}"),
        &both(&format!("{inbound:.0} ms"), &format!("{outbound:.0} ms")),
    );
}

fn loaded(policy: &Policy) -> Programs {
    let rules = policy.rules.len() as u32;
    let slots: Vec<u32> = (FIRST_RULE_SLOT..FIRST_RULE_SLOT + rules).collect();
    let compiled = compile_policy(policy, &slots, Budget::default()).expect("tables fit");
    let shared = SharedMaps {
        counter_slots: FIRST_RULE_SLOT + rules,
        max_flows: 4096,
        ..SharedMaps::default()
    };
    Programs::load(&compiled, &Generation::of(policy, 1), &shared)
        .unwrap_or_else(|e| panic!("the programs do not load: {e}"))
}
