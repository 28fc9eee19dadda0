//! A policy that was to be put in force, as far as somebody has to know who is to take it away
//! again.

use sg_common::flow::TIMEOUTS;

/// What its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    pub netns_cookie: u64,
    pub ifindex: u32,
    pub generation: u32,
    /// Ids, inbound first.
    pub programs: [u32; 2],
    pub timeouts: [u32; TIMEOUTS],
}
