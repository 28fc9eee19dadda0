//! `sgctl check`: says whether a policy is valid, how large its tables are, and what its author
//! should know. Attaches nothing and needs no privilege.

use std::fmt::Write as _;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sg_common::verdict::{Direction, FIRST_RULE_SLOT};
use sg_policy::analysis::{access, listed};
use sg_policy::compile::{Placement, TableSizes};
use sg_policy::compile_policy;
use sg_policy::policy::{Finding, Lint, Loaded, NonIp, Policy, Severity};
use sg_userspace::kernel::KernelError;

use super::context::{Context, Json};
use super::failure::Failure;
use super::patience::Patience;
use super::policy_args::{Policies, TableMemory};
use super::sarif;
use super::screen::{Paint, Screen};
use super::units::{bytes, count, short_digest};

/// Validate a policy and say what is odd about it; attaches nothing and needs no privilege
#[derive(Args)]
#[command(after_help = "\
Examples:
  sgctl check policy.yaml
  sgctl check builtin:tke-minimal --set admin=198.51.100.7
  sgctl check base.yaml team.yaml --json
  sgctl check policy.yaml --strict --deny shadowed-rule
  sgctl check policy.yaml --format sarif > findings.sarif

Each finding has its code in brackets. --strict makes an error of each warning, --deny CODE of each
finding with that code. Errors are listed with their places; nothing is attached in any case.

Rules that do nothing are found exactly: `shadowed-rule` is one that never matches, `redundant-rule`
one whose removal alone changes neither a verdict nor what is logged (its packets are counted
elsewhere then).

Exit codes: 0 valid (warnings and notes included), 1 not valid, or a finding is an error by --strict
or --deny, 2 usage.")]
pub(super) struct Check {
    #[command(flatten)]
    policies: Policies,
    #[command(flatten)]
    memory: TableMemory,
    /// Make errors of warnings
    #[arg(long)]
    strict: bool,
    /// Make errors of findings with this code; may be repeated
    #[arg(long, value_name = "CODE", value_parser = lint_codes(), hide_possible_values = true)]
    deny: Vec<String>,
    /// How to print findings: for people, as JSON (like --json), or as SARIF 2.1.0 for code hosts
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    json: Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Sarif,
}

fn lint_codes() -> PossibleValuesParser {
    PossibleValuesParser::new(Lint::ALL.iter().map(|lint| lint.code()))
}

#[derive(Serialize)]
struct Report {
    valid: bool,
    policy: Option<PolicyHead>,
    tables: Option<TableSizes>,
    /// The warnings and notes.
    findings: Vec<Finding>,
    errors: Vec<Finding>,
}

#[derive(Serialize)]
struct PolicyHead {
    name: String,
    digest: String,
    rules: usize,
    non_ip: NonIp,
}

impl PolicyHead {
    fn of(policy: &Policy) -> PolicyHead {
        PolicyHead {
            name: policy.name.clone(),
            digest: policy.digest.clone(),
            rules: policy.rules.len(),
            non_ip: policy.non_ip,
        }
    }
}

fn is_error(finding: &Finding) -> bool {
    finding.severity == Severity::Error
}

impl Check {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let format = self.format()?;
        let patience = Patience::with("reading and compiling the policy");
        let mut loaded = match self.policies.load() {
            Ok(loaded) => loaded,
            Err(errors) => {
                return self.refuse(format, &context.out, None, Vec::new(), errors.into());
            }
        };
        loaded.findings.extend(access::findings(&loaded.policy));
        self.promote(&mut loaded.findings);
        let head = PolicyHead::of(&loaded.policy);
        // The sizes do not depend on the counter slots, so any will do.
        let slots: Vec<u32> = (FIRST_RULE_SLOT..).take(head.rules).collect();
        let sizes = match compile_policy(&loaded.policy, &slots, self.memory.budget()) {
            Ok(compiled) => compiled.sizes(),
            Err(error) => {
                let error = KernelError::from(error).into();
                return self.refuse(format, &context.out, Some(head), loaded.findings, error);
            }
        };
        drop(patience);
        self.report(format, &context.out, head, loaded, sizes)
    }

    fn format(&self) -> Result<Format, Failure> {
        match (self.json.json, self.format) {
            (true, Format::Sarif) => {
                let both = "--json and --format sarif are two formats: give one of them";
                Err(Failure::usage::<Check>("check", both))
            }
            (true, _) => Ok(Format::Json),
            (false, format) => Ok(format),
        }
    }

    /// Says that the policy is not valid, and what was found before that was seen.
    fn refuse(
        &self,
        format: Format,
        screen: &Screen,
        policy: Option<PolicyHead>,
        mut findings: Vec<Finding>,
        failure: Failure,
    ) -> Result<(), Failure> {
        match format {
            Format::Text => Err(failure),
            Format::Json => not_valid(screen, policy, findings, failure.findings()),
            Format::Sarif => {
                findings.extend(failure.findings());
                self.sarif(screen, &findings)?;
                Err(Failure::Told(1))
            }
        }
    }

    /// Says what the policy is. It may still be refused for what was found.
    fn report(
        &self,
        format: Format,
        screen: &Screen,
        head: PolicyHead,
        loaded: Loaded,
        sizes: TableSizes,
    ) -> Result<(), Failure> {
        let is_refused = loaded.findings.iter().any(is_error);
        match format {
            Format::Text => screen.say(&text(screen, &loaded, sizes))?,
            Format::Sarif => self.sarif(screen, &loaded.findings)?,
            Format::Json => {
                let (errors, findings) = loaded.findings.into_iter().partition(is_error);
                screen.json(&Report {
                    valid: !is_refused,
                    policy: Some(head),
                    tables: Some(sizes),
                    findings,
                    errors,
                })?;
            }
        }
        match is_refused {
            true => Err(Failure::Told(1)),
            false => Ok(()),
        }
    }

    /// Prints findings for code hosts, with paths relative to the working directory.
    fn sarif(&self, screen: &Screen, findings: &[Finding]) -> Result<(), Failure> {
        let directory = std::env::current_dir().map_err(|source| Failure::Io {
            what: "finding the working directory",
            source,
        })?;
        let whole = self.policies.files().next();
        screen.json_line(&sarif::log(findings, whole, &directory))
    }

    /// Makes errors of the findings that `--strict` and `--deny` forbid.
    fn promote(&self, findings: &mut [Finding]) {
        for finding in findings {
            let is_denied = self.deny.iter().any(|code| code == finding.code);
            if is_denied || (self.strict && finding.severity == Severity::Warning) {
                finding.severity = Severity::Error;
            }
        }
    }
}

/// Prints the report of a `check` that could not read the policy. Returns the failure that is still
/// to be printed.
pub(super) fn refuse(screen: &Screen, failure: Failure) -> Failure {
    let printed = match not_valid(screen, None, Vec::new(), failure.findings()) {
        Err(Failure::Told(_)) => Ok(()),
        other => other,
    };
    failure.once(printed)
}

fn not_valid(
    screen: &Screen,
    policy: Option<PolicyHead>,
    findings: Vec<Finding>,
    errors: Vec<Finding>,
) -> Result<(), Failure> {
    screen.json(&Report {
        valid: false,
        policy,
        tables: None,
        findings,
        errors,
    })?;
    Err(Failure::Told(1))
}

fn text(screen: &Screen, loaded: &Loaded, sizes: TableSizes) -> String {
    let policy = &loaded.policy;
    let rules = |direction| policy.rules_of(direction).count();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} {}  {}",
        match loaded.findings.iter().any(is_error) {
            false => screen.paint(Paint::Green, "valid"),
            true => screen.paint(Paint::Red, "refused"),
        },
        screen.paint(Paint::Bold, &policy.name),
        screen.paint(
            Paint::Dim,
            format!("sha256:{}", short_digest(&policy.digest))
        ),
    );
    let _ = writeln!(
        out,
        "  {}: {} inbound, {} outbound",
        count(policy.rules.len(), "rule"),
        rules(Direction::Inbound),
        rules(Direction::Outbound),
    );
    if policy.non_ip == NonIp::ArpOnly {
        let _ = writeln!(out, "  of what is neither IPv4 nor IPv6, only ARP passes");
    }
    let _ = writeln!(
        out,
        "  {} of lookup tables {}: {}, {} ({} of them 256-way), {}",
        bytes(sizes.bytes as u64),
        match sizes.placement {
            Placement::Bss => "in the programs' own memory",
            Placement::ArrayMap => "in a map of their own",
        },
        classes(sizes.address_classes),
        count(sizes.blocks + sizes.nodes, "table node"),
        sizes.blocks,
        prefixes(sizes.ipv6_prefixes),
    );
    let _ = writeln!(
        out,
        "  a lookup takes at most {} for IPv4, {} for IPv6",
        count(sizes.ipv4_steps, "step"),
        count(sizes.ipv6_steps, "step"),
    );
    if !loaded.findings.is_empty() {
        out.push('\n');
    }
    for finding in listed(&loaded.findings) {
        out.push_str(&finding_text(screen, &finding));
    }
    let errors = loaded.findings.iter().filter(|finding| is_error(finding));
    let errors: Vec<&Finding> = errors.collect();
    if !errors.is_empty() {
        let by = match errors.iter().any(|error| error.code != access::CODE) {
            true => " by --strict or --deny",
            false => "",
        };
        let _ = writeln!(out, "\n{}{by}", count(errors.len(), "error"));
    }
    out
}

fn classes(number: usize) -> String {
    match number {
        1 => "1 address class".to_owned(),
        n => format!("{} address classes", super::units::thousands(n as u64)),
    }
}

fn prefixes(number: usize) -> String {
    match number {
        1 => "1 IPv6 prefix".to_owned(),
        n => format!("{} IPv6 prefixes", super::units::thousands(n as u64)),
    }
}

/// A finding as text: its message, its place, and a remedy.
fn finding_text(screen: &Screen, finding: &Finding) -> String {
    let paint = match finding.severity {
        Severity::Error => Paint::Red,
        Severity::Warning => Paint::Yellow,
        Severity::Note => Paint::Dim,
    };
    let mut out = String::new();
    if let Some(location) = &finding.location {
        let _ = write!(out, "{location}: ");
    }
    let _ = writeln!(
        out,
        "{}: {} {}",
        screen.paint(paint, finding.severity.name()),
        finding.message,
        screen.paint(Paint::Dim, format!("[{}]", finding.code)),
    );
    if let Some(witness) = &finding.witness {
        let _ = writeln!(out, "  such as {witness}");
    }
    if let Some(help) = &finding.help {
        let _ = writeln!(out, "  help: {help}");
    }
    out
}
