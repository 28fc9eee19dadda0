//! One end of a packet or of a flow, as people write it.

use std::fmt;
use std::net::IpAddr;

/// An address, and a port where there is one: `192.0.2.1`, `192.0.2.1:22` or `[2001:db8::1]:22`.
///
/// ```
/// use sg_policy::policy::Endpoint;
///
/// let address = "2001:db8::1".parse().unwrap();
/// let [with, without] = [Some(22), None].map(|port| Endpoint { address, port });
/// assert_eq!(format!("{with} {without}"), "[2001:db8::1]:22 2001:db8::1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// `None` for a protocol without ports, or where any port will do.
    pub port: Option<u16>,
}

impl Endpoint {
    /// The end at `address`, with or without a port.
    pub fn new(address: IpAddr, port: impl Into<Option<u16>>) -> Endpoint {
        Endpoint {
            address,
            port: port.into(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}
