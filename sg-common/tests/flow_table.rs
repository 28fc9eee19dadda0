//! The flow table under several threads at once, so small that they are in each other's way all
//! the time: no flow twice, none lost that was not counted, none mixed up with another.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sg_common::flow::{FlowKind, Timeout};
use sg_common::flow_entry::{
    Contents, FlowKey, HASH_KEYS, HEAD, Head, clock, hash, rule_word, tick, time_out,
};
use sg_common::flow_ports::{PORT_COUNTS, count_of};
use sg_common::flow_table::{
    BUSY, Found, Line, Page, Spot, Table, change, claim, double, find, give_back, may_have,
    publish, read_any, remove, tags_of,
};

struct Memory {
    lines: Vec<Line<AtomicU64>>,
    pages: Vec<Page<AtomicU64>>,
    port_counts: Box<[AtomicU64; PORT_COUNTS]>,
    keys: [u64; HASH_KEYS],
}

impl Table for Memory {
    type Word = AtomicU64;

    fn line(&self, group: u32) -> Option<&Line<AtomicU64>> {
        self.lines.get(group as usize)
    }

    fn page(&self, group: u32) -> Option<&Page<AtomicU64>> {
        self.pages.get(group as usize)
    }

    fn port_counts(&self) -> Option<&[AtomicU64; PORT_COUNTS]> {
        Some(&self.port_counts)
    }

    /// No flow expires before this, but handshakes under way.
    fn time_out(&self, state: u8) -> u32 {
        time_out(if state == Timeout::TcpSynSent as u8 {
            10
        } else {
            1000
        })
    }

    fn give_back(&self, group: u32, word: u32, way: u32) {
        give_back(self, group, word, way);
    }
}

#[derive(Default)]
struct Moves {
    entered: AtomicU64,
    left: AtomicU64,
    evicted: AtomicU64,
}

/// Numbers without pattern (splitmix64).
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Memory {
    fn new(groups: u32, seed: u64) -> Self {
        let mut seed = seed;
        Memory {
            lines: (0..groups).map(|_| Default::default()).collect(),
            pages: (0..groups).map(|_| Default::default()).collect(),
            port_counts: Box::new([const { AtomicU64::new(0) }; PORT_COUNTS]),
            keys: std::array::from_fn(|_| random(&mut seed)),
        }
    }

    fn spot(&self, key: &FlowKey) -> Spot {
        Spot::of(hash(key, |i| self.keys[i]), self.pages.len() as u32)
    }

    fn find(&self, key: &FlowKey) -> Option<Found> {
        let mut found = Found::NOTHING;
        find(self, &self.spot(key), key, &mut found).then_some(found)
    }

    fn enter(&self, number: u64, kind: FlowKind, now: u64, moves: &[Moves; 2]) {
        let key = key(number);
        let spot = self.spot(&key);
        let contents = Contents {
            head: Head::new(tick(now), 2, 1),
            rule: rule_word(number as u32, 7),
            begun: number,
        };
        let count = &moves[kind as usize];
        let Some(claim) = claim(self, &spot, &key, kind as u32, clock(now)) else {
            return;
        };
        count.evicted.fetch_add(claim.evicted.into(), Relaxed);
        let entered = publish(self, &claim, &key, &contents);
        count.entered.fetch_add(entered.into(), Relaxed);
        if kind == FlowKind::Established
            && let Some(double) = double(self, &spot, &key)
        {
            count.left.fetch_add(remove(self, &double).into(), Relaxed);
        }
    }

    /// Enters a half-open flow that was seen last in that tick, at the time `now` in ticks.
    fn place(&self, number: u64, state: Timeout, last_seen: u32, now: u32) {
        let key = key(number);
        let contents = Contents {
            head: Head::new(last_seen, state as u8, 1),
            rule: rule_word(number as u32, 7),
            begun: number,
        };
        let clock = clock(u64::from(now) << 24);
        let claim = claim(
            self,
            &self.spot(&key),
            &key,
            FlowKind::HalfOpen as u32,
            clock,
        );
        let claim = claim.expect("a way that is free, or a flow that has to go");
        assert!(publish(self, &claim, &key, &contents));
    }

    /// Each flow that is there, by its number and word. Panics if an entry is not whole, or if a
    /// count is wrong.
    fn flows(&self) -> Vec<(u64, u32)> {
        let mut flows = Vec::new();
        let mut port_counts = vec![0; PORT_COUNTS];
        for (line, page) in self.lines.iter().zip(&self.pages) {
            for word in 0..8 {
                for way in 0..8 {
                    let tag = tags_of(line, word) >> (way * 8) & 0xff;
                    assert_ne!(tag, BUSY, "nobody writes any more");
                    if tag == 0 {
                        continue;
                    }
                    let entry = &page[word as usize][way as usize];
                    let (found, contents) = read_any(entry).expect("nobody writes any more");
                    let number = contents.begun;
                    assert_eq!(found, key(number));
                    assert_eq!(contents.rule, rule_word(number as u32, 7));
                    let spot = self.spot(&found);
                    assert_eq!(tag, spot.tag, "{}", entry[HEAD].load(Relaxed));
                    port_counts[count_of(found.name)] += 1;
                    flows.push((number, word));
                }
            }
        }
        let counts = self.port_counts.iter().map(|count| count.load(Relaxed));
        assert_eq!(counts.collect::<Vec<_>>(), port_counts);
        flows
    }
}

fn key(number: u64) -> FlowKey {
    FlowKey {
        addresses: [number, !number, number.rotate_left(17), number ^ 0x5555],
        // Some of them share a count, and most do not.
        name: FlowKey::name((number * 16) as u16, 443, 6, true),
    }
}

/// More than there are cores, so that threads are taken away in the middle of a step.
const THREADS: u64 = 16;
/// No other, at a port far from theirs, and established.
const STAYING: u64 = 1 << 32 | 4000 | FlowKind::Established as u64;
const KINDS: [FlowKind; 2] = FlowKind::BOTH;

/// Proves K9 and K10: whatever several CPUs do at once, each flow is there once and whole, and
/// what was entered is there, has left or was evicted, by the counts.
#[test]
fn flows_are_neither_lost_nor_doubled_by_a_race() {
    for (round, flows, groups) in [(0, 24, 1), (1, 90, 1), (2, 400, 2), (3, 64, 3), (4, 3, 1)] {
        let table = Memory::new(groups, round);
        let moves: [Moves; 2] = Default::default();
        // One that nobody touches, though it may be evicted.
        table.enter(STAYING, FlowKind::Established, 0, &moves);
        let (missed, staying_missed) = (AtomicU64::new(0), AtomicU64::new(0));
        let begin = Barrier::new(THREADS as usize);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, moves, begin) = (&table, &moves, &begin);
                let (missed, staying_missed) = (&missed, &staying_missed);
                scope.spawn(move || {
                    let mut seed = round * 100 + thread;
                    begin.wait();
                    for step in 0..120_000u64 {
                        let is_missed = !may_have(table, key(STAYING).name);
                        staying_missed.fetch_add(is_missed.into(), Relaxed);
                        let chosen = random(&mut seed);
                        let number = chosen % flows;
                        let kind = KINDS[(number & 1) as usize];
                        let now = step << 24;
                        match (table.find(&key(number)), chosen >> 61) {
                            (Some(found), 0) => {
                                let left = remove(table, &found);
                                moves[kind as usize].left.fetch_add(left.into(), Relaxed);
                            }
                            (Some(found), _) => {
                                assert_eq!(found.contents.begun, number);
                                assert_eq!(found.kind(), kind);
                                if !may_have(table, key(number).name) {
                                    let again = table.find(&key(number));
                                    let was = found.contents.head;
                                    let stayed =
                                        again.is_some_and(|f| f.contents.head.is_same_flow(was));
                                    missed.fetch_add(stayed.into(), Relaxed);
                                }
                                let head = found.contents.head.seen_at(tick(now));
                                change(table, &found, head);
                            }
                            (None, _) => table.enter(number, kind, now, moves),
                        }
                    }
                });
            }
        });
        let stayed = table.find(&key(STAYING)).is_some();
        if !stayed {
            staying_missed.store(0, Relaxed);
        }
        let missed = missed.into_inner() + staying_missed.into_inner();
        assert_eq!(missed, 0, "flows were there and not seen");
        let found = table.flows();
        let distinct: HashSet<u64> = found.iter().map(|(number, _)| *number).collect();
        assert_eq!(distinct.len(), found.len(), "a flow is there twice");
        for kind in KINDS {
            let is_of_kind = |number: &u64| KINDS[(number & 1) as usize] == kind;
            let live = distinct.iter().filter(|n| is_of_kind(n)).count() as u64;
            let count = &moves[kind as usize];
            let read = |word: &AtomicU64| word.load(Relaxed);
            let (entered, left) = (read(&count.entered), read(&count.left));
            assert_eq!(entered, left + read(&count.evicted) + live, "{kind:?}");
            assert!(entered > 1000, "{entered} were entered");
        }
        for number in &distinct {
            assert!(table.find(&key(*number)).is_some(), "{number} is not found");
        }
    }
}

/// Proves K9 and K10: a table holds as many established flows as it was made for, of twice as
/// many a full word loses the one seen least recently, and neither costs a half-open flow its
/// place.
#[test]
fn a_table_holds_what_it_was_made_for() {
    use sg_common::flow_table::groups_for;
    const FLOWS: u32 = 20_000;
    let table = Memory::new(groups_for(FLOWS), 5);
    let moves: [Moves; 2] = Default::default();
    for number in 0..u64::from(FLOWS) {
        table.enter(number, FlowKind::Established, number << 20, &moves);
        if number % 8 == 0 {
            let other = number | 1 << 40;
            table.enter(other, FlowKind::HalfOpen, number << 20, &moves);
        }
    }
    let evicted = |kind: FlowKind| moves[kind as usize].evicted.load(Relaxed);
    let lost = evicted(FlowKind::Established);
    assert!(lost < 10, "{lost} of {FLOWS} established flows evicted");
    let before = evicted(FlowKind::HalfOpen);
    for number in u64::from(FLOWS)..4 * u64::from(FLOWS) {
        table.enter(number, FlowKind::Established, number << 20, &moves);
    }
    assert!(evicted(FlowKind::Established) > u64::from(FLOWS));
    assert_eq!(evicted(FlowKind::HalfOpen), before);
    let newest = (3 * u64::from(FLOWS)..4 * u64::from(FLOWS))
        .filter(|n| table.find(&key(*n)).is_some())
        .count();
    // Of the last as many as it was made for, those that were evicted were the oldest of a full
    // word.
    assert!(newest as u32 > FLOWS * 9 / 10, "{newest} of the newest");
}

/// Proves K10: of a full word an expired flow has to go first, then a closing one, however
/// recently it was seen, and then the one seen least recently.
#[test]
fn the_victim_has_expired_or_is_closing_or_is_the_oldest() {
    use Timeout::*;
    const NOW: u32 = 1 << 20;
    // More than ten seconds, in ticks.
    const LONG: u32 = 700;
    let closing = [TcpFinWait, TcpCloseWait, TcpLastAck, TcpTimeWait, TcpClose];
    let mut cases = vec![
        // What seven flows are, and the eighth; states and ages. The eighth has to go, or the
        // first one.
        ((TcpEstablished, 100), (TcpEstablished, 101), true),
        ((TcpEstablished, 100), (TcpEstablished, 99), false),
        ((TcpEstablished, LONG), (TcpSynSent, LONG - 10), true),
        ((TcpTimeWait, LONG), (TcpSynSent, LONG - 10), true),
        ((TcpSynSent, LONG), (TcpTimeWait, 5000), false),
        ((TcpTimeWait, 3), (TcpTimeWait, 4), true),
        ((TcpTimeWait, 3), (TcpTimeWait, 2), false),
        ((TcpTimeWait, 3), (UdpStream, 5000), false),
    ];
    let steady = [
        TcpEstablished,
        TcpSynRecv,
        UdpStream,
        Udp,
        Sctp,
        Icmp,
        Other,
    ];
    for state in closing {
        cases.extend(steady.map(|other| ((other, 5000), (state, 0), true)));
    }
    for (seven, eighth, is_eighth) in cases {
        let table = Memory::new(1, 9);
        let is_in_word = |number: &u64| table.spot(&key(*number)).half_open == 6;
        let numbers: Vec<u64> = (1..).filter(is_in_word).take(9).collect();
        for (i, number) in numbers.iter().enumerate() {
            let (state, age) = match i {
                // One tick older than the next six.
                0 => (seven.0, seven.1 + u32::from(!is_eighth)),
                7 => eighth,
                8 => (TcpEstablished, 0),
                _ => seven,
            };
            table.place(*number, state, NOW - age, NOW);
        }
        let is_gone = |i: &usize| table.find(&key(numbers[*i])).is_none();
        let gone: Vec<usize> = (0..9).filter(is_gone).collect();
        let expected = if is_eighth { 7 } else { 0 };
        assert_eq!(gone, [expected], "{seven:?}, {eighth:?}");
    }
}
