//! Names of what a partition consists of: address families and classes of addresses.

use std::net::IpAddr;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order of their numbers.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of `address`. An IPv4 address that is mapped into IPv6 is an IPv6 address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// A class of remote addresses of one family, in one partition: the same rules cover all of its
/// addresses, so that each packet is decided by the same rule whichever of them it comes from or
/// goes to.
///
/// Two classes may decide alike nevertheless, where the rule that one of them has and the other
/// has not decides no packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class {
    pub(super) family: Family,
    /// Counts from 0 in each family.
    pub(super) index: u32,
}

impl Class {
    /// The family of its addresses.
    pub const fn family(self) -> Family {
        self.family
    }

    /// Its number within its family.
    pub(crate) const fn index(self) -> usize {
        self.index as usize
    }
}
