//! Removes every trace of an interface's enforcement, and waits until the kernel has freed it.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use aya::programs::loaded_programs;

use super::hooks::remove_clsact;
use super::pins::{InterfacePins, PinTree};
use super::state::State;
use super::{KernelError, interfaces, link_ifindex, netns, running_program, stages};

/// Removes everything of one interface. `bpffs` is where it was found.
pub fn detach(bpffs: &Path, pins: &InterfacePins) -> Result<(), KernelError> {
    let tree = PinTree::new(bpffs);
    let lock = tree.lock()?;
    // A damaged record must not keep anyone from detaching.
    let state = State::read(pins).ok().flatten();
    let leaving = Leaving::of(pins);
    // With the interface its filters are gone.
    let is_gone = link_ifindex(&pins.xdp_link()) == Some(0);
    let by_index = |added_qdisc| match interfaces::name_of(pins.ifindex) {
        // By its index: it may have another name by now.
        Some(name) => remove_clsact(&name, added_qdisc),
        None => Ok(()),
    };
    match &state {
        Some(state) if state.egress_hook == "clsact" && !is_gone => {
            in_namespace_of(state, || by_index(state.added_clsact))?;
        }
        None if netns::cookie()? == pins.netns_cookie => by_index(false)?,
        _ => {}
    }
    pins.remove()?;
    tree.prune();
    drop(lock);
    leaving.wait();
    Ok(())
}

/// Runs `act` in the network namespace that `state` belongs to.
fn in_namespace_of(
    state: &State,
    act: impl FnOnce() -> Result<(), KernelError> + Send,
) -> Result<(), KernelError> {
    if netns::cookie()? == state.netns_cookie {
        return act();
    }
    let elsewhere = || KernelError::Refused {
        what: format!(
            "detaching from {} in another network namespace",
            state.interface
        ),
        reason: "a clsact filter can only be removed from inside its namespace".into(),
        help: "name the namespace with --netns".into(),
    };
    let Some(name) = &state.netns else {
        return Err(elsewhere());
    };
    // A thread of its own, since it cannot come back.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                netns::Netns::from(name.as_str()).enter()?;
                if netns::cookie()? != state.netns_cookie {
                    return Err(elsewhere());
                }
                act()
            })
            .join()
            .unwrap_or_else(|_| Err(elsewhere()))
    })
}

/// Programs and maps that go away after their pins, some milliseconds later.
struct Leaving {
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

impl Leaving {
    fn of(pins: &InterfacePins) -> Self {
        let programs: HashSet<u32> = [pins.xdp_link(), pins.tcx_link()]
            .iter()
            .filter_map(|path| running_program(path))
            .chain(stages::program_ids(pins))
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
    /// `detach` should find what was there before `apply`.
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            let program_left = loaded_programs()
                .filter_map(Result::ok)
                .any(|p| self.programs.contains(&p.id()));
            let map_left = self.maps.iter().any(|id| MapInfo::from_id(*id).is_ok());
            if !program_left && !map_left {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
