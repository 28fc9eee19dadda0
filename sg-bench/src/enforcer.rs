//! A policy loaded into the kernel, attached to nothing: what is measured.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use sg_bench_ebpf::{FLOW_REMOTE_PORT, flow_address, flow_port};
use sg_common::counters::SlotCounters;
use sg_common::verdict::{Action, Direction, FIRST_RULE_SLOT, Reason, reason_slot};
use sg_policy::compile::{Budget, Compiled};
use sg_policy::compile_policy;
use sg_policy::policy::Policy;
use sg_userspace::kernel::CounterReader;
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;

use crate::frames;

/// `enum xdp_action` (uapi/linux/bpf.h).
const XDP_PASS: u32 = 2;

pub(crate) struct Enforcer {
    policy: Policy,
    programs: Programs,
    counters: CounterReader,
    /// Milliseconds.
    pub(crate) compile_time: f64,
    pub(crate) load_time: f64,
}

/// How large a program is: instructions that the verifier walked, and bytes of machine code.
pub(crate) struct Size {
    pub(crate) program: String,
    pub(crate) verified: u32,
    pub(crate) jitted: u32,
}

/// Inbound packets that were accepted and dropped since the programs were loaded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fates {
    pub(crate) accepted: u64,
    pub(crate) dropped: u64,
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
        let mut generation = Generation::of(self.policy, 1);
        generation.has_flows = self.compiled.opens_flows();
        let programs = Programs::load(&self.compiled, &generation, &self.shared)?;
        Ok(Enforcer {
            counters: programs.counters()?,
            load_time: programs.load_time.as_secs_f64() * 1e3,
            policy: self.policy.clone(),
            programs,
            compile_time: self.compile_time,
        })
    }
}

/// An answer in the flow of that number.
fn reply(index: u32) -> Vec<u8> {
    let remote = flow_address(index);
    frames::flow4(remote, [FLOW_REMOTE_PORT, flow_port(remote)], true)
}

impl Enforcer {
    pub(crate) fn load(policy: &Policy, max_flows: u32) -> Result<Self> {
        Self::ready(policy, max_flows)?.load()
    }

    pub(crate) fn ready(policy: &Policy, max_flows: u32) -> Result<Ready<'_>> {
        let started = std::time::Instant::now();
        let rules = u32::try_from(policy.rules.len()).context("too many rules")?;
        let slots: Vec<u32> = (FIRST_RULE_SLOT..FIRST_RULE_SLOT + rules).collect();
        let compiled = compile_policy(policy, &slots, Budget::default())?;
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

    pub(crate) fn inbound(&mut self) -> Result<&mut Xdp> {
        Ok(self.programs.inbound()?)
    }

    /// Opens flows from inside, and lets each be answered once it is old enough for that to
    /// establish it: not all at once, since half-open flows have little room.
    pub(crate) fn open_flows(
        &mut self,
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
                let remote = flow_address(*index);
                let request = frames::flow4(remote, [flow_port(remote), FLOW_REMOTE_PORT], false);
                self.outbound_accepts(&request)?;
            }
            std::thread::sleep(LASTS);
            for index in batch {
                // Another one may have taken its place.
                if !self.inbound_accepts(&reply(index))? {
                    waiting.push(index);
                }
            }
        }
        Ok(())
    }

    fn outbound_accepts(&mut self, frame: &[u8]) -> Result<bool> {
        const SHOT: u32 = 2;
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        let result = self.programs.outbound()?.test_run(options);
        Ok(result.context("opening a flow")?.return_value != SHOT)
    }

    fn inbound_accepts(&mut self, frame: &[u8]) -> Result<bool> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        let result = self.programs.inbound()?.test_run(options);
        Ok(result.context("answering a flow")?.return_value == XDP_PASS)
    }

    /// How many of the flows are no longer answered.
    pub(crate) fn lost_flows(&mut self, flows: u32) -> Result<u32> {
        let mut lost = 0;
        for index in 0..flows {
            lost += u32::from(!self.inbound_accepts(&reply(index))?);
        }
        Ok(lost)
    }

    /// What became of inbound packets so far.
    pub(crate) fn fates(&self) -> Result<Fates> {
        let counts = self.counters.all()?;
        let mut fates = Fates::default();
        let mut add = |action, count: &SlotCounters| match action {
            Action::Accept => fates.accepted += count.packets,
            Action::Drop => fates.dropped += count.packets,
        };
        for reason in Reason::ALL {
            let slot = reason_slot(Direction::Inbound, reason) as usize;
            add(
                reason.action(),
                counts.get(slot).context("a reason has no counter")?,
            );
        }
        let rules = counts.get(FIRST_RULE_SLOT as usize..).unwrap_or_default();
        let mut replies = 0;
        for (rule, count) in self.policy.rules.iter().zip(rules) {
            match rule.direction {
                Direction::Inbound => add(rule.action, count),
                Direction::Outbound => replies += count.reply_packets,
            }
        }
        fates.accepted += replies;
        Ok(fates)
    }

    /// Of every program.
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
