//! The one attachment that a command is about, and all its interfaces.

use clap::Args;
use sg_userspace::kernel::KernelError;
use sg_userspace::observe::attached::{Attached, attached, found};

use super::context::{Context, Ifaces};
use super::failure::Failure;

/// The first of the named interfaces, or of those here, whose attachment must be the only one that
/// is named. `command` is the one with the arguments `A`.
pub(super) fn only_one<A: Args>(
    context: &Context,
    command: &'static str,
    ifaces: &Ifaces,
) -> Result<Attached, Failure> {
    let mut named = found(&context.bpffs, &context.here(ifaces))?.into_iter();
    let Some(first) = named.next() else {
        return Err(KernelError::NotAttached {
            scope: context.any_interface(),
        }
        .into());
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
