//! What the enforcer counted, and whether that adds up to what passed the interface by the
//! kernel's own counts, which know nothing of the enforcer.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sg_policy::policy::{Policy, load_text};
use sg_userspace::kernel::detach;
use sg_userspace::observe::attached::{Attached, Scope, Status, attached};
use sg_userspace::observe::counters::{Counters, RuleCounters, counters};

use crate::line::NIC;
use crate::sandbox::run;
use crate::service::PATIENCE;

/// A policy from its text, for those that have more than rules.
#[track_caller]
pub(crate) fn policy(text: &str) -> Policy {
    let loaded = load_text("a test", text, None, &[]);
    loaded.unwrap_or_else(|e| panic!("{e}\n{text}")).policy
}

/// The policy on the node's interface. Its methods are for the node's own thread.
pub(crate) struct Enforced {
    bpffs: PathBuf,
    reached: Counter,
    /// What the interfaces themselves said before the test began.
    before: Option<Counters>,
}

impl Enforced {
    /// Also begins to count, at both ends of the path outwards, what reaches the outbound hook and
    /// what leaves it; the inbound side is counted by the interface.
    pub(crate) fn new(bpffs: &Path) -> Enforced {
        let fifo = [
            "qdisc", "replace", "dev", NIC, "root", "pfifo", "limit", "100000",
        ];
        run("tc", &fifo);
        Enforced {
            bpffs: bpffs.to_owned(),
            // This hook is before tc's, the queueing discipline behind it.
            reached: Counter::new("netdev", &format!("hook egress device {NIC}"), ""),
            before: None,
        }
    }

    /// Waits until the interfaces have nothing to say any more, and counts reasons from there.
    pub(crate) fn begin(&mut self) {
        self.before = Some(self.at_rest().0);
    }

    fn attached(&self) -> Attached {
        attached(&self.bpffs, &Scope::Interface(NIC.into()))
            .unwrap_or_else(|e| panic!("{e}"))
            .remove(0)
    }

    pub(crate) fn status(&self) -> Status {
        self.attached().status().unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) fn counters(&self) -> Counters {
        counters(&self.attached()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Takes the policy away.
    pub(crate) fn detach(self) {
        detach(&self.bpffs, &self.attached().pins).unwrap_or_else(|e| panic!("{e}"));
    }

    /// The counters of a rule, for example `in 2`.
    #[track_caller]
    pub(crate) fn rule(&self, name: &str) -> RuleCounters {
        let (direction, position) = name.split_once(' ').expect("a direction and a position");
        let position: u32 = position.parse().expect("a position");
        let mut rules = self.counters().rules.into_iter();
        rules
            .find(|rule| rule.direction.starts_with(direction) && rule.position == Some(position))
            .unwrap_or_else(|| panic!("no rule {name}"))
    }

    /// Packets of a reason, for example `in related`, that the test has caused.
    #[track_caller]
    pub(crate) fn reason(&self, name: &str) -> u64 {
        let before = self.before.as_ref().map_or(0, |it| of_reason(it, name));
        of_reason(&self.counters(), name) - before
    }

    /// SPEC A2 for everything that has passed: waits until nothing more does, and compares.
    #[track_caller]
    pub(crate) fn assert_adds_up(&self) {
        let (counted, kernel) = self.at_rest();
        let (inbound, outbound) = (sums(&counted, "inbound"), sums(&counted, "outbound"));
        let table = serde_json::to_string_pretty(&counted).expect("counters are JSON");
        assert_eq!(
            inbound.seen, kernel.received,
            "inbound packets seen: {table}"
        );
        assert_eq!(
            (outbound.accepted, outbound.accepted_bytes),
            (kernel.left, kernel.left_bytes),
            "outbound packets and bytes that left: {table}"
        );
        assert!(outbound.seen >= kernel.reached, "outbound packets: {table}");
        if kernel.left == kernel.left_whole {
            // No segmentation offload, so that the kernel counted packets as the wire does.
            assert_eq!(
                outbound.seen, kernel.reached,
                "outbound packets seen: {table}"
            );
        }
        for (name, sums) in [("inbound", inbound), ("outbound", outbound)] {
            let told = counted.totals.iter().find(|total| total.direction == name);
            let told = told.expect("a total for each direction");
            assert_eq!(
                (told.packets, told.bytes, told.accepted),
                (sums.seen, sums.seen_bytes, sums.accepted),
                "the {name} total: {table}"
            );
        }
    }

    /// Both counts, once they stay the same.
    fn at_rest(&self) -> (Counters, KernelCounts) {
        /// Looks that must show the same: a packet may wait for a busy processor.
        const AT_REST: u32 = 4;
        let deadline = Instant::now() + PATIENCE;
        let (mut before, mut same) = (self.kernel(), 0);
        loop {
            sleep(Duration::from_millis(50));
            let counters = self.counters();
            let now = self.kernel();
            same = if now == before { same + 1 } else { 0 };
            if same == AT_REST || Instant::now() > deadline {
                return (counters, now);
            }
            before = now;
        }
    }

    /// Packets that left the node, and in how many the stack had sent them.
    pub(crate) fn left(&self) -> (u64, u64) {
        let kernel = self.kernel();
        (kernel.left, kernel.left_whole)
    }

    fn kernel(&self) -> KernelCounts {
        let number = |value: &serde_json::Value| value.as_u64().expect("a count");
        let link = &json("ip", &["-j", "-s", "link", "show", "dev", NIC])[0]["stats64"];
        let queue = &json("tc", &["-j", "-s", "qdisc", "show", "dev", NIC, "root"])[0];
        KernelCounts {
            received: number(&link["rx"]["packets"]),
            reached: self.reached.read(),
            left: number(&queue["packets"]),
            left_bytes: number(&queue["bytes"]),
            left_whole: number(&link["tx"]["packets"]),
        }
    }
}

#[track_caller]
fn of_reason(counters: &Counters, name: &str) -> u64 {
    let (direction, reason) = name.split_once(' ').expect("a direction and a reason");
    let rows = counters.reasons.iter();
    let rows = rows.filter(|row| row.direction.starts_with(direction) && row.reason == reason);
    let packets: Vec<u64> = rows.map(|row| row.packets).collect();
    assert!(!packets.is_empty(), "no reason {name}");
    packets.iter().sum()
}

/// The listed rows of one direction, summed up.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    seen: u64,
    seen_bytes: u64,
    accepted: u64,
    accepted_bytes: u64,
}

fn sums(counters: &Counters, direction: &str) -> Sums {
    let rules = counters.rules.iter().map(|rule| {
        if rule.direction == direction {
            (rule.packets, rule.bytes, rule.action)
        } else {
            (rule.reply_packets, rule.reply_bytes, "accept")
        }
    });
    let reasons = counters
        .reasons
        .iter()
        .filter(|row| row.direction == direction);
    let reasons = reasons.map(|row| (row.packets, row.bytes, row.action));
    let mut sums = Sums::default();
    for (packets, bytes, action) in rules.chain(reasons) {
        sums.seen += packets;
        sums.seen_bytes += bytes;
        if action == "accept" {
            sums.accepted += packets;
            sums.accepted_bytes += bytes;
        }
    }
    sums
}

/// What the kernel counted without the enforcer's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KernelCounts {
    /// Packets that the interface received, before XDP.
    received: u64,
    /// Packets that reached the outbound hook; one that is to be segmented is one.
    reached: u64,
    /// Packets and bytes that left it, as the wire sees them.
    left: u64,
    left_bytes: u64,
    /// Packets that left it; one that is to be segmented is one.
    left_whole: u64,
}

/// Counts packets somewhere in the node's network stack. One that is yet to be segmented, or that
/// has been joined of several, is one.
pub(crate) struct Counter {
    family: &'static str,
    name: String,
}

impl Counter {
    /// Of those that match an expression of nftables, at one of its hooks.
    pub(crate) fn new(family: &'static str, hook: &str, expression: &str) -> Counter {
        let name = format!("counter{}", fastrand::u64(..));
        let chain = format!(
            "table {family} {name} {{ chain only {{ type filter {hook} priority 0; {expression} counter; }}; }}"
        );
        run("nft", &[&chain]);
        Counter { family, name }
    }

    pub(crate) fn read(&self) -> u64 {
        let table = json("nft", &["-j", "list", "table", self.family, &self.name]);
        let parts = table["nftables"].as_array().expect("a list").iter();
        let mut expressions = parts.filter_map(|part| part["rule"]["expr"].as_array()?.last());
        let counter = &expressions.next().expect("one rule")["counter"];
        counter["packets"].as_u64().expect("a count")
    }
}

fn json(program: &str, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&run(program, arguments)).expect("the tool speaks JSON")
}
