//! What one reading for metrics has found.

use jiff::Timestamp;

use super::labels::Labels;

/// What is counted by one series, and since when (whole seconds since 1970). It has several
/// families if packets and bytes are counted.
#[derive(Clone, Debug)]
pub(super) struct Series<const N: usize> {
    pub(super) labels: Labels,
    pub(super) counts: [u64; N],
    pub(super) created: i64,
}

/// What one reading has found. What is `None` or missing could not be read.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Packets and bytes of each direction of each interface.
    pub(super) totals: Vec<Series<2>>,
    /// Packets, bytes and replies of each rule.
    pub(super) rules: Vec<Series<3>>,
    pub(super) reasons: Vec<Series<1>>,
    /// Whether each direction of each interface runs what it has to.
    pub(super) healthy: Vec<(Labels, bool)>,
    /// Flows by state.
    pub(super) flows: Option<Vec<(Labels, u64)>>,
    pub(super) evictions: Vec<Series<1>>,
    pub(super) capacity: Option<u64>,
    pub(super) events: Vec<Series<1>>,
    /// Packets with another outcome under the candidate, where there is one.
    pub(super) differences: Vec<Series<1>>,
    /// Each policy that is in force somewhere, once.
    pub(super) policies: Vec<Labels>,
    /// Seconds since 1970. `None` if no policy waits to be confirmed.
    pub(super) confirm_deadline: Option<f64>,
}

/// An RFC 3339 time as whole seconds since 1970, of which thousands are written much faster than
/// fractions.
pub(super) fn seconds_of(at: &str) -> i64 {
    at.parse().map_or(0, Timestamp::as_second)
}
