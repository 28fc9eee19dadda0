//! Detaches interfaces: removes all that enforcement has put there, and waits until the kernel has
//! freed it.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use sg_common::verdict::Direction;

use super::condition::standing_after;
use super::error::KernelError;
use super::hold::remove_left;
use super::inspect::{Inspection, inspect_readable};
use super::load::targets;
use super::pins::{InterfacePins, PinTree};
use super::removal::remove;
use super::state::State;
use super::sys::{Listed, next_id};

/// Removes all of one interface's attachment. `bpffs` is the file system with its pins. If nothing
/// is left to remove, that is a success.
pub fn detach(bpffs: &Path, pins: &InterfacePins) -> Result<(), KernelError> {
    let mut all = detach_each(bpffs, &[pins], |_| true)?;
    all.pop().unwrap_or(Ok(true)).map(|_| ())
}

/// Removes the attachments of several interfaces, while no other process can change anything: what
/// another one then finds is either all of them or none. `is_to_go` is asked of each with what its
/// record says, if it can be read; of those that stay, the result is false. One that cannot be
/// detached does not keep the others from it.
pub fn detach_each(
    bpffs: &Path,
    places: &[&InterfacePins],
    is_to_go: impl Fn(Option<&State>) -> bool,
) -> Result<Vec<Result<bool, KernelError>>, KernelError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let tree = PinTree::new(bpffs);
    let lock = tree.lock()?;
    let mut leaving = Leaving::default();
    let mut one = |pins: &&InterfacePins| {
        // A damaged record does not prevent detaching. A record that cannot be read at the moment
        // does, because it may name more to remove, such as the clsact qdisc.
        let found = inspect_readable(pins)?;
        if !is_to_go(found.state().as_ref()) {
            return Ok(false);
        }
        let leaves = Leaving::of(&found);
        // This comes first, so that a qdisc that both have used can go.
        let left = match found.at() {
            Some(at) => at.inside(|| remove_left(at.interface.index)),
            None => Ok(()),
        };
        remove(&found).and(left)?;
        leaving.extend(leaves);
        Ok(true)
    };
    let all: Vec<_> = places.iter().map(&mut one).collect();
    tree.prune();
    drop(lock);
    let all = all.into_iter().zip(places);
    let all = all
        .map(|(removed, pins)| removed.map_err(|error| standing_after(error, pins)))
        .collect();
    leaving.wait();
    Ok(all)
}

/// Removes empty directories that a killed process has left.
pub fn tidy_up(bpffs: &Path) -> Result<(), KernelError> {
    let tree = PinTree::new(bpffs);
    if tree.exists() {
        let _lock = tree.lock()?;
        tree.prune();
    }
    Ok(())
}

/// The programs and maps that the kernel frees some milliseconds after their pins are removed.
#[derive(Default)]
struct Leaving {
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

impl Leaving {
    fn of(found: &Inspection) -> Self {
        let running = Direction::BOTH.map(|direction| found.attached(direction));
        let programs: HashSet<u32> = running
            .into_iter()
            .flatten()
            .chain(targets::program_ids(&found.pins))
            .collect();
        let maps = loaded_programs()
            .filter_map(Result::ok)
            .filter(|p| programs.contains(&p.id()))
            .filter_map(|p| p.map_ids().ok().flatten())
            .flatten()
            .collect();
        Leaving { programs, maps }
    }

    fn extend(&mut self, other: Leaving) {
        self.programs.extend(other.programs);
        self.maps.extend(other.maps);
    }

    /// Waits a short time until the kernel has freed them, so that a list of BPF objects after
    /// `detach` is the same as before `apply`. Only compares ids, because the kernel never frees a
    /// program array that is opened while it is being cleared.
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if !is_any_left(Listed::Programs, &self.programs)
                && !is_any_left(Listed::Maps, &self.maps)
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether one of the ids still exists. False if that cannot be found out.
fn is_any_left(kind: Listed, ids: &HashSet<u32>) -> bool {
    // Asks for the id that follows the one before.
    ids.iter()
        .any(|id| next_id(kind, id - 1).ok().flatten() == Some(*id))
}
