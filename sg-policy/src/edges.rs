//! The packets at the edges of a partition: where the rule that decides may change from one packet
//! to the next. At each end of each cell's numbers there is one, and on both sides of each boundary
//! between two ranges of addresses. Tables that decide all of
//! these packets as the oracle does have no boundary in the wrong place.
//!
//! Of very large policies an even share is chosen, always the same: see [`Edges`].

use std::collections::HashMap;
use std::net::IpAddr;

use sg_common::{protocol::Kind, verdict::Direction};

use crate::oracle::{Packet, packet_of};
use crate::partition::{AddressRange, Class, Decisions, Family, Partition};

/// Packets at the edges of a partition.
#[derive(Clone, Debug, Default)]
pub struct Edges {
    /// The packets, each different.
    pub packets: Vec<Packet>,
    /// How many there are at the edges of the classes that were looked at. If it is more than
    /// there are in `packets`, those are an even share of them.
    pub of: usize,
    /// How many classes of addresses were looked at.
    pub classes: usize,
    /// How many classes there are.
    pub all_classes: usize,
}

/// For how many rules of all classes together the steps of numbers are found.
const RULES_OF_CLASSES: usize = 4_000_000;
/// The fewest classes that are looked at, if there are so many.
const FEWEST_CLASSES: usize = 64;

/// The packets at the edges of `partition`, of a policy of `rules` rules; at most `most` of them.
pub fn edges(partition: &Partition, rules: usize, most: usize) -> Edges {
    let mut taken = Taken::new(most);
    let ranges = Family::BOTH.map(|family| partition.ranges(family).collect::<Vec<_>>());
    let classes = addresses(&ranges);
    let limit = (RULES_OF_CLASSES / (rules + 1)).max(FEWEST_CLASSES);
    let step = classes.len().div_ceil(limit).max(1);
    let looked_at = classes.iter().step_by(step);
    let count = looked_at.len();
    for (class, remote) in looked_at {
        numbers(&partition.decisions(*class), *remote, &mut taken);
    }
    for ranges in &ranges {
        boundaries(partition, ranges, limit, &mut taken);
    }
    Edges {
        of: taken.of,
        packets: taken.packets(),
        classes: count,
        all_classes: classes.len(),
    }
}

/// Each class with its lowest address.
fn addresses(ranges: &[Vec<AddressRange>]) -> Vec<(Class, IpAddr)> {
    let mut lowest: HashMap<Class, IpAddr> = HashMap::new();
    for range in ranges.iter().flatten() {
        lowest.entry(range.class).or_insert(range.first);
    }
    let mut all: Vec<_> = lowest.into_iter().collect();
    all.sort_unstable();
    all
}

/// Both ends of each step of numbers of a class.
fn numbers(decisions: &Decisions, remote: IpAddr, taken: &mut Taken) {
    for direction in Direction::BOTH {
        for kind in Kind::ALL {
            let steps = decisions.steps(direction, kind);
            let lasts = steps.iter().skip(1).map(|step| step.first - 1);
            for (step, last) in steps.iter().zip(lasts.chain([u16::MAX])) {
                let of = |number| packet_of(direction, remote, kind, number);
                let [first, last] = match kind {
                    // Not every number is one of a protocol of this kind, and the low byte is not
                    // looked at.
                    Kind::Other => {
                        let all = (step.first >> 8)..=(last >> 8);
                        let possible = |number: u16| of(number << 8);
                        [all.clone().find_map(possible), all.rev().find_map(possible)]
                    }
                    _ => [of(step.first), of(last)],
                };
                taken.take(first);
                taken.take(last.filter(|_| last != first));
            }
        }
    }
}

/// The last packet before each boundary and the first one behind it, of a kind and number for which
/// another rule decides there. Boundaries without such a number are none.
fn boundaries(partition: &Partition, ranges: &[AddressRange], limit: usize, taken: &mut Taken) {
    let mut differing: HashMap<(Class, Class), Option<Question>> = HashMap::new();
    let count = ranges.len().saturating_sub(1);
    let mut left_out = 0usize;
    for pair in ranges.windows(2) {
        let [before, behind] = pair else {
            continue;
        };
        let classes = (before.class, behind.class);
        // Evenly, where there are too many different pairs.
        let is_left_out = !differing.contains_key(&classes)
            && differing.len() >= limit
            && !left_out.is_multiple_of(count.div_ceil(limit));
        if is_left_out {
            left_out += 1;
            taken.leave_out(2);
            continue;
        }
        left_out += usize::from(differing.len() >= limit);
        let question = differing.entry(classes).or_insert_with(|| {
            let [before, behind] = [classes.0, classes.1].map(|class| partition.decisions(class));
            first_difference(before_first(&before, &behind), pair)
        });
        if let Some((direction, kind, number)) = *question {
            taken.take(packet_of(direction, before.last, kind, number));
            taken.take(packet_of(direction, behind.first, kind, number));
        }
    }
}

type Question = (Direction, Kind, u16);

/// All numbers for which two classes have different rules, as far as they begin a step of one of
/// them.
fn before_first<'a>(a: &'a Decisions, b: &'a Decisions) -> impl Iterator<Item = Question> + 'a {
    Direction::BOTH.into_iter().flat_map(move |direction| {
        Kind::ALL.into_iter().flat_map(move |kind| {
            let steps = [a, b].map(|decisions| decisions.steps(direction, kind));
            let numbers = steps.into_iter().flatten().map(|step| step.first);
            numbers
                .filter(move |number| {
                    a.rule(direction, kind, *number) != b.rule(direction, kind, *number)
                })
                .map(move |number| (direction, kind, number))
        })
    })
}

/// The first of `questions` that a packet of both sides can ask.
fn first_difference(
    mut questions: impl Iterator<Item = Question>,
    pair: &[AddressRange],
) -> Option<Question> {
    questions.find(|(direction, kind, number)| {
        let mut sides = pair.iter();
        sides.all(|range| packet_of(*direction, range.first, *kind, *number).is_some())
    })
}

/// Packets of which an even share is kept: each, or every second, fourth, …
struct Taken {
    packets: Vec<Packet>,
    most: usize,
    share: usize,
    of: usize,
}

impl Taken {
    fn new(most: usize) -> Self {
        Taken {
            packets: Vec::new(),
            most: most.max(1),
            share: 1,
            of: 0,
        }
    }

    fn take(&mut self, packet: Option<Packet>) {
        let Some(packet) = packet else {
            return;
        };
        if self.of.is_multiple_of(self.share) {
            self.packets.push(packet);
        }
        self.of += 1;
        if self.packets.len() > 2 * self.most {
            self.halve();
        }
    }

    fn leave_out(&mut self, count: usize) {
        self.of += count;
    }

    fn halve(&mut self) {
        let mut index = 0;
        self.packets.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        self.share *= 2;
    }

    fn packets(mut self) -> Vec<Packet> {
        if self.packets.len() > self.most {
            self.halve();
        }
        self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{first_match, kind_and_number};
    use crate::policy::rules_from_lines;
    use crate::testing::{Shape, packet, rules};
    use fastrand::Rng;

    /// The packets on both sides of each edge, and nothing else, of a policy that can be counted by
    /// hand.
    #[test]
    fn both_sides_of_each_edge_are_tried() {
        let policy = rules_from_lines("in tcp 22-30 from 10.0.0.0/8 accept");
        let partition = Partition::new(&policy);
        let edges = edges(&partition, 1, 1000);
        let tried = |direction, remote: &str, port| {
            let remote = remote.parse().unwrap();
            let wanted = |p: &&Packet| {
                (p.direction, p.remote, p.protocol, p.port) == (direction, remote, 6, port)
            };
            edges.packets.iter().any(|p| wanted(&p))
        };
        let inbound = Direction::Inbound;
        for (remote, port) in [
            ("10.0.0.0", 0),
            ("10.0.0.0", 21),
            ("10.0.0.0", 22),
            ("10.0.0.0", 30),
            ("10.0.0.0", 31),
            ("10.0.0.0", 65535),
            ("9.255.255.255", 22),
            ("10.255.255.255", 22),
            ("11.0.0.0", 22),
            ("0.0.0.0", 0),
            ("::", 65535),
        ] {
            assert!(tried(inbound, remote, port), "{remote} {port}");
        }
        assert!(!tried(inbound, "10.0.0.0", 25));
        assert!(tried(Direction::Outbound, "10.0.0.0", 0));
        assert_eq!((edges.of, edges.classes), (edges.packets.len(), 3));
        assert_eq!(edges.all_classes, 3);
    }

    /// Whatever boundary is moved in a random policy, some packet at an edge tells: each rule that
    /// decides any random packet decides one of the packets at the edges.
    #[test]
    fn every_rule_that_decides_anything_decides_at_an_edge() {
        let mut rng = Rng::with_seed(7);
        let mut decided = 0;
        for _ in 0..60 {
            let shape = Shape {
                rules: rng.usize(1..40),
                ipv6: 40,
                inbound_only: false,
            };
            let policy = rules_from_lines(&rules(&mut rng, shape));
            let partition = Partition::new(&policy);
            let edges = edges(&partition, policy.rules.len(), usize::MAX / 2);
            assert_eq!(edges.of, edges.packets.len());
            let by_edges: std::collections::BTreeSet<_> = edges
                .packets
                .iter()
                .map(|packet| (packet.direction as u8, first_match(&policy, packet)))
                .collect();
            for _ in 0..200 {
                let packet = packet(&mut rng, &policy);
                let (kind, number) = kind_and_number(&packet);
                if packet_of(packet.direction, packet.remote, kind, number).is_none() {
                    continue;
                }
                let rule = first_match(&policy, &packet);
                assert!(
                    by_edges.contains(&(packet.direction as u8, rule)),
                    "{packet:?}"
                );
                decided += 1;
            }
        }
        assert!(decided > 5000, "{decided}");
    }

    #[test]
    fn an_even_share_is_the_same_each_time_and_within_its_bound() {
        let mut rng = Rng::with_seed(3);
        let shape = Shape {
            rules: 200,
            ipv6: 30,
            inbound_only: false,
        };
        let policy = rules_from_lines(&rules(&mut rng, shape));
        let partition = Partition::new(&policy);
        let all = edges(&partition, 200, usize::MAX / 2);
        for most in [1, 10, 500] {
            let some = edges(&partition, 200, most);
            assert_eq!(some.of, all.of);
            assert!(!some.packets.is_empty() && some.packets.len() <= most);
            assert_eq!(some.packets, edges(&partition, 200, most).packets);
            assert!(some.packets.iter().all(|p| all.packets.contains(p)));
        }
    }
}
