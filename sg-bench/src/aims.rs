//! Where rows should stand: above the floor of the same run, with counting for each rule and the
//! whole stateful program loaded. What they do not reach, docs/performance.md explains.

/// In the unit of the row; none for rows that are there for comparison.
pub(crate) fn aim(name: &str) -> Option<f64> {
    let aim = match name {
        "live/tke/drop" | "live/tke/accept" | "live/flood/syn" => 10.0,
        "live/rules/10" | "live/rules/100" | "live/rules/1k" | "live/rules/10k" => 15.0,
        "live/prefixes/10" => 15.0,
        "live/prefixes/1m" => 50.0,
        "live/prefixes6/10" => 25.0,
        "live/prefixes6/100k" => 90.0,
        "live/ipsum" => 25.0,
        "live/classbench/acl1_1k" | "live/classbench/acl1_8k" | "live/classbench/ipc1_8k" => 25.0,
        "live/flow/1k" => 25.0,
        "live/flow/64k" => 120.0,
        "live/flow/1m" => 200.0,
        "apply/tke/first" | "apply/tke/replace" => 0.1,
        "apply/classbench_8k/first" | "apply/classbench_8k/replace" => 1.0,
        "apply/ipsum/first" | "apply/ipsum/replace" => 0.5,
        "apply/1m/first" | "apply/1m/replace" => 1.5,
        "apply/1m/kernel" => 256.0,
        _ => return None,
    };
    Some(aim)
}
