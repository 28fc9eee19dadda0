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
use super::machine::netlink::{self, attribute, number, put, text};

/// The lowest number, which runs first.
const PREFERENCE: u16 = 1;
const KIND: &str = "bpf";

/// A hold judges what the policy's filter has let pass, and its handle is one that no policy takes.
const HOLD_PREFERENCE: u16 = 2;
const HOLD_HANDLE: u32 = 2;
const HOLD: &str = "sg_hold";
/// The name of a hold for which the qdisc was added. It says so also when its process has been
/// killed.
const HOLD_WITH_QDISC: &str = "sg_hold_qdisc";

/// A qdisc's two hooks (include/uapi/linux/pkt_sched.h: TC_H_MAKE).
const TC_H_INGRESS: u32 = TC_H_CLSACT & TC_H_MAJ_MASK | TC_H_MIN_INGRESS;
const TC_H_EGRESS: u32 = TC_H_CLSACT & TC_H_MAJ_MASK | TC_H_MIN_EGRESS;
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

/// The handle, parent and info of a message, and its attributes. `None` if it is about another
/// interface or too short.
fn read(payload: &[u8], ifindex: u32) -> Option<([u32; 3], &[u8])> {
    let (head, attributes) = payload.split_at_checked(TCMSG)?;
    let (words, _) = head.as_chunks::<4>();
    let [_, index, handle, parent, info] = words else {
        return None;
    };
    let of = |word: &[u8; 4]| u32::from_ne_bytes(*word);
    (of(index) == ifindex).then(|| ([of(handle), of(parent), of(info)], attributes))
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
    let mut found = None;
    let request = message(ifindex, 0, 0, 0);
    netlink::dump(NETLINK_ROUTE, RTM_GETQDISC, &request, |payload| {
        if let Some(([_, TC_H_CLSACT, _], attributes)) = read(payload, ifindex) {
            found = text(attributes, TCA_KIND);
        }
    })
    .map_err(|e| KernelError::io("listing the qdiscs", e))?;
    Ok(found)
}

fn filters(ifindex: u32, parent: u32) -> Result<Vec<Filter>, KernelError> {
    let mut found = Vec::new();
    let request = message(ifindex, 0, parent, 0);
    netlink::dump(NETLINK_ROUTE, RTM_GETTFILTER, &request, |payload| {
        let Some(([handle, _, info], attributes)) = read(payload, ifindex) else {
            return;
        };
        // Each kind has a message without a handle before those of its filters. Other chains than
        // the first are only reached from it.
        if handle == 0 || number(attributes, TCA_CHAIN).is_some_and(|chain| chain != 0) {
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
    let mut request = message(ifindex, QDISC_HANDLE, TC_H_CLSACT, 0);
    put(&mut request, TCA_KIND, b"clsact\0");
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    step(
        || "adding the clsact qdisc".into(),
        || match netlink::request(NETLINK_ROUTE, RTM_NEWQDISC, flags, &request, |_| {}) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        },
    )
}

/// Removes the qdisc, unless other tools have filters on it. It is a success if there is none.
pub(super) fn delete_qdisc(ifindex: u32) -> Result<(), KernelError> {
    if qdisc(ifindex)?.as_deref() != Some("clsact") {
        return Ok(());
    }
    for parent in [TC_H_INGRESS, TC_H_EGRESS] {
        if !filters(ifindex, parent)?.is_empty() {
            return Ok(());
        }
    }
    let request = message(ifindex, QDISC_HANDLE, TC_H_CLSACT, 0);
    step(
        || "deleting the clsact qdisc".into(),
        || {
            gone(netlink::request(
                NETLINK_ROUTE,
                RTM_DELQDISC,
                0,
                &request,
                |_| {},
            ))
        },
    )
    .map_err(|e| KernelError::io("deleting the clsact qdisc", e))
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

/// The places of a hold's filters. The one at the egress comes first and goes last, so that a hold
/// is always known by it.
fn of_hold(name: &'static str) -> [Place; 2] {
    [TC_H_EGRESS, TC_H_INGRESS].map(|parent| Place {
        parent,
        preference: HOLD_PREFERENCE,
        handle: HOLD_HANDLE,
        name,
    })
}

/// Adds a filter with `program` to the egress, before all existing filters, with a free handle.
pub(super) fn add_filter(ifindex: u32, handle: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    step(
        || "adding the clsact filter".into(),
        || {
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            set_filter(ifindex, of_policy(handle), program, flags)
        },
    )
}

/// Makes the existing filter run `program` from now on.
pub(super) fn replace_filter(ifindex: u32, handle: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    step(
        || "replacing the clsact filter".into(),
        || set_filter(ifindex, of_policy(handle), program, 0),
    )
}

/// Deletes one of our filters. It is a success if there is none.
pub(super) fn delete_filter(ifindex: u32, handle: u32) -> io::Result<()> {
    step(
        || "deleting the clsact filter".into(),
        || unset_filter(ifindex, of_policy(handle)),
    )
}

/// Makes `program` judge what comes and goes, and adds the qdisc where there is none. What a killed
/// process has left is replaced.
pub(super) fn add_hold(ifindex: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    let there = look(ifindex).map_err(io::Error::other)?;
    let name = match there.has_qdisc() {
        true => HOLD,
        false => HOLD_WITH_QDISC,
    };
    add_qdisc(ifindex)?;
    let mut places = of_hold(name).into_iter();
    places.try_for_each(|place| set_filter(ifindex, place, program, NLM_F_CREATE))
}

/// Removes the filters of a hold, and the qdisc that was added for them, unless others use it.
pub(super) fn remove_hold(ifindex: u32) -> Result<(), KernelError> {
    let there = look(ifindex)?;
    let holds: Vec<bool> = there.egress.iter().filter_map(Filter::of_a_hold).collect();
    if holds.is_empty() {
        return Ok(());
    }
    for place in of_hold(HOLD).into_iter().rev() {
        unset_filter(ifindex, place)
            .map_err(|e| KernelError::io("deleting the filters of a hold", e))?;
    }
    match holds.contains(&true) {
        true => delete_qdisc(ifindex),
        false => Ok(()),
    }
}

fn set_filter(ifindex: u32, place: Place, program: BorrowedFd<'_>, flags: u16) -> io::Result<()> {
    let mut request = message(ifindex, place.handle, place.parent, info(place));
    put(&mut request, TCA_KIND, b"bpf\0");
    let mut options = Vec::new();
    let fd = program.as_raw_fd().to_ne_bytes();
    put(&mut options, TCA_BPF_FD, &fd);
    let name = format!("{}\0", place.name);
    put(&mut options, TCA_BPF_NAME, name.as_bytes());
    let flag = TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes();
    put(&mut options, TCA_BPF_FLAGS, &flag);
    put(&mut request, TCA_OPTIONS | NLA_F_NESTED, &options);
    netlink::request(NETLINK_ROUTE, RTM_NEWTFILTER, flags, &request, |_| {})
}

/// It is a success if there is none.
fn unset_filter(ifindex: u32, place: Place) -> io::Result<()> {
    let mut request = message(ifindex, place.handle, place.parent, info(place));
    put(&mut request, TCA_KIND, b"bpf\0");
    gone(netlink::request(
        NETLINK_ROUTE,
        RTM_DELTFILTER,
        0,
        &request,
        |_| {},
    ))
}

/// The preference and protocol of one of our filters, as in `tcm_info`.
fn info(place: Place) -> u32 {
    u32::from(place.preference) << 16 | u32::from(ETH_P_ALL.to_be())
}

/// It is a success if the object is gone, alone or with its qdisc or interface.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}
