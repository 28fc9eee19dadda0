//! What an attachment fixes when it is made: compares the options of an `apply` with it, and
//! refuses a change that would leave a gap in enforcement (C2).

use super::error::KernelError;
use super::hooks::other_xdp;
use super::machine::interfaces::XdpPlace;
use super::options::{ApplyOptions, EgressHook, XdpMode};
use super::start::Replaced;
use sg_policy::policy::Policy;

/// Compares the options with what an attachment fixes when it is made, and fills in those that were
/// not given. Refuses a change that would leave a gap in enforcement.
pub(super) fn settle(
    options: &mut ApplyOptions,
    interface: &str,
    replaced: &Replaced,
) -> Result<(), KernelError> {
    let Replaced {
        state, inspection, ..
    } = replaced;
    let refuse = |what: &str, reason: String, flag: &str| KernelError::Fixed {
        what: format!("changing {what} of the attachment to {interface}"),
        reason,
        help: format!(
            "leave out {flag} to go on as it is; or `sgctl detach --iface {interface}` and apply again, \
             with nothing enforced in between"
        ),
    };
    if options.cut_existing && inspection.faults().is_empty() {
        return Err(KernelError::Fixed {
            what: format!("cutting the connections that exist on {interface}"),
            reason: "that is for a first attachment, and a policy is in force there".into(),
            help: "leave out --cut-existing: the new policy judges what is there again; with \
                   `established: flush` in it, it cuts all that is not accepted as new"
                .into(),
        });
    }
    if let Some(asked) = options.max_flows
        && asked != state.max_flows
    {
        let reason = format!(
            "its flow table has room for {} flows and cannot be resized while flows are in it",
            state.max_flows
        );
        return Err(refuse("the flow table", reason, "--max-flows"));
    }
    let is_inbound_live = inspection.inbound.link.is_some_and(|link| link.is_live());
    match (options.xdp_mode, inspection.inbound.mode) {
        (XdpMode::Native, Some(XdpPlace::Generic)) | (XdpMode::Generic, Some(XdpPlace::Native))
            if is_inbound_live =>
        {
            let reason = "an interface runs XDP programs in one mode only, so that the program would \
                          have to go before it can come back";
            return Err(refuse("the XDP mode", reason.into(), "--xdp-mode"));
        }
        // The mode from before the link was detached.
        (XdpMode::Auto, _) if !is_inbound_live && state.xdp_mode == XdpMode::Generic => {
            options.xdp_mode = XdpMode::Generic;
        }
        _ => {}
    }
    if !is_inbound_live && let Some((_, id)) = inspection.inbound.others.first() {
        return Err(other_xdp(interface, *id));
    }
    if options.egress_hook == EgressHook::Auto {
        let outbound = &inspection.outbound;
        options.egress_hook = match state.egress_hook {
            _ if outbound.live_link().is_some() => EgressHook::Tcx,
            _ if outbound.filters().next().is_some() => EgressHook::Clsact,
            EgressHook::Clsact => EgressHook::Clsact,
            _ => EgressHook::Auto,
        };
    }
    Ok(())
}

/// Whether the same policy is in force on an interface with the same options, and without a fault.
pub(super) fn is_unchanged(
    policy: &Policy,
    options: &ApplyOptions,
    interface: &str,
    replaced: &Replaced,
) -> bool {
    let Replaced {
        state,
        inspection,
        moved_from,
    } = replaced;
    let is_same_hook = match options.egress_hook {
        EgressHook::Auto => true,
        EgressHook::Tcx => inspection.outbound.live_link().is_some(),
        EgressHook::Clsact => inspection.outbound.live_link().is_none(),
    };
    let has_no_next = inspection
        .records
        .as_ref()
        .is_ok_and(|records| records.next.is_none());
    // A policy that is applied once more while it is on trial is put in force anew.
    moved_from.is_none()
        && state.trial.is_none()
        && has_no_next
        && is_same_hook
        && state.policy.digest == policy.digest
        && state.policy.audit == policy.audit_in_force()
        && state.log_level == options.log_level
        // A build with other programs puts its own in force.
        && state.object == options.object()
        && state.interface == interface
        && inspection.faults().is_empty()
}
