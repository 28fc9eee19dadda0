//! Whether the counters of both nodes are what their interfaces have counted.

use super::network::{NODES, Network, Who};
use super::nodes::Nodes;

/// Packets of one node: inbound of the counters and of the interface, then outbound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    inbound: [u64; 2],
    outbound: [u64; 2],
    /// Of the counters, in both directions.
    dropped: u64,
}

/// What was counted when the policy came.
pub(super) struct Since([Counts; 2]);

impl Since {
    pub(super) fn now(network: &Network, nodes: &Nodes) -> Since {
        Since(NODES.map(|node| counts(network, nodes, node)))
    }

    /// Fails unless counters and interfaces have counted the same since then. Returns for each node
    /// how many packets these were, and how many of them were dropped.
    #[track_caller]
    pub(super) fn assert_equal(&self, network: &Network, nodes: &Nodes) -> [(u64, u64); 2] {
        let each = NODES.into_iter().zip(self.0);
        let found: Vec<(u64, u64)> = each
            .map(|(node, before)| {
                let now = counts(network, nodes, node);
                let [inbound, outbound] = [
                    [0, 1].map(|n| now.inbound[n] - before.inbound[n]),
                    [0, 1].map(|n| now.outbound[n] - before.outbound[n]),
                ];
                assert_eq!(
                    inbound[0], inbound[1],
                    "{node}, inbound: {before:?}, {now:?}"
                );
                assert_eq!(
                    outbound[0], outbound[1],
                    "{node}, outbound: {before:?}, {now:?}"
                );
                (inbound[0] + outbound[0], now.dropped - before.dropped)
            })
            .collect();
        [found[0], found[1]]
    }
}

/// Both at a moment at which nothing passes.
fn counts(network: &Network, nodes: &Nodes, node: Who) -> Counts {
    for _ in 0..200 {
        let before = of_the_interface(network, node);
        let totals = nodes.counters(network, node)["totals"].clone();
        if of_the_interface(network, node) != before {
            continue;
        }
        let of = |direction: &str, what: &str| {
            let rows = totals.as_array().expect("a list").iter();
            let row = rows.clone().find(|row| row["direction"] == direction);
            row.expect("its totals")[what].as_u64().expect("a number")
        };
        return Counts {
            inbound: [of("inbound", "packets"), before[0]],
            // What is dropped at the hook does not reach the interface.
            outbound: [of("outbound", "accepted"), before[1]],
            dropped: of("inbound", "dropped") + of("outbound", "dropped"),
        };
    }
    panic!("{node} is never quiet");
}

/// Packets received, and sent together with those for which the other end had no room.
fn of_the_interface(network: &Network, node: Who) -> [u64; 2] {
    let table = network.inside(node, || {
        std::fs::read_to_string("/proc/thread-self/net/dev")
    });
    let table = table.expect("proc is mounted");
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let numbers = line.expect("the node has eth0").split_whitespace();
    let numbers: Vec<u64> = numbers.map(|it| it.parse().expect("a number")).collect();
    // Eight columns are about what was received: bytes, packets, errors, losses, …
    [numbers[1], numbers[9] + numbers[11]]
}
