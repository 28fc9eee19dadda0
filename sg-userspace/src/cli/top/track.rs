//! What is counted, from reading to reading: its rate, and how that was before.

use std::collections::{HashMap, VecDeque};

use sg_userspace::observe::counters::{ReasonCounters, RuleCounters};

use crate::cli::rates::Rate;

/// How many readings are remembered: more than the widest trend shows.
pub(super) const HISTORY: usize = 64;

/// The counts of one thing at the last reading.
#[derive(Clone, Default)]
pub(super) struct Track {
    packets: u64,
    bytes: u64,
    pub(super) rate: Rate,
    /// The packets a second of each reading, the newest last. Empty as long as it is idle.
    history: VecDeque<f32>,
}

impl Track {
    /// The next reading, so many seconds after the last one; `None` at the first.
    pub(super) fn read(&mut self, packets: u64, bytes: u64, seconds: Option<f64>) {
        let (before, before_bytes) = (self.packets, self.bytes);
        (self.packets, self.bytes) = (packets, bytes);
        let Some(seconds) = seconds else {
            return;
        };
        // Without time in between nothing is known about the rate.
        if seconds <= 0.0 {
            return;
        }
        // What counts less than before began anew, and what it has counted since is not known.
        let began_anew = packets < before || bytes < before_bytes;
        self.rate = match began_anew {
            true => Rate::default(),
            false => Rate {
                packets: (packets - before) as f64 / seconds,
                bytes: (bytes - before_bytes) as f64 / seconds,
            },
        };
        if self.rate.packets > 0.0 || !self.history.is_empty() {
            self.history.push_back(self.rate.packets as f32);
        }
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        if self.history.iter().all(|rate| *rate == 0.0) {
            self.history.clear();
        }
    }

    /// The packets a second of the last readings, at most so many, the newest last.
    pub(super) fn history(&self, most: usize) -> impl ExactSizeIterator<Item = f32> + '_ {
        let skipped = self.history.len().saturating_sub(most);
        self.history.range(skipped..).copied()
    }
}

/// Something that is counted, and that is the same thing in the next reading.
pub(super) trait Counted {
    fn is_same(&self, other: &Self) -> bool;
    /// What tells it from others.
    fn key(&self) -> String;
    fn packets(&self) -> u64;
    fn bytes(&self) -> u64;
    /// Whether what it counts more is traffic.
    fn counts_traffic(&self) -> bool {
        true
    }
}

/// A row: what it is, and its track.
#[derive(Clone)]
pub(super) struct Row<T> {
    pub(super) what: T,
    pub(super) track: Track,
}

/// The rows of a reading, each with the track that it had in the reading before. Returns also
/// whether they are the same rows.
pub(super) fn follow<T: Counted>(
    before: Vec<Row<T>>,
    now: Vec<T>,
    seconds: Option<f64>,
) -> (Vec<Row<T>>, bool) {
    let is_same = before.len() == now.len()
        && before
            .iter()
            .zip(&now)
            .all(|(row, what)| row.what.is_same(what));
    let row = |what: T, mut track: Track| {
        let seconds = seconds.filter(|_| what.counts_traffic());
        track.read(what.packets(), what.bytes(), seconds);
        Row { what, track }
    };
    if is_same {
        let tracks = before.into_iter().map(|row| row.track);
        let rows = now.into_iter().zip(tracks);
        return (rows.map(|(what, track)| row(what, track)).collect(), true);
    }
    // Where several have the same key, they stay in their order.
    let mut known: HashMap<String, VecDeque<Track>> = HashMap::new();
    for row in before {
        known
            .entry(row.what.key())
            .or_default()
            .push_back(row.track);
    }
    let rows = now.into_iter().map(|what| {
        // What is new has begun at zero.
        let track = known.get_mut(&what.key()).and_then(VecDeque::pop_front);
        row(what, track.unwrap_or_default())
    });
    (rows.collect(), false)
}

impl Counted for RuleCounters {
    fn is_same(&self, other: &Self) -> bool {
        self.is_same_rule(other)
    }

    fn key(&self) -> String {
        self.identity()
    }

    fn packets(&self) -> u64 {
        self.packets
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The row that sums up rules of earlier policies grows when one of them joins it.
    fn counts_traffic(&self) -> bool {
        self.position.is_some() || !self.group.is_empty()
    }
}

impl Counted for ReasonCounters {
    fn is_same(&self, other: &Self) -> bool {
        self.direction == other.direction && self.reason == other.reason
    }

    fn key(&self) -> String {
        format!("{}\0{}", self.direction, self.reason)
    }

    fn packets(&self) -> u64 {
        self.packets
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sg_common::verdict::{Action, Direction};

    fn rule(position: Option<u32>, port: u16, packets: u64) -> RuleCounters {
        RuleCounters {
            direction: Direction::Inbound,
            position,
            group: "web".into(),
            action: Action::Accept,
            name: None,
            summary: format!("tcp {port} from any"),
            description: None,
            packets,
            bytes: packets * 100,
            reply_packets: 0,
            reply_bytes: 0,
        }
    }

    fn rates(rows: &[Row<RuleCounters>]) -> Vec<(Option<u32>, f64)> {
        let of = |row: &Row<RuleCounters>| (row.what.position, row.track.rate.packets);
        rows.iter().map(of).collect()
    }

    #[test]
    fn a_rate_is_what_was_counted_by_the_time_in_between() {
        let mut track = Track::default();
        track.read(1000, 50_000, None);
        assert_eq!((track.rate.packets, track.history(9).len()), (0.0, 0));
        track.read(1500, 60_000, Some(2.0));
        assert_eq!((track.rate.packets, track.rate.bytes), (250.0, 5000.0));
        // An idle second is part of the history, but not before there was any other.
        track.read(1500, 60_000, Some(1.0));
        assert_eq!(track.history(9).collect::<Vec<_>>(), [250.0, 0.0]);
        assert_eq!(track.history(1).collect::<Vec<_>>(), [0.0]);
    }

    /// The clock of the rates never goes back, but it may stand still, and a counter may begin
    /// anew; neither makes a rate of its own.
    #[test]
    fn a_clock_that_stands_and_a_counter_that_begins_anew_make_no_rate() {
        let mut track = Track::default();
        track.read(100, 100, None);
        track.read(200, 200, Some(1.0));
        track.read(900, 900, Some(0.0));
        assert_eq!(track.rate.packets, 100.0, "no time has passed");
        track.read(1000, 1000, Some(-3.0));
        assert_eq!(track.rate.packets, 100.0, "nor here");
        track.read(7, 7, Some(1.0));
        assert_eq!(track.rate.packets, 0.0, "it has begun anew");
        track.read(17, 17, Some(1.0));
        assert_eq!(track.rate.packets, 10.0);
    }

    #[test]
    fn a_history_is_bounded_and_ends_when_all_of_it_is_idle() {
        let mut track = Track::default();
        track.read(0, 0, None);
        for packets in 1..=2 * HISTORY as u64 {
            track.read(packets, 0, Some(1.0));
        }
        assert_eq!(track.history.len(), HISTORY);
        for _ in 0..=HISTORY {
            track.read(2 * HISTORY as u64, 0, Some(1.0));
        }
        assert_eq!(track.history.len(), 0);
    }

    /// A reload moves rules to other positions, adds and removes some; each keeps its rate.
    #[test]
    fn rules_keep_their_tracks_across_a_reload() {
        let all = [
            rule(Some(1), 22, 10),
            rule(Some(2), 80, 20),
            rule(Some(3), 443, 30),
        ];
        let (rows, is_same) = follow(Vec::new(), all.to_vec(), None);
        assert!(!is_same && rates(&rows).iter().all(|(_, rate)| *rate == 0.0));
        let all = [
            rule(Some(1), 22, 11),
            rule(Some(2), 80, 22),
            rule(Some(3), 443, 33),
        ];
        let (rows, is_same) = follow(rows, all.to_vec(), Some(1.0));
        assert!(is_same);
        assert_eq!(
            rates(&rows),
            [(Some(1), 1.0), (Some(2), 2.0), (Some(3), 3.0)]
        );
        // The last comes first, the first has left the policy, and another one is new.
        let all = [
            rule(Some(1), 443, 36),
            rule(Some(2), 8080, 5),
            rule(Some(3), 80, 24),
            rule(None, 22, 12),
        ];
        let (rows, is_same) = follow(rows, all.to_vec(), Some(1.0));
        assert!(!is_same);
        assert_eq!(
            rates(&rows),
            [(Some(1), 3.0), (Some(2), 5.0), (Some(3), 2.0), (None, 1.0)]
        );
        assert_eq!(rows[0].track.history(9).len(), 2);
    }

    #[test]
    fn rules_that_are_alike_stay_in_their_order() {
        let all = [
            rule(Some(1), 22, 10),
            rule(Some(2), 80, 0),
            rule(Some(3), 80, 50),
        ];
        let (rows, _) = follow(Vec::new(), all.to_vec(), None);
        let all = [rule(Some(1), 80, 1), rule(Some(2), 80, 52)];
        let (rows, _) = follow(rows, all.to_vec(), Some(1.0));
        assert_eq!(rates(&rows), [(Some(1), 1.0), (Some(2), 2.0)]);
    }

    /// A removed rule whose slot is used again joins a sum, which is no traffic.
    #[test]
    fn the_sum_of_earlier_rules_has_no_rate() {
        let gone = |packets| RuleCounters {
            group: String::new(),
            ..rule(None, 1, packets)
        };
        let (rows, _) = follow(Vec::new(), vec![gone(10)], None);
        let (rows, _) = follow(rows, vec![gone(1_000_000)], Some(1.0));
        assert_eq!(rates(&rows), [(None, 0.0)]);
    }
}
