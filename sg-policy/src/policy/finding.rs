//! What is said about a policy, and how: errors and findings have one shape (SPEC A4). A finding
//! is what `check` says of a policy that is valid; it never stops the policy from being applied.

use std::fmt;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sg_common::verdict::{Action, Direction};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing is done because of it.
    Error,
    /// Probably not what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`, as JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Defines [`Lint`] from one list of what there is to look for.
macro_rules! lints {
    ($($(#[doc = $doc:literal])* $lint:ident $code:literal,)*) => {
        /// What `check` looks for in a valid policy. The codes are stable: `--deny` takes them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Lint {
            $($(#[doc = $doc])* $lint,)*
        }

        impl Lint {
            /// All of them, in the order of their codes.
            pub const ALL: &[Lint] = &[$(Lint::$lint),*];

            /// The `code` of its findings.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Lint::$lint => $code,)*
                }
            }

            /// What is looked for, in a sentence.
            pub const fn about(self) -> &'static str {
                match self {
                    $(Lint::$lint => concat!($($doc),*).trim_ascii_start(),)*
                }
            }
        }
    };
}

lints! {
    /// In a cluster: outbound tcp 6443 is accepted to private addresses at most.
    ApiServerClosed "api-server-closed",
    /// A rule drops nothing, because it is audited.
    AuditedRule "audited-rule",
    /// No rule accepts anything, in either direction.
    DeniesEverything "denies-everything",
    /// No inbound rule accepts anything, though outbound rules do.
    DeniesInbound "denies-inbound",
    /// No outbound rule accepts anything, though inbound rules do.
    DeniesOutbound "denies-outbound",
    /// A rule matches nothing, because a set that it names is empty.
    EmptySet "empty-set",
    /// In a cluster: the rules for pods and nodes have no global IPv6 addresses.
    GlobalIpv6Closed "global-ipv6-closed",
    /// An inbound rule accepts all protocols from every address of a family.
    InboundOpen "inbound-open",
    /// No rule accepts any IPv4 address.
    Ipv4Denied "ipv4-denied",
    /// No rule accepts any IPv6 address.
    Ipv6Denied "ipv6-denied",
    /// Essential traffic is turned off, and no rule accepts neighbour discovery.
    NeighboursClosed "neighbours-closed",
    /// A range of ports begins in Kubernetes' NodePort range and ends beyond it.
    NodePortRange "node-port-range",
    /// In a cluster: no rule accepts the echo requests of public addresses, or those to them.
    PingClosed "ping-closed",
    /// A rule changes nothing: without it the rest of the policy does the same.
    RedundantRule "redundant-rule",
    /// A rule can never match, because earlier ones cover it, one alone or several together.
    ShadowedRule "shadowed-rule",
    /// In a cluster: the rules for pods and nodes do not have 100.64.0.0/10 (RFC 6598).
    SharedAddressesClosed "shared-addresses-closed",
    /// Nobody can open an SSH session with the node, or nobody from outside the cluster.
    SshClosed "ssh-closed",
    /// SSH is open to every address of a family.
    SshOpen "ssh-open",
    /// The closing rule of a group that is not the last drops everything, and is put off to the end.
    TrailingDenyDeferred "trailing-deny-deferred",
    /// The same, and it takes effect where it stands: later groups never match.
    TrailingDenyHonoured "trailing-deny-honoured",
    /// `0.0.0.0` or `::` as a single address, where every address may have been meant.
    UnspecifiedAddress "unspecified-address",
    /// No rule names a set.
    UnusedSet "unused-set",
}

/// A place in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The path as it was given, `<stdin>`, `builtin:NAME` or `--set`.
    pub file: String,
    /// Counts from 1.
    pub line: u32,
    /// Counts characters from 1.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One finding, or one error in the shape of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What kind of thing it is: words joined by hyphens, and stable.
    pub code: &'static str,
    /// What was found, in a sentence that begins in lower case and has no full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where it is; `None` if it is not about one place in a policy.
    pub location: Option<Location>,
    /// Of a rule that does nothing: the rules that decide its packets, or would decide them. Of
    /// all others none.
    pub rules: Vec<Decider>,
    /// Of a rule that does nothing: a packet that shows it.
    pub witness: Option<Witness>,
}

/// A rule that a finding names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decider {
    /// The list that it is in.
    pub direction: Direction,
    /// Its place there, from 1.
    pub position: u32,
    /// The name of its group.
    pub group: String,
    /// Its own name.
    pub name: Option<String>,
    /// What it does to packets.
    pub action: Action,
    /// Its match in one line.
    pub summary: String,
    /// Where it stands.
    pub location: Location,
}

/// A packet that opens a flow, as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// Where it goes.
    pub direction: Direction,
    /// The number of its protocol.
    pub protocol: u8,
    /// The address at the other end.
    pub remote: IpAddr,
    /// The destination port, of TCP, UDP and SCTP.
    pub port: Option<u16>,
    /// The type, of ICMP in IPv4 and ICMPv6 in IPv6.
    pub icmp_type: Option<u8>,
    /// Its code.
    pub icmp_code: Option<u8>,
}

impl Finding {
    /// An error without help and place.
    pub fn error(code: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Error,
            code,
            message: message.into(),
            help: None,
            location: None,
            rules: Vec::new(),
            witness: None,
        }
    }

    pub(crate) fn warning(lint: Lint, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..Finding::error(lint.code(), message)
        }
    }

    pub(crate) fn note(lint: Lint, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Note,
            ..Finding::error(lint.code(), message)
        }
    }

    /// This finding with a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Finding {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn at(mut self, location: &Location) -> Finding {
        self.location = Some(location.clone());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        write!(
            f,
            "{}: {} [{}]",
            self.severity.name(),
            self.message,
            self.code
        )?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}
