//! Detaches an interface: removes every trace of its enforcement, and waits until the kernel has
//! freed it.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use sg_common::verdict::Direction;

use super::condition::standing_after;
use super::error::KernelError;
use super::inspect::{Inspection, inspect};
use super::pins::{InterfacePins, PinTree};
use super::removal::remove;
use super::sys::{Listed, next_id};
use super::targets;

/// Removes everything of one interface. `bpffs` is where it was found. That nothing is left to
/// remove is success.
pub fn detach(bpffs: &Path, pins: &InterfacePins) -> Result<(), KernelError> {
    let tree = PinTree::new(bpffs);
    let lock = tree.lock()?;
    let found = match inspect(pins)? {
        // A damaged record keeps nobody from detaching. One that cannot be read just now may know
        // of more that is ours, such as the clsact qdisc.
        Inspection {
            records: Err(error),
            ..
        } if error.may_pass() => return Err(error),
        found => found,
    };
    let leaving = Leaving::of(&found);
    let removed = remove(&found);
    tree.prune();
    drop(lock);
    removed.map_err(|error| standing_after(error, pins))?;
    leaving.wait();
    Ok(())
}

/// Removes the empty directories that somebody who was killed has left.
pub fn tidy_up(bpffs: &Path) -> Result<(), KernelError> {
    let tree = PinTree::new(bpffs);
    if tree.exists() {
        let _lock = tree.lock()?;
        tree.prune();
    }
    Ok(())
}

/// Programs and maps that go away after their pins, some milliseconds later.
struct Leaving {
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

impl Leaving {
    fn of(found: &Inspection) -> Self {
        let running = Direction::BOTH.map(|direction| found.running(direction));
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

    /// Waits, but not for long, until the kernel has freed them: whoever lists BPF objects after
    /// `detach` should find what was there before `apply`. Looks at ids only: a program array
    /// that is opened while the kernel clears it stays.
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

/// Whether one of these is still listed; not where that cannot be told.
fn is_any_left(kind: Listed, ids: &HashSet<u32>) -> bool {
    // The one before, whose successor it is if it is there.
    ids.iter()
        .any(|id| next_id(kind, id - 1).ok().flatten() == Some(*id))
}
