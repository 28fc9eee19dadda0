//! Keeps a generation open, so that it can be put in force again at once: its programs, tail-call
//! targets and record, whether or not its pins still exist. Nothing has to be compiled and hardly
//! anything loaded, so little can fail. Counters and flows belong to the attachment and go on.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use sg_common::verdict::Direction;

use super::commit::{ORDER, put_direction, tidy};
use super::condition::standing_on;
use super::error::KernelError;
use super::flow_tables::{has_later_flow, may_have_cut};
use super::history::{self, How, Keepsake};
use super::hooks::Hooks;
use super::inspect::{Inspection, inspect, inspect_readable};
use super::load::generation::Generation;
use super::load::programs::Programs;
use super::load::targets;
use super::load::targets::PinnedGeneration;
use super::machine::{interfaces, netns};
use super::options::{EgressHook, XdpMode};
use super::pins::{InterfacePins, PinTree};
use super::prepare::adopt;
use super::records::{Records, taken_back};
use super::state::State;
use super::{again, links, tc};
use sg_policy::policy::Established;

/// A generation whose objects are kept open, so that it can be put in force again.
pub struct Held {
    state: State,
    /// All its pinned objects.
    generation: PinnedGeneration,
    /// Its text, which may not be kept any more when it comes back.
    keepsake: Keepsake,
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
        // A record that cannot be read at the moment must not pass for a damaged one: then `run`
        // would not return to its policy.
        let found = inspect_readable(pins)?;
        let state = found.state();
        if let Some(state) = &state
            && let Some(trial) = state.open_trial()
        {
            return Err(KernelError::Fixed {
                what: format!(
                    "returning to what is in force on {}, at the end",
                    state.interface
                ),
                reason: format!(
                    "{}, generation {}, waits to be confirmed until {}, and may be undone meanwhile",
                    state.policy.name, state.policy.generation, trial.until
                ),
                help: "decide first: `sgctl confirm` keeps it, `sgctl rollback` undoes it".into(),
            });
        }
        // A policy that was undone, with none before it, passes everything.
        if !found.is_attached() || state.is_some_and(|state| state.has_ended()) {
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
        let number = state.number();
        for direction in Direction::BOTH {
            let is_whole = found.running(direction) == Some(state.program(direction))
                && targets::look(&found.pins, direction, number)?;
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
        let keepsake = Keepsake::in_force(&found.pins, &state)?;
        Ok(Some(Held {
            state,
            generation,
            keepsake,
        }))
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The counter slots that its programs write. They must not be given to other rules meanwhile.
    pub fn slots(&self) -> HashSet<u32> {
        self.state.slots().collect()
    }

    /// Puts it in force again on its interface: see [`put_back`].
    pub fn put_back(
        &self,
        bpffs: &Path,
        pins: &InterfacePins,
        ours: &[[u32; 2]],
    ) -> Result<bool, KernelError> {
        put_back(bpffs, &[(self, pins)], ours)
    }

    /// Finds out what putting it in force again takes, and loads what has to be loaded. If another
    /// policy has admitted flows since, these are programs of the new `epoch`, which judge such a
    /// flow again at its next packet, whichever side sends it. `None` where a direction runs
    /// another program than `ours` and those of this generation.
    fn prepare<'a>(
        &'a self,
        pins: &'a InterfacePins,
        ours: &[[u32; 2]],
        epoch: u32,
    ) -> Result<Option<Return<'a>>, KernelError> {
        let mut found = inspect(pins)?;
        let records = match &found.records {
            Ok(records) => records.clone(),
            Err(_) => std::mem::replace(&mut found.records, Ok(Records::default()))?,
        };
        let running = Direction::BOTH.map(|direction| found.running(direction));
        // An earlier attempt may have loaded its programs again.
        let recorded = || [&records.current, &records.next].into_iter().flatten();
        let ids = |state: &State| Direction::BOTH.map(|direction| state.program(direction));
        let mine: Vec<[u32; 2]> = recorded()
            .filter(|state| state.policy.generation == self.state.policy.generation)
            .chain([&self.state])
            .map(ids)
            .collect();
        let is_known = |direction: &Direction| {
            let side = *direction as usize;
            let mut known = ours.iter().chain(&mine);
            known.any(|programs| running[side] == Some(programs[side]))
        };
        // The programs to be replaced; some of them may have been replaced already.
        let replaced = ours.iter().find(|programs| running == programs.map(Some));
        let is_recorded = |programs: &&[u32; 2]| recorded().any(|state| ids(state) == **programs);
        let whole = replaced.or_else(|| ours.iter().find(is_recorded));
        let current = whole.and_then(|whole| records.clone().effective(whole.map(Some)));
        let Some(current) = current.filter(|_| Direction::BOTH.iter().all(is_known)) else {
            return Ok(None);
        };
        let state = State {
            interface: current.interface.clone(),
            ifindex: current.ifindex,
            netns: current.netns.clone(),
            netns_cookie: current.netns_cookie,
            attached_at: current.attached_at.clone(),
            added_clsact: current.added_clsact,
            ..taken_back(self.state.clone().back_after(&current), current.clone())
        };
        let before = match replaced {
            Some([inbound, outbound]) => [
                targets::program_in_force(pins, Direction::Inbound, *inbound)?,
                targets::program_in_force(pins, Direction::Outbound, *outbound)?,
            ],
            None => [None, None],
        };
        let in_force = found.runs(&current).then(|| Generation::recorded(&current));
        let mut step = Return {
            held: self,
            pins,
            egress_hook: match found.outbound.live_link() {
                Some(_) => EgressHook::Tcx,
                None => EgressHook::Clsact,
            },
            is_whole: replaced.is_some(),
            current,
            state,
            before,
            anew: None,
        };
        self.load_anew(&mut step, in_force.as_ref(), epoch)?;
        Ok(Some(step))
    }

    /// Loads the programs again where those that were kept could not judge the flows of now.
    fn load_anew(
        &self,
        step: &mut Return<'_>,
        in_force: Option<&Generation>,
        epoch: u32,
    ) -> Result<(), KernelError> {
        let pins = step.pins;
        let mut told = Generation::recorded(&self.state);
        let is_later = step.current.epoch != self.state.epoch;
        let has_later = || step.current.opens_flows || has_later_flow(pins, self.state.epoch);
        let is_new_epoch = is_later && told.has_flows && has_later();
        if is_new_epoch {
            told.epoch = epoch;
            if told.established == Established::Flush {
                // It forgot what was before it when it was put in force first. Its own flows stay.
                told.established = Established::Revalidate;
            }
        }
        let is_cut = !told.may_have_cut && may_have_cut(pins, in_force, &told);
        if is_cut {
            (told.has_flows, told.may_have_cut) = (true, true);
        }
        if is_new_epoch || is_cut {
            step.anew = Some(again::load(&self.generation, &told, &mut step.state, pins)?);
        }
        Ok(())
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
        let index = interfaces::index_of(interface)?;
        let there = tree.interface(netns::cookie()?, index)?;
        let pins = match there.exists() {
            true => there,
            // In the attachment that it belonged to.
            false => from.sibling(index),
        };
        if pins != *from && from.exists() && !inspect(&pins)?.is_attached() {
            if inspect(from)?.is_attached() {
                return Err(KernelError::Refused {
                    what: format!("attaching to the new {interface}"),
                    reason: "the interface that had this name is still there, and enforces".into(),
                    help: format!(
                        "`sgctl apply POLICY --iface {interface}` enforces on the new one"
                    ),
                });
            }
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
            owns_qdisc: !tc::look(pins.ifindex)?.has_qdisc(),
        };
        let recorded = State::read(&pins)?.unwrap_or_else(|| self.state.clone());
        let mut state = State {
            ifindex: pins.ifindex,
            added_clsact: hooks.owns_qdisc,
            ..recorded
        };
        // Its programs were in force until the interface was gone, so they have cut the flows
        // themselves or know about them.
        self.put(&state, &hooks)?;
        tidy(&hooks, &mut state)?;
        Ok(pins)
    }

    /// Makes both hooks run the programs, in the same order as `commit`.
    fn put(&self, state: &State, hooks: &Hooks<'_>) -> Result<(), KernelError> {
        let pins = hooks.pins;
        self.generation.pin(pins, state.number())?;
        state.write_next(pins)?;
        for direction in ORDER {
            hooks.put(direction, self.generation.program(direction))?;
        }
        State::promote(pins)
    }
}

/// Puts a held generation back in force on one interface.
struct Return<'a> {
    held: &'a Held,
    pins: &'a InterfacePins,
    egress_hook: EgressHook,
    /// What is replaced runs in both directions.
    is_whole: bool,
    /// The record of what is replaced, and the one that is to be.
    current: State,
    state: State,
    /// The programs that are replaced, inbound first.
    before: [Option<OwnedFd>; 2],
    /// Programs that were loaded in the place of those that are held.
    anew: Option<Programs>,
}

impl Return<'_> {
    fn hooks(&self) -> Hooks<'_> {
        Hooks {
            pins: self.pins,
            interface: &self.current.interface,
            xdp_mode: mode_of(&self.current),
            egress_hook: self.egress_hook,
            owns_qdisc: self.current.added_clsact,
        }
    }

    fn pin(&self) -> Result<(), KernelError> {
        let number = self.state.number();
        match &self.anew {
            None => self.held.generation.pin(self.pins, number)?,
            Some(programs) => programs.pin_targets(self.pins, number)?,
        }
        self.state.write_next(self.pins)
    }

    fn put(&mut self, direction: Direction) -> Result<(), KernelError> {
        match self.anew.take() {
            None => {
                let program = self.held.generation.program(direction);
                self.hooks().put(direction, program)
            }
            Some(mut programs) => {
                let put = put_direction(&self.hooks(), &mut programs, direction);
                self.anew = Some(programs);
                put
            }
        }
    }

    /// Returns both directions to what they ran before, as far as the kernel allows.
    fn take_back(&self) {
        let hooks = self.hooks();
        for direction in ORDER {
            if let Some(program) = &self.before[direction as usize] {
                let _ = hooks.put(direction, program.as_fd());
            }
        }
        if self.is_whole && inspect(self.pins).is_ok_and(|found| found.runs(&self.current)) {
            let _ = self.current.write(self.pins);
            let _ = links::unpin(&self.pins.state_next());
            let _ = targets::leave_only(self.pins, &self.current);
        }
    }
}

/// Puts held generations in force again on the interfaces of an attachment, inbound last, in place
/// of programs of `ours`, each pair of one interface. Returns false and changes nothing if a
/// direction runs any other program. Can be repeated after an error, however far it came.
pub fn put_back(
    bpffs: &Path,
    what: &[(&Held, &InterfacePins)],
    ours: &[[u32; 2]],
) -> Result<bool, KernelError> {
    let tree = PinTree::new(bpffs);
    let _lock = tree.lock()?;
    // One that no flow has yet, and the same on all interfaces.
    let mut latest = 0;
    for (held, pins) in what {
        let Records { current, next } = Records::read(pins)?;
        let known = [current.as_ref(), next.as_ref(), Some(&held.state)];
        let numbers = known.into_iter().flatten().map(State::latest_number);
        latest = numbers.fold(latest, u32::max);
    }
    let mut steps = Vec::new();
    for (held, pins) in what {
        match held.prepare(pins, ours, latest + 1)? {
            Some(step) => steps.push(step),
            None => return Ok(false),
        }
    }
    let places: Vec<(String, &InterfacePins)> = steps
        .iter()
        .map(|step| match what.len() {
            1 => (String::new(), step.pins),
            _ => (step.current.interface.clone(), step.pins),
        })
        .collect();
    let standing = |error| {
        let places: Vec<_> = places.iter().map(|(name, pins)| (&**name, *pins)).collect();
        standing_on(error, &places)
    };
    let announced = steps.first().map_or(Ok(()), |step| {
        let current = Some(&step.current);
        history::begin(step.pins, current, &step.held.keepsake, How::RunEnded, None)
    });
    if let Err(error) = announced.and_then(|()| put_all(&mut steps)) {
        steps.iter().for_each(Return::take_back);
        return Err(standing(error));
    }
    // The policy is in force from here on and must not be undone. The objects of the other
    // generations are removed.
    let mut done = Ok(());
    for step in &mut steps {
        let mut state = step.state.clone();
        done = done.and(tidy(&step.hooks(), &mut state));
    }
    if let Some((_, pins)) = what.first() {
        done = done.and(Records::forget_trials(pins));
    }
    if let Some(step) = steps.first() {
        done = done.and(history::settle(step.pins, &step.state));
    }
    done.map_err(standing)?;
    Ok(true)
}

fn put_all(steps: &mut [Return<'_>]) -> Result<(), KernelError> {
    steps.iter().try_for_each(Return::pin)?;
    for direction in ORDER {
        steps.iter_mut().try_for_each(|step| step.put(direction))?;
    }
    steps.iter().try_for_each(|step| State::promote(step.pins))
}

fn mode_of(state: &State) -> XdpMode {
    match state.xdp_mode {
        XdpMode::Generic => XdpMode::Generic,
        _ => XdpMode::Auto,
    }
}
