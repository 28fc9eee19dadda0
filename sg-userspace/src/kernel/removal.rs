//! Removes an attachment. First it is detached from the interface. When no packet is in its
//! programs any more, what they need is removed, and the record last. Every step may find that its
//! work is done already, so the removal can be repeated after an interruption.

use sg_common::verdict::Direction;

use super::error::KernelError;
use super::hooks::{remove_filters, remove_link};
use super::inspect::Inspection;
use super::location::Place;
use super::options::EgressHook;
use super::sys;

/// Removes all that was found of an attachment. Inbound goes first: as long as outbound packets are
/// judged, the flows of the node's requests are entered, and their replies pass.
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

/// Fails if a filter cannot be reached: it can only be removed inside the namespace of its
/// interface, and without its tail-call targets it would drop packets.
fn refuse_what_cannot_be_reached(found: &Inspection) -> Result<(), KernelError> {
    let Place::Unknown { reason } = &found.place else {
        return Ok(());
    };
    let has_link = found.outbound.live_link().is_some();
    let may_have_filter = match found.state() {
        Some(state) => state.egress_hook != EgressHook::Tcx,
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
