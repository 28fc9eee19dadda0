//! `sgctl explain`: which rule decides a packet that opens a flow, and why. For a policy the rules
//! are walked in order; for an interface a copy of its programs is asked, and the way to the
//! verdict is shown.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;
use sg_common::verdict::Direction;
use sg_policy::analysis::Miss;
use sg_policy::policy::{Endpoint, Protocol, load, protocol_name, titled};
use sg_userspace::kernel::impact::Process;
use sg_userspace::kernel::interfaces;
use sg_userspace::kernel::listening::{Listening, Local, Takes, look};
use sg_userspace::kernel::own_addresses::own_address;
use sg_userspace::observe::attached::{Attached, Scope, attached};
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::explain::{Explanation, Question, explain_policy};
use sg_userspace::observe::inquiry::explain_attached;
use sg_userspace::observe::way::{Decision, ExplainedRule, JudgedBy, NearRule, Way};

use super::context::Context;
use super::explain_args::{Explain, Packet};
use super::failure::Failure;
use super::health;
use super::screen::{Paint, Screen};
use super::units::{clean, count, nearly, place as place_of, span};
use super::words::{GONE_RULE, SEEDED, about};

/// An answer with what listens at the port.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    explanation: Explanation,
    /// Left out if it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    listening: Option<Local>,
    #[serde(skip)]
    question: Question,
}

impl Explain {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let usage = |message: String| Failure::usage::<Explain>("explain", message);
        let asked = self.asked().map_err(usage)?;
        let packet = &asked.packet;
        let answers: Vec<Answer> = match self.ifaces.is_empty() {
            true => {
                let loaded = load(&asked.policies, &self.sets.sets)?;
                // The address is there: `asked` refuses a policy without one.
                let question = packet.question(Ok)?;
                vec![Answer {
                    explanation: explain_policy(&loaded.policy, &question),
                    listening: None,
                    question,
                }]
            }
            false => {
                let scope = Scope::Interfaces(self.ifaces.clone());
                let found = attached(&context.bpffs, &scope)?;
                let ask = |one| self.answer(one, packet);
                found.iter().map(ask).collect::<Result<_, _>>()?
            }
        };
        match (self.json.json, &answers[..]) {
            (true, [one]) => context.out.json(one),
            (true, all) => context.out.json(&all),
            (false, all) => {
                let of = |one: &Answer| {
                    let name = one.explanation.interface.as_deref();
                    let name = name.filter(|_| all.len() > 1);
                    let name = name.map(|name| format!("{}\n", clean(name)));
                    name.unwrap_or_default() + &text(&context.out, packet, one)
                };
                let texts: Vec<String> = all.iter().map(of).collect();
                context.out.say(&texts.join("\n"))
            }
        }
    }

    fn answer(&self, one: &Attached, packet: &Packet) -> Result<Answer, Failure> {
        // It may have been renamed since the policy was applied.
        let interface = match one.name() {
            Some(name) => name,
            None => one.state()?.interface.clone(),
        };
        let question = packet.question(|remote| {
            // One that was deleted has no address, and should not be asked for one.
            interfaces::index_of(&interface)?;
            let family = if remote.is_ipv4() { "IPv4" } else { "IPv6" };
            own_address(&interface, remote)?.ok_or_else(|| {
                let message = format!(
                    "{interface} has no {family} address: give that of LOCAL, the node itself"
                );
                Failure::usage::<Explain>("explain", message)
            })
        })?;
        let listening = match (self.listening, packet.service()) {
            (true, Ok((protocol, port))) => {
                let local = question.local;
                let found = look(&interface, one.pins.ifindex, protocol, local, port);
                Some(found?)
            }
            _ => None,
        };
        Ok(Answer {
            explanation: explain_attached(one, &question)?,
            listening,
            question,
        })
    }
}

fn text(screen: &Screen, packet: &Packet, answer: &Answer) -> String {
    let explanation = &answer.explanation;
    let standing = explanation.standing();
    let warnings = standing.map(|standing| health::warnings(screen, &standing));
    let mut out = warnings.unwrap_or_default();
    let _ = writeln!(
        out,
        "{}  {}",
        screen.action(explanation.verdict),
        shown(&answer.question, &packet.protocol)
    );
    let is_by_flow = explanation.way.as_ref().is_some_and(|way| way.by_flow);
    match &explanation.rule {
        Some(rule) => {
            let direction = match is_by_flow {
                true => explanation.direction.opposite(),
                false => explanation.direction,
            };
            let _ = writeln!(
                out,
                "  by {}{direction} rule {} of {}: {}",
                if is_by_flow { "its flow, of " } else { "" },
                rule.position,
                screen.paint(Paint::Bold, &rule.group),
                titled(rule.name.as_deref(), &rule.summary)
            );
            if let Some(description) = &rule.description {
                let _ = writeln!(out, "  {description}");
            }
            if let Some(place) = &rule.location {
                let place = clean(&place_of(place));
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
    if let Some(way) = &explanation.way {
        out.push_str(&way_text(screen, answer, way));
    }
    if let (Some(local), Some(interface)) = (&answer.listening, &explanation.interface) {
        out.push_str(&local_text(
            screen,
            packet,
            &answer.question,
            interface,
            local,
        ));
    }
    out
}

/// A line behind its heading. Without a heading it goes on with the line before.
fn line(out: &mut String, screen: &Screen, heading: &str, text: &str) {
    let heading = screen.paint(Paint::Dim, format!("{heading:<9}"));
    let _ = writeln!(out, "  {heading} {}", clean(text));
}

/// Lines below each other, of which the first has the heading.
fn lines(out: &mut String, screen: &Screen, heading: &str, texts: &[String]) {
    for (i, text) in texts.iter().enumerate() {
        let heading = if i == 0 { heading } else { "" };
        line(out, screen, heading, text);
    }
}

fn way_text(screen: &Screen, answer: &Answer, way: &Way) -> String {
    let mut out = String::new();
    let explanation = &answer.explanation;
    lines(&mut out, screen, "flow", &flow_texts(explanation, way));
    match (&way.reply, way.judged_by) {
        (Some(reply), _) => {
            let text = decided(reply, explanation.direction.opposite());
            line(&mut out, screen, "reply", &text);
        }
        (None, JudgedBy::Tables) if explanation.verdict.passes() => {
            line(&mut out, screen, "reply", "not known without a test run");
        }
        (None, _) => {}
    }
    let nearest = way.nearest.iter().flatten();
    let nearest: Vec<String> = nearest.map(|near| near_text(near, answer)).collect();
    lines(&mut out, screen, "nearest", &nearest);
    if way.nearest.is_none() && matches!(explanation.reason, DecidedBy::Rule) {
        let text = "not known: the text of the policy is not kept";
        line(&mut out, screen, "nearest", text);
    }
    let by = match way.judged_by {
        JudgedBy::Programs => "a private copy of the programs in force, in a test run",
        JudgedBy::Tables => "the tables in force; a test run of the programs was not possible",
    };
    line(&mut out, screen, "judged by", by);
    out
}

/// The flow that the packet belongs to, or how many there are between its ends.
fn flow_texts(explanation: &Explanation, way: &Way) -> Vec<String> {
    let Some(flow) = &way.flow else {
        return vec![match way.flows_between {
            0 => "none between these ends".to_owned(),
            flows => format!(
                "{} between these ends; with both ports given, one is looked at",
                count(flows, "flow")
            ),
        }];
    };
    let rule = match (&flow.rule, flow.is_seeded) {
        (_, true) => SEEDED.to_owned(),
        (Some(rule), _) => {
            let position = rule.position.map(|n| format!("{n} "));
            let title = titled(rule.name.as_deref(), &rule.summary);
            format!(
                "by {} rule {}({title})",
                rule.direction,
                position.unwrap_or_default()
            )
        }
        (None, _) => "by no rule that is known".to_owned(),
    };
    let mut texts = vec![
        format!(
            "{}, opened {} {} ago, {rule}",
            flow.state.name(),
            flow.opened.name(),
            span(flow.age_seconds)
        ),
        format!(
            "seen {} ago, forgotten in {} without a packet",
            span(flow.idle_seconds),
            nearly(flow.seconds_left)
        ),
    ];
    texts.extend(way.next.as_ref().map(|next| {
        let next = decided(next, explanation.direction);
        format!("its next segment: {next}")
    }));
    texts
}

/// `accept, by the flow of inbound rule 4 (tcp 22 from any)`.
fn decided(decision: &Decision, direction: Direction) -> String {
    let by = match (&decision.rule, decision.reason, decision.by_flow) {
        (Some(rule), _, true) => {
            format!("by its flow, of {} {}", direction.opposite(), named(rule))
        }
        (Some(rule), _, false) => format!("by {direction} {}", named(rule)),
        (None, DecidedBy::Reason(reason), _) => format!("{reason}: {}", about(reason)),
        (None, DecidedBy::Rule, _) => format!("by {GONE_RULE}"),
    };
    format!("{}, {by}", decision.verdict.name())
}

fn named(rule: &ExplainedRule) -> String {
    let title = titled(rule.name.as_deref(), &rule.summary);
    format!("rule {} ({title})", rule.position)
}

/// `rule 6 accept tcp 22 from 0.0.0.0/0: another port`.
fn near_text(near: &NearRule, answer: &Answer) -> String {
    let misses: Vec<String> = near
        .misses
        .iter()
        .map(|miss| match miss {
            Miss::Order => match &answer.explanation.rule {
                Some(rule) => format!("it matches, and rule {} comes first", rule.position),
                None => "it matches".to_owned(),
            },
            Miss::Protocol => "another protocol".to_owned(),
            Miss::Port => "another port".to_owned(),
            Miss::Icmp => "another ICMP message".to_owned(),
            Miss::Address => "another address".to_owned(),
        })
        .collect();
    let title = titled(near.rule.name.as_deref(), &near.rule.summary);
    format!(
        "rule {} {} {title}: {}",
        near.rule.position,
        near.action.name(),
        misses.join(", ")
    )
}

/// What listens at the port, what else keeps the packet from it, and what is not known of that.
fn local_text(
    screen: &Screen,
    packet: &Packet,
    question: &Question,
    interface: &str,
    local: &Local,
) -> String {
    let mut out = String::new();
    let address = question.local;
    let listening = listening_texts(packet, address, local);
    lines(&mut out, screen, "listening", &listening);
    let obstacles = obstacles(interface, address, local);
    lines(&mut out, screen, "in its way", &obstacles);
    line(
        &mut out,
        screen,
        "not seen",
        "netfilter, routes, and what listens in other network namespaces",
    );
    out
}

/// The sockets that listen at the port, those that take the packet first.
fn listening_texts(packet: &Packet, address: IpAddr, local: &Local) -> Vec<String> {
    if local.sockets.is_empty() {
        // `asked` refuses any other packet.
        let Ok((protocol, port)) = packet.service() else {
            return Vec::new();
        };
        let protocol = protocol_name(Protocol::Number(protocol));
        return vec![format!(
            "nothing listens at {protocol} port {port} in this network namespace"
        )];
    }
    let text = |socket: &Listening| {
        let text = socket_text(socket);
        match socket.takes {
            Takes::Yes => text,
            Takes::UnlessV6Only => format!("{text}, and IPv4 too unless it is IPV6_V6ONLY"),
            Takes::OtherAddress => format!("{text}, which takes no packets to {address}"),
            Takes::OtherInterface => format!("{text}, which is bound to another interface"),
        }
    };
    local.sockets.iter().map(text).collect()
}

/// What stops the packet besides the policy: a link that is down, or an address of nobody here.
fn obstacles(interface: &str, address: IpAddr, local: &Local) -> Vec<String> {
    let link = match (local.is_up, local.has_carrier) {
        (false, _) => Some(format!("{interface} is down")),
        (true, false) => Some(format!("{interface} has no carrier")),
        (true, true) => None,
    };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let address = match (local.is_own, local.forwards) {
        (true, _) => None,
        (false, _) if address.is_multicast() => Some(format!(
            "nobody here has joined the group {address} on {interface}"
        )),
        (false, Some(false)) => Some(format!(
            "{address} is no address of this network namespace, which does not forward {family}"
        )),
        (false, _) => Some(format!(
            "{address} is no address of this network namespace: the packet is forwarded, if at all"
        )),
    };
    link.into_iter().chain(address).collect()
}

/// `mysqld (pid 4711) at 0.0.0.0:3306`.
fn socket_text(socket: &Listening) -> String {
    let of = |process: &Process| format!("{} (pid {})", process.name, process.pid);
    let processes: Vec<String> = socket.processes.iter().map(of).collect();
    let who = match processes.is_empty() {
        true => "a socket of a process that cannot be seen".to_owned(),
        false => processes.join(", "),
    };
    format!("{who} at {}", Endpoint::new(socket.local, socket.port))
}

/// `inbound tcp 203.0.113.9 → 10.0.0.5:22`
fn shown(question: &Question, protocol: &str) -> String {
    let remote = Endpoint::new(question.remote, question.remote_port);
    let local = Endpoint::new(question.local, question.local_port);
    let (from, to) = match question.direction {
        Direction::Inbound => (remote, local),
        Direction::Outbound => (local, remote),
    };
    format!("{} {protocol} {from} → {to}", question.direction.name())
}
