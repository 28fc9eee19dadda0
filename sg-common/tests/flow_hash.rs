//! The flow table's hash: for any secret, keys in a row spread as keys at random do.

use sg_common::flow_entry::{FlowKey, HASH_KEYS, hash};
use sg_common::flow_table::{Spot, WAYS, groups_for};

/// Numbers without pattern (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What the keys of new flows look like. IPv4 addresses and the halves of IPv6 ones are in wire
/// order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Random,
    /// One client, and its ports in a row.
    Ports,
    /// As many clients, all from one port.
    Hosts,
    Hosts6,
    /// The next client has the next port.
    Both,
    /// A few ports each of clients in a row.
    HostsWithPorts,
    /// The node's own ports, to one server.
    OwnPorts6,
}

const SHAPES: [Shape; 6] = [
    Shape::Ports,
    Shape::Hosts,
    Shape::Hosts6,
    Shape::Both,
    Shape::HostsWithPorts,
    Shape::OwnPorts6,
];

impl Shape {
    fn key(self, number: u32, random: &mut Random) -> FlowKey {
        let v4 = |host: u32| [0x0102_00c0, 0, (0x0a00_0000 + host).swap_bytes().into(), 0];
        let v6 = |host: u32| {
            [
                0xb80d_0120,
                1 << 56,
                0xb80d_0120,
                u64::from(host).swap_bytes(),
            ]
        };
        let name = |local, remote| FlowKey::name(local, remote, 6, false);
        let name6 = |local, remote| FlowKey::name(local, remote, 6, true);
        let port = 1024 + number as u16;
        let (addresses, name) = match self {
            Shape::Random => {
                let remote = random.next() >> 32;
                let name = name(random.next() as u16, random.next() as u16);
                ([random.next() >> 32, 0, remote, 0], name)
            }
            Shape::Ports => (v4(7), name(80, port)),
            Shape::Hosts => (v4(number), name(80, 4000)),
            Shape::Hosts6 => (v6(number), name6(80, 4000)),
            Shape::Both => (v4(number), name(80, port)),
            Shape::HostsWithPorts => (v4(number / 200), name(80, 32768 + (number % 200) as u16)),
            Shape::OwnPorts6 => (v6(7), name6(port, 443)),
        };
        FlowKey { addresses, name }
    }
}

/// Where so many new flows of a shape go, with the secret of that number.
fn spots(shape: Shape, secret: u64, flows: u32, groups: u32) -> Vec<Spot> {
    let mut random = Random(secret << 32);
    let keys: [u64; HASH_KEYS] = std::array::from_fn(|_| random.next());
    let spot = |number| Spot::of(hash(&shape.key(number, &mut random), |i| keys[i]), groups);
    (0..flows).map(spot).collect()
}

/// How many of them have to go for others. As `flow_table` has it for half-open flows: eight of
/// one word, of which three have the same tag.
fn lost(spots: &[Spot], groups: u32) -> u32 {
    let mut words = vec![(0usize, [0u8; WAYS]); groups as usize * 2];
    let mut lost = 0;
    for spot in spots {
        let (used, tags) = &mut words[(spot.group * 2 + (spot.half_open & 1)) as usize];
        let same = tags[..*used]
            .iter()
            .filter(|tag| u64::from(**tag) == spot.tag);
        if *used == WAYS || same.count() >= 3 {
            lost += 1;
        } else {
            tags[*used] = spot.tag as u8;
            *used += 1;
        }
    }
    lost
}

/// The most that any of so many secrets loses.
fn worst(shape: Shape, secrets: u64, flows: u32, groups: u32) -> u32 {
    let lost = |secret| lost(&spots(shape, secret, flows, groups), groups);
    (0..secrets).map(lost).max().expect("there are secrets")
}

/// Proves K9 and K10: of 20,000 new flows of one client, with ports in a row, a table of the
/// default size keeps as many as of 20,000 flows at random, whatever the secret.
#[test]
fn ports_in_a_row_find_room_whatever_the_secret() {
    const FLOWS: u32 = 20_000;
    let groups = groups_for(131_072);
    let at_random = worst(Shape::Random, 500, FLOWS, groups);
    assert!((1..20).contains(&at_random), "{at_random} at random");
    let in_a_row = worst(Shape::Ports, 3000, FLOWS, groups);
    // The worst of six times as many secrets is a little worse.
    assert!(
        in_a_row <= at_random + 10,
        "{in_a_row} lost, {at_random} at random"
    );
}

/// Proves K9 and K10: so do clients in a row, and both.
#[test]
fn keys_in_a_row_find_room_whatever_the_secret() {
    // A small table, as full as the one above.
    const FLOWS: u32 = 2000;
    let groups = groups_for(13_107);
    let at_random = worst(Shape::Random, 2000, FLOWS, groups);
    for shape in SHAPES {
        let in_a_row = worst(shape, 2000, FLOWS, groups);
        assert!(
            in_a_row <= at_random + 6,
            "{shape:?}: {in_a_row} lost, {at_random} at random"
        );
    }
}

/// How many standard deviations the chi-square of these numbers, each below `cells`, lies above
/// what it is at random.
fn unevenness(numbers: impl Iterator<Item = u32>, cells: usize) -> f64 {
    let mut counts = vec![0u32; cells];
    let mut all = 0;
    for number in numbers {
        counts[number as usize] += 1;
        all += 1;
    }
    let expected = f64::from(all) / cells as f64;
    let square = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
    let free = (cells - 1) as f64;
    (counts.iter().map(square).sum::<f64>() - free) / (2.0 * free).sqrt()
}

/// Proves K9 and K10: every part of a spot is as even for keys in a row as for keys at random,
/// and so is each pair of word and tag.
#[test]
fn every_part_of_a_spot_is_even() {
    const GROUPS: u32 = 1366;
    for shape in SHAPES.into_iter().chain([Shape::Random]) {
        for secret in 0..400 {
            let spots = spots(shape, secret, 4000, GROUPS);
            let by = |part: fn(&Spot) -> u32, cells| unevenness(spots.iter().map(part), cells);
            for (part, uneven) in [
                ("group", by(|s| s.group, GROUPS as usize)),
                ("first", by(|s| s.group * 3 + s.first, 3 * GROUPS as usize)),
                (
                    "second",
                    by(|s| s.group * 3 + s.second - 3, 3 * GROUPS as usize),
                ),
                (
                    "half-open",
                    by(|s| s.group * 2 + s.half_open - 6, 2 * GROUPS as usize),
                ),
                ("tag", by(|s| s.tag as u32 - 2, 254)),
                (
                    "words",
                    by(|s| (s.first * 3 + s.second - 3) * 2 + s.half_open - 6, 18),
                ),
            ] {
                // In standard deviations: a fair hash practically never exceeds this limit.
                assert!(uneven < 6.5, "{shape:?}, secret {secret}: {part} {uneven}");
            }
        }
    }
}
