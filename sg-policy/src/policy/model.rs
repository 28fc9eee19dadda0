//! The validated policy: what the text means once names are resolved and groups are joined.
//! Everything below the policy layer (oracle, compiler, kernel, counters) reads only these types.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::finding::Location;
pub use sg_common::verdict::{Action, Direction};

/// One address prefix, such as 192.0.2.0/24; `T` is `u32` for IPv4 and `u128` for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<T> {
    /// The first address, as a number in host order: every bit behind the prefix is zero.
    pub bits: T,
    /// The prefix length in bits, from 0 to 32 or 128.
    pub len: u8,
}

/// A resolved set of remote addresses. Each list is sorted and free of duplicates, ranges are
/// already split into prefixes; prefixes may nest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The IPv4 prefixes.
    pub v4: Vec<Prefix<u32>>,
    /// The IPv6 prefixes.
    pub v6: Vec<Prefix<u128>>,
}

impl Remote {
    /// True when `address` is inside one of the prefixes: for the oracle and for `explain`, never
    /// for packets. A linear walk, or in long lists a search for each network that the address
    /// is in.
    pub fn contains(&self, address: IpAddr) -> bool {
        /// Below this, walking is quicker.
        const LONG: usize = 256;
        match address {
            IpAddr::V4(a) if self.v4.len() > LONG => (0..=32u8).any(|len| {
                let bits = u32::from(a) & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                self.v4.binary_search(&Prefix { bits, len }).is_ok()
            }),
            IpAddr::V6(a) if self.v6.len() > LONG => (0..=128u8).any(|len| {
                let bits = u128::from(a) & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                self.v6.binary_search(&Prefix { bits, len }).is_ok()
            }),
            IpAddr::V4(a) => {
                let a = u32::from(a);
                self.v4
                    .iter()
                    .any(|p| p.len == 0 || (a ^ p.bits) >> (32 - p.len) == 0)
            }
            IpAddr::V6(a) => {
                let a = u128::from(a);
                self.v6
                    .iter()
                    .any(|p| p.len == 0 || (a ^ p.bits) >> (128 - p.len) == 0)
            }
        }
    }
}

/// The protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Every protocol; such a rule has neither ports nor an ICMP message.
    All,
    /// The protocol with this number of the IANA: 1 is always ICMP for IPv4, and 58 always ICMPv6,
    /// whichever way the policy spelled it.
    Number(u8),
}

/// ICMP or ICMPv6 type and, when given, code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code; `None` is every code.
    pub code: Option<u8>,
}

/// The lists of a rule as the policy writes them: literals and names of sets, joined by commas.
/// Equal lists share one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// `None` is every port.
    pub ports: Option<Arc<str>>,
    /// `from` or `to`.
    pub remote: Arc<str>,
}

/// One rule of the concatenated list.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which packets it is tried on.
    pub direction: Direction,
    /// Counts from 1 within the direction, over the concatenation of all groups.
    pub position: u32,
    /// The name of its group.
    pub group: String,
    /// The name that the policy gives it.
    pub name: Option<String>,
    /// What the policy says it is for.
    pub description: Option<String>,
    /// The protocol that it matches.
    pub protocol: Protocol,
    /// Destination ports of the packet that opens the flow: sorted, disjoint, inclusive.
    /// `None` is every port (and the only value for protocols without ports).
    pub ports: Option<Vec<(u16, u16)>>,
    /// The ICMP messages that it matches; `None` is every message.
    pub icmp: Option<IcmpMatch>,
    /// Addresses the rule can match. An `icmp` rule has no IPv6 prefixes and an `icmpv6` rule no
    /// IPv4 ones.
    pub remote: Arc<Remote>,
    /// Ports and addresses as the policy writes them.
    pub written: Written,
    /// What becomes of a packet that it is the first to match. [`Action::Audit`] if it would be
    /// dropped, but passes because the rule is audited.
    pub action: Action,
    /// Whether the policy says `audit` of the rule; a whole policy may be audited besides: see
    /// [`Policy::audited`].
    pub audit: bool,
    /// Whether such a packet is logged.
    pub log: bool,
    /// The match in one line, e.g. `tcp 22 from 0.0.0.0/0` (SPEC section 3, `explain`).
    pub summary: String,
    /// Group, direction, match as written and action, in a canonical spelling: two rules with the
    /// same identity keep one counter across reloads (SPEC A3). A named set counts by its name,
    /// so refreshing a set file keeps the counter.
    pub identity: String,
    /// Where the rule stands; the file as it was given.
    pub source: Location,
}

/// A named set of a policy file (SPEC P6).
#[derive(Clone, Debug)]
pub struct NamedSet<V> {
    /// What rules and `--set` call it.
    pub name: String,
    /// Literals and names of other sets, joined by commas: as the policy, its set file or `--set`
    /// writes them.
    pub entries: Arc<str>,
    /// What they resolve to.
    pub value: Arc<V>,
}

/// The sets of one policy file, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// `address-sets`.
    pub addresses: Vec<NamedSet<Remote>>,
    /// `port-sets`, as sorted, disjoint, inclusive ranges.
    pub ports: Vec<NamedSet<Vec<(u16, u16)>>>,
}

/// A security group, whose rules name it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name, which no other group of the policy has.
    pub name: String,
    /// False where that is the name of the policy's file. The digest leaves such a name out, so
    /// that a file may be renamed.
    pub is_named: bool,
    /// What the policy says it is for.
    pub description: Option<String>,
    /// The sets that its rules may name: those of its file.
    pub sets: Arc<Sets>,
}

/// What a trailing "drop everything" of a group that is not the last means (SPEC P3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrailingDeny {
    /// It takes effect only in the last group, and is left out where it stands.
    #[default]
    Defer,
    /// It is taken literally.
    Honour,
}

/// What a new policy does to flows that live already (SPEC K11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Established {
    /// A flow is judged again by the rules of the direction that opened it, at its next packet.
    #[default]
    Revalidate,
    /// A flow lives on until it expires.
    Keep,
    /// A flow is removed. A TCP connection is cut; packets of other protocols are judged as if the
    /// flow had never existed.
    Flush,
}

impl Established {
    /// The word that a policy writes.
    pub const fn name(self) -> &'static str {
        match self {
            Established::Revalidate => "revalidate",
            Established::Keep => "keep",
            Established::Flush => "flush",
        }
    }
}

/// What happens to frames that are neither IPv4 nor IPv6 (SPEC P10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NonIp {
    /// They pass.
    #[default]
    Accept,
    /// ARP passes, behind up to two VLAN tags too; everything else is dropped.
    ArpOnly,
}

impl NonIp {
    /// The word that a policy writes.
    pub const fn name(self) -> &'static str {
        match self {
            NonIp::Accept => "accept",
            NonIp::ArpOnly => "arp-only",
        }
    }
}

/// What passes that a policy would drop, besides what its rules audit (SPEC C9). It belongs to how
/// a policy is applied and not to the policy: it is in no file and not in the digest.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum AuditScope {
    /// What rules with `audit: true` would drop, and nothing else.
    #[default]
    Rules,
    /// What any rule would drop, what no rule matches, fragments whose first one is unknown, flows
    /// that are revoked, and frames that `non-ip` excludes. What is malformed is dropped.
    Policy,
    /// What is malformed too.
    All,
}

impl AuditScope {
    /// The word in output.
    pub const fn name(self) -> &'static str {
        match self {
            AuditScope::Rules => "rules",
            AuditScope::Policy => "policy",
            AuditScope::All => "all",
        }
    }
}

/// A policy ready to be explained, checked against the oracle, or compiled.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The file's `name`, else its stem; several files join theirs with `+`.
    pub name: String,
    /// `sha256:` and 64 hex digits over the resolved policy: groups, rules, sets, options.
    pub digest: String,
    /// What the policy says it is for.
    pub description: Option<String>,
    /// The groups in binding order, also those without rules.
    pub groups: Vec<Group>,
    /// What became of trailing denies. Those that were deferred are not among the rules.
    pub trailing_deny: TrailingDeny,
    /// Inbound rules in order of position, then outbound rules in order of position.
    pub rules: Vec<Rule>,
    /// Accept neighbour discovery, MLD, IGMP and DHCP replies whatever the rules say (SPEC K5).
    pub essential: bool,
    /// What happens to frames that are not IP.
    pub non_ip: NonIp,
    /// What happens to flows that live when the policy is put in force.
    pub established: Established,
    /// Log what no rule matches, by direction (SPEC P9).
    pub log_no_match: [bool; 2],
    /// Idle seconds after which a flow is forgotten, indexed by `sg_common::flow::Timeout`.
    pub timeouts: [u32; sg_common::flow::TIMEOUTS],
    /// What must stay reachable, whatever the rules say today (SPEC C6).
    pub guard: Vec<Guard>,
    /// What passes that the policy would drop: see [`Policy::audited`].
    pub audit: AuditScope,
    /// Every file that was read (policy and set files), for `run` to watch.
    pub sources: Vec<PathBuf>,
}

/// Inbound packets that the policy says must stay accepted (SPEC C6). It accepts nothing by itself,
/// and names at least one packet.
#[derive(Clone, Debug)]
pub struct Guard {
    /// As in a [`Rule`].
    pub protocol: Protocol,
    /// As in a [`Rule`].
    pub ports: Option<Vec<(u16, u16)>>,
    /// As in a [`Rule`].
    pub remote: Arc<Remote>,
    /// What the policy says it is for.
    pub description: Option<String>,
    /// The match in one line, as in a [`Rule`].
    pub summary: String,
    /// Where it stands.
    pub source: Location,
}

/// A rule's match, with its name in front if it has one: `[ssh] tcp 22 from 192.0.2.0/24`.
/// Wherever a rule is shown, it is shown like this.
pub fn titled(name: Option<&str>, summary: &str) -> String {
    match name {
        Some(name) => format!("[{name}] {summary}"),
        None => summary.to_owned(),
    }
}

/// How an identity ends: with the action, and before it a stroke.
pub(crate) fn identity_of(
    group: &str,
    direction: Direction,
    canonical: &str,
    action: Action,
) -> String {
    format!("{group}|{}|{canonical}|{}", direction.name(), action.name())
}

impl Rule {
    /// Makes a rule that drops one that is only watched.
    fn audit(&mut self) {
        if self.action != Action::Drop {
            return;
        }
        self.action = Action::Audit;
        // The identity ends with the action, and with a number if the same rule occurs more than
        // once.
        if let Some((rest, end)) = self.identity.rsplit_once('|') {
            let number = end.strip_prefix(Action::Drop.name()).unwrap_or_default();
            self.identity = format!("{rest}|{}{number}", Action::Audit.name());
        }
    }

    /// See [`titled`].
    pub fn title(&self) -> String {
        titled(self.name.as_deref(), &self.summary)
    }
}

impl Policy {
    /// The policy with what it would drop passing and being watched, as far as `scope` says. Rules
    /// that are audited because of it count for themselves, and not where they count when they
    /// drop.
    #[must_use]
    pub fn audited(mut self, scope: AuditScope) -> Policy {
        self.audit = scope;
        if scope != AuditScope::Rules {
            for rule in &mut self.rules {
                rule.audit();
            }
        }
        self
    }

    /// Whether anything passes that would be dropped.
    pub fn audits(&self) -> bool {
        self.audit != AuditScope::Rules || self.audited_rules().next().is_some()
    }

    /// The scope of what passes that would be dropped; `None` if nothing does.
    pub fn audit_in_force(&self) -> Option<AuditScope> {
        self.audits().then_some(self.audit)
    }

    /// The rules whose drops are only watched.
    pub fn audited_rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(|rule| rule.action == Action::Audit)
    }

    /// What becomes of packets that no rule matches.
    pub const fn no_match(&self) -> Action {
        match self.audit {
            AuditScope::Rules => Action::Drop,
            AuditScope::Policy | AuditScope::All => Action::Audit,
        }
    }

    /// Whether there is anything to be logged.
    pub fn logs(&self) -> bool {
        self.audits() || self.log_no_match.contains(&true) || self.rules.iter().any(|rule| rule.log)
    }

    /// The rules of one direction in order.
    pub fn rules_of(&self, direction: Direction) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |r| r.direction == direction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways to look an address up are the same function.
    #[test]
    fn a_long_list_has_the_addresses_that_a_walk_through_it_finds() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut remote = Remote::default();
        for _ in 0..2000 {
            let len = rng.u8(4..=32);
            let bits = rng.u32(..) & u32::MAX << (32 - len);
            remote.v4.push(Prefix { bits, len });
            let len = rng.u8(8..=128);
            let bits = rng.u128(..) & u128::MAX << (128 - len);
            remote.v6.push(Prefix { bits, len });
        }
        remote.v4.sort_unstable();
        remote.v6.sort_unstable();
        let (mut inside, mut outside) = (0, 0);
        for _ in 0..2000 {
            let near = remote.v4[rng.usize(..2000)].bits
                ^ rng.u32(..).checked_shr(rng.u32(8..33)).unwrap_or(0);
            let near6 = remote.v6[rng.usize(..2000)].bits
                ^ rng.u128(..).checked_shr(rng.u32(16..129)).unwrap_or(0);
            for address in [IpAddr::V4(near.into()), IpAddr::V6(near6.into())] {
                let walk = (0..2000).any(|i| {
                    let one = Remote {
                        v4: vec![remote.v4[i]],
                        v6: vec![remote.v6[i]],
                    };
                    one.contains(address)
                });
                assert_eq!(remote.contains(address), walk, "{address}");
                *if walk { &mut inside } else { &mut outside } += 1;
            }
        }
        assert!(inside > 500 && outside > 50, "{inside} {outside}");
    }
}
