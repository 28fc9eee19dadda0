//! A packet as an event shows it, with names in the place of numbers.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;
use sg_common::verdict::{Action, Direction};
use sg_policy::policy::{Endpoint, Location, protocol_worded, titled};

use super::frame::with_tag;
use crate::kernel::frame::ARP;
use crate::kernel::state::Beside;
use crate::observe::decided::DecidedBy;

/// A packet that was to be logged, or that was dropped while somebody watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedPacket {
    /// When the packet was judged.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    pub interface: String,
    pub direction: Direction,
    pub verdict: Action,
    /// The generation that judged the packet.
    pub generation: u32,
    /// The type of the frame, behind any VLAN tags: 0x0800 is IPv4 (2048), 0x86dd IPv6 (34525).
    pub ether_type: u16,
    /// The VLANs of its tags, the outer one first.
    pub vlans: Vec<u16>,
    /// Null if the frame is not IP, or too broken to tell, as are both ends.
    pub protocol: Option<u8>,
    /// Whether it is a fragment that is not the first, and so has no ports. Left out if it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub later_fragment: bool,
    pub local: Option<IpAddr>,
    pub local_port: Option<u16>,
    pub remote: Option<IpAddr>,
    pub remote_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    /// The flags of the TCP header.
    pub tcp_flags: Option<u8>,
    /// Of the whole frame without its check sequence; of all segments where the device makes
    /// several packets of it.
    pub bytes: u32,
    /// How many packets the wire sees of it.
    pub packets: u32,
    /// The queue of the device.
    pub queue: u16,
    /// The rule that decided. Null if none did, or if it is gone since then.
    pub rule: Option<LoggingRule>,
    pub reason: DecidedBy,
    /// Whether it is a reply to what the rule or the reason decided, in the other direction.
    pub reply: bool,
    /// What the candidate would do, where that has another outcome. Left out otherwise, and where
    /// there is no candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateSays>,
    /// The VLAN tag that is not in `head`: the device has taken it out, or is going to put it in.
    #[serde(skip)]
    pub tag_beside: Option<u16>,
    /// Its first bytes, those of the headers at least.
    #[serde(skip)]
    pub head: Vec<u8>,
}

/// What a candidate would do with a packet that has another outcome under the policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CandidateSays {
    pub verdict: Action,
    /// The candidate's rule. Null if none matches.
    pub rule: Option<LoggingRule>,
}

impl CandidateSays {
    pub(super) fn of(beside: &Beside) -> CandidateSays {
        CandidateSays {
            verdict: beside.verdict(),
            rule: beside.rule.as_ref().map(|rule| LoggingRule {
                group: rule.group.clone(),
                position: Some(rule.position),
                name: rule.name.clone(),
                summary: rule.summary.clone(),
                location: None,
            }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggingRule {
    pub group: String,
    /// Null if the rule is not in the policy any more.
    pub position: Option<u32>,
    pub name: Option<String>,
    pub summary: String,
    /// Where the rule stood when its policy was applied. Null if that was no file.
    pub location: Option<Location>,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl LoggedPacket {
    /// The end that it comes from.
    pub fn source(&self) -> (Option<IpAddr>, Option<u16>) {
        match self.direction {
            Direction::Inbound => (self.remote, self.remote_port),
            Direction::Outbound => (self.local, self.local_port),
        }
    }

    /// The end that it goes to.
    pub fn destination(&self) -> (Option<IpAddr>, Option<u16>) {
        match self.direction {
            Direction::Inbound => (self.local, self.local_port),
            Direction::Outbound => (self.remote, self.remote_port),
        }
    }

    /// Its first bytes as they are on the wire, with the tag that the device takes out or puts in.
    pub fn head_on_the_wire(&self) -> Vec<u8> {
        match self.tag_beside {
            Some(tag) => with_tag(&self.head, tag),
            None => self.head.clone(),
        }
    }

    /// The name of its protocol as policies have it, or that of its frame.
    pub fn protocol_name(&self) -> String {
        match self.protocol {
            Some(number) => protocol_worded(number),
            None if self.ether_type == ARP => "arp".to_owned(),
            None => format!("0x{:04x}", self.ether_type),
        }
    }
}

/// An address with its port, or `-` if there is none.
pub fn end((address, port): (Option<IpAddr>, Option<u16>)) -> String {
    match (address, port) {
        (None, _) => "-".to_owned(),
        (Some(address), port) => Endpoint::new(address, port).to_string(),
    }
}

/// Formats a line such as `drop inbound tcp 198.51.100.1:4000 → 192.0.2.1:3306, 60 bytes, by rule 7
/// of tke (all from 0.0.0.0/0)`.
impl fmt::Display for LoggedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {} → {}",
            self.verdict,
            self.direction,
            self.protocol_name(),
            end(self.source()),
            end(self.destination())
        )?;
        if let (Some(kind), Some(code)) = (self.icmp_type, self.icmp_code) {
            write!(f, " type {kind}/{code}")?;
        }
        write!(f, ", {} bytes", self.bytes)?;
        if self.reply {
            write!(f, ", a reply")?;
        }
        match &self.rule {
            Some(rule) => write!(f, ", by {rule}")?,
            None if self.reason == DecidedBy::Rule => write!(f, ", by a rule that is gone")?,
            None => write!(f, ", {}", self.reason)?,
        }
        match &self.candidate {
            None => Ok(()),
            Some(CandidateSays { verdict, rule }) => {
                write!(f, "; the candidate: {verdict}")?;
                match rule {
                    Some(rule) => write!(f, " by {rule}"),
                    None => write!(f, ", no rule matches"),
                }
            }
        }
    }
}

impl fmt::Display for LoggingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "rule {position}")?,
            None => write!(f, "a former rule")?,
        }
        let title = titled(self.name.as_deref(), &self.summary);
        write!(f, " of {} ({title})", self.group)
    }
}
