//! The columns of the list of flows, and what stands in them in tables and in plain lines alike.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use sg_policy::policy::{Endpoint, titled};
use sg_userspace::observe::flows::Flow;

use crate::cli::words::{SEEDED, position_of};

/// The headings of the columns. In short words that of `OPENED` is `DIR`.
pub(super) const HEADINGS: [&str; 9] = [
    "PROTO", "LOCAL", "REMOTE", "OPENED", "STATE", "AGE", "IDLE", "LEFT", "RULE",
];
// Columns by their places.
pub(super) const OPENED: usize = 3;
/// Those that are numbers.
pub(super) const NUMBERS: Range<usize> = 5..8;
pub(super) const RULE: usize = 8;

/// The rule that admitted the flow, with its position.
pub(super) fn rule_of(flow: &Flow) -> String {
    let rule = flow.rule.as_ref().map(|rule| {
        let title = titled(rule.name.as_deref(), &rule.summary);
        format!("{}  {title}", position_of(rule.position))
    });
    let rule = match flow.is_seeded {
        true => Some(SEEDED.to_owned()),
        false => rule,
    };
    rule.unwrap_or_else(|| "-".into())
}

/// An end of a flow. A query of ICMP has its identifier at the local one.
pub(super) fn endpoint(address: IpAddr, port: Option<u16>, icmp_id: Option<u16>) -> String {
    let mut out = String::new();
    let _ = write_end(&mut out, address, port, icmp_id);
    out
}

/// Writes an end of a flow.
pub(super) fn write_end(
    out: &mut impl fmt::Write,
    address: IpAddr,
    port: Option<u16>,
    icmp_id: Option<u16>,
) -> fmt::Result {
    write!(out, "{}", Endpoint::new(address, port))?;
    match (port, icmp_id) {
        (None, Some(id)) => write!(out, " id {id}"),
        _ => Ok(()),
    }
}
