//! How a rule's match is spelled: the summary for people, as written, and the canonical text that
//! identities are made of.

use sha2::{Digest, Sha256};

use super::digest::hex;
use super::model::{Direction, IcmpMatch, Protocol};
use super::protocol;

/// The most elements of a list that a summary shows.
const SHOWN: usize = 4;
/// A canonical list longer than this, in bytes, is replaced by its checksum.
const LONG: usize = 512;

/// A list of ports or addresses in both spellings.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// As written, shortened: `a,b,c,d+7 more`.
    pub(crate) shown: String,
    /// Sorted and without duplicates, in canonical spelling; sets by name.
    pub(crate) canonical: String,
}

impl Written {
    pub(crate) fn new(texts: &[&str], mut canonical: Vec<String>) -> Written {
        let mut shown = texts
            .iter()
            .take(SHOWN)
            .copied()
            .collect::<Vec<_>>()
            .join(",");
        if let Some(more @ 1..) = texts.len().checked_sub(SHOWN) {
            shown.push_str(&format!("+{more} more"));
        }
        canonical.sort_unstable();
        canonical.dedup();
        let mut canonical = canonical.join(",");
        if canonical.len() > LONG {
            canonical = format!("sha256:{}", hex(&Sha256::digest(canonical.as_bytes())));
        }
        Written { shown, canonical }
    }
}

/// The match of a rule in both spellings.
#[derive(Clone, Debug)]
pub(crate) struct Spelling {
    /// `tcp 22 from 0.0.0.0/0`.
    pub(crate) summary: String,
    pub(crate) canonical: String,
}

impl Spelling {
    pub(crate) fn new(
        protocol: Protocol,
        ports: Option<&Written>,
        icmp: Option<IcmpMatch>,
        direction: Direction,
        remote: &Written,
    ) -> Spelling {
        let with = |part: fn(&Written) -> &str| {
            let mut out = protocol::name(protocol);
            if let Some(ports) = ports {
                out.push(' ');
                out.push_str(part(ports));
            }
            if let Some(icmp) = icmp {
                out.push_str(&format!(" {}", icmp.kind));
                if let Some(code) = icmp.code {
                    out.push_str(&format!("/{code}"));
                }
            }
            out.push_str(match direction {
                Direction::Inbound => " from ",
                Direction::Outbound => " to ",
            });
            out.push_str(part(remote));
            out
        };
        Spelling {
            summary: with(|w| &w.shown),
            canonical: with(|w| &w.canonical),
        }
    }
}
