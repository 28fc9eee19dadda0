//! The clsact qdisc of an interface and its filters, by rtnetlink and interface index: lists those
//! at the egress, and maintains the enforcer's own: that of a policy, which comes before all
//! others, and those of a hold (`hold`), which come behind it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{
    self, TC_H_CLSACT, TC_H_MAJ_MASK, TC_H_MIN_EGRESS, TC_H_MIN_INGRESS, TCA_BPF_FLAG_ACT_DIRECT,
};
use libc::{
    RTM_DELQDISC, RTM_DELTFILTER, RTM_GETQDISC, RTM_GETTFILTER, RTM_NEWQDISC, RTM_NEWTFILTER,
    TCA_KIND, TCA_OPTIONS,
};
use netlink_packet_core::{NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::error::KernelError;
use super::faults::step;
use super::load::object::OUTBOUND;
use super::machine::netlink::{self, Request, attribute, number, put, text};

/// The lowest number, which runs first.
const PREFERENCE: u16 = 1;
const KIND: &str = "bpf";

/// A hold's filters come behind the policy's.
const HOLD_PREFERENCE: u16 = 2;
const HOLD_HANDLE: u32 = 2;
const HOLD: &str = "sg_hold";
/// The name where the qdisc was added for the hold, and goes with it. A name is all that remains of
/// a process that was killed.
const HOLD_WITH_QDISC: &str = "sg_hold_qdisc";

/// A qdisc's two hooks (include/uapi/linux/pkt_sched.h: TC_H_MAKE).
const TC_H_INGRESS: u32 = TC_H_CLSACT & TC_H_MAJ_MASK | TC_H_MIN_INGRESS;
const TC_H_EGRESS: u32 = TC_H_CLSACT & TC_H_MAJ_MASK | TC_H_MIN_EGRESS;
const HOOKS: [u32; 2] = [TC_H_EGRESS, TC_H_INGRESS];
const QDISC_HANDLE: u32 = TC_H_CLSACT & TC_H_MAJ_MASK;
const TCA_BPF_FD: u16 = generated::TCA_BPF_FD as u16;
const TCA_BPF_NAME: u16 = generated::TCA_BPF_NAME as u16;
const TCA_BPF_FLAGS: u16 = generated::TCA_BPF_FLAGS as u16;
const TCA_BPF_ID: u16 = generated::TCA_BPF_ID as u16;
/// include/uapi/linux/rtnetlink.h; libc has it for glibc only.
const TCA_CHAIN: u16 = 11;
const ETH_P_ALL: u16 = libc::ETH_P_ALL as u16;

/// `struct tcmsg` (include/uapi/linux/rtnetlink.h).
const TCMSG: usize = 20;

/// An egress filter of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub preference: u16,
    /// An EtherType, in host byte order.
    pub protocol: u16,
    pub handle: u32,
    pub kind: String,
    /// The name, if it is a BPF filter.
    pub name: Option<String>,
    pub program: Option<u32>,
}

impl Filter {
    pub fn is_ours(&self) -> bool {
        self.preference == PREFERENCE && self.kind == KIND && self.name.as_deref() == Some(OUTBOUND)
    }

    /// Whether it occupies the place that our filter needs.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.preference == PREFERENCE && (self.kind != KIND || self.protocol != ETH_P_ALL)
    }

    /// Whether it belongs to a hold. `Some(true)` if the qdisc was added for it.
    fn of_a_hold(&self) -> Option<bool> {
        let name = self
            .name
            .as_deref()
            .filter(|_| self.preference == HOLD_PREFERENCE);
        match name {
            Some(HOLD) => Some(false),
            Some(HOLD_WITH_QDISC) => Some(true),
            _ => None,
        }
    }

    /// Whether another tool's filter is where that of a hold would be.
    fn is_where_a_hold_belongs(&self) -> bool {
        let place = (self.preference, self.handle);
        place == (HOLD_PREFERENCE, HOLD_HANDLE) && self.of_a_hold().is_none()
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the clsact filter of preference {}", self.preference)?;
        match &self.name {
            Some(name) => write!(f, " ({} `{name}`)", self.kind),
            None => write!(f, " ({})", self.kind),
        }
    }
}

/// The qdisc and the egress filters of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clsact {
    /// The kind of the qdisc: `clsact`, or `ingress`, which has no egress.
    pub qdisc: Option<String>,
    pub egress: Vec<Filter>,
}

impl Clsact {
    /// Whether there is a qdisc, not counting one that was added for a hold.
    pub(super) fn has_qdisc(&self) -> bool {
        let mut egress = self.egress.iter();
        self.qdisc.is_some() && !egress.any(|filter| filter.of_a_hold() == Some(true))
    }
}

fn message(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(TCMSG);
    bytes.extend_from_slice(&[0; 4]);
    for word in [ifindex, handle, parent, info] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// The interface index, handle, parent and info of a message, and its attributes. `None` if it is
/// too short.
fn read(payload: &[u8]) -> Option<([u32; 4], &[u8])> {
    let (head, attributes) = payload.split_at_checked(TCMSG)?;
    let (words, _) = head.as_chunks::<4>();
    let [_, rest @ ..] = words else {
        return None;
    };
    let rest: &[[u8; 4]; 4] = rest.try_into().ok()?;
    Some((rest.map(u32::from_ne_bytes), attributes))
}

/// Reads the qdisc and filters of the interface with this index in the current network namespace.
pub(super) fn look(ifindex: u32) -> Result<Clsact, KernelError> {
    let qdisc = qdisc(ifindex)?;
    let egress = match &qdisc {
        Some(_) => filters(ifindex, TC_H_EGRESS)?,
        None => Vec::new(),
    };
    Ok(Clsact { qdisc, egress })
}

fn qdisc(ifindex: u32) -> Result<Option<String>, KernelError> {
    let mut all = qdiscs(ifindex)?.into_iter();
    Ok(all.find(|(of, _)| *of == ifindex).map(|(_, kind)| kind))
}

/// The indices of the interfaces that have a clsact qdisc.
pub(super) fn with_clsact() -> Result<Vec<u32>, KernelError> {
    let all = qdiscs(0)?.into_iter();
    let clsact = all.filter(|(_, kind)| kind == "clsact");
    Ok(clsact.map(|(index, _)| index).collect())
}

/// The interfaces that have a clsact or ingress qdisc, each with its kind. The kernel may list
/// those of other interfaces too, whichever index is asked for.
fn qdiscs(ifindex: u32) -> Result<Vec<(u32, String)>, KernelError> {
    let mut found = Vec::new();
    let request = message(ifindex, 0, 0, 0);
    netlink::dump(NETLINK_ROUTE, RTM_GETQDISC, &request, |payload| {
        if let Some(([index, _, TC_H_CLSACT, _], attributes)) = read(payload) {
            found.extend(text(attributes, TCA_KIND).map(|kind| (index, kind)));
        }
    })
    .map_err(|e| KernelError::io("listing the qdiscs", e))?;
    Ok(found)
}

fn filters(ifindex: u32, parent: u32) -> Result<Vec<Filter>, KernelError> {
    let mut found = Vec::new();
    let request = message(ifindex, 0, parent, 0);
    netlink::dump(NETLINK_ROUTE, RTM_GETTFILTER, &request, |payload| {
        let Some(([index, handle, _, info], attributes)) = read(payload) else {
            return;
        };
        // Each kind has a message without a handle before those of its filters. Other chains than
        // the first are only reached from it.
        if index != ifindex
            || handle == 0
            || number(attributes, TCA_CHAIN).is_some_and(|chain| chain != 0)
        {
            return;
        }
        let options = attribute(attributes, TCA_OPTIONS).unwrap_or_default();
        let kind = text(attributes, TCA_KIND).unwrap_or_default();
        let is_bpf = kind == KIND;
        found.push(Filter {
            preference: (info >> 16) as u16,
            protocol: u16::from_be(info as u16),
            handle,
            name: text(options, TCA_BPF_NAME).filter(|_| is_bpf),
            program: number(options, TCA_BPF_ID).filter(|_| is_bpf),
            kind,
        });
    })
    .map_err(|e| KernelError::io("listing the clsact filters", e))?;
    Ok(found)
}

/// Adds the qdisc. It is a success if it exists.
pub(super) fn add_qdisc(ifindex: u32) -> io::Result<()> {
    step(
        || "adding the clsact qdisc".into(),
        || netlink::act(NETLINK_ROUTE, &[new_qdisc(ifindex)], is_there),
    )
}

fn new_qdisc(ifindex: u32) -> Request {
    let mut body = message(ifindex, QDISC_HANDLE, TC_H_CLSACT, 0);
    put(&mut body, TCA_KIND, b"clsact\0");
    Request {
        message_type: RTM_NEWQDISC,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        body,
    }
}

/// Removes the qdisc, unless other tools have filters on it. It is a success if there is none.
pub(super) fn delete_qdisc(ifindex: u32) -> Result<(), KernelError> {
    if !is_free_but_for(ifindex, |_| false)? {
        return Ok(());
    }
    step(
        || "deleting the clsact qdisc".into(),
        || netlink::act(NETLINK_ROUTE, &[no_qdisc(ifindex)], is_gone),
    )
    .map_err(|e| KernelError::io("deleting the clsact qdisc", e))
}

fn no_qdisc(ifindex: u32) -> Request {
    Request {
        message_type: RTM_DELQDISC,
        flags: 0,
        body: message(ifindex, QDISC_HANDLE, TC_H_CLSACT, 0),
    }
}

/// Whether there is a clsact qdisc which has no filters but those that `are_ours`.
fn is_free_but_for(ifindex: u32, are_ours: impl Fn(&Filter) -> bool) -> Result<bool, KernelError> {
    if qdisc(ifindex)?.as_deref() != Some("clsact") {
        return Ok(false);
    }
    for parent in HOOKS {
        if !filters(ifindex, parent)?.iter().all(&are_ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where one of our filters is, and what it is called.
#[derive(Clone, Copy)]
struct Place {
    parent: u32,
    preference: u16,
    handle: u32,
    name: &'static str,
}

/// The place of a policy's filter.
fn of_policy(handle: u32) -> Place {
    Place {
        parent: TC_H_EGRESS,
        preference: PREFERENCE,
        handle,
        name: OUTBOUND,
    }
}

/// The place of a hold's filter at one of the hooks.
fn of_hold(parent: u32, name: &'static str) -> Place {
    Place {
        parent,
        preference: HOLD_PREFERENCE,
        handle: HOLD_HANDLE,
        name,
    }
}

/// Adds a filter with `program` to the egress, before all existing filters, with a free handle.
pub(super) fn add_filter(ifindex: u32, handle: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    step(
        || "adding the clsact filter".into(),
        || {
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            let filter = new_filter(ifindex, of_policy(handle), program, flags);
            netlink::act(NETLINK_ROUTE, &[filter], |_| false)
        },
    )
}

/// Makes the existing filter run `program` from now on.
pub(super) fn replace_filter(ifindex: u32, handle: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    step(
        || "replacing the clsact filter".into(),
        || {
            let filter = new_filter(ifindex, of_policy(handle), program, 0);
            netlink::act(NETLINK_ROUTE, &[filter], |_| false)
        },
    )
}

/// Deletes one of our filters. It is a success if there is none.
pub(super) fn delete_filter(ifindex: u32, handle: u32) -> io::Result<()> {
    step(
        || "deleting the clsact filter".into(),
        || {
            let filter = no_filter(ifindex, of_policy(handle));
            netlink::act(NETLINK_ROUTE, &[filter], is_gone)
        },
    )
}

/// Makes `program` judge what comes and goes, and adds the qdisc where there is none. What a killed
/// process has left is replaced. The kernel takes all of it in one call, so that a process that is
/// killed has added all or nothing: an empty qdisc would not be known for ours.
pub(super) fn add_hold(ifindex: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    let found = look(ifindex).map_err(io::Error::other)?;
    if found.qdisc.as_deref() == Some("ingress") {
        return Err(io::Error::other("an ingress qdisc has no egress"));
    }
    for parent in HOOKS {
        let there = filters(ifindex, parent).map_err(io::Error::other)?;
        if there.iter().any(Filter::is_where_a_hold_belongs) {
            return Err(io::Error::other("another filter is in the place of a hold"));
        }
    }
    let name = match found.has_qdisc() {
        true => HOLD,
        false => HOLD_WITH_QDISC,
    };
    let filters = HOOKS.map(|parent| {
        let place = of_hold(parent, name);
        new_filter(ifindex, place, program, NLM_F_CREATE)
    });
    let mut requests = vec![new_qdisc(ifindex)];
    requests.extend(filters);
    step(
        || "adding the filters of a hold".into(),
        || netlink::act(NETLINK_ROUTE, &requests, is_there),
    )
}

/// The programs of the filters of a hold, or of what is left of one.
pub(super) fn programs_of_hold(ifindex: u32) -> Result<Vec<u32>, KernelError> {
    let mut programs = Vec::new();
    for parent in HOOKS {
        let there = filters(ifindex, parent)?.into_iter();
        let of_hold = there.filter(|it| it.of_a_hold().is_some());
        programs.extend(of_hold.filter_map(|it| it.program));
    }
    programs.dedup();
    Ok(programs)
}

/// Removes the filters of a hold, and the qdisc that was added for them, unless others use it. It
/// is a success if there are none. The kernel takes all of it in one call, as in [`add_hold`].
pub(super) fn remove_hold(ifindex: u32) -> Result<(), KernelError> {
    let mut requests = Vec::new();
    let mut has_added_qdisc = false;
    for parent in HOOKS {
        let there = filters(ifindex, parent)?;
        if let Some(with_qdisc) = there.iter().find_map(Filter::of_a_hold) {
            has_added_qdisc |= with_qdisc;
            // The name is not looked at.
            requests.push(no_filter(ifindex, of_hold(parent, HOLD)));
        }
    }
    if requests.is_empty() {
        return Ok(());
    }
    if has_added_qdisc && is_free_but_for(ifindex, |it| it.of_a_hold().is_some())? {
        requests.push(no_qdisc(ifindex));
    }
    step(
        || "deleting the filters of a hold".into(),
        || netlink::act(NETLINK_ROUTE, &requests, is_gone),
    )
    .map_err(|e| KernelError::io("deleting the filters of a hold", e))
}

fn new_filter(ifindex: u32, place: Place, program: BorrowedFd<'_>, flags: u16) -> Request {
    let mut body = message(ifindex, place.handle, place.parent, info(place));
    put(&mut body, TCA_KIND, b"bpf\0");
    let mut options = Vec::new();
    let fd = program.as_raw_fd().to_ne_bytes();
    put(&mut options, TCA_BPF_FD, &fd);
    let name = format!("{}\0", place.name);
    put(&mut options, TCA_BPF_NAME, name.as_bytes());
    let flag = TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes();
    put(&mut options, TCA_BPF_FLAGS, &flag);
    put(&mut body, TCA_OPTIONS | NLA_F_NESTED, &options);
    Request {
        message_type: RTM_NEWTFILTER,
        flags,
        body,
    }
}

fn no_filter(ifindex: u32, place: Place) -> Request {
    let mut body = message(ifindex, place.handle, place.parent, info(place));
    put(&mut body, TCA_KIND, b"bpf\0");
    Request {
        message_type: RTM_DELTFILTER,
        flags: 0,
        body,
    }
}

/// The preference and protocol of one of our filters, as in `tcm_info`.
fn info(place: Place) -> u32 {
    u32::from(place.preference) << 16 | u32::from(ETH_P_ALL.to_be())
}

/// The object is there already.
fn is_there(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EEXIST)
}

/// The object is gone, alone or with its qdisc or interface.
fn is_gone(error: &io::Error) -> bool {
    let gone = [libc::ENOENT, libc::EINVAL, libc::ENODEV];
    error
        .raw_os_error()
        .is_some_and(|code| gone.contains(&code))
}
