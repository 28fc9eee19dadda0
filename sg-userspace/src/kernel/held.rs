//! Keeps a generation open, so that it can be put in force again at once: its programs, tail-call
//! targets and record, whether or not its pins still exist. Nothing has to be compiled and hardly
//! anything loaded, so little can fail. Counters and flows belong to the attachment and go on.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;

use sg_common::verdict::Direction;

use super::commit::{ORDER, put_in_force, tidy};
use super::condition::standing_after;
use super::error::KernelError;
use super::flow_tables::may_have_cut;
use super::generation::Generation;
use super::hooks::Hooks;
use super::inspect::{Inspection, inspect};
use super::options::{EgressHook, XdpMode};
use super::pins::{InterfacePins, PinTree};
use super::prepare::adopt;
use super::programs::Programs;
use super::shared_maps::SharedMaps;
use super::state::{Records, State, taken_back};
use super::tables::LiveTables;
use super::targets::PinnedGeneration;
use super::{interfaces, links, netns, targets, tc};

/// The generation that was in force.
pub struct Held {
    state: State,
    /// All its pinned objects.
    generation: PinnedGeneration,
}

/// What is in force on an interface.
pub enum InForce {
    Nothing,
    Policy(Box<Held>),
    /// Some of its objects are missing, so it could not be put in force again.
    Damaged,
}

impl InForce {
    /// Finds what is in force, and keeps it open.
    pub fn find(bpffs: &Path, pins: &InterfacePins) -> Result<InForce, KernelError> {
        let tree = PinTree::new(bpffs);
        let _lock = tree.lock()?;
        let found = inspect(pins)?;
        if !found.is_attached() {
            return Ok(InForce::Nothing);
        }
        Ok(match Held::of(&found)? {
            Some(held) => InForce::Policy(Box::new(held)),
            None => InForce::Damaged,
        })
    }
}

impl Held {
    fn of(found: &Inspection) -> Result<Option<Held>, KernelError> {
        let Some(state) = found.state() else {
            return Ok(None);
        };
        let number = state.policy.generation;
        for direction in Direction::BOTH {
            let is_whole = found.running(direction) == Some(state.program(direction))
                && targets::are_there(&found.pins, direction, number);
            if !is_whole {
                return Ok(None);
            }
        }
        let Some(generation) = targets::open(&found.pins, number)? else {
            return Ok(None);
        };
        for direction in Direction::BOTH {
            if generation.program_id(direction)? != state.program(direction) {
                return Ok(None);
            }
        }
        Ok(Some(Held { state, generation }))
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The counter slots that its programs write. They must not be given to other rules meanwhile.
    pub fn slots(&self) -> HashSet<u32> {
        self.state.rules.iter().map(|owner| owner.slot).collect()
    }

    /// Puts it in force again, inbound last, in place of the programs of the generations `ours`.
    /// Returns false and changes nothing if a direction runs any other program. Can be repeated
    /// after an error, however far it came.
    pub fn put_back(
        &self,
        bpffs: &Path,
        pins: &InterfacePins,
        ours: &[[u32; 2]],
    ) -> Result<bool, KernelError> {
        let tree = PinTree::new(bpffs);
        let _lock = tree.lock()?;
        let mut found = inspect(pins)?;
        let records = std::mem::replace(&mut found.records, Ok(Records::default()))?;
        let running = Direction::BOTH.map(|direction| found.running(direction));
        // An earlier attempt may have loaded its programs again.
        let recorded = [&records.current, &records.next].into_iter().flatten();
        let mine: Vec<[u32; 2]> = recorded
            .filter(|state| state.policy.generation == self.state.policy.generation)
            .chain([&self.state])
            .map(|state| Direction::BOTH.map(|direction| state.program(direction)))
            .collect();
        let is_known = |direction: &Direction| {
            let side = *direction as usize;
            let mut known = ours.iter().chain(&mine);
            known.any(|programs| running[side] == Some(programs[side]))
        };
        // The programs to be replaced; some of them may have been replaced already.
        let replaced = ours.iter().find(|programs| running == programs.map(Some));
        let whole = replaced.or(ours.first());
        let current = whole.and_then(|whole| records.clone().effective(whole.map(Some)));
        let Some(current) = current.filter(|_| Direction::BOTH.iter().all(is_known)) else {
            return Ok(false);
        };
        let hooks = Hooks {
            pins,
            interface: &current.interface,
            xdp_mode: mode_of(&current),
            egress_hook: match found.outbound.live_link() {
                Some(_) => EgressHook::Tcx,
                None => EgressHook::Clsact,
            },
            owns_qdisc: current.added_clsact,
        };
        let mut state = State {
            interface: current.interface.clone(),
            ifindex: current.ifindex,
            netns: current.netns.clone(),
            netns_cookie: current.netns_cookie,
            attached_at: current.attached_at.clone(),
            added_clsact: current.added_clsact,
            ..taken_back(self.state.clone(), current.clone())
        };
        let before = match replaced {
            Some([inbound, outbound]) => [
                targets::program_in_force(pins, Direction::Inbound, *inbound)?,
                targets::program_in_force(pins, Direction::Outbound, *outbound)?,
            ],
            None => [None, None],
        };
        let in_force = found.runs(&current).then(|| Generation::recorded(&current));
        let held = Generation::recorded(&self.state);
        let mut anew = None;
        if !held.may_have_cut && may_have_cut(pins, in_force.as_ref(), &held) {
            anew = Some(self.load_anew(&mut state, held, pins)?);
        }
        if let Err(error) = self.put(&state, &hooks, anew) {
            // Returns both directions to what they ran before, as far as the kernel allows.
            for direction in ORDER {
                if let Some(program) = &before[direction as usize] {
                    let _ = hooks.put(direction, program.as_fd());
                }
            }
            if replaced.is_some() && inspect(pins).is_ok_and(|found| found.runs(&current)) {
                let _ = current.write(pins);
                let _ = links::unpin(&pins.state_next());
                let _ = targets::leave_only(pins, current.policy.generation);
            }
            return Err(standing_after(error, pins));
        }
        // The policy is in force from here on and must not be undone. The objects of the other
        // generations are removed.
        tidy(&hooks, &mut state).map_err(|error| standing_after(error, pins))?;
        Ok(true)
    }

    /// Attaches it to the new interface with the name of the old one, whose pins are `from`.
    /// Counters and flows go on. Returns where the pins are now.
    pub fn attach_again(
        &self,
        bpffs: &Path,
        from: &InterfacePins,
        interface: &str,
    ) -> Result<InterfacePins, KernelError> {
        let tree = PinTree::new(bpffs);
        let _lock = tree.lock()?;
        let pins = tree.interface(netns::cookie()?, interfaces::index_of(interface)?);
        if pins != *from && from.exists() && !inspect(&pins)?.is_attached() {
            adopt(from, &pins)?;
        }
        if !pins.exists() {
            return Err(KernelError::NotAttached {
                scope: format!("`{interface}`"),
            });
        }
        let found = inspect(&pins)?;
        let is_theirs = |direction| {
            let running = found.running(direction);
            running.is_some_and(|id| id != self.state.program(direction))
        };
        if Direction::BOTH.into_iter().any(is_theirs) {
            // Another process has attached something meanwhile.
            return Ok(pins);
        }
        if let Some((_, id)) = found.inbound.others.first() {
            return Err(super::hooks::other_xdp(interface, *id));
        }
        let hooks = Hooks {
            pins: &pins,
            interface,
            xdp_mode: mode_of(&self.state),
            egress_hook: match self.state.egress_hook {
                EgressHook::Clsact => EgressHook::Clsact,
                _ => EgressHook::Auto,
            },
            owns_qdisc: tc::look(pins.ifindex)?.qdisc.is_none(),
        };
        let recorded = State::read(&pins)?.unwrap_or_else(|| self.state.clone());
        let mut state = State {
            ifindex: pins.ifindex,
            added_clsact: hooks.owns_qdisc,
            ..recorded
        };
        // Its programs were in force until the interface was gone, so they have cut the flows
        // themselves or know about them.
        self.put(&state, &hooks, None)?;
        tidy(&hooks, &mut state)?;
        Ok(pins)
    }

    /// Loads the programs of this generation again, with their existing tables, so that they look
    /// up connections that were cut since: see [`Generation::may_have_cut`].
    fn load_anew(
        &self,
        state: &mut State,
        told: Generation,
        pins: &InterfacePins,
    ) -> Result<Programs, KernelError> {
        let told = Generation {
            has_flows: true,
            may_have_cut: true,
            ..told
        };
        let shared = SharedMaps {
            pins: Some(pins.clone()),
            counter_map: state.counter_maps - 1,
            // The counter maps exist already.
            counter_slots: 0,
            max_flows: state.max_flows,
        };
        let [near, far] = self.generation.tables()?;
        let tables = LiveTables::read(near, || Ok(far))?;
        let mut programs = Programs::load_tables(&tables.plain(), &told, &shared)?;
        let ids = programs.ids()?;
        [state.inbound_program, state.outbound_program] = ids;
        (state.has_flows, state.may_have_cut) = (true, true);
        Ok(programs)
    }

    /// Makes both hooks run the programs, or those loaded in their place, in the same order as
    /// `commit`.
    fn put(
        &self,
        state: &State,
        hooks: &Hooks<'_>,
        anew: Option<Programs>,
    ) -> Result<(), KernelError> {
        let (pins, generation) = (hooks.pins, state.policy.generation);
        match anew {
            None => {
                self.generation.pin(pins, generation)?;
                state.write_next(pins)?;
                for direction in ORDER {
                    hooks.put(direction, self.generation.program(direction))?;
                }
            }
            Some(mut programs) => {
                programs.pin_targets(pins, generation)?;
                state.write_next(pins)?;
                put_in_force(hooks, &mut programs)?;
            }
        }
        State::promote(pins)
    }
}

fn mode_of(state: &State) -> XdpMode {
    match state.xdp_mode {
        XdpMode::Generic => XdpMode::Generic,
        _ => XdpMode::Auto,
    }
}
