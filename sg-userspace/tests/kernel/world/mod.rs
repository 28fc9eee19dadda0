//! An enforcer in the kernel and the reference take the same steps. After each step the verdict and
//! the counter are compared, and on request every flow.

mod compare;
pub(crate) mod hunt;
mod live;
pub(crate) mod script;
pub(crate) mod tables;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};

use sg_common::counters::SlotCounters;
use sg_common::flow::FlowKind;
use sg_common::verdict::{Direction, FIRST_RULE_SLOT, Reason, reason_slot};
use sg_policy::compile::{Budget, Compiled, compile_beside};
use sg_policy::compile_policy;
use sg_policy::partition::{Candidate, Verdicts};
use sg_policy::policy::{Established, Policy, groups_from_lines};
use sg_userspace::kernel::flow_tables::may_have_cut;
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::pins::{InterfacePins, PinTree};
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;

use crate::reference::flows::{Flow, Flows, Number, SECOND, Terms};
use crate::reference::identity::{By, FlowKey};
use crate::reference::rules::{Beside, Rules};
use crate::reference::states::State;
use crate::reference::{Fate, Reference};
use crate::sandbox::Sandbox;
use crate::support::{TestRunFailed, run_hook};
use compare::Account;
use live::{Live, now};
use script::{PolicyText, Seed, Sent, Step};
use tables::Tables;

/// Counter slots for the rules of all policies of a script.
const SLOTS: u32 = 2048;
/// How much the times of an entry may differ, besides the duration of the step, when every step is
/// compared.
const SLACK: u64 = SECOND / 2;
/// Tables below this size are expected to evict flows.
const TINY: u32 = 256;

pub(crate) struct World {
    pins: InterfacePins,
    live: Option<Live>,
    /// The slot of each rule of all policies so far.
    slots: HashMap<String, u32>,
    /// The slots of pairs of rules.
    pair_slots: HashSet<u32>,
    /// The name of each slot in force, such as `in 1`.
    names: HashMap<u32, String>,
    generation: u32,
    in_force: Option<Generation>,
    expected: Vec<SlotCounters>,
    exact: bool,
    steps: u64,
    sabotaged_port: Option<u16>,
    /// The reference's decision about the last frame.
    pub(crate) last: Option<String>,
    accounts: [Account; 2],
    is_tiny: bool,
    pub(crate) frames: u64,
    /// Frames that are too short for a socket buffer, so that the kernel refuses the test run.
    pub(crate) refused: u64,
    pub(crate) evicted: u64,
}

/// A description of the difference between kernel and reference.
pub(crate) type Disagreement = String;

impl World {
    /// With `exact` the tables are compared after every step, and not only at the end. The fragment
    /// tables are large, so they are compared after some steps only.
    pub(crate) fn new(sandbox: &Sandbox, exact: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let tree = PinTree::new(sandbox.bpffs());
        let pins = tree
            .interface(1, NEXT.fetch_add(1, Ordering::Relaxed))
            .expect("the tree is readable");
        pins.create().expect("a folder for the pins");
        World {
            pins,
            live: None,
            slots: HashMap::new(),
            pair_slots: HashSet::new(),
            names: HashMap::new(),
            generation: 0,
            in_force: None,
            expected: vec![SlotCounters::default(); SLOTS as usize],
            exact,
            steps: 0,
            sabotaged_port: None,
            last: None,
            accounts: Default::default(),
            is_tiny: false,
            frames: 0,
            refused: 0,
            evicted: 0,
        }
    }

    /// Makes the reference decide wrongly, see [`Reference::sabotaged_port`].
    pub(crate) fn sabotage(&mut self, port: Option<u16>) {
        self.sabotaged_port = port;
    }

    pub(crate) fn reference(&self) -> Option<&Reference> {
        self.live.as_ref().map(|live| &live.reference)
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<(), Disagreement> {
        self.last = None;
        let started = now();
        match step {
            Step::Policy(text) => self.put_in_force(text)?,
            Step::Frame(sent) => self.send(sent)?,
            Step::Wait(seconds) => self.live().age(u64::from(*seconds) * SECOND),
            Step::Seed(seed) => self.seed(seed),
        }
        if self.exact {
            let slack = SLACK + (now() - started);
            self.compare_flows(slack)?;
            self.steps += 1;
            if self.steps.is_multiple_of(8) {
                // The fragments may have been seen some steps ago.
                self.compare_fragments(slack + 3 * SECOND)?;
            }
        }
        Ok(())
    }

    /// Compares what is compared only at the end: every counter, and the tables.
    pub(crate) fn finish(&mut self) -> Result<(), Disagreement> {
        let Some(live) = &self.live else {
            return Ok(());
        };
        let counted = live.counters.all().expect("the counters can be read");
        let moved = self.differences(&counted);
        if !moved.is_empty() {
            return Err(format!("counters differ at the end: {}", moved.join(", ")));
        }
        // The programs update the time of an entry only now and then, and the reference cannot know
        // when.
        self.compare_flows(u64::MAX)?;
        self.compare_fragments(u64::MAX)
    }

    fn live(&mut self) -> &mut Live {
        self.live.as_mut().expect("a script begins with a policy")
    }

    fn put_in_force(&mut self, text: &PolicyText) -> Result<(), Disagreement> {
        let policy = groups_from_lines(&text.lines()).audited(text.audit);
        let flat = groups_from_lines(&text.flattened()).audited(text.audit);
        same_rules(&policy, &flat)?;
        self.generation += 1;
        let mut slots = Vec::new();
        self.names.clear();
        for rule in &policy.rules {
            let next = FIRST_RULE_SLOT + self.slots.len() as u32;
            let slot = *self.slots.entry(rule.identity.clone()).or_insert(next);
            assert!(slot < SLOTS, "too many rules for one script");
            slots.push(slot);
            let name = script::direction_name(rule.direction);
            self.names.insert(slot, format!("{name} {}", rule.position));
        }
        let (compiled, candidate) = match text.candidate_lines() {
            None => {
                let compiled = compile_policy(&policy, &slots, Budget::default());
                (compiled.expect("tables fit"), None)
            }
            Some(candidate) => {
                // An audit belongs to how the policy is applied; the candidate would be enforced.
                let candidate = groups_from_lines(&candidate);
                let (compiled, beside) = self.beside(&policy, &slots, candidate);
                (compiled, Some(beside))
            }
        };
        let shared = SharedMaps {
            pins: Some(self.pins.clone()),
            counter_map: 0,
            counter_slots: SLOTS,
            max_flows: text.max_flows,
        };
        let mut generation = Generation::of(&policy, self.generation);
        if let Some(before) = &self.in_force {
            generation.may_have_cut = may_have_cut(&self.pins, Some(before), &generation);
        }
        let programs = Programs::load(&compiled, &generation, &shared)
            .unwrap_or_else(|e| panic!("the programs do not load: {e}"));
        self.in_force = Some(generation);
        let rules = Rules {
            policy: flat,
            compiled,
            slots,
            candidate,
            disagreement: Default::default(),
        };
        let terms = Terms {
            generation: self.generation,
            keep: policy.established == Established::Keep,
            flush: policy.established == Established::Flush,
            timeouts: policy.timeouts,
            watches: policy.audits(),
        };
        match &mut self.live {
            Some(live) => {
                live.programs = programs;
                live.reference.rules = rules;
                live.reference.terms = terms;
                live.reference.essential = policy.essential;
                live.reference.non_ip = policy.non_ip;
                live.quiet_until = 0;
            }
            None => {
                self.is_tiny = text.max_flows < TINY;
                self.live = Some(Live {
                    tables: Tables::open(&self.pins),
                    counters: programs.counters().expect("the counters are there"),
                    programs,
                    reference: Reference {
                        rules,
                        terms,
                        essential: policy.essential,
                        non_ip: policy.non_ip,
                        flows: Flows::default(),
                        fragments: HashMap::new(),
                        paths: Default::default(),
                        sabotaged_port: self.sabotaged_port,
                    },
                    quiet_until: 0,
                    places: HashMap::new(),
                });
            }
        }
        // Every other flush is done by `apply` sweeping the table. In between packets come before
        // the sweep, and the programs have to notice.
        if terms.flush && self.generation.is_multiple_of(2) {
            let live = self.live.as_mut().expect("the policy is in force");
            let gone = live.reference.flows.flush(now(), &terms);
            for kind in FlowKind::BOTH {
                self.accounts[kind as usize].flushed += gone[kind as usize];
            }
            live.reference.fragments.clear();
            live.tables.flush(self.generation);
        }
        Ok(())
    }

    /// Compiles a policy with a candidate beside it, whose pairs of rules get slots.
    fn beside(&mut self, policy: &Policy, slots: &[u32], candidate: Policy) -> (Compiled, Beside) {
        let found = Candidate::new(policy, &candidate).expect("few pairs of rules");
        let mut pair_slots = Vec::new();
        let mut of_pairs = HashMap::new();
        for pair in found.pairs() {
            let identity = |policy: &Policy, rule: Option<u32>| match rule {
                Some(rule) => policy.rules[rule as usize].identity.clone(),
                None => format!("no rule {}", pair.direction.name()),
            };
            let both = [
                identity(policy, pair.enforced),
                identity(&candidate, pair.candidate),
            ];
            let next = FIRST_RULE_SLOT + self.slots.len() as u32;
            let slot = *self.slots.entry(both.join(" beside ")).or_insert(next);
            assert!(slot < SLOTS, "too many rules for one script");
            pair_slots.push(slot);
            self.pair_slots.insert(slot);
            let place = |policy: &Policy, rule: Option<u32>| {
                rule.map_or(0, |rule| policy.rules[rule as usize].position)
            };
            let name = format!(
                "{} {}, and {} of the candidate",
                script::direction_name(pair.direction),
                place(policy, pair.enforced),
                place(&candidate, pair.candidate)
            );
            self.names.insert(slot, name);
            let index = |rule: Option<u32>| rule.map(|rule| rule as usize);
            let rules = (pair.direction, index(pair.enforced), index(pair.candidate));
            of_pairs.insert(rules, slot);
        }
        let verdicts = Verdicts::beside(policy, slots, found.pairs(), &pair_slots);
        let compiled = compile_beside(&found, &verdicts, Budget::default()).expect("tables fit");
        let beside = Beside {
            policy: candidate,
            slots: of_pairs,
        };
        (compiled, beside)
    }

    /// How many packets and replies were counted for pairs of rules, and how many pairs counted.
    pub(crate) fn counted_for_pairs(&self) -> (u64, u64, usize) {
        let counted = self
            .pair_slots
            .iter()
            .map(|slot| self.expected[*slot as usize]);
        let counted = counted.filter(|counts| *counts != SlotCounters::default());
        let counted: Vec<SlotCounters> = counted.collect();
        let sum = |of: fn(&SlotCounters) -> u64| counted.iter().map(of).sum();
        (sum(|c| c.packets), sum(|c| c.reply_packets), counted.len())
    }

    fn seed(&mut self, seed: &Seed) {
        let key = FlowKey {
            local: seed.local.ip(),
            remote: seed.remote.ip(),
            protocol: 6,
            by: By::Ports {
                local: seed.local.port(),
                remote: seed.remote.port(),
            },
        };
        let live = self.live();
        if live.reference.flows.entries.contains_key(&key) {
            return;
        }
        let time = now();
        let flow = Flow {
            kind: FlowKind::Established,
            created: time,
            last_seen: time,
            slot: 0,
            generation: 0,
            originator: seed.originator,
            opened: Some(seed.originator),
            state: State::Established,
            has_seen_reply: true,
            seeded: true,
            audited: false,
            number: Number::Unknown,
        };
        let evicted = live.tables.seed(&key, &flow);
        live.reference.flows.entries.insert(key, flow);
        live.quiet_until = 0;
        let account = &mut self.accounts[FlowKind::Established as usize];
        account.seeded += 1;
        account.evicted_by_seeds += u64::from(evicted);
    }

    fn send(&mut self, sent: &Sent) -> Result<(), Disagreement> {
        self.live().keep_away_from_edges();
        let live = self.live();
        let time = now();
        let accepted = match run_hook(
            &mut live.programs,
            sent.direction,
            &sent.bytes,
            sent.segments,
        ) {
            Ok(accepted) => accepted,
            Err(TestRunFailed::TooShort) => {
                self.refused += 1;
                return Ok(());
            }
        };
        let fate = live
            .reference
            .decide(sent.direction, &sent.bytes, sent.segments, time);
        if let Some(why) = live.reference.rules.disagreement.take() {
            return Err(format!("the compiled tables and the oracle differ: {why}"));
        }
        let counted = live.counters.slot(fate.slot).expect("the slot is there");
        self.frames += 1;
        let expected = &mut self.expected[fate.slot as usize];
        let (packets, bytes, found) = match fate.is_reply {
            true => (
                &mut expected.reply_packets,
                &mut expected.reply_bytes,
                counted.reply_bytes,
            ),
            false => (&mut expected.packets, &mut expected.bytes, counted.bytes),
        };
        *packets += fate.packets;
        *bytes = fate.bytes.map_or(found, |more| *bytes + more);
        let name = self.name_of(&fate);
        self.last = Some(name.clone());
        if accepted != fate.accept || counted != self.expected[fate.slot as usize] {
            let verdict = if accepted { "accepts" } else { "drops" };
            let counted = self
                .live()
                .counters
                .all()
                .expect("the counters can be read");
            let moved = self.differences(&counted).join(", ");
            return Err(format!(
                "{} frame of {} bytes: the reference says `{name}` ({} packets, {:?} bytes); the \
                 kernel {verdict}, and counters differ: {moved}",
                sent.direction.name(),
                sent.bytes.len(),
                fate.packets,
                fate.bytes
            ));
        }
        match &sent.expected {
            Some(said) if *said != name => Err(format!(
                "the case says `{said}`, kernel and reference `{name}`"
            )),
            _ => Ok(()),
        }
    }

    fn name_of(&self, fate: &Fate) -> String {
        let verdict = if fate.accept { "accept" } else { "drop" };
        let reply = if fate.is_reply { " reply" } else { "" };
        format!("{verdict} {}{reply}", self.slot_name(fate.slot))
    }

    fn slot_name(&self, slot: u32) -> String {
        if let Some(name) = self.names.get(&slot) {
            return name.clone();
        }
        for direction in Direction::BOTH {
            for reason in Reason::ALL {
                if reason_slot(direction, reason) == slot {
                    return crate::support::reason_name(reason);
                }
            }
        }
        // A rule of an earlier policy, numbered in the order of appearance.
        format!("former {}", slot.saturating_sub(FIRST_RULE_SLOT))
    }

    /// Lists the counters that differ from the expected ones.
    fn differences(&self, counted: &[SlotCounters]) -> Vec<String> {
        (0u32..)
            .zip(counted.iter().zip(&self.expected))
            .filter(|(_, (found, expected))| found != expected)
            .map(|(slot, (found, expected))| {
                format!("`{}` is {found:?}, not {expected:?}", self.slot_name(slot))
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.live = None;
        // An error does not matter, because the sandbox removes the mount.
        let _ = self.pins.remove();
    }
}

/// P3: checks that the reader of policies and the text agree on the rules that remain of the
/// groups.
fn same_rules(policy: &Policy, flat: &Policy) -> Result<(), Disagreement> {
    let list = |policy: &Policy| -> Vec<String> {
        policy
            .rules
            .iter()
            .map(|r| {
                let log = if r.log { " log" } else { "" };
                let (direction, action) = (r.direction.name(), r.action.name());
                format!("{direction} {} {action}{log}", r.summary)
            })
            .collect()
    };
    let (read, expected) = (list(policy), list(flat));
    if read != expected {
        return Err(format!(
            "the groups are read as {read:#?}, not {expected:#?}"
        ));
    }
    Ok(())
}
