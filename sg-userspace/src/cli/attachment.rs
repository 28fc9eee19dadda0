//! The attached interfaces that a command is about: those that it reads, or all of one attachment.

use clap::Args;
use sg_userspace::kernel::KernelError;
use sg_userspace::observe::attached::{Attached, attached, found, other_layouts};

use super::context::{Context, Ifaces};
use super::failure::Failure;

/// The attached interfaces that a reading command is about. An error if there are none. An
/// interface whose first `apply` was cut short is left out unless it is named or there is no other;
/// `status` shows it.
pub(super) fn to_read(context: &Context, ifaces: &Ifaces) -> Result<Vec<Attached>, Failure> {
    let scope = context.here(ifaces);
    let mut found = attached(&context.bpffs, &scope)?;
    let is_named = !ifaces.names.is_empty();
    match found.iter().find(|one| one.is_cut_short()) {
        Some(cut) if is_named || found.iter().all(Attached::is_cut_short) => {
            cut.state()?;
        }
        Some(_) => found.retain(|one| !one.is_cut_short()),
        None => {}
    }
    if let Some(other) = other_layouts(&context.bpffs, &scope)?.into_iter().next() {
        return Err(other.into());
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(nothing_attached(context)),
    }
}

fn nothing_attached(context: &Context) -> Failure {
    let scope = context.any_interface();
    KernelError::NotAttached { scope }.into()
}

/// The first of the named interfaces, or of those here, whose attachment must be the only one that
/// is named. `command` is the one with the arguments `A`.
pub(super) fn only_one<A: Args>(
    context: &Context,
    command: &'static str,
    ifaces: &Ifaces,
) -> Result<Attached, Failure> {
    let mut named = found(&context.bpffs, &context.here(ifaces))?.into_iter();
    let Some(first) = named.next() else {
        return Err(nothing_attached(context));
    };
    if named.any(|one| !first.pins.shares_with(&one.pins)) {
        return Err(Failure::usage::<A>(
            command,
            "several policies are in force here: name the interface with --iface",
        ));
    }
    Ok(first)
}

/// The first of the named interfaces, as [`only_one`] has it, and all interfaces of its attachment.
pub(super) fn one_attachment<A: Args>(
    context: &Context,
    command: &'static str,
    ifaces: &Ifaces,
) -> Result<(Attached, Vec<Attached>), Failure> {
    let first = only_one::<A>(context, command, ifaces)?;
    let all = attached(&context.bpffs, &context.here(&Ifaces { names: Vec::new() }))?;
    let own = all
        .into_iter()
        .filter(|it| it.pins.shares_with(&first.pins));
    let own = own.collect();
    Ok((first, own))
}

/// The names of these interfaces now. An error if one has no record.
pub(super) fn names_of(interfaces: &[Attached]) -> Result<Vec<String>, KernelError> {
    let name = |one: &Attached| {
        one.state()?;
        Ok(one.condition()?.interface)
    };
    interfaces.iter().map(name).collect()
}
