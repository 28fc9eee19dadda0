//! The enforcer's counters, compared with independent counts of the kernel: they must add up to
//! what passed the interface.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sg_policy::policy::{Policy, load_text};
use sg_userspace::kernel::detach;
use sg_userspace::observe::attached::{Attached, Scope, attached};
use sg_userspace::observe::counters::{Counters, RuleCounters, counters};
use sg_userspace::observe::status::Status;

use crate::line::NIC;
use crate::sandbox::run;
use crate::service::PATIENCE;

/// Reads a policy from its text, for policies that have more than rules.
#[track_caller]
pub(crate) fn policy(text: &str) -> Policy {
    let loaded = load_text("a test", text, None, &[]);
    loaded.unwrap_or_else(|e| panic!("{e}\n{text}")).policy
}

/// The policy on the node's interface. Its methods must be called on the node's thread.
pub(crate) struct Enforced {
    bpffs: PathBuf,
    reached: Counter,
    /// The counters before the test began, with what the interfaces had sent by themselves.
    before: Option<Counters>,
}

impl Enforced {
    /// Also starts counting outbound packets before and after the outbound hook. Inbound packets
    /// are counted by the interface.
    pub(crate) fn new(bpffs: &Path) -> Enforced {
        let fifo = [
            "qdisc", "replace", "dev", NIC, "root", "pfifo", "limit", "100000",
        ];
        run("tc", &fifo);
        Enforced {
            bpffs: bpffs.to_owned(),
            // nftables' egress hook comes before that of tc, and the queueing discipline after it.
            reached: Counter::new("netdev", &format!("hook egress device {NIC}"), ""),
            before: None,
        }
    }

    /// Waits until the interfaces have stopped sending by themselves. Reasons are counted from here
    /// on.
    pub(crate) fn begin(&mut self) {
        self.before = Some(self.at_rest().0);
    }

    pub(crate) fn attached(&self) -> Attached {
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

    /// Detaches the policy.
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
            .find(|rule| {
                rule.direction.name().starts_with(direction) && rule.position == Some(position)
            })
            .unwrap_or_else(|| panic!("no rule {name}"))
    }

    /// How many packets of a reason, for example `in related`, the test has caused.
    #[track_caller]
    pub(crate) fn reason(&self, name: &str) -> u64 {
        let before = self.before.as_ref().map_or(0, |it| of_reason(it, name));
        of_reason(&self.counters(), name) - before
    }

    /// A2: waits until no more packets pass, and compares the enforcer's sums with the kernel's
    /// counts.
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
            // Without segmentation offload the kernel counts the same packets as the wire.
            assert_eq!(
                outbound.seen, kernel.reached,
                "outbound packets seen: {table}"
            );
        }
        for (name, sums) in [("inbound", inbound), ("outbound", outbound)] {
            let told = counted
                .totals
                .iter()
                .find(|total| total.direction.name() == name);
            let told = told.expect("a total for each direction");
            assert_eq!(
                (told.packets, told.bytes, told.accepted),
                (sums.seen, sums.seen_bytes, sums.accepted),
                "the {name} total: {table}"
            );
        }
    }

    /// The counters of the enforcer and of the kernel, once they have stopped changing.
    fn at_rest(&self) -> (Counters, KernelCounts) {
        /// How many readings in a row must agree. More than one, because a packet may be waiting
        /// for a busy processor.
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

    /// How many packets left the node, and in how many the stack had sent them before segmentation.
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
    let rows = rows
        .filter(|row| row.direction.name().starts_with(direction) && row.reason.name() == reason);
    let packets: Vec<u64> = rows.map(|row| row.packets).collect();
    assert!(!packets.is_empty(), "no reason {name}");
    packets.iter().sum()
}

/// The sums of all listed rows of one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    seen: u64,
    seen_bytes: u64,
    accepted: u64,
    accepted_bytes: u64,
}

fn sums(counters: &Counters, direction: &str) -> Sums {
    let rules = counters.rules.iter().map(|rule| {
        if rule.direction.name() == direction {
            (rule.packets, rule.bytes, rule.action.name())
        } else {
            (rule.reply_packets, rule.reply_bytes, "accept")
        }
    });
    let reasons = counters
        .reasons
        .iter()
        .filter(|row| row.direction.name() == direction);
    let reasons = reasons.map(|row| (row.packets, row.bytes, row.action.name()));
    let mut sums = Sums::default();
    for (packets, bytes, action) in rules.chain(reasons) {
        sums.seen += packets;
        sums.seen_bytes += bytes;
        if action != "drop" {
            sums.accepted += packets;
            sums.accepted_bytes += bytes;
        }
    }
    sums
}

/// What the kernel has counted independently of the enforcer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KernelCounts {
    /// Packets that the interface received, before XDP.
    received: u64,
    /// Packets that reached the outbound hook. One that is segmented later counts once.
    reached: u64,
    /// Packets and bytes that left the outbound hook, as the wire sees them.
    left: u64,
    left_bytes: u64,
    /// Packets that left the hook. One that is segmented later counts once.
    left_whole: u64,
}

/// Counts packets at one point of the node's network stack. A packet that was joined from several,
/// or is segmented later, counts once.
pub(crate) struct Counter {
    family: &'static str,
    name: String,
}

impl Counter {
    /// Counts the packets that match an expression of nftables, at one of its hooks.
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
    serde_json::from_str(&run(program, arguments)).expect("the tool prints JSON")
}
