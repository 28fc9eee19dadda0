//! The two hooks of an interface: makes each run a program. If the enforcer is attached to the
//! hook, the program is replaced atomically. If not, it is attached before all other programs.
//! Every step checks what is there first, so that it can be repeated.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sg_common::verdict::Direction;

use super::error::KernelError;
use super::inspect::program;
use super::link_kind::Kind;
use super::links;
use super::machine::interfaces;
use super::options::{EgressHook, XdpMode};
use super::pins::InterfacePins;
use super::{sys, tc};

/// The hooks of an interface in the current network namespace.
pub(super) struct Hooks<'a> {
    pub(super) pins: &'a InterfacePins,
    pub(super) interface: &'a str,
    /// How to attach if nothing is attached yet.
    pub(super) xdp_mode: XdpMode,
    /// With `Auto`, tcx if the kernel has it.
    pub(super) egress_hook: EgressHook,
    /// Whether the clsact qdisc is removed together with its filter.
    pub(super) owns_qdisc: bool,
}

impl Hooks<'_> {
    /// Makes the hook of a direction run `program`.
    pub(super) fn put(
        &self,
        direction: Direction,
        program: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        match direction {
            Direction::Inbound => self.put_inbound(program),
            Direction::Outbound => self.put_outbound(program),
        }
    }

    fn put_inbound(&self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        let pin = self.pins.xdp_link();
        match links::open(&pin)? {
            // A link that is on another interface enforces nothing here.
            Some(link) if link.info.is_live() && link.info.ifindex == self.pins.ifindex => {
                let what = "replacing the inbound program";
                links::update(link.fd.as_fd(), Direction::Inbound, program)
                    .map_err(|e| refused(what, e))
            }
            severed => {
                if severed.is_some() {
                    links::unpin(&pin)
                        .map_err(|e| refused("removing an XDP link that is not here", e))?;
                }
                let link = self.attach_inbound(program)?;
                links::pin(link.as_fd(), &pin).map_err(|e| refused("pinning the XDP link", e))
            }
        }
    }

    fn attach_inbound(&self, program: BorrowedFd<'_>) -> Result<OwnedFd, KernelError> {
        let kinds: &[Kind] = match self.xdp_mode {
            XdpMode::Auto => &[Kind::XdpNative, Kind::XdpGeneric],
            XdpMode::Native => &[Kind::XdpNative],
            XdpMode::Generic => &[Kind::XdpGeneric],
        };
        let ifindex = self.pins.ifindex;
        let mut last = io::Error::other("no mode to try");
        for kind in kinds {
            match links::create(*kind, program, ifindex) {
                Ok(link) => return Ok(link),
                Err(error) => {
                    // There is another XDP program, in the same mode or in the other, which
                    // excludes ours as well.
                    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
                        && let Some(id) = interfaces::xdp_program(ifindex)?
                    {
                        return Err(other_xdp(self.interface, id));
                    }
                    // If memory is too short for one mode, it is too short for the other.
                    let ends = matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM));
                    last = error;
                    if ends {
                        break;
                    }
                }
            }
        }
        let what = format!("attaching the XDP program to {}", self.interface);
        Err(refused(what, last))
    }

    fn put_outbound(&self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        if self.egress_hook == EgressHook::Clsact {
            return self.put_clsact(program);
        }
        match self.put_tcx(program) {
            Err(TcxFailed::Unknown) if self.egress_hook == EgressHook::Auto => {
                self.put_clsact(program)
            }
            Err(TcxFailed::Unknown) => Err(KernelError::Refused {
                what: self.attaching(),
                reason: "this kernel has no tcx (it came with Linux 6.6)".into(),
                help: "leave out --egress-hook, and a clsact filter is used instead".into(),
            }),
            Err(TcxFailed::Other(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    fn attaching(&self) -> String {
        format!("attaching the tc program to {}", self.interface)
    }

    fn put_tcx(&self, program: BorrowedFd<'_>) -> Result<(), TcxFailed> {
        let (pin, next) = (self.pins.tcx_link(), self.pins.tcx_link_next());
        // A killed process may have left this pin.
        links::unpin(&next).map_err(|e| refused("removing a link that was left", e))?;
        let attach = || match links::create(Kind::TcxEgressFirst, program, self.pins.ifindex) {
            Err(e) if sys::has_no_tcx(&e) => Err(TcxFailed::Unknown),
            other => other.map_err(|e| refused(self.attaching(), e).into()),
        };
        let pinning = |e| refused("pinning the tcx link", e);
        match links::open(&pin)? {
            Some(link) if link.info.is_live() => {
                let chain = sys::tcx_egress(self.pins.ifindex)
                    .map_err(|e| refused("listing the tcx programs", e))?;
                if chain.first().is_some_and(|c| c.link == link.info.id) {
                    let what = "replacing the outbound program";
                    links::update(link.fd.as_fd(), Direction::Outbound, program)
                        .map_err(|e| refused(what, e))?;
                } else {
                    // A link cannot be moved to the front. The old link is removed a moment after
                    // the new one is attached. In between both judge: packets may be counted twice,
                    // but none passes unjudged.
                    let new = attach()?;
                    links::pin(new.as_fd(), &next).map_err(pinning)?;
                    links::rename(&next, &pin).map_err(pinning)?;
                }
            }
            severed => {
                if severed.is_some() {
                    links::unpin(&pin).map_err(|e| refused("removing the severed tcx link", e))?;
                }
                let link = attach()?;
                links::pin(link.as_fd(), &pin).map_err(pinning)?;
            }
        }
        Ok(())
    }

    fn put_clsact(&self, program: BorrowedFd<'_>) -> Result<(), KernelError> {
        let ifindex = self.pins.ifindex;
        let there = tc::look(ifindex)?;
        self.refuse_what_is_before(&there)?;
        let ours: Vec<u32> = there
            .egress
            .iter()
            .filter(|f| f.is_ours())
            .map(|f| f.handle)
            .collect();
        let is_first = there.egress.first().is_some_and(tc::Filter::is_ours);
        let spare = match ours.split_first() {
            Some((first, more)) if is_first => {
                tc::replace_filter(ifindex, *first, program)
                    .map_err(|e| refused("replacing the outbound program", e))?;
                more
            }
            _ => {
                tc::add_qdisc(ifindex).map_err(|e| refused("adding the clsact qdisc", e))?;
                // A new filter comes before those of the same preference.
                let handles = there.egress.iter().map(|f| f.handle);
                let handle = handles.max().map_or(1, |highest| highest.saturating_add(1));
                let handle = if ours.is_empty() && is_free(&there, 1) {
                    1
                } else {
                    handle
                };
                tc::add_filter(ifindex, handle, program).map_err(|e| self.filter_refused(e))?;
                &ours[..]
            }
        };
        for handle in spare {
            tc::delete_filter(ifindex, *handle)
                .map_err(|e| refused("removing a filter that was left", e))?;
        }
        Ok(())
    }

    fn filter_refused(&self, error: io::Error) -> KernelError {
        match error.raw_os_error() {
            // The kernel refuses this if several interfaces share the block of filters (tc(8):
            // egress_block).
            Some(libc::EOPNOTSUPP) => KernelError::Refused {
                what: self.attaching(),
                reason: format!(
                    "the clsact qdisc of {} shares its egress block, whose filters are not its own",
                    self.interface
                ),
                help: "apply with --egress-hook tcx, which needs no qdisc (Linux 6.6 and later), or have \
                       the qdisc's owner give the interface a block of its own"
                    .into(),
            },
            _ => refused(self.attaching(), error),
        }
    }

    /// Fails if something before the filter may take packets away.
    fn refuse_what_is_before(&self, there: &tc::Clsact) -> Result<(), KernelError> {
        let interface = self.interface;
        let in_the_way = |reason: String, help: String| KernelError::Refused {
            what: self.attaching(),
            reason,
            help,
        };
        if there.qdisc.as_deref() == Some("ingress") {
            return Err(in_the_way(
                format!(
                    "{interface} has an ingress qdisc, which keeps a clsact qdisc from being added"
                ),
                format!(
                    "have its owner use clsact, which does the same and more, or remove it with \
                     `tc qdisc del dev {interface} ingress`"
                ),
            ));
        }
        let link = links::info(&self.pins.tcx_link())?;
        let chain = sys::tcx_egress(self.pins.ifindex)
            .map_err(|e| refused("listing the tcx programs", e))?;
        let theirs = |c: &&sys::Chained| link.is_none_or(|link| link.id != c.link);
        if let Some(first) = chain.iter().find(theirs) {
            return Err(in_the_way(
                format!(
                    "the tcx program {} comes before every clsact filter and may take packets away \
                     unjudged",
                    program(first.program)
                ),
                "apply with --egress-hook tcx, which goes in front of it".into(),
            ));
        }
        if let Some(filter) = there.egress.iter().find(|f| f.is_in_the_way()) {
            return Err(in_the_way(
                format!("{filter} comes first and may take packets away unjudged"),
                format!(
                    "have its owner give it a higher preference than {}, so that it sees what the \
                     policy accepts",
                    filter.preference
                ),
            ));
        }
        Ok(())
    }

    /// Removes the attachment at the outbound hook that is not used any more.
    pub(super) fn retire_other(&self, used: EgressHook) -> Result<(), KernelError> {
        match used {
            EgressHook::Tcx => remove_filters(self.pins.ifindex, self.owns_qdisc),
            EgressHook::Clsact => {
                remove_link(&self.pins.tcx_link(), Direction::Outbound)?;
                remove_link(&self.pins.tcx_link_next(), Direction::Outbound)
            }
            EgressHook::Auto => Ok(()),
        }
    }

    /// The outbound hook in use, and the XDP mode, as the kernel reports them.
    pub(super) fn in_use(&self) -> Result<(EgressHook, XdpMode), KernelError> {
        let link = links::info(&self.pins.tcx_link())?;
        let hook = match (self.egress_hook, link.is_some_and(|l| l.is_live())) {
            (EgressHook::Clsact, _) | (_, false) => EgressHook::Clsact,
            _ => EgressHook::Tcx,
        };
        let inbound = links::info(&self.pins.xdp_link())?;
        let interface = interfaces::inspect(self.pins.ifindex)?;
        let place = inbound.and_then(|link| interface?.place_of(link.program));
        let mode = match place {
            Some(interfaces::XdpPlace::Generic) => XdpMode::Generic,
            _ => XdpMode::Native,
        };
        Ok((hook, mode))
    }
}

fn is_free(there: &tc::Clsact, handle: u32) -> bool {
    there.egress.iter().all(|f| f.handle != handle)
}

enum TcxFailed {
    /// The kernel has no tcx.
    Unknown,
    Other(KernelError),
}

impl From<KernelError> for TcxFailed {
    fn from(error: KernelError) -> Self {
        TcxFailed::Other(error)
    }
}

/// Detaches a pinned link from its interface and removes the pin. It is a success if there is none.
pub(super) fn remove_link(pin: &std::path::Path, direction: Direction) -> Result<(), KernelError> {
    if let Some(link) = links::open(pin)? {
        let what = || format!("detaching the link pinned at {}", pin.display());
        links::detach(link.fd.as_fd(), direction).map_err(|e| refused(what(), e))?;
    }
    links::unpin(pin).map_err(|e| refused(format!("removing {}", pin.display()), e))
}

/// Deletes the enforcer's filters. Also deletes the qdisc if the enforcer has added it and no other
/// filter uses it.
pub(super) fn remove_filters(ifindex: u32, owns_qdisc: bool) -> Result<(), KernelError> {
    let there = tc::look(ifindex)?;
    for filter in there.egress.iter().filter(|f| f.is_ours()) {
        tc::delete_filter(ifindex, filter.handle)
            .map_err(|e| refused("deleting the clsact filter", e))?;
    }
    if owns_qdisc {
        tc::delete_qdisc(ifindex)?;
    }
    Ok(())
}

fn refused(what: impl Into<String>, error: io::Error) -> KernelError {
    KernelError::bpf(what, error)
}

pub(super) fn other_xdp(interface: &str, id: u32) -> KernelError {
    let opened = sys::program_by_id(id).ok().flatten();
    let name = opened.and_then(|program| sys::program_name(program.as_fd()).ok());
    KernelError::OtherXdp {
        interface: interface.to_owned(),
        program: name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "without a name".into()),
        id,
        // If the kernel does not tell, the general advice is given.
        link: sys::link_of(id).unwrap_or_default(),
    }
}
