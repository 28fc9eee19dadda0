//! `sgctl explain`: which rule decides a packet that opens a flow, and why. For a policy the rules
//! are walked in order, for an interface the tables in the kernel are evaluated.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use sg_common::verdict::Direction;
use sg_policy::policy::{load, titled};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::explain::{Explanation, Question, explain_attached, explain_policy};

use super::context::Context;
use super::counters::about;
use super::explain_args::{Asked, Explain};
use super::failure::Failure;
use super::health;
use super::screen::{Paint, Screen};
use super::units::clean;

impl Explain {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let asked = self
            .asked()
            .map_err(|e| Failure::usage::<Explain>("sgctl explain", e))?;
        let explanations = match self.ifaces.is_empty() {
            true => {
                let loaded = load(&asked.policies, &self.sets.sets)?;
                vec![explain_policy(&loaded.policy, &asked.question)]
            }
            false => {
                let scope = Scope::Interfaces(self.ifaces.clone());
                let found = attached(&context.bpffs, &scope)?;
                let explain = |one| explain_attached(one, &asked.question);
                found.iter().map(explain).collect::<Result<_, _>>()?
            }
        };
        match (self.json.json, &explanations[..]) {
            (true, [one]) => context.out.json(one),
            (true, all) => context.out.json(&all),
            (false, all) => {
                let of = |one: &Explanation| {
                    let name = one.interface.as_deref().filter(|_| all.len() > 1);
                    let name = name.map(|name| format!("{}\n", clean(name)));
                    name.unwrap_or_default() + &text(&context.out, &asked, one)
                };
                let texts: Vec<String> = all.iter().map(of).collect();
                context.out.say(&texts.join("\n"))
            }
        }
    }
}

fn text(screen: &Screen, asked: &Asked, explanation: &Explanation) -> String {
    let mut out = match (&explanation.interface, explanation.health) {
        (Some(interface), Some(health)) => health::warnings(
            screen,
            interface,
            health,
            &explanation.faults,
            explanation.elsewhere.as_deref(),
        ),
        _ => String::new(),
    };
    let _ = writeln!(
        out,
        "{}  {}",
        screen.action(explanation.verdict),
        packet(&asked.question, &asked.protocol)
    );
    match &explanation.rule {
        Some(rule) => {
            let _ = writeln!(
                out,
                "  by {} rule {} of {}: {}",
                explanation.direction,
                rule.position,
                screen.paint(Paint::Bold, &rule.group),
                titled(rule.name.as_deref(), &rule.summary)
            );
            if let Some(description) = &rule.description {
                let _ = writeln!(out, "  {description}");
            }
            if let Some(place) = &rule.location {
                let place = format!("{}:{}", place.file, place.line);
                let _ = writeln!(out, "  {}", screen.paint(Paint::Dim, place));
            }
        }
        None => {
            if let DecidedBy::Reason(reason) = explanation.reason {
                let _ = writeln!(
                    out,
                    "  by no rule, counted as {}: {}",
                    screen.paint(Paint::Bold, reason),
                    about(reason)
                );
            }
        }
    }
    out
}

/// `inbound tcp 203.0.113.9 → 10.0.0.5:22`
fn packet(question: &Question, protocol: &str) -> String {
    let end = |address: IpAddr, port: Option<u16>| match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let remote = end(question.remote, question.remote_port);
    let local = end(question.local, question.local_port);
    let (from, to) = match question.direction {
        Direction::Inbound => (remote, local),
        Direction::Outbound => (local, remote),
    };
    format!("{} {protocol} {from} → {to}", question.direction.name())
}
