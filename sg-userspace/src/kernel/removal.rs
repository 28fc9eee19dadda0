//! Removes an attachment: first it is taken off the interface, then, when no packet is under way
//! in its programs, goes what they need, and the record last. Each step may find its work done
//! already, so that it can be repeated after it was cut short.

use sg_common::verdict::Direction;

use super::error::KernelError;
use super::hooks::{remove_filters, remove_link};
use super::inspect::{Inspection, Place};
use super::sys;

/// Removes everything that was found of an attachment. Inbound goes first: as long as outbound
/// packets are judged, what the node opens is remembered, and its answers pass.
pub(super) fn remove(found: &Inspection) -> Result<(), KernelError> {
    let pins = &found.pins;
    refuse_what_cannot_be_reached(found)?;
    remove_link(&pins.xdp_link(), Direction::Inbound)?;
    remove_link(&pins.tcx_link(), Direction::Outbound)?;
    remove_link(&pins.tcx_link_next(), Direction::Outbound)?;
    if let Some(at) = found.at() {
        let index = at.interface.index;
        at.inside(|| remove_filters(index, found.owns_qdisc()))?;
    }
    if found.is_attached() {
        sys::wait_for_programs();
    }
    pins.remove()
}

/// A filter can only be removed from inside the namespace of its interface, and must not be left
/// without its programs, which would drop every packet.
fn refuse_what_cannot_be_reached(found: &Inspection) -> Result<(), KernelError> {
    let Place::Unknown { reason } = &found.place else {
        return Ok(());
    };
    let has_link = found.outbound.live_link().is_some();
    let may_have_filter = match found.state() {
        Some(state) => state.egress_hook != "tcx",
        None => !has_link,
    };
    if has_link && !may_have_filter {
        return Ok(());
    }
    Err(KernelError::Refused {
        what: match found.state() {
            Some(state) => format!(
                "detaching from {} in the network namespace {}",
                state.interface,
                state.netns.as_deref().unwrap_or("that it was attached in")
            ),
            None => format!(
                "detaching from the interface with the index {} in another network namespace",
                found.pins.ifindex
            ),
        },
        reason: format!(
            "its outbound filter can only be removed from inside its namespace, and {reason}"
        ),
        help: "name the namespace with --netns".into(),
    })
}
