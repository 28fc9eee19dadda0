//! Links that stay pinned, and the chain of programs on a tcx hook.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{
    BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_cmd, bpf_link_info,
};
use sg_common::verdict::Direction;

use super::call::{bpf, info, zeroed};
use super::programs::{Listed, by_id, next_id};
use crate::kernel::link_kind::{Kind, Link};

/// What the kernel reports about an XDP or tcx link.
pub(in crate::kernel) fn link_info(link: BorrowedFd<'_>) -> io::Result<Link> {
    // SAFETY: this is the structure that the kernel fills in for a link.
    let info: bpf_link_info = unsafe { info(link)? };
    Ok(Link {
        id: info.id,
        program: info.prog_id,
        // SAFETY: the views for XDP and tcx both begin with the interface index.
        ifindex: unsafe { info.__bindgen_anon_1.xdp.ifindex },
    })
}

/// Attaches `program` to an interface of the current network namespace.
pub(in crate::kernel) fn link_create(
    kind: Kind,
    program: BorrowedFd<'_>,
    ifindex: u32,
) -> io::Result<OwnedFd> {
    let (attach_type, flags) = match kind {
        Kind::XdpNative => (bpf_attach_type::BPF_XDP, XDP_FLAGS_DRV_MODE),
        Kind::XdpGeneric => (bpf_attach_type::BPF_XDP, XDP_FLAGS_SKB_MODE),
        // The flag without another program means: before all that are there.
        Kind::TcxEgressFirst => (bpf_attach_type::BPF_TCX_EGRESS, BPF_F_BEFORE),
    };
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = attach_type as u32;
    attr.link_create.flags = flags;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches `program` to a tcx hook of an interface of the current network namespace, after all
/// that are there.
pub(in crate::kernel) fn tcx_create(
    direction: Direction,
    program: BorrowedFd<'_>,
    ifindex: u32,
) -> io::Result<OwnedFd> {
    let hook = match direction {
        Direction::Inbound => bpf_attach_type::BPF_TCX_INGRESS,
        Direction::Outbound => bpf_attach_type::BPF_TCX_EGRESS,
    };
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = hook as u32;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether the kernel has refused a request because it has no tcx: before Linux 6.6 it knows
/// neither the attach types nor requests as large as theirs.
pub(in crate::kernel) fn has_no_tcx(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::E2BIG))
}

/// Replaces the program of a link atomically.
pub(in crate::kernel) fn link_update(
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link from its interface.
pub(in crate::kernel) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// A program at a tcx hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chained {
    pub program: u32,
    /// Zero if the program is attached without a link.
    pub link: u32,
}

/// The tcx egress programs of an interface of the current network namespace, in the order in which
/// they run. Empty if the kernel has no tcx.
pub(in crate::kernel) fn tcx_egress(ifindex: u32) -> io::Result<Vec<Chained>> {
    // The most programs that a hook can have (BPF_MPROG_MAX, include/linux/bpf_mprog.h).
    const MOST: usize = 64;
    let (mut programs, mut links) = ([0u32; MOST], [0u32; MOST]);
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = bpf_attach_type::BPF_TCX_EGRESS as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = MOST as u32;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        Ok(_) => {}
        Err(e) if has_no_tcx(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    // SAFETY: the kernel has written the number of programs into the same view of the union.
    let count = unsafe { attr.query.__bindgen_anon_2.count } as usize;
    let chained = programs.into_iter().zip(links).take(count);
    Ok(chained
        .map(|(program, link)| Chained { program, link })
        .collect())
}

/// The id of the link that attaches this program, if there is one.
pub(in crate::kernel) fn link_of(program: u32) -> io::Result<Option<u32>> {
    let mut id = 0;
    while let Some(next) = next_id(Listed::Links, id)? {
        id = next;
        let link = by_id(bpf_cmd::BPF_LINK_GET_FD_BY_ID, id)?;
        if let Some(link) = link
            && link_info(link.as_fd())?.program == program
        {
            return Ok(Some(id));
        }
    }
    Ok(None)
}
