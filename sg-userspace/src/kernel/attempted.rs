//! What has to be known about a policy that was to be put in force on an interface, in case it has
//! to be removed again.

use sg_common::flow::TIMEOUTS;

/// That, from the policy's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    pub interface: String,
    pub netns_cookie: u64,
    pub ifindex: u32,
    pub generation: u32,
    /// The ids of the programs, inbound first.
    pub programs: [u32; 2],
    pub timeouts: [u32; TIMEOUTS],
}
