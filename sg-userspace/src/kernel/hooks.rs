//! The two hooks of an interface: attaching a program to each, swapping programs in their links, and
//! taking a clsact filter away.

use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, loaded_programs, tc};

use super::attach::{ApplyOptions, EgressHook, XdpMode};
use super::pins::InterfacePins;
use super::programs::Programs;
use super::state::State;
use super::{KernelError, interfaces};

/// The enforcer's place among the clsact filters of an interface.
const CLSACT_PRIORITY: u16 = 0x5347;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Swaps the programs into the pinned links, or attaches and pins where there is no link yet. The
/// record is written first, so that the slots of both generations are known at every moment.
/// Outbound comes first: what the node opens from then on is remembered when inbound packets begin
/// to be judged.
pub(super) fn put_in_place(
    programs: &mut Programs,
    state: &mut State,
    previous: Option<&State>,
    pins: &InterfacePins,
    options: &ApplyOptions,
) -> Result<(), KernelError> {
    if let Some(previous) = previous {
        state.xdp_mode.clone_from(&previous.xdp_mode);
        state.egress_hook.clone_from(&previous.egress_hook);
    }
    state.write(pins)?;
    if pins.tcx_link().exists() {
        swap_outbound(programs, &pins.tcx_link())?;
    } else {
        attach_outbound(programs, state, pins, options)?;
    }
    if pins.xdp_link().exists() {
        swap_inbound(programs, &pins.xdp_link())?;
    } else {
        attach_inbound(programs, state, pins, options)?;
    }
    // Now with how they are attached.
    state.write(pins)
}

/// Attaches the XDP program and pins its link.
fn attach_inbound(
    programs: &mut Programs,
    state: &mut State,
    pins: &InterfacePins,
    options: &ApplyOptions,
) -> Result<(), KernelError> {
    use aya::programs::XdpMode as Flag;
    let interface = &options.interface;
    let ifindex = state.ifindex;
    let attempts: &[(Flag, &str)] = match options.xdp_mode {
        XdpMode::Auto => &[(Flag::Driver, "native"), (Flag::Skb, "generic")],
        XdpMode::Native => &[(Flag::Driver, "native")],
        XdpMode::Generic => &[(Flag::Skb, "generic")],
    };
    let mut last = None;
    for (flag, mode) in attempts {
        match programs.inbound()?.attach_to_if_index(ifindex, *flag) {
            Ok(id) => {
                let link = programs
                    .inbound()?
                    .take_link(id)
                    .map_err(|e| KernelError::bpf("keeping the XDP link", e))?;
                // A link that fell back to netlink cannot be pinned, and would end with us.
                let link: FdLink = link.try_into().map_err(|e| {
                    KernelError::bpf("the kernel has no BPF links for XDP (Linux 5.9)", e)
                })?;
                link.pin(pins.xdp_link())
                    .map_err(|e| KernelError::bpf("pinning the XDP link", e))?;
                state.xdp_mode = (*mode).to_owned();
                return Ok(());
            }
            Err(error) => {
                if os_error(&error) == Some(libc::EBUSY)
                    && let Ok(Some(id)) = interfaces::xdp_program(ifindex)
                {
                    return Err(other_xdp(interface, id));
                }
                last = Some(error);
            }
        }
    }
    let what = format!("attaching the XDP program to {interface}");
    Err(match last {
        Some(error) => KernelError::bpf(what, error),
        None => KernelError::io(what, io::Error::other("no mode to try")),
    })
}

/// The link pinned at `pin`. The pin keeps it when this process drops its own descriptor.
fn pinned<L>(pin: &Path, what: &str) -> Result<L, KernelError>
where
    L: TryFrom<FdLink, Error = LinkError>,
{
    PinnedLink::from_pin(pin)
        .and_then(|link| L::try_from(FdLink::from(link)))
        .map_err(|e| KernelError::bpf(what, e))
}

fn swap_inbound(programs: &mut Programs, pin: &Path) -> Result<(), KernelError> {
    let what = "replacing the inbound program";
    let link = pinned(pin, what)?;
    programs
        .inbound()?
        .attach_to_link(link)
        .map(drop)
        .map_err(|e| KernelError::bpf(what, e))
}

fn swap_outbound(programs: &mut Programs, pin: &Path) -> Result<(), KernelError> {
    let what = "replacing the outbound program";
    let link = pinned(pin, what)?;
    programs
        .outbound()?
        .attach_to_link(link)
        .map(drop)
        .map_err(|e| KernelError::bpf(what, e))
}

/// Attaches the tc program by tcx, or by clsact where that is wanted or tcx is missing.
fn attach_outbound(
    programs: &mut Programs,
    state: &mut State,
    pins: &InterfacePins,
    options: &ApplyOptions,
) -> Result<(), KernelError> {
    let interface = &options.interface;
    let what = format!("attaching the tc program to {interface}");
    let replaces_clsact = state.egress_hook == "clsact";
    if options.egress_hook != EgressHook::Clsact && !replaces_clsact {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let program: &mut SchedClassifier = programs.outbound()?;
        match program.attach_with_options(interface, TcAttachType::Egress, order) {
            Ok(id) => {
                let link: FdLink = program
                    .take_link(id)
                    .map_err(|e| KernelError::bpf(&*what, e))?
                    .try_into()
                    .map_err(|e| KernelError::bpf(&*what, e))?;
                link.pin(pins.tcx_link())
                    .map_err(|e| KernelError::bpf("pinning the tcx link", e))?;
                state.egress_hook = "tcx".into();
                return Ok(());
            }
            // The answer of kernels before 6.6, which do not know the link type.
            Err(error)
                if options.egress_hook == EgressHook::Auto
                    && matches!(os_error(&error), Some(libc::EINVAL | libc::E2BIG)) => {}
            Err(error) if os_error(&error) == Some(libc::EINVAL) => {
                return Err(KernelError::Refused {
                    what,
                    reason: "this kernel has no tcx (it came with Linux 6.6)".into(),
                    help: "leave out --egress-hook, and a clsact filter is used instead".into(),
                });
            }
            Err(error) => return Err(KernelError::bpf(what, error)),
        }
    }
    let program = programs.outbound()?;
    let clsact = |e: tc::TcError| KernelError::bpf("adding the clsact qdisc", e);
    if replaces_clsact {
        let old = SchedClassifierLink::attached(
            interface,
            TcAttachType::Egress,
            CLSACT_PRIORITY,
            CLSACT_HANDLE,
            None,
        )
        .map_err(|e| KernelError::io(&*what, e))?;
        let id = program
            .attach_to_link(old)
            .map_err(|e| KernelError::bpf(&*what, e))?;
        return keep_filter(program.take_link(id), what);
    }
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => state.added_clsact = true,
        Err(e) if os_error(&e) == Some(libc::EEXIST) => {}
        Err(e) => return Err(clsact(e)),
    }
    state.egress_hook = "clsact".into();
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: CLSACT_PRIORITY,
        handle: CLSACT_HANDLE,
        classid: None,
    });
    let id = program
        .attach_with_options(interface, TcAttachType::Egress, options)
        .map_err(|e| KernelError::bpf(&*what, e))?;
    keep_filter(program.take_link(id), what)
}

/// A clsact filter stays when its owner goes, unless the library's handle of it is dropped.
fn keep_filter(
    link: Result<SchedClassifierLink, ProgramError>,
    what: String,
) -> Result<(), KernelError> {
    std::mem::forget(link.map_err(|e| KernelError::bpf(what, e))?);
    Ok(())
}

pub(super) fn remove_clsact(interface: &str, added_qdisc: bool) -> Result<(), KernelError> {
    match tc::qdisc_detach_program(interface, TcAttachType::Egress, "sg_outbound") {
        Ok(()) => {}
        Err(e) if os_error(&e) == Some(libc::ENOENT) => {}
        Err(tc::TcError::IoError(e)) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(KernelError::bpf("removing the clsact filter", e)),
    }
    if added_qdisc {
        interfaces::delete_clsact(interface)?;
    }
    Ok(())
}

pub(super) fn other_xdp(interface: &str, id: u32) -> KernelError {
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|p| p.id() == id)
        .and_then(|p| p.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "without a name".into());
    KernelError::OtherXdp {
        interface: interface.to_owned(),
        program,
        id,
    }
}

/// The errno at the bottom of an error, if there is one.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>()
            && let Some(code) = io.raw_os_error()
        {
            return Some(code);
        }
        next = e.source();
    }
    None
}
