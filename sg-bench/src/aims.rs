//! Where rows should stand. Absolute figures move with the machine, so what is compared was
//! measured in the same run: with xdp-filter, with nftables, with empty programs. How long a whole
//! `apply` may take, and what memory, is absolute.

use crate::cases::{CANDIDATE, CONFIRMED, WATCHED};
use crate::observe;
use crate::statistics::{Aim, Record, round};

/// How many times as much of a core nftables takes for the same packets.
const NFTABLES: f64 = 5.0;

/// What is left of the throughput, or of the requests a second, that empty programs allow.
const OF_EMPTY: f64 = 0.95;

/// How many times as much a packet may cost with two interfaces as with one.
const OF_ONE_INTERFACE: f64 = 1.1;

/// How much more a dropped packet may cost while somebody watches, as a share.
const OF_UNWATCHED: f64 = 0.02;

/// What the events of a flood may take of one core, in percent.
const OF_ONE_CORE: f64 = 10.0;

/// Gives each row its aim, if it has one.
pub(crate) fn set(records: &mut [Record]) {
    let aims: Vec<Option<Aim>> = records.iter().map(|record| aim(record, records)).collect();
    for (record, aim) in records.iter_mut().zip(aims) {
        record.aim = aim;
    }
}

fn aim(record: &Record, all: &[Record]) -> Option<Aim> {
    let name = record.name.as_str();
    let other = |name: String| all.iter().find(|other| other.name == name);
    if let Some(rules) = name.strip_prefix("live/rules/") {
        let neighbour = other(format!("live/xdp-filter/{rules}"))?.value?;
        return Some(Aim::AtMost(match rules {
            "10" | "10k" => neighbour,
            // No more than its spread above.
            _ => round(neighbour + record.spread?),
        }));
    }
    // Rows about flows have no aim: we pass their packets and nftables drops them, so that they do
    // not compare.
    if let Some(same) = name
        .strip_prefix("live/nft/")
        .filter(|n| !n.starts_with("flow/"))
    {
        let ours = other(format!("live/{same}"))?;
        let whole = NFTABLES * (ours.value? + ours.floor?);
        return Some(Aim::AtLeast(round(whole - record.floor?)));
    }
    if name == CANDIDATE || name == CONFIRMED {
        let without = other("live/tke/drop".into())?;
        // Within its spread of the row without.
        return Some(Aim::AtMost(round(without.value? + without.spread?)));
    }
    if name == WATCHED {
        // Its floor is what the same program takes without a watcher.
        return Some(Aim::AtMost(round(OF_UNWATCHED * record.floor?)));
    }
    if name == "live/uplinks/2" {
        let one = other("live/uplinks/1".into())?;
        let whole = OF_ONE_INTERFACE * (one.value? + one.floor?);
        return Some(Aim::AtMost(round(whole - record.floor?)));
    }
    if name.starts_with("feel/") && (name.ends_with("/tke") || name.ends_with("/state")) {
        return Some(Aim::AtLeast(OF_EMPTY));
    }
    Some(Aim::AtMost(match name {
        observe::SCRAPE => 20.0,
        stream if observe::is_stream(stream) => OF_ONE_CORE,
        "apply/tke/first" | "apply/tke/replace" => 0.1,
        "apply/classbench_8k/first" | "apply/classbench_8k/replace" => 1.0,
        "apply/ipsum/first" | "apply/ipsum/replace" => 0.5,
        "apply/1m/first" | "apply/1m/replace" => 1.5,
        "apply/1m/peak" | "apply/1m/kernel" => 256.0,
        "flows/1m/text" | "flows/1m/json" | "flows/1m/top" | "flows/1m/filter" => 2.0,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_held_against_others_of_the_same_run() {
        let row = |name: &str, value: f64, floor: f64| {
            Record::of(name, "ns", &[value - 2.0, value, value + 2.0], Some(floor))
        };
        let mut records = [
            row("live/rules/10", 30.0, 80.0),
            row("live/rules/100", 30.0, 80.0),
            row("live/rules/1k", 33.0, 80.0),
            row("live/xdp-filter/10", 40.0, 80.0),
            row("live/xdp-filter/1k", 32.0, 80.0),
            row("live/nft/rules/10", 460.0, 80.0),
            row("live/nft/flow/1k", 530.0, 80.0),
            row("live/tke/drop", 20.0, 80.0),
            row("live/candidate", 23.0, 80.0),
            row("live/trial/waits", 25.0, 80.0),
            row("live/trial/confirmed", 25.0, 80.0),
            row("live/watched", 1.7, 80.0),
            row("live/uplinks/1", 120.0, 380.0),
            row("live/uplinks/2", 171.0, 380.0),
            Record::of("feel/rr/wire/state", "ratio", &[0.94], None),
            Record::of("feel/rr/wire/nft", "ratio", &[0.5], None),
            Record::of("apply/tke/first", "s", &[0.08], None),
            Record::of("observe/scrape_10k", "ms", &[21.0], None),
            Record::of("observe/log", "%", &[3.0], None),
        ];
        set(&mut records);
        let aims: Vec<_> = records
            .iter()
            .map(|record| (record.name.as_str(), record.aim, record.misses()))
            .collect();
        let expected = [
            ("live/rules/10", Some(Aim::AtMost(40.0)), false),
            ("live/rules/100", None, false),
            ("live/rules/1k", Some(Aim::AtMost(36.0)), false),
            ("live/xdp-filter/10", None, false),
            ("live/xdp-filter/1k", None, false),
            ("live/nft/rules/10", Some(Aim::AtLeast(470.0)), true),
            ("live/nft/flow/1k", None, false),
            ("live/tke/drop", None, false),
            ("live/candidate", Some(Aim::AtMost(24.0)), false),
            ("live/trial/waits", None, false),
            ("live/trial/confirmed", Some(Aim::AtMost(24.0)), true),
            ("live/watched", Some(Aim::AtMost(1.6)), true),
            ("live/uplinks/1", None, false),
            ("live/uplinks/2", Some(Aim::AtMost(170.0)), true),
            ("feel/rr/wire/state", Some(Aim::AtLeast(0.95)), true),
            ("feel/rr/wire/nft", None, false),
            ("apply/tke/first", Some(Aim::AtMost(0.1)), false),
            ("observe/scrape_10k", Some(Aim::AtMost(20.0)), true),
            ("observe/log", Some(Aim::AtMost(10.0)), false),
        ];
        assert_eq!(aims, expected);
    }
}
