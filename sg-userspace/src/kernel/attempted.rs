//! A policy that was to be put in force on an interface, as far as somebody has to know who is to
//! take it away again.

use sg_common::flow::TIMEOUTS;

/// The data, from the policy's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    pub netns_cookie: u64,
    pub ifindex: u32,
    pub generation: u32,
    /// The ids of the programs, inbound first.
    pub programs: [u32; 2],
    pub timeouts: [u32; TIMEOUTS],
}
