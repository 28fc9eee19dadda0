//! The programs of a policy, loaded into the kernel and attached to nothing: what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use sg_bench_ebpf::{FLOW_REMOTE_PORT, flow_address, flow_port};
use sg_common::counters::SlotCounters;
use sg_common::flow_ports::PORT_COUNTS;
use sg_common::trial::CONFIRMED;
use sg_common::verdict::{Action, Direction, FIRST_RULE_SLOT, Reason, reason_slot};
use sg_policy::compile::{Budget, Compiled, Without, compile_beside};
use sg_policy::compile_policy;
use sg_policy::partition::{Candidate, Pair, Verdicts};
use sg_policy::policy::Policy;
use sg_testbed::Mount;
use sg_userspace::kernel::CounterReader;
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::pins::PinTree;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;

use crate::frames;

const PORTS: usize = 1 << 16;

/// `enum xdp_action` (uapi/linux/bpf.h).
const XDP_DROP: u32 = 1;
/// uapi/linux/pkt_cls.h.
const TC_ACT_SHOT: u32 = 2;

pub(crate) struct Enforcer {
    policy: Policy,
    /// Pairs of rules that are counted apart, for a candidate.
    pairs: Vec<Pair>,
    programs: Programs,
    counters: CounterReader,
    /// Whether packets come by a gate.
    has_gate: bool,
    /// Where the maps of a policy that was applied to be confirmed are pinned, and the folder over
    /// which that is mounted.
    _pins: Option<(Mount, tempfile::TempDir)>,
    /// Milliseconds.
    pub(crate) compile_time: f64,
    pub(crate) load_time: f64,
}

/// A watcher of what an enforcer drops: a thread, on the core of the thread that began it.
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Watcher {
    /// Ends it, and the watch. Returns how many events it got.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take();
        thread.and_then(|thread| thread.join().ok()).unwrap_or(0)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// How large a program is: instructions that the verifier explored, and bytes of machine code.
pub(crate) struct Size {
    pub(crate) program: String,
    pub(crate) verified: u32,
    pub(crate) jitted: u32,
}

/// Packets of one direction that were accepted and dropped since the programs were loaded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fates {
    pub(crate) accepted: u64,
    pub(crate) dropped: u64,
}

/// What is measured without one of the tricks of the packet path: see `tricks`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switches {
    /// As [`Generation::asks_for_each`].
    pub(crate) asks_for_each: bool,
    /// As [`Generation::may_be_in_bss`].
    pub(crate) may_be_in_bss: bool,
    pub(crate) without: Without,
    /// There is a flow at each range of local ports.
    pub(crate) fills_port_counts: bool,
}

impl Switches {
    /// All tricks are there.
    pub(crate) const ALL: Switches = Switches {
        asks_for_each: false,
        may_be_in_bss: true,
        without: Without::NOTHING,
        fills_port_counts: false,
    };
}

/// What became of a policy that was applied to be confirmed.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// Its gate passes the packets to it.
    Waits,
    /// Its programs are attached in the place of the gate.
    Confirmed,
}

/// A policy compiled, and not loaded yet.
pub(crate) struct Ready<'a> {
    policy: &'a Policy,
    compiled: Compiled,
    shared: SharedMaps,
    compile_time: f64,
}

impl Ready<'_> {
    pub(crate) fn load(&self) -> Result<Enforcer> {
        self.load_with(&Switches::ALL)
    }

    fn load_with(&self, switches: &Switches) -> Result<Enforcer> {
        let mut generation = Generation::of(self.policy, 1);
        generation.asks_for_each = switches.asks_for_each;
        generation.may_be_in_bss = switches.may_be_in_bss;
        generation.has_flows = self.compiled.opens_flows();
        let programs = Programs::load(&self.compiled, &generation, &self.shared)?;
        Ok(Enforcer {
            counters: programs.counters()?,
            load_time: programs.load_time.as_secs_f64() * 1e3,
            policy: self.policy.clone(),
            pairs: Vec::new(),
            programs,
            has_gate: false,
            _pins: None,
            compile_time: self.compile_time,
        })
    }
}

/// A packet of the flow of that number. The side that opens flows has a port for each of them, the
/// other one has the same port for all.
fn packet(index: u32, direction: Direction, originator: Direction) -> Vec<u8> {
    let remote = flow_address(index);
    let mut ports = [flow_port(remote), FLOW_REMOTE_PORT];
    if direction != originator {
        ports.reverse();
    }
    frames::flow4(remote, ports, direction)
}

impl Enforcer {
    pub(crate) fn load(policy: &Policy, max_flows: u32) -> Result<Self> {
        Self::ready(policy, max_flows)?.load()
    }

    /// With a policy evaluated beside it, if there is one.
    pub(crate) fn load_beside(
        policy: &Policy,
        candidate: Option<&Policy>,
        max_flows: u32,
    ) -> Result<Self> {
        let Some(candidate) = candidate else {
            return Self::load(policy, max_flows);
        };
        let started = std::time::Instant::now();
        let found = Candidate::new(policy, candidate)?;
        let rules = u32::try_from(policy.rules.len()).context("too many rules")?;
        let pairs = u32::try_from(found.pairs().len()).context("too many pairs")?;
        let first_pair = FIRST_RULE_SLOT + rules;
        let slots: Vec<u32> = (FIRST_RULE_SLOT..first_pair).collect();
        let pair_slots: Vec<u32> = (first_pair..first_pair + pairs).collect();
        let verdicts = Verdicts::beside(policy, &slots, found.pairs(), &pair_slots);
        let ready = Ready {
            policy,
            compiled: compile_beside(&found, &verdicts, Budget::default())?,
            shared: SharedMaps {
                counter_slots: first_pair + pairs,
                max_flows,
                ..SharedMaps::default()
            },
            compile_time: started.elapsed().as_secs_f64() * 1e3,
        };
        Ok(Enforcer {
            pairs: found.pairs().to_vec(),
            ..ready.load()?
        })
    }

    /// A policy that was applied to be confirmed.
    pub(crate) fn load_on_trial(policy: &Policy, max_flows: u32, stage: Stage) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the BPF file system")?;
        let mount = Mount::bpffs(folder.path()).context("mounting a BPF file system")?;
        let pins = PinTree::new(folder.path()).interface(1, 1)?;
        pins.create()?;
        let mut ready = Self::ready(policy, max_flows)?;
        ready.shared.pins = Some(pins.clone());
        let generation = Generation {
            on_trial: true,
            has_fallback: true,
            has_flows: ready.compiled.opens_flows(),
            ..Generation::of(policy, 1)
        };
        let mut programs = Programs::load(&ready.compiled, &generation, &ready.shared)?;
        programs.connect_gates(None)?;
        let word = MapData::from_pin(pins.trial(1)).context("the word of the trial")?;
        let mut word = Array::<_, u64>::try_from(Map::Array(word))?;
        let (has_gate, says) = match stage {
            // The latest deadline that there is.
            Stage::Waits => (true, CONFIRMED - 1),
            Stage::Confirmed => (false, CONFIRMED),
        };
        word.set(0, says, 0).context("the word of the trial")?;
        Ok(Enforcer {
            counters: programs.counters()?,
            load_time: programs.load_time.as_secs_f64() * 1e3,
            policy: policy.clone(),
            pairs: Vec::new(),
            programs,
            has_gate,
            _pins: Some((mount, folder)),
            compile_time: ready.compile_time,
        })
    }

    pub(crate) fn load_with(policy: &Policy, max_flows: u32, switches: &Switches) -> Result<Self> {
        let budget = Budget {
            without: switches.without,
            ..Budget::default()
        };
        let mut enforcer = Self::within(policy, max_flows, budget)?.load_with(switches)?;
        if switches.fills_port_counts {
            enforcer.open_a_flow_at_each_port()?;
        }
        Ok(enforcer)
    }

    pub(crate) fn ready(policy: &Policy, max_flows: u32) -> Result<Ready<'_>> {
        Self::within(policy, max_flows, Budget::default())
    }

    fn within(policy: &Policy, max_flows: u32, budget: Budget) -> Result<Ready<'_>> {
        let started = std::time::Instant::now();
        let rules = u32::try_from(policy.rules.len()).context("too many rules")?;
        let slots: Vec<u32> = (FIRST_RULE_SLOT..FIRST_RULE_SLOT + rules).collect();
        let compiled = compile_policy(policy, &slots, budget)?;
        Ok(Ready {
            policy,
            compiled,
            shared: SharedMaps {
                counter_slots: FIRST_RULE_SLOT + rules,
                max_flows,
                ..SharedMaps::default()
            },
            compile_time: started.elapsed().as_secs_f64() * 1e3,
        })
    }

    /// Begins to watch what is dropped.
    pub(crate) fn watcher(&self) -> Result<Watcher> {
        let (mut watch, mut reader) = self.programs.events()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut events = 0;
            // As `sgctl log --follow` does.
            while !stopped.load(Ordering::SeqCst) {
                watch.renew();
                events += reader.drain().events.len() as u64;
                std::thread::sleep(Duration::from_millis(50));
            }
            watch.end();
            events
        });
        Ok(Watcher {
            stop,
            thread: Some(thread),
        })
    }

    pub(crate) fn inbound(&mut self) -> Result<&mut Xdp> {
        Ok(match self.has_gate {
            true => self.programs.inbound_gate()?,
            false => self.programs.inbound()?,
        })
    }

    pub(crate) fn outbound(&mut self) -> Result<&mut SchedClassifier> {
        Ok(self.programs.outbound()?)
    }

    /// Opens flows in that direction, and replies to each once it is old enough for a reply to
    /// establish it: not to all at once, since half-open flows have little room.
    pub(crate) fn open_flows(
        &mut self,
        originator: Direction,
        flows: u32,
        max_flows: u32,
        mut progress: impl FnMut(u32),
    ) -> Result<()> {
        /// A little more than it takes a flow to last: see `flow_entry::LASTING_AGE`.
        const LASTS: Duration = Duration::from_millis(2100);
        let at_once = (max_flows / 8).max(1) as usize;
        let mut waiting: Vec<u32> = (0..flows).rev().collect();
        let mut attempts = 4 * flows as usize / at_once + 8;
        while !waiting.is_empty() {
            attempts -= 1;
            if attempts == 0 {
                bail!("{} flows cannot be opened", waiting.len());
            }
            progress(flows - waiting.len() as u32);
            let batch = waiting.split_off(waiting.len().saturating_sub(at_once));
            for index in &batch {
                self.accepts(originator, &packet(*index, originator, originator))?;
            }
            std::thread::sleep(LASTS);
            let replying = originator.opposite();
            for index in batch {
                // Another one may have taken its place.
                if !self.accepts(replying, &packet(index, replying, originator))? {
                    waiting.push(index);
                }
            }
        }
        Ok(())
    }

    /// One flow at each of the ranges of local ports that share a count: see
    /// `sg_common::flow_ports`.
    fn open_a_flow_at_each_port(&mut self) -> Result<()> {
        const OUT: Direction = Direction::Outbound;
        for (index, range) in (0..).zip(0..PORT_COUNTS) {
            let port = (range * (PORTS / PORT_COUNTS)) as u16;
            let request = frames::flow4(flow_address(index), [port, FLOW_REMOTE_PORT], OUT);
            if !self.accepts(OUT, &request)? {
                bail!("a flow at local port {port} is not opened");
            }
        }
        Ok(())
    }

    /// Runs the programs of one direction on a frame.
    fn accepts(&mut self, direction: Direction, frame: &[u8]) -> Result<bool> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        let (result, dropped) = match direction {
            Direction::Inbound => (self.programs.inbound()?.test_run(options), XDP_DROP),
            Direction::Outbound => (self.programs.outbound()?.test_run(options), TC_ACT_SHOT),
        };
        let result = result.context("running a packet of a flow")?;
        Ok(result.return_value != dropped)
    }

    /// How many of the flows that were opened from inside have no reply accepted any more.
    pub(crate) fn lost_flows(&mut self, flows: u32) -> Result<u32> {
        let mut lost = 0;
        for index in 0..flows {
            let reply = packet(index, Direction::Inbound, Direction::Outbound);
            lost += u32::from(!self.accepts(Direction::Inbound, &reply)?);
        }
        Ok(lost)
    }

    /// What became of the packets of a direction so far.
    pub(crate) fn fates(&self, direction: Direction) -> Result<Fates> {
        let counts = self.counters.all()?;
        let mut fates = Fates::default();
        let mut add = |action, count: &SlotCounters| match action {
            Action::Accept | Action::Audit => fates.accepted += count.packets,
            Action::Drop => fates.dropped += count.packets,
        };
        for reason in Reason::ALL {
            let slot = reason_slot(direction, reason) as usize;
            add(
                reason.action(),
                counts.get(slot).context("a reason has no counter")?,
            );
        }
        let slots = counts.get(FIRST_RULE_SLOT as usize..).unwrap_or_default();
        let rules = self.policy.rules.iter();
        let rules = rules.map(|rule| (rule.direction, rule.action));
        // The slots of pairs are behind those of rules.
        let pairs = self.pairs.iter().map(|pair| {
            let rule = pair
                .enforced
                .and_then(|rule| self.policy.rules.get(rule as usize));
            (
                pair.direction,
                rule.map_or(Action::Drop, |rule| rule.action),
            )
        });
        let mut replies = 0;
        for ((of, action), count) in rules.chain(pairs).zip(slots) {
            if of == direction {
                add(action, count);
            } else {
                replies += count.reply_packets;
            }
        }
        fates.accepted += replies;
        Ok(fates)
    }

    /// The sizes of all programs.
    pub(crate) fn sizes(&self) -> Result<Vec<Size>> {
        let infos = self.programs.infos()?;
        Ok(infos
            .iter()
            .map(|(name, info)| Size {
                program: (*name).to_owned(),
                verified: info.verified_instruction_count().unwrap_or(0),
                jitted: info.size_jitted(),
            })
            .collect())
    }
}
