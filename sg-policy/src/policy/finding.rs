//! What is said about a policy, and how: errors and findings have one shape (SPEC A4). A finding
//! is what `check` says of a policy that is valid; it never stops the policy from being applied.

use std::fmt;

use serde::Serialize;

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
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// What `check` looks for in a valid policy. The names are stable: `--deny` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lint {
    ApiServerClosed,
    DeniesEverything,
    DeniesInbound,
    DeniesOutbound,
    EmptySet,
    GlobalIpv6Closed,
    InboundOpen,
    Ipv4Denied,
    Ipv6Denied,
    NeighboursClosed,
    NodePortRange,
    PingClosed,
    ShadowedRule,
    SharedAddressesClosed,
    SshClosed,
    SshOpen,
    TrailingDenyDeferred,
    TrailingDenyHonoured,
    UnspecifiedAddress,
    UnusedSet,
}

impl Lint {
    pub const ALL: [Lint; 20] = [
        Lint::ApiServerClosed,
        Lint::DeniesEverything,
        Lint::DeniesInbound,
        Lint::DeniesOutbound,
        Lint::EmptySet,
        Lint::GlobalIpv6Closed,
        Lint::InboundOpen,
        Lint::Ipv4Denied,
        Lint::Ipv6Denied,
        Lint::NeighboursClosed,
        Lint::NodePortRange,
        Lint::PingClosed,
        Lint::ShadowedRule,
        Lint::SharedAddressesClosed,
        Lint::SshClosed,
        Lint::SshOpen,
        Lint::TrailingDenyDeferred,
        Lint::TrailingDenyHonoured,
        Lint::UnspecifiedAddress,
        Lint::UnusedSet,
    ];

    /// The `code` of its findings.
    pub const fn code(self) -> &'static str {
        match self {
            Lint::ApiServerClosed => "api-server-closed",
            Lint::DeniesEverything => "denies-everything",
            Lint::DeniesInbound => "denies-inbound",
            Lint::DeniesOutbound => "denies-outbound",
            Lint::EmptySet => "empty-set",
            Lint::GlobalIpv6Closed => "global-ipv6-closed",
            Lint::InboundOpen => "inbound-open",
            Lint::Ipv4Denied => "ipv4-denied",
            Lint::Ipv6Denied => "ipv6-denied",
            Lint::NeighboursClosed => "neighbours-closed",
            Lint::NodePortRange => "node-port-range",
            Lint::PingClosed => "ping-closed",
            Lint::ShadowedRule => "shadowed-rule",
            Lint::SharedAddressesClosed => "shared-addresses-closed",
            Lint::SshClosed => "ssh-closed",
            Lint::SshOpen => "ssh-open",
            Lint::TrailingDenyDeferred => "trailing-deny-deferred",
            Lint::TrailingDenyHonoured => "trailing-deny-honoured",
            Lint::UnspecifiedAddress => "unspecified-address",
            Lint::UnusedSet => "unused-set",
        }
    }
}

/// A place in a policy file; line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    pub file: String,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One finding, or one error. `code` is kebab-case and stable; `location` is absent when it is not
/// about a place in a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
    pub location: Option<Location>,
}

impl Finding {
    pub fn error(code: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Error,
            code,
            message: message.into(),
            help: None,
            location: None,
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
