//! Sets of the rules that cover a prefix, each kept once.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::verdict::Direction;

use crate::policy::{Policy, Protocol, Remote};

/// Which addresses a set of rules is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Family {
    V4 = 0,
    V6 = 1,
}

/// Identifies an interned set of rules.
pub(super) type SetId = u32;

/// Sets of rules, as sorted indices into the policy's list. Within a direction a set ends at the
/// first rule that matches every packet: what follows can decide nothing.
pub(super) struct RuleSets {
    /// For each rule: is it the end of every set it is in?
    matches_all: Vec<bool>,
    /// Rules from this index on are outbound.
    first_outbound: u32,
    /// Distinct remotes and the rules that name them; many rules may share a large set.
    pub(super) remotes: Vec<(Arc<Remote>, Vec<u32>)>,
    sets: Vec<Arc<[u32]>>,
    ids: HashMap<Arc<[u32]>, SetId>,
    unions: HashMap<(SetId, u32), SetId>,
    pub(super) family: Family,
}

impl RuleSets {
    pub(super) fn new(policy: &Policy, family: Family) -> Self {
        let mut remotes: Vec<(Arc<Remote>, Vec<u32>)> = Vec::new();
        let mut by_pointer = HashMap::new();
        for (i, rule) in policy.rules.iter().enumerate() {
            let index = *by_pointer
                .entry(Arc::as_ptr(&rule.remote))
                .or_insert_with(|| {
                    remotes.push((rule.remote.clone(), Vec::new()));
                    remotes.len() - 1
                });
            remotes[index].1.push(i as u32);
        }
        let empty: Arc<[u32]> = Arc::new([]);
        RuleSets {
            matches_all: policy
                .rules
                .iter()
                .map(|r| r.protocol == Protocol::All)
                .collect(),
            first_outbound: policy.rules_of(Direction::Inbound).count() as u32,
            remotes,
            ids: HashMap::from([(empty.clone(), 0)]),
            sets: vec![empty],
            unions: HashMap::new(),
            family,
        }
    }

    pub(super) fn rules(&self, set: SetId) -> Arc<[u32]> {
        self.sets[set as usize].clone()
    }

    /// `set` and the rules of `remote`.
    pub(super) fn with_remote(&mut self, set: SetId, remote: u32) -> SetId {
        if let Some(&id) = self.unions.get(&(set, remote)) {
            return id;
        }
        let union = self.merge(&self.sets[set as usize], &self.remotes[remote as usize].1);
        let next = self.sets.len() as SetId;
        let union: Arc<[u32]> = union.into();
        let id = *self.ids.entry(union.clone()).or_insert(next);
        if id == next {
            self.sets.push(union);
        }
        self.unions.insert((set, remote), id);
        id
    }

    /// Merges two sorted lists without duplicates, leaving out what follows a rule that matches
    /// every packet of its direction.
    fn merge(&self, a: &[u32], b: &[u32]) -> Vec<u32> {
        let mut out = Vec::with_capacity(a.len() + b.len());
        let (mut i, mut j) = (0, 0);
        let mut inbound_done = false;
        while i < a.len() || j < b.len() {
            let next = match (a.get(i), b.get(j)) {
                (Some(&x), Some(&y)) => x.min(y),
                (Some(&x), None) => x,
                (None, Some(&y)) => y,
                (None, None) => break,
            };
            i += usize::from(a.get(i) == Some(&next));
            j += usize::from(b.get(j) == Some(&next));
            let is_inbound = next < self.first_outbound;
            if is_inbound && inbound_done {
                continue;
            }
            out.push(next);
            if self.matches_all[next as usize] {
                if !is_inbound {
                    break;
                }
                inbound_done = true;
            }
        }
        out
    }
}
