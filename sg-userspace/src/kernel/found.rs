//! Finds what is on each interface of an `apply`, and which attachment the interfaces belong to.
//! Changes nothing.

use super::error::KernelError;
use super::fixed::{is_unchanged, settle};
use super::hooks::other_xdp;
use super::inspect::{Inspection, inspect};
use super::location::{Place, is_attached_to};
use super::machine::interfaces::{self, Interface};
use super::options::ApplyOptions;
use super::pins::{InterfacePins, PinTree};
use super::start::{Replaced, Start};
use super::tc;
use sg_policy::policy::Policy;

/// The state of one interface, and the options for it.
pub(super) struct Found {
    pub(super) options: ApplyOptions,
    pub(super) name: String,
    pub(super) interface: Interface,
    pub(super) start: Start,
}

impl Found {
    pub(super) fn look(
        tree: &PinTree,
        cookie: u64,
        name: &str,
        options: &ApplyOptions,
    ) -> Result<Found, KernelError> {
        let no_interface = || KernelError::NoInterface {
            name: name.to_owned(),
            known: interfaces::names().join(", "),
        };
        let index = interfaces::index_of(name)?;
        let interface = interfaces::inspect(index)?.ok_or_else(no_interface)?;
        if !interface.is_ethernet {
            return Err(KernelError::NotEthernet {
                interface: name.to_owned(),
            });
        }
        let start = find(tree, &tree.interface(cookie, index)?, &interface, name)?;
        let mut options = options.clone();
        match start.replaced() {
            Some(replaced) => settle(&mut options, name, replaced)?,
            None => {
                if let Some(id) = others_xdp(&start, &interface) {
                    return Err(other_xdp(name, id));
                }
            }
        }
        Ok(Found {
            options,
            name: name.to_owned(),
            interface,
            start,
        })
    }

    pub(super) fn is_unchanged(&self, policy: &Policy) -> bool {
        let replaced = self.start.replaced();
        replaced.is_some_and(|it| is_unchanged(policy, &self.options, &self.name, it))
    }
}

/// The number of the attachment that the interfaces belong to from now on. If some belong to an
/// attachment already, it must be the same for all, and all its interfaces must be named: one that
/// is left out would keep another policy while it shares the flows.
pub(super) fn attachment_of(
    tree: &PinTree,
    cookie: u64,
    found: &[Found],
) -> Result<u32, KernelError> {
    let of = |one: &Found| {
        let pins = &one.start.replaced()?.inspection.pins;
        Some((one.name.clone(), pins.clone()))
    };
    let attached: Vec<(String, InterfacePins)> = found.iter().filter_map(of).collect();
    let Some((name, pins)) = attached.first() else {
        return tree.free_attachment(cookie);
    };
    if let Some((other, _)) = attached.iter().find(|(_, it)| !it.shares_with(pins)) {
        return Err(KernelError::Fixed {
            what: format!("putting {name} and {other} under one policy"),
            reason: "each is attached already, with flows of its own, which cannot be joined"
                .into(),
            help: format!(
                "apply to each by itself, which replaces its policy; to have them share flows, \
                 `sgctl detach --iface {other}`, with nothing enforced on it until the next apply to both"
            ),
        });
    }
    all_are_named(found, name, pins)?;
    Ok(match pins.netns_cookie == cookie {
        true => pins.attachment,
        // The interface was moved here, and its attachment comes along with a new number.
        false => tree.free_attachment(cookie)?,
    })
}

/// Refuses to apply to some interfaces of an attachment and not to the others. `name` is one that
/// is named, whose pins are `pins`.
fn all_are_named(found: &[Found], name: &str, pins: &InterfacePins) -> Result<(), KernelError> {
    let is_named = |pins: &InterfacePins| {
        let mut inspections = found.iter().filter_map(|one| one.start.inspection());
        inspections.any(|inspection| inspection.pins == *pins)
    };
    let mut left_out = Vec::new();
    let mut elsewhere = None;
    for other in pins.of_attachment()? {
        if is_named(&other) {
            continue;
        }
        let it = inspect(&other)?;
        let state = it.state();
        // An interface that is gone cannot enforce anything, and neither can an interrupted
        // attempt.
        if !matches!(it.place, Place::Gone) && (state.is_some() || it.is_attached()) {
            let is_elsewhere = it.at().is_some_and(|at| at.netns().is_some());
            let here = it.at().filter(|_| !is_elsewhere);
            // It may have been renamed since the policy was applied.
            let name = here
                .map(|at| at.interface.name.clone())
                .or_else(|| state.map(|state| state.interface))
                .unwrap_or_else(|| format!("#{}", other.ifindex));
            if is_elsewhere {
                elsewhere = Some(name.clone());
            }
            left_out.push(name);
        }
    }
    let Some(other) = left_out.first() else {
        return Ok(());
    };
    let named: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
    let others = left_out.iter().map(String::as_str);
    let all = named.iter().copied().chain(others);
    let all: Vec<String> = all.map(|name| format!("--iface {name}")).collect();
    Err(KernelError::Fixed {
        what: format!("applying to {} alone", named.join(" and ")),
        reason: format!(
            "{} is under the same policy and shares its flows with {name}",
            left_out.join(", "),
        ),
        help: match elsewhere {
            Some(other) => format!(
                "{other} is in another network namespace, which an apply from here cannot reach: \
                 take it out of the attachment first with `sgctl detach --iface {other}`, which ends \
                 enforcement there"
            ),
            None => format!(
                "name all of them (`{}`); or take one out of it first with `sgctl detach --iface {other}`, \
                 which ends enforcement there",
                all.join(" "),
            ),
        },
    })
}

/// Finds what is attached to the interface: with its own pins, with those from before it was moved,
/// or with those of an earlier interface of the same name.
fn find(
    tree: &PinTree,
    pins: &InterfacePins,
    interface: &Interface,
    name: &str,
) -> Result<Start, KernelError> {
    let others = tree.interfaces()?;
    let others = || others.iter().filter(|other| *other != pins);
    for other in others() {
        if is_attached_to(other, interface)? {
            return start(inspect(other)?, Some(other.clone()));
        }
    }
    if pins.exists() {
        return start(inspect(pins)?, None);
    }
    for other in others().filter(|other| other.netns_cookie == pins.netns_cookie) {
        let inspection = inspect(other)?;
        let is_namesake = matches!(&inspection.place, Place::Recreated(at)
            if at.interface.index == interface.index);
        let state = inspection.state();
        let is_of_this_name = state.is_some_and(|state| state.interface == name);
        if is_namesake && is_of_this_name && inspection.missing.is_empty() {
            return start(inspection, Some(other.clone()));
        }
    }
    Ok(Start::First)
}

fn start(inspection: Inspection, moved_from: Option<InterfacePins>) -> Result<Start, KernelError> {
    // If the interface of these pins was moved away, its links went with it, and another interface
    // may have its index now.
    if moved_from.is_none() {
        let elsewhere = match &inspection.place {
            Place::Moved(at) => Some(at.netns().unwrap_or("this one").to_owned()),
            Place::Unknown { reason } => Some(reason.clone()),
            _ => None,
        };
        if let Some(place) = elsewhere {
            return Err(KernelError::Refused {
                what: format!("attaching where the pins are {}", inspection.pins.dir.display()),
                reason: format!(
                    "they belong to an interface that was moved to another network namespace \
                     ({place})"
                ),
                help: "apply to that interface where it is now, which takes the pins along, or detach \
                       from it"
                    .into(),
            });
        }
    }
    let is_attached = inspection.is_attached();
    let state = match inspection.record() {
        Ok(state) => state,
        Err(why) => {
            return match inspection.records {
                // It may be readable the next time.
                Err(error) if !matches!(error, KernelError::DamagedState { .. }) => Err(error),
                _ if is_attached => Err(KernelError::DamagedState {
                    path: inspection.pins.state(),
                    reason: why.reason().to_owned(),
                }),
                _ => Ok(Start::Leftovers(Box::new(inspection))),
            };
        }
    };
    let is_in_place = match &inspection.records {
        // If a first apply was killed at its very end, everything is in place.
        Ok(records) if records.current.is_none() => {
            inspection.runs(&state) && inspection.targets == [Some(true); 2]
        }
        // Counters and flows can be kept if all pins that outlive a policy exist.
        _ => is_attached || inspection.missing.is_empty(),
    };
    // If a policy was undone and none was before it, nothing is in force.
    match is_in_place && !state.has_ended() {
        true => Ok(Start::Replace(Box::new(Replaced {
            state,
            inspection,
            moved_from,
        }))),
        false => Ok(Start::Leftovers(Box::new(inspection))),
    }
}

/// The id of an XDP program of another tool.
fn others_xdp(start: &Start, interface: &Interface) -> Option<u32> {
    match start {
        Start::First => interface.xdp.first(),
        Start::Leftovers(inspection) => inspection.inbound.others.first(),
        Start::Replace(_) => None,
    }
    .map(|(_, id)| *id)
}

/// Whether the interface has a clsact qdisc, not counting one that is removed before anything is
/// attached.
pub(super) fn has_qdisc(start: &Start, ifindex: u32) -> Result<bool, KernelError> {
    Ok(match start {
        Start::First => tc::look(ifindex)?.has_qdisc(),
        // Our own remains are removed first.
        Start::Leftovers(inspection) => {
            inspection.outbound.clsact.has_qdisc() && !inspection.owns_qdisc()
        }
        Start::Replace(replaced) => replaced.inspection.outbound.clsact.has_qdisc(),
    })
}
