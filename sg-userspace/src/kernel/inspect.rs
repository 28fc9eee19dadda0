//! Reads the real state of an attachment in both directions: the links and their programs, the
//! clsact filters, the programs before them, the tail-call targets, the records, and where the
//! interface is now. Whatever the kernel can be asked is not taken from the record. `apply`,
//! `detach` and `status` are built on this, and `condition` names what is wrong.

use sg_common::verdict::Direction;

use super::error::KernelError;
use super::link_kind::Link;
use super::load::shared_maps::SharedMaps;
use super::load::targets;
use super::location::{At, Place, chain, links_of, locate};
use super::machine::interfaces::XdpPlace;
use super::machine::{interfaces, netns};
use super::pins::InterfacePins;
use super::records::Records;
use super::state::State;
use super::sys::{self, Chained};
use super::tc::{self, Clsact, Filter};
use super::{gate, links};

/// The real state of one attachment.
#[derive(Debug)]
pub struct Inspection {
    pub pins: InterfacePins,
    /// The records, or why they cannot be read. Detaching works without them.
    pub records: Result<Records, KernelError>,
    pub place: Place,
    pub inbound: Inbound,
    pub outbound: Outbound,
    /// Whether all tail-call targets of the running programs exist, and what is behind their gate,
    /// inbound first. `None` if no program of a known generation runs.
    pub targets: [Option<bool>; 2],
    /// The names of missing pins among those that outlive a policy.
    pub missing: Vec<String>,
    /// Another interface of the attachment that runs a later generation, with its number. An
    /// `apply` was interrupted between the two.
    pub ahead: Option<(String, u32)>,
}

/// The inbound hook.
#[derive(Debug, Default)]
pub struct Inbound {
    /// The link that is pinned as the inbound link.
    pub link: Option<Link>,
    /// The XDP programs of the interface that are not the link's.
    pub others: Vec<(XdpPlace, u32)>,
    /// The mode in which the link's program runs.
    pub mode: Option<XdpPlace>,
}

/// The outbound hook: a tcx link or a clsact filter. After an `apply` that was killed there may be
/// both.
#[derive(Debug, Default)]
pub struct Outbound {
    /// The link that is pinned as the outbound link.
    pub link: Option<Link>,
    /// The link that was to replace it when a process was killed.
    pub next_link: Option<Link>,
    /// The programs at the interface's tcx egress, in the order in which they run.
    pub chain: Vec<Chained>,
    pub clsact: Clsact,
}

impl Outbound {
    /// The tcx link, if it is attached.
    pub(crate) fn live_link(&self) -> Option<Link> {
        self.link.filter(Link::is_live)
    }

    /// The enforcer's filters. There is one, unless a process was killed.
    pub fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.clsact.egress.iter().filter(|f| f.is_ours())
    }

    /// Describes what runs before the enforcer's program or filter.
    pub(crate) fn before_ours(&self) -> Vec<String> {
        let ours = |c: &&Chained| {
            let links = [self.link, self.next_link];
            links.into_iter().flatten().any(|link| link.id == c.link)
        };
        let mut before: Vec<String> = self
            .chain
            .iter()
            .take_while(|c| !ours(c))
            .map(|c| format!("the tcx program {}", program(c.program)))
            .collect();
        if self.live_link().is_none() {
            let filters = self.clsact.egress.iter();
            before.extend(filters.take_while(|f| !f.is_ours()).map(Filter::to_string));
        }
        before
    }
}

/// A description of the program, `name` (id 7), as far as its name can be read.
pub(super) fn program(id: u32) -> String {
    use std::os::fd::AsFd;
    let opened = sys::program_by_id(id).ok().flatten();
    let name = opened.and_then(|program| sys::program_name(program.as_fd()).ok());
    match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("`{name}` (id {id})"),
        None => format!("with the id {id}"),
    }
}

impl Inspection {
    /// The id of the first program of the policy that decides in a direction. `None` if nothing of
    /// the enforcer is attached, or a gate that passes everything, see [`State::has_ended`].
    pub fn running(&self, direction: Direction) -> Option<u32> {
        let attached = self.attached(direction)?;
        match &self.records {
            Ok(records) => records.behind(direction, attached),
            Err(_) => Some(attached),
        }
    }

    /// The id of the enforcer's program that is attached to a hook: a first program, or a gate.
    pub(super) fn attached(&self, direction: Direction) -> Option<u32> {
        match direction {
            Direction::Inbound => self.inbound.link.filter(Link::is_live).map(|l| l.program),
            Direction::Outbound => {
                let filter = || self.outbound.filters().next().and_then(|f| f.program);
                let link = self.outbound.live_link().map(|l| l.program);
                link.or_else(filter)
            }
        }
    }

    /// Whether both directions run the programs of this record.
    pub(super) fn runs(&self, state: &State) -> bool {
        let mut directions = Direction::BOTH.into_iter();
        directions.all(|d| self.running(d) == Some(state.program(d)))
    }

    /// The record of the policy in force.
    pub fn state(&self) -> Option<State> {
        let records = self.records.as_ref().ok()?.clone();
        records.effective(Direction::BOTH.map(|direction| self.attached(direction)))
    }

    /// Whether any of the enforcer's programs is attached in some direction.
    pub fn is_attached(&self) -> bool {
        let links = [
            self.inbound.link,
            self.outbound.link,
            self.outbound.next_link,
        ];
        links.into_iter().flatten().any(|link| link.is_live())
            || self.outbound.filters().next().is_some()
    }

    /// The interface, if it was found.
    pub fn at(&self) -> Option<&At> {
        match &self.place {
            Place::There(at) | Place::Moved(at) => Some(at),
            Place::Recreated(_) | Place::Gone | Place::Unknown { .. } => None,
        }
    }
}

/// As [`inspect`], with an error where the record cannot be read at the moment. A damaged one is
/// none, and stays in [`Inspection::records`].
pub(super) fn inspect_readable(pins: &InterfacePins) -> Result<Inspection, KernelError> {
    match inspect(pins)? {
        Inspection {
            records: Err(error),
            ..
        } if error.may_pass() => Err(error),
        found => Ok(found),
    }
}

/// Reads everything that belongs to `pins` and changes nothing. An object counts as missing only if
/// the kernel says that it does not exist. Any other error is returned.
pub fn inspect(pins: &InterfacePins) -> Result<Inspection, KernelError> {
    let records = Records::read(pins);
    let [inbound_link, link, next_link] = match links_of(pins) {
        Err(error @ KernelError::ReadOnly { .. }) => {
            by_interface(pins, records.as_ref().ok())?.ok_or(error)?
        }
        links => links?,
    };
    let place = locate(pins, records.as_ref().ok(), [inbound_link, link, next_link])?;
    let mut inspection = Inspection {
        pins: pins.clone(),
        records,
        place,
        inbound: Inbound {
            link: inbound_link,
            ..Default::default()
        },
        outbound: Outbound {
            link,
            next_link,
            ..Default::default()
        },
        targets: [None; 2],
        missing: Vec::new(),
        ahead: None,
    };
    if let Some(at) = inspection.at() {
        // A link that is on another interface enforces nothing on this one.
        let is_here = |link: &Link| !link.is_live() || link.ifindex == at.interface.index;
        let [inbound_link, link, next_link] =
            [inbound_link, link, next_link].map(|link| link.filter(is_here));
        let ours = inbound_link.filter(Link::is_live).map(|link| link.program);
        let xdp = at.interface.xdp.iter().copied();
        let others = xdp.filter(|(_, id)| Some(*id) != ours).collect();
        let mode = ours.and_then(|id| at.interface.place_of(id));
        let index = at.interface.index;
        let (chain, clsact) = at.inside(|| Ok((chain(index)?, tc::look(index)?)))?;
        inspection.inbound.link = inbound_link;
        (inspection.outbound.link, inspection.outbound.next_link) = (link, next_link);
        (inspection.inbound.others, inspection.inbound.mode) = (others, mode);
        (inspection.outbound.chain, inspection.outbound.clsact) = (chain, clsact);
    }
    inspection.targets = [Direction::Inbound, Direction::Outbound].map(|direction| {
        let records = inspection.records.as_ref().ok()?;
        let attached = inspection.attached(direction)?;
        let program = records.behind(direction, attached)?;
        let number = records.owner_of(direction, program)?.number();
        let has_whole_gate = match records.on_trial_behind(direction, attached) {
            Some(state) => gate::is_whole(pins, direction, state),
            None => true,
        };
        Some(has_whole_gate && targets::are_there(pins, direction, number))
    });
    if let Some(state) = inspection.state() {
        inspection.missing = SharedMaps::missing(pins, &state)?;
        inspection
            .missing
            .extend(targets::missing(pins, state.number()));
        inspection.missing.extend(gate::missing(pins, &state));
        inspection.ahead = ahead(pins, state.policy.generation);
    }
    Ok(inspection)
}

/// The interface of the same attachment that runs the latest generation, if that is later than this
/// one's. Interfaces that cannot be read have faults of their own.
fn ahead(pins: &InterfacePins, generation: u32) -> Option<(String, u32)> {
    let others = pins.of_attachment().unwrap_or_default().into_iter();
    let others = others.filter(|other| other != pins);
    let states = others.filter_map(|other| {
        let runs_any = attached(&other).ok()?.iter().any(Option::is_some);
        State::read(&other).ok().flatten().filter(|_| runs_any)
    });
    states
        .map(|state| (state.interface, state.policy.generation))
        .filter(|(_, of_other)| *of_other > generation)
        .max_by_key(|(_, of_other)| *of_other)
}

/// The links on a read-only file system, where links cannot be opened. Derived from the programs of
/// the interface, if these are in the records. `None` if it does not run both, or is elsewhere,
/// since the reason cannot be found out then.
fn by_interface(
    pins: &InterfacePins,
    records: Option<&Records>,
) -> Result<Option<[Option<Link>; 3]>, KernelError> {
    if netns::cookie()? != pins.netns_cookie {
        return Ok(None);
    }
    let (Some(records), Some(interface)) = (records, interfaces::inspect(pins.ifindex)?) else {
        return Ok(None);
    };
    let link = |id, program| Link {
        id,
        program,
        ifindex: interface.index,
    };
    let knows = |direction, id| records.knows(direction, id);
    let mut xdp = interface.xdp.iter();
    let inbound = xdp.find(|(_, id)| knows(Direction::Inbound, *id));
    let chain = chain(interface.index)?;
    let mut chained = chain.iter();
    let outbound = chained.find(|c| knows(Direction::Outbound, c.program));
    let outbound = outbound.map(|c| link(c.link, c.program));
    let mut filters = tc::look(interface.index)?.egress.into_iter();
    let has_filter = filters.any(|f| f.is_ours());
    let is_known = outbound.is_some() || has_filter;
    let inbound = inbound.filter(|_| is_known).map(|(_, id)| link(0, *id));
    Ok(inbound.map(|inbound| [Some(inbound), outbound, None]))
}

/// The ids of the programs that are attached to the hooks, gates among them, inbound first, as far
/// as they can be read without searching for the interface.
pub(super) fn attached(pins: &InterfacePins) -> Result<[Option<u32>; 2], KernelError> {
    let live = |path: &std::path::Path| {
        let link = links::info(path)?.filter(Link::is_live);
        Ok::<_, KernelError>(link.map(|link| link.program))
    };
    let mut outbound = live(&pins.tcx_link())?;
    if outbound.is_none() && netns::cookie()? == pins.netns_cookie {
        let clsact = tc::look(pins.ifindex)?;
        let mut filters = clsact.egress.iter();
        outbound = filters.find(|f| f.is_ours()).and_then(|f| f.program);
    }
    Ok([live(&pins.xdp_link())?, outbound])
}

impl State {
    /// The record of the policy in force on an interface, or `None` if there is none.
    pub fn read(pins: &InterfacePins) -> Result<Option<State>, KernelError> {
        let records = Records::read(pins)?;
        if records.next.is_none() {
            return Ok(records.current.map(State::decided));
        }
        let attached = attached(pins)?;
        Ok(records.effective(attached))
    }
}
