//! Reads an attached interface: its state, its counters, and whether the counters add up. All tests
//! that attach something use it.

use std::time::{Duration, Instant};

use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::{ApplyOptions, apply};
use sg_userspace::observe::attached::{Attached, Scope, attached};
use sg_userspace::observe::counters::{Counters, counters};

use crate::sandbox::Sandbox;

/// The rules of a typical node.
pub(crate) const NODE: &str = "in tcp 22 from any accept
     in all from 10.0.0.0/8 accept
     in all from any drop
     out all to any accept";

pub(crate) fn only(sandbox: &Sandbox, interface: &str) -> Attached {
    let scope = Scope::Interface(interface.into());
    attached(sandbox.bpffs(), &scope)
        .unwrap_or_else(|e| panic!("{e}"))
        .remove(0)
}

pub(crate) fn read(sandbox: &Sandbox, interface: &str) -> Counters {
    counters(&only(sandbox, interface)).unwrap_or_else(|e| panic!("{e}"))
}

/// Reads the counters until `done` returns true, because receivers need some time to catch up.
pub(crate) fn read_when(
    sandbox: &Sandbox,
    interface: &str,
    mut done: impl FnMut(&Counters) -> bool,
) -> Counters {
    // Generous, because processors may be emulated and busy.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let counted = read(sandbox, interface);
        if done(&counted) || Instant::now() > deadline {
            return counted;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn apply_rules(sandbox: &Sandbox, rules: &str, options: &ApplyOptions) {
    let _ = sandbox;
    apply(&rules_from_lines(rules), options).unwrap_or_else(|e| panic!("apply: {e}"));
}

/// Inbound and outbound packets of a reason, whatever its action.
pub(crate) fn under(counters: &Counters, reason: &str) -> [u64; 2] {
    ["inbound", "outbound"].map(|direction| {
        let rows = counters.reasons.iter();
        let rows = rows.filter(|r| r.direction.name() == direction && r.reason.name() == reason);
        let packets: Vec<u64> = rows.map(|row| row.packets).collect();
        assert!(!packets.is_empty(), "every reason is listed");
        packets.iter().sum()
    })
}

/// A2: checks the sums of the listed rows, without using the totals that they are compared with.
pub(crate) fn assert_adds_up(c: &Counters, inbound: u64, outbound: u64) {
    for (direction, sent) in [("inbound", inbound), ("outbound", outbound)] {
        let rules: u64 = c
            .rules
            .iter()
            .map(|r| match r.direction.name() == direction {
                true => r.packets,
                false => r.reply_packets,
            })
            .sum();
        let reasons: u64 = c
            .reasons
            .iter()
            .filter(|r| r.direction.name() == direction)
            .map(|r| r.packets)
            .sum();
        let total = c
            .totals
            .iter()
            .find(|t| t.direction.name() == direction)
            .unwrap();
        assert_eq!(rules + reasons, sent, "{direction} packets counted");
        assert_eq!(total.packets, sent, "{direction} total");
        assert_eq!(total.accepted + total.dropped, sent, "{direction} verdicts");
    }
}
