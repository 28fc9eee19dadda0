//! The partition against the naive oracle, on random policies: at every boundary of every cell.

use std::net::IpAddr;

use fastrand::Rng;
use sg_common::{protocol::Kind, verdict::Direction};

use super::*;
use crate::oracle;
use crate::policy::rules_from_lines;
use crate::testing::{self, Shape, kind_and_number, packet_of};

fn random(seed: u64, most_rules: usize) -> (String, Policy) {
    let mut rng = Rng::with_seed(seed);
    let shape = Shape {
        rules: rng.usize(..most_rules),
        ipv6: [0, 40, 100][seed as usize % 3],
        inbound_only: false,
    };
    let text = testing::rules(&mut rng, shape);
    let policy = rules_from_lines(&text);
    (text, policy)
}

fn first_match(policy: &Policy, packet: &oracle::Packet) -> Option<u32> {
    oracle::first_match(policy, packet).map(|rule| rule as u32)
}

/// Proves P2 of the partition: the first and the last address of every range, with the first and
/// the last number of every cell of its class. What is one beyond a boundary is the first or the
/// last of the neighbour.
#[test]
fn every_boundary_of_every_cell_is_decided_by_the_rule_of_the_cell() {
    let mut asked = 0;
    for seed in 0..600 {
        let (text, policy) = random(seed, 40);
        let partition = Partition::new(&policy);
        let cells: Vec<Cell> = partition.cells().collect();
        for range in Family::BOTH.into_iter().flat_map(|f| partition.ranges(f)) {
            let first = cells.partition_point(|cell| cell.class < range.class);
            let here = cells[first..].iter();
            let here: Vec<&Cell> = here.take_while(|cell| cell.class == range.class).collect();
            assert!(!here.is_empty(), "seed {seed}: no cells of {range:?}");
            for (address, cell) in [range.first, range.last]
                .into_iter()
                .flat_map(|address| here.iter().map(move |cell| (address, cell)))
            {
                for number in [*cell.numbers.start(), *cell.numbers.end()] {
                    let Some(packet) = packet_of(cell.direction, address, cell.kind, number) else {
                        continue;
                    };
                    asked += 1;
                    assert_eq!(
                        cell.rule,
                        first_match(&policy, &packet),
                        "seed {seed}: {packet:?} of {cell:?} with the rules:\n{text}"
                    );
                }
            }
        }
    }
    assert!(asked > 1_000_000, "{asked} packets");
}

/// Proves P2 of the partition, by each of the ways to ask it.
#[test]
fn random_packets_are_decided_as_the_oracle_does() {
    for seed in 1000..1200 {
        let (text, policy) = random(seed, 80);
        let partition = Partition::new(&policy);
        let mut rng = Rng::with_seed(seed);
        for _ in 0..100 {
            let packet = testing::packet(&mut rng, &policy);
            let (kind, number) = kind_and_number(&packet);
            let class = partition.class_of(packet.remote);
            let expected = first_match(&policy, &packet);
            let about = || format!("seed {seed}: {packet:?} with the rules:\n{text}");
            let rule = partition.rule(class, packet.direction, kind, number);
            assert_eq!(rule, expected, "{}", about());
            let decisions = partition.decisions(class);
            let rule = decisions.rule(packet.direction, kind, number);
            assert_eq!(rule, expected, "{}", about());
        }
    }
}

/// One more than an address, as a number of its family.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|a| IpAddr::V4(a.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|a| IpAddr::V6(a.into())),
    }
}

#[test]
fn ranges_and_cells_have_every_packet_once() {
    for seed in 0..100 {
        let (_, policy) = random(seed, 40);
        let partition = Partition::new(&policy);
        for (family, zero, last) in [
            (Family::V4, "0.0.0.0", "255.255.255.255"),
            (Family::V6, "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let zero: IpAddr = zero.parse().unwrap();
            let last: IpAddr = last.parse().unwrap();
            let mut next = Some(zero);
            let mut class = None;
            for range in partition.ranges(family) {
                assert_eq!(Some(range.first), next, "seed {seed}");
                assert!(range.first <= range.last, "seed {seed}: {range:?}");
                assert_ne!(class, Some(range.class), "seed {seed}: {range:?}");
                for address in [range.first, range.last] {
                    assert_eq!(partition.class_of(address), range.class, "seed {seed}");
                }
                class = Some(range.class);
                next = after(range.last);
                if range.last == last {
                    assert_eq!(next, None);
                }
            }
            assert_eq!(next, None, "seed {seed}: the last address has no range");
        }
        // Each class, direction and kind: numbers in order, and between them none of a packet.
        let cells: Vec<Cell> = partition.cells().collect();
        let group = |cell: &Cell| (cell.class, cell.direction as u8, cell.kind as u8);
        assert!(cells.is_sorted_by_key(group), "seed {seed}");
        for cells in cells.chunk_by(|a, b| group(a) == group(b)) {
            let Cell {
                class,
                remote,
                direction,
                kind,
                ..
            } = cells[0];
            assert_eq!(partition.class_of(remote), class, "seed {seed}");
            let mut left_out: Vec<u32> = Vec::new();
            let mut next = 0;
            for cell in cells {
                let (first, last) = (*cell.numbers.start(), *cell.numbers.end());
                assert!(
                    next <= first.into() && first <= last,
                    "seed {seed}: {cell:?}"
                );
                left_out.extend(next..first.into());
                next = u32::from(last) + 1;
            }
            left_out.extend(next..=u16::MAX.into());
            for number in left_out {
                let packet = packet_of(direction, remote, kind, number as u16);
                assert_eq!(packet, None, "seed {seed}: a packet in no cell");
            }
        }
        // No class with addresses is left out, nor a direction or kind of it.
        let ranges = Family::BOTH.into_iter().flat_map(|f| partition.ranges(f));
        let mut classes: Vec<Class> = ranges.map(|range| range.class).collect();
        classes.sort_unstable();
        classes.dedup();
        let groups = cells.chunk_by(|a, b| group(a) == group(b)).count();
        assert_eq!(groups, classes.len() * decisions::SERVICES, "seed {seed}");
    }
}

/// Cells are there for what packets can have, and for nothing else.
#[test]
fn what_no_packet_has_is_in_no_cell() {
    // The two halves are the whole address space, so that no address is left for the class of
    // those outside of both.
    let policy = rules_from_lines(
        "in udp 53 from 0.0.0.0/1 accept
         in udp 54 from 128.0.0.0/1 accept
         in tcp from 0.0.0.0/0 accept",
    );
    let partition = Partition::new(&policy);
    let v4 = |class: &Class| class.family() == Family::V4;
    assert_eq!(partition.classes().filter(v4).count(), 3);
    let mut with_cells: Vec<Class> = partition.cells().map(|cell| cell.class).collect();
    with_cells.dedup();
    assert_eq!(with_cells.iter().filter(|class| v4(class)).count(), 2);

    // Between protocols 5 and 7 there is TCP, which is looked up by its port.
    let policy = rules_from_lines(
        "in 5 from any accept
         in 7 from any accept
         in all from 192.0.2.0/24 drop",
    );
    let partition = Partition::new(&policy);
    let class = partition.class_of("192.0.2.1".parse().unwrap());
    let others: Vec<_> = partition
        .cells()
        .filter(|c| (c.class, c.direction, c.kind) == (class, Direction::Inbound, Kind::Other))
        .map(|cell| (cell.numbers, cell.rule))
        .collect();
    assert_eq!(
        others,
        [
            (0..=0x4ff, Some(2)),
            (0x500..=0x5ff, Some(0)),
            (0x700..=0x7ff, Some(1)),
            (0x800..=0xffff, Some(2)),
        ]
    );
    let decisions = partition.decisions(class);
    assert_eq!(
        decisions.rule(Direction::Inbound, Kind::Other, 0x600),
        Some(2)
    );
}

/// A class is a set of rules that can decide, however it came about.
#[test]
fn addresses_with_the_same_rules_share_a_class() {
    let policy = rules_from_lines(
        "in tcp 22 from 10.0.0.0/8,172.16.0.0/12 accept
         in tcp 80 from 10.1.0.0/16,172.16.0.0/16 accept
         in all from 10.1.1.0/24 drop
         in tcp 443 from 10.1.1.128/25 accept",
    );
    let partition = Partition::new(&policy);
    let class = |address: &str| partition.class_of(address.parse().unwrap());
    assert_eq!(class("10.1.0.1"), class("172.16.255.255"));
    assert_ne!(class("10.1.0.1"), class("10.2.0.1"));
    // Behind a rule that matches every packet nothing can decide.
    assert_eq!(class("10.1.1.1"), class("10.1.1.129"));
    assert_eq!(class("2001:db8::1"), class("::"));
}
