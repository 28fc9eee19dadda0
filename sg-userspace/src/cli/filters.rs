//! The options by which `flows` and `log` choose what is meant.

use clap::Args;
use sg_policy::policy::{Protocol, Remote, addresses_in, ports_in, protocol_in};
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::filter::{Filter, RuleChoice};
use sg_userspace::observe::flows::known_rules;

use super::failure::Failure;

#[derive(Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct Filters {
    /// Only this protocol, a name as in policies or a number; may be repeated
    #[arg(long, value_name = "PROTO", value_delimiter = ',', value_parser = protocol_in)]
    proto: Vec<Protocol>,
    /// Only with one of these ports at either end, such as 22 or 80,443,8000-8099
    #[arg(long, value_name = "PORTS", value_parser = ports)]
    port: Option<Ports>,
    /// Only from these addresses, CIDRs or ranges: of a flow, from where it was opened
    #[arg(long, value_name = "ADDRESSES", value_parser = addresses_in)]
    from: Option<Remote>,
    /// Only to these: of a flow, to where it was opened
    #[arg(long, value_name = "ADDRESSES", value_parser = addresses_in)]
    to: Option<Remote>,
    /// Only of the rule with this name or position, of one direction as in inbound:3; may be
    /// repeated
    #[arg(long, value_name = "NAME|POSITION")]
    rule: Vec<String>,
}

impl Filters {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            protocols: self.proto.clone(),
            ports: self
                .port
                .as_ref()
                .map(|ports| ports.0.clone())
                .unwrap_or_default(),
            from: self.from.clone(),
            to: self.to.clone(),
            rules: self.rule.iter().map(|text| RuleChoice::of(text)).collect(),
        }
    }

    /// Refuses a rule that none of these attachments knows: it would choose nothing for ever.
    pub(super) fn refuse_unknown<A: Args>(
        &self,
        command: &'static str,
        among: &[Attached],
    ) -> Result<(), Failure> {
        if self.rule.is_empty() {
            return Ok(());
        }
        let mut rules = Vec::new();
        for one in among {
            rules.extend(known_rules(one)?);
        }
        let known = || rules.iter().map(|rule| rule.seen());
        let filter = self.filter();
        let Some(unknown) = filter.unknown_rule(known()) else {
            return Ok(());
        };
        let near = match unknown.near(known()) {
            Some(name) => format!("; did you mean `{name}`?"),
            None => ": `sgctl counters` lists them".to_owned(),
        };
        let message =
            format!("no rule of the policy in force has the name or position `{unknown}`{near}");
        Err(Failure::usage::<A>(command, message))
    }
}

/// A list of ports, given as one value.
#[derive(Clone)]
struct Ports(Vec<(u16, u16)>);

fn ports(text: &str) -> Result<Ports, String> {
    ports_in(text).map(Ports)
}
