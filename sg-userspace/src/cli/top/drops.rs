//! Which sources and ports were dropped most in the last minute, or since `top` looks, by the
//! events that were seen. Events are samples; how many packets were dropped is known from the
//! counters.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use sg_common::verdict::Direction;

/// The time that is looked back, in slices of which the oldest is forgotten.
const SLICE: Duration = Duration::from_secs(10);
const SLICES: usize = 6;

/// How many different sources or ports a slice remembers. A flood has more; those that were seen
/// least are forgotten then.
const MOST: usize = 4096;

/// A packet that was dropped, as an event shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) direction: Direction,
    /// Where it came from. `None` if it was no IP packet.
    pub(super) source: Option<IpAddr>,
    /// The protocol and the port that it was sent to, if that has ports.
    pub(super) port: Option<(u8, u16)>,
    /// How many packets it is: more than one if the kernel had joined them.
    pub(super) packets: u64,
}

pub(super) type Source = (Direction, IpAddr);
/// Protocol and port.
pub(super) type Port = (Direction, u8, u16);

/// The drops of the last minute.
#[derive(Clone, Default)]
pub(super) struct Drops {
    /// When the counters were read first: what was dropped before is not known.
    began: Option<Duration>,
    slices: VecDeque<Slice>,
}

#[derive(Clone, Default)]
struct Slice {
    began: Duration,
    /// By the counters.
    dropped: u64,
    /// By events.
    seen: u64,
    sources: Seen<Source>,
    ports: Seen<Port>,
}

impl Drops {
    /// Takes how many packets the counters say were dropped, until `now` and since the last call.
    pub(super) fn count(&mut self, dropped: u64, now: Duration) {
        self.began.get_or_insert(now);
        self.slice(now).dropped += dropped;
    }

    /// The time before `now` that is looked back on: a minute, or less where it has begun later.
    pub(super) fn looked_back(&self, now: Duration) -> Duration {
        let all = SLICE * SLICES as u32;
        let began = self.began.unwrap_or(now);
        now.saturating_sub(began).min(all)
    }

    /// An event of a dropped packet was seen.
    pub(super) fn see(&mut self, packet: Dropped, now: Duration) {
        let slice = self.slice(now);
        let Dropped {
            direction,
            source,
            port,
            packets,
        } = packet;
        slice.seen += packets;
        if let Some(source) = source {
            slice.sources.add((direction, source), packets);
        }
        if let Some((protocol, port)) = port {
            slice.ports.add((direction, protocol, port), packets);
        }
    }

    /// The slice of this moment. Those that are older than a minute are removed.
    fn slice(&mut self, now: Duration) -> &mut Slice {
        let oldest = now.saturating_sub(SLICE * SLICES as u32);
        while self
            .slices
            .front()
            .is_some_and(|slice| slice.began < oldest)
        {
            self.slices.pop_front();
        }
        let is_over = |slice: &Slice| now.saturating_sub(slice.began) >= SLICE;
        let last = self.slices.back().filter(|slice| !is_over(slice));
        if last.is_none() {
            self.slices.push_back(Slice {
                began: now,
                ..Slice::default()
            });
        }
        let last = self.slices.len() - 1;
        &mut self.slices[last]
    }

    /// How many packets were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.slices.iter().map(|slice| slice.dropped).sum()
    }

    /// How many of them were seen. Their events may come before the counters are read.
    pub(super) fn seen(&self) -> u64 {
        self.slices.iter().map(|slice| slice.seen).sum()
    }

    /// The sources that were seen most, with how often.
    pub(super) fn sources(&self, most: usize) -> Vec<(Source, u64)> {
        top(self.slices.iter().map(|slice| &slice.sources), most)
    }

    /// The ports that were seen most, with how often.
    pub(super) fn ports(&self, most: usize) -> Vec<(Port, u64)> {
        top(self.slices.iter().map(|slice| &slice.ports), most)
    }
}

/// How often each was seen.
#[derive(Clone)]
struct Seen<K>(HashMap<K, u64>);

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Seen(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash + Ord> Seen<K> {
    fn add(&mut self, key: K, packets: u64) {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.forget();
        }
        *self.0.entry(key).or_default() += packets;
    }

    /// Forgets the half that was seen least.
    fn forget(&mut self) {
        let mut all: Vec<(u64, K)> = self.0.iter().map(|(key, count)| (*count, *key)).collect();
        all.select_nth_unstable(MOST / 2);
        for (_, key) in &all[..MOST / 2] {
            self.0.remove(key);
        }
    }
}

fn top<'a, K: Copy + Eq + Hash + Ord + 'a>(
    all: impl Iterator<Item = &'a Seen<K>>,
    most: usize,
) -> Vec<(K, u64)> {
    let mut sums: HashMap<K, u64> = HashMap::new();
    for (key, count) in all.flat_map(|seen| &seen.0) {
        *sums.entry(*key).or_default() += count;
    }
    let mut sums: Vec<(K, u64)> = sums.into_iter().collect();
    // Of those that were seen as often the order is fixed, so that rows do not change places.
    sums.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    sums.truncate(most);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(last: u32, port: u16) -> Dropped {
        Dropped {
            direction: Direction::Inbound,
            source: Some(IpAddr::from((0x0a00_0000 + last).to_be_bytes())),
            port: Some((6, port)),
            packets: 1,
        }
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_was_seen_most_comes_first_and_an_old_minute_is_forgotten() {
        let mut drops = Drops::default();
        for n in 0..30 {
            drops.see(packet(1, 22), second(n));
            drops.see(packet(2 + n as u32 % 2, 3306), second(n));
            drops.count(1000, second(n));
        }
        let of = |last: u32, count| ((Direction::Inbound, packet(last, 0).source.unwrap()), count);
        assert_eq!(drops.sources(2), [of(1, 30), of(2, 15)]);
        let ports = drops.ports(9);
        assert_eq!(
            ports,
            [
                ((Direction::Inbound, 6, 22), 30),
                ((Direction::Inbound, 6, 3306), 30)
            ]
        );
        assert_eq!((drops.dropped(), drops.seen()), (30_000, 60));
        assert_eq!(drops.looked_back(second(29)), second(29));
        // The first two slices are over a minute old.
        drops.count(0, second(75));
        assert_eq!((drops.dropped(), drops.seen()), (10_000, 20));
        drops.count(5, second(500));
        assert_eq!(drops.looked_back(second(500)), second(60));
        assert_eq!(
            (drops.dropped(), drops.seen(), drops.sources(9).len()),
            (5, 0, 0)
        );
    }

    /// A flood from a million forged addresses does not hide the one that sends one packet in ten,
    /// nor does it take more memory.
    #[test]
    fn a_flood_of_forged_sources_hides_nobody() {
        let mut drops = Drops::default();
        for n in 0..1_000_000 {
            let source = if n % 10 == 0 { 7 } else { 1000 + n };
            drops.see(packet(source, 22), second(1));
            assert!(drops.slices[0].sources.0.len() <= MOST);
        }
        let most = drops.sources(1)[0];
        assert_eq!(most.0, (Direction::Inbound, packet(7, 0).source.unwrap()));
        assert_eq!(most.1, 100_000);
        assert_eq!(drops.seen(), 1_000_000);
    }

    #[test]
    fn frames_without_addresses_or_ports_are_seen_all_the_same() {
        let mut drops = Drops::default();
        let frame = Dropped {
            direction: Direction::Outbound,
            source: None,
            port: None,
            packets: 1,
        };
        drops.see(frame, second(0));
        assert_eq!(
            (drops.seen(), drops.sources(9).len(), drops.ports(9).len()),
            (1, 0, 0)
        );
    }
}
