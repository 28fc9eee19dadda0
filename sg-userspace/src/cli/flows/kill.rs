//! `sgctl flows --kill`: lists the flows that are meant, asks, and ends them.

use std::io::{self, IsTerminal as _};
use std::net::IpAddr;

use serde::Serialize;
use sg_common::protocol::IPPROTO_TCP;
use sg_policy::policy::AuditScope;
use sg_userspace::kernel::impact::own_connections;
use sg_userspace::kernel::kill::{Chosen, Killed, kill};
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::flows::{Flow, FlowState, Wanted};

use super::args::Flows;
use super::listed::{Listed, SHOWN, listed};
use super::text;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::json_rows;
use crate::cli::screen::{Paint, Screen};
use crate::cli::units::count;

/// What was done in one attachment.
#[derive(Serialize)]
struct Report<'a> {
    interface: &'a str,
    netns: Option<&'a str>,
    killed: Killed,
    /// How many were left alone, because you work through them.
    own: usize,
    /// The flows as they were before.
    flows: &'a [Flow],
}

/// The flows of an attachment that are to be ended.
struct Doomed {
    listed: Listed,
    own: usize,
    /// Whether the policy lets the packets of cut connections pass, and only counts them.
    audits_all: bool,
}

/// The ends of a connection through which the operator works: local and remote.
type OwnEnds = [(IpAddr, u16); 2];

pub(super) fn run(flows: &Flows, context: &Context) -> Result<(), Failure> {
    let refuse = |message: &str| Err(Failure::usage::<Flows>("flows", message));
    let most = flows.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let wanted = flows.wanted(most);
    if wanted.is_all() && !flows.all {
        return refuse(
            "--kill ends the flows that fit a filter, such as --from 203.0.113.9 or --port 3306; \
             every flow is --all",
        );
    }
    if !flows.yes && (flows.json.json || !io::stdin().is_terminal()) {
        return refuse("--kill asks before it ends flows, and there is nobody to ask: give --yes");
    }
    let found = flows.tables(context)?;
    let own = match flows.force {
        true => Vec::new(),
        false => own_connections(),
    };
    let doomed = found.iter().map(|one| doomed(one, &wanted, &own));
    let mut all = doomed.collect::<Result<Vec<Doomed>, Failure>>()?;
    let total: usize = all.iter().map(|one| one.listed.flows.len()).sum();
    if !flows.json.json {
        show(&context.out, &mut all)?;
        if total > 0 && !flows.yes && !is_confirmed(&context.out, total)? {
            return context.out.say("nothing was ended\n");
        }
    }
    let mut reports = Vec::new();
    for (one, doomed) in found.iter().zip(&all) {
        let chosen: Vec<Chosen> = doomed.listed.flows.iter().map(Flow::chosen).collect();
        let killed = match chosen.is_empty() {
            true => Killed::default(),
            false => kill(&context.bpffs, &one.pins, &chosen)?,
        };
        reports.push(Report {
            interface: &doomed.listed.standing.interface,
            netns: doomed.listed.standing.netns.as_deref(),
            killed,
            own: doomed.own,
            flows: &doomed.listed.flows,
        });
    }
    if flows.json.json {
        return json_rows::print(&reports);
    }
    let mut out = String::new();
    for (report, doomed) in reports.iter().zip(&all) {
        out.push_str(&sentence(report, doomed, reports.len() > 1));
    }
    context.out.say(&out)
}

/// The flows of an attachment that are wanted and can be ended, but for those of `own`.
fn doomed(one: &Attached, wanted: &Wanted, own: &[OwnEnds]) -> Result<Doomed, Failure> {
    let mut listed = listed(one, wanted)?;
    listed.flows.retain(|flow| flow.state != FlowState::Cut);
    let before = listed.flows.len();
    listed.flows.retain(|flow| !is_own(flow, own));
    let own = before - listed.flows.len();
    listed.matching = listed.flows.len();
    let audit = one.state()?.policy.audit;
    Ok(Doomed {
        listed,
        own,
        audits_all: audit.is_some_and(|scope| scope != AuditScope::Rules),
    })
}

/// Prints what is to be ended: the first ones of each attachment.
fn show(screen: &Screen, all: &mut [Doomed]) -> Result<(), Failure> {
    for one in all {
        let rest = one
            .listed
            .flows
            .split_off(one.listed.flows.len().min(SHOWN));
        let shown = text::print(screen, std::slice::from_ref(&one.listed));
        one.listed.flows.extend(rest);
        shown?;
        if one.own > 0 {
            let line = format!(
                "left alone: {} through which you work; --force ends that too\n",
                count(one.own, "connection")
            );
            screen.say(&screen.paint(Paint::Yellow, line))?;
        }
    }
    Ok(())
}

/// Whether it is one of the connections through which the operator works.
fn is_own(flow: &Flow, own: &[OwnEnds]) -> bool {
    let (Some(local), Some(remote)) = (flow.local_port, flow.remote_port) else {
        return false;
    };
    flow.protocol == IPPROTO_TCP && own.contains(&[(flow.local, local), (flow.remote, remote)])
}

fn is_confirmed(screen: &Screen, total: usize) -> Result<bool, Failure> {
    screen.print(&format!("end {}? [y/N] ", count(total, "flow")))?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|source| Failure::Io {
            what: "reading the answer",
            source,
        })?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// What was done, in a line for each thing that needs one.
fn sentence(report: &Report<'_>, doomed: &Doomed, is_one_of_several: bool) -> String {
    let Killed {
        cut,
        forgotten,
        by_rules,
        gone,
        busy,
    } = report.killed;
    let place = match is_one_of_several {
        true => format!("{}: ", report.interface),
        false => String::new(),
    };
    let mut parts = Vec::new();
    let mut part = |number: usize, what: &str, rest: &str| {
        if number > 0 {
            parts.push(format!("{}{rest}", count(number, what)));
        }
    };
    part(cut, "connection", " cut");
    part(forgotten, "flow", " forgotten");
    part(gone, "flow", " gone by itself");
    let mut out = match parts.is_empty() {
        true => format!("{place}no flow was ended\n"),
        false => format!("{place}{}\n", parts.join(", ")),
    };
    if by_rules > 0 {
        out.push_str(&format!(
            "{} on: the rules accept the packets of both ends, whatever the flow table says\n",
            match by_rules {
                1 => "1 connection goes".to_owned(),
                n => format!("{n} connections go"),
            }
        ));
    }
    if busy > 0 {
        out.push_str(&format!(
            "{} could not be ended, because too many packets change the table: try again\n",
            count(busy, "flow")
        ));
    }
    if cut > 0 && doomed.audits_all {
        out.push_str(
            "the policy is audited: segments of cut connections pass all the same, and are counted\n",
        );
    }
    out
}
