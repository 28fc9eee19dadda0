//! Applies a policy to one or more interfaces in three steps: `plan` compiles it and compares it
//! with what is there, `prepare` loads and checks the programs, and only `commit` changes what
//! happens to packets.

use std::collections::HashSet;
use std::path::Path;

use super::commit::commit;
use super::confirm::tidy_attachment;
use super::error::KernelError;
use super::hold::remove_left;
use super::impact::Change;
use super::inspect::inspect;
use super::location::Place;
use super::machine::{bpffs, interfaces, netns};
use super::options::ApplyOptions;
use super::outcome::Applied;
use super::pins::{InterfacePins, PinTree};
use super::plan::{Planned, plan};
use super::prepare::prepare;
use sg_policy::policy::Policy;

/// Compiles `policy` and attaches it to the interfaces of the options, or replaces the policy in
/// force. If some of them belong to an attachment, all its interfaces must be named; the others
/// join it. If it fails, the policy before it is still in force on each of them, unless the error
/// says otherwise.
pub fn apply(policy: &Policy, options: &ApplyOptions) -> Result<Applied, KernelError> {
    apply_reviewed(policy, options, &mut |_| Ok(()))
}

/// Applies a policy as [`apply`] does, and asks `review` before anything is changed. If that fails,
/// so does the apply. It is not asked where the policy is in force already.
pub fn apply_reviewed(
    policy: &Policy,
    options: &ApplyOptions,
    review: &mut dyn FnMut(&Change<'_>) -> Result<(), KernelError>,
) -> Result<Applied, KernelError> {
    let asked = Asked::of(options)?;
    let bpffs = bpffs::find_or_mount(&options.bpffs)?;
    let tree = PinTree::new(&bpffs.path);
    let _lock = tree.lock()?;
    let applied = under_lock(policy, &asked, &tree, review);
    if applied.is_err() {
        tree.prune();
    }
    applied.map(|mut applied| {
        applied.mounted = bpffs.just_mounted.then_some(bpffs.path);
        applied
    })
}

/// An `apply` that was asked for in this network namespace.
struct Asked {
    /// Each interface is named once.
    options: ApplyOptions,
    /// The indices of the interfaces.
    indices: Vec<u32>,
    /// The cookie of the network namespace.
    cookie: u64,
}

impl Asked {
    /// Fails if an interface is not there, or if the caller may not enforce.
    fn of(options: &ApplyOptions) -> Result<Asked, KernelError> {
        let mut options = options.clone();
        let mut seen = HashSet::new();
        options.interfaces.retain(|name| seen.insert(name.clone()));
        let names = options.interfaces.iter();
        let indices = names.map(|name| present(&options.bpffs, name));
        let indices = indices.collect::<Result<_, _>>()?;
        let first = options.interfaces.first();
        KernelError::unless_may_enforce(first.ok_or_else(KernelError::none_named)?)?;
        Ok(Asked {
            options,
            indices,
            cookie: netns::cookie()?,
        })
    }

    /// Where the interfaces have their pins. Fails if one has pins of another layout.
    fn places(&self, tree: &PinTree) -> Result<Vec<InterfacePins>, KernelError> {
        let indices = self.indices.iter();
        let places = indices.map(|index| tree.interface(self.cookie, *index));
        let places: Vec<InterfacePins> = places.collect::<Result<_, _>>()?;
        for pins in &places {
            tree.refuse_other_layouts(pins)?;
        }
        Ok(places)
    }
}

fn under_lock(
    policy: &Policy,
    asked: &Asked,
    tree: &PinTree,
    review: &mut dyn FnMut(&Change<'_>) -> Result<(), KernelError>,
) -> Result<Applied, KernelError> {
    let places = asked.places(tree)?;
    let mut decided = Vec::new();
    for pins in places.iter().filter(|pins| pins.exists()) {
        decided.extend(tidy_attachment(pins)?);
    }
    let mut applied = match plan(policy, &asked.options, tree, asked.cookie)? {
        Planned::Unchanged(applied) => {
            // A `run` that was killed when the policy was in force may have left a hold behind it,
            // which does nothing.
            for index in &asked.indices {
                let _ = remove_left(*index);
            }
            *applied
        }
        Planned::Change(plan) => {
            review(&Change::new(&plan))?;
            let prepared = prepare(&plan)?;
            commit(&plan, prepared)?
        }
    };
    applied.decided = decided;
    Ok(applied)
}

/// What an apply would do.
pub enum Preview {
    /// Nothing, since the policy is in force already.
    Unchanged(Box<Applied>),
    /// It would put this generation in force.
    Change { generation: u32, is_first: bool },
}

/// Plans an apply and lets `review` look at the change, and ends there. Nothing is changed, mounted
/// or pinned, and nobody is kept from changing something at the same time where nothing is pinned.
pub fn preview(
    policy: &Policy,
    options: &ApplyOptions,
    review: &mut dyn FnMut(&Change<'_>) -> Result<(), KernelError>,
) -> Result<Preview, KernelError> {
    let asked = Asked::of(options)?;
    // Where there is none it would be mounted, with nothing pinned in it.
    let found = bpffs::find(&asked.options.bpffs)?;
    let tree = PinTree::new(
        found
            .as_ref()
            .map_or(&asked.options.bpffs, |found| &found.path),
    );
    let _lock = match tree.exists() {
        true => Some(tree.lock()?),
        false => None,
    };
    asked.places(&tree)?;
    match plan(policy, &asked.options, &tree, asked.cookie)? {
        Planned::Unchanged(applied) => Ok(Preview::Unchanged(applied)),
        Planned::Change(plan) => {
            let change = Change::new(&plan);
            review(&change)?;
            Ok(Preview::Change {
                generation: change.generation(),
                is_first: change.is_first(),
            })
        }
    }
}

/// The index of an interface. If the interface was moved to another network namespace with its
/// attachment, the error says so.
pub(super) fn present(bpffs: &Path, interface: &str) -> Result<u32, KernelError> {
    interfaces::index_of(interface).map_err(|error| match error {
        KernelError::NoInterface { .. } => moved_away(bpffs, interface).unwrap_or(error),
        error => error,
    })
}

fn moved_away(bpffs: &Path, interface: &str) -> Option<KernelError> {
    let cookie = netns::cookie().ok()?;
    let bpffs = bpffs::find(bpffs).ok()??;
    let all = PinTree::new(&bpffs.path).interfaces().ok()?;
    let mut of_here = all.iter().filter(|pins| pins.netns_cookie == cookie);
    of_here.find_map(|pins| {
        let found = inspect(pins).ok()?;
        let is_it = found.state()?.interface == interface;
        match found.place {
            Place::Moved(at) if is_it => Some(KernelError::MovedAway {
                interface: interface.to_owned(),
                netns: at.netns()?.to_owned(),
                name: at.interface.name,
            }),
            _ => None,
        }
    })
}
