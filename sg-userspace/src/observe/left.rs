//! What a `run` that was killed has left of its hold, where nothing is attached. Where something
//! is, it goes with that.

use std::path::Path;

use super::attached::{Attached, Scope, attached};
use crate::kernel::hold::{HeldInterface, held_interfaces};
use crate::kernel::{KernelError, interfaces};

/// What a command finds that is about what is attached and what is left behind.
#[derive(Default)]
pub struct Found {
    pub attached: Vec<Attached>,
    /// Where nothing is attached.
    pub left: Vec<HeldInterface>,
    /// Holds of which it could not be found out whether they are left.
    pub unknown: Vec<KernelError>,
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.left.is_empty() && self.unknown.is_empty()
    }
}

/// Looks at the interfaces in `scope`. It is an error if nothing is attached to a named one and
/// nothing is left there.
pub fn attached_or_left(bpffs: &Path, scope: &Scope) -> Result<Found, KernelError> {
    let in_scope = held_interfaces(matches!(scope, Scope::Machine))?;
    let in_scope = in_scope.into_iter().filter(|one| is_in(scope, one));
    let mut holds: Vec<(HeldInterface, Result<bool, KernelError>)> = in_scope
        .map(|one| {
            let is_left = one.is_left();
            (one, is_left)
        })
        .collect();
    // The others have a process that is alive.
    holds.retain(|(_, is_left)| !matches!(is_left, Ok(false)));
    let mut rest = scope.clone();
    if let Scope::Interfaces(names) = &mut rest {
        names.retain(|name| {
            let named = Scope::Interfaces(vec![name.clone()]);
            let is_left = holds.iter().any(|(one, _)| is_in(&named, one));
            !is_left
                || !matches!(
                    attached(bpffs, &named),
                    Err(KernelError::NotAttached { .. })
                )
        });
    }
    let mut found = Found {
        attached: attached(bpffs, &rest)?,
        ..Found::default()
    };
    for (one, is_left) in holds {
        let place = (one.netns_cookie, one.ifindex);
        let mut pins = found.attached.iter().map(|it| &it.pins);
        if pins.any(|pins| (pins.netns_cookie, pins.ifindex) == place) {
            continue;
        }
        match is_left {
            Ok(_) => found.left.push(one),
            Err(error) => found.unknown.push(error),
        }
    }
    Ok(found)
}

fn is_in(scope: &Scope, one: &HeldInterface) -> bool {
    let is_called = |name: &String| interfaces::matches(name, &one.interface);
    match scope {
        Scope::Machine | Scope::Namespace => true,
        Scope::Interface(name) => *name == one.interface,
        // A name that is no pattern matches itself.
        Scope::Interfaces(names) => names.iter().any(is_called),
    }
}
