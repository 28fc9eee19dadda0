//! Which rules cover an address: sets of the address lists that contain it, each set kept once.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::verdict::Direction;

use crate::policy::{Policy, Protocol, Remote};

/// Identifies a set of address lists.
pub(super) type SetId = u32;

/// Where there is no rule.
const NONE: u32 = u32::MAX;

/// An address list and the rules that name it.
pub(super) struct List {
    pub(super) remote: Arc<Remote>,
    /// Indices into the policy, ascending.
    rules: Vec<u32>,
    /// By direction: the first of the rules, or [`NONE`].
    first: [u32; 2],
    /// By direction: the index after the first rule that matches every packet, or [`NONE`].
    end: [u32; 2],
}

/// Address lists that cover the same addresses.
struct Set {
    /// Indices, ascending.
    lists: Arc<[u32]>,
    /// By direction: rules from this index on can decide nothing, since a rule before it matches
    /// every packet. [`NONE`] if there is no such rule.
    end: [u32; 2],
}

/// All sets that occur. A list whose rules can decide nothing beside the others is left out, so
/// that two sets are equal exactly where the rules that they leave are equal. Sets are of lists,
/// and not of rules, because many rules may name one list, above all `any`.
pub(super) struct Coverage {
    /// Distinct lists.
    pub(super) lists: Vec<List>,
    /// Rules from this index on are outbound.
    first_outbound: u32,
    sets: Vec<Set>,
    ids: HashMap<Arc<[u32]>, SetId>,
    unions: HashMap<(SetId, u32), SetId>,
    /// The union that was asked for last: neighbouring prefixes are often of one list.
    last_union: Option<((SetId, u32), SetId)>,
}

impl Coverage {
    /// The set of no lists.
    pub(super) const EMPTY: SetId = 0;

    pub(super) fn new(policy: &Policy) -> Self {
        let mut lists: Vec<List> = Vec::new();
        let mut by_pointer = HashMap::new();
        for (i, rule) in policy.rules.iter().enumerate() {
            let index = *by_pointer
                .entry(Arc::as_ptr(&rule.remote))
                .or_insert_with(|| {
                    lists.push(List {
                        remote: rule.remote.clone(),
                        rules: Vec::new(),
                        first: [NONE; 2],
                        end: [NONE; 2],
                    });
                    lists.len() - 1
                });
            let list = &mut lists[index];
            let (i, direction) = (i as u32, rule.direction as usize);
            list.rules.push(i);
            list.first[direction] = list.first[direction].min(i);
            if rule.protocol == Protocol::All {
                list.end[direction] = list.end[direction].min(i + 1);
            }
        }
        let lists_of_none: Arc<[u32]> = Arc::new([]);
        Coverage {
            lists,
            first_outbound: policy.rules_of(Direction::Inbound).count() as u32,
            ids: HashMap::from([(lists_of_none.clone(), Self::EMPTY)]),
            sets: vec![Set {
                lists: lists_of_none,
                end: [NONE; 2],
            }],
            unions: HashMap::new(),
            last_union: None,
        }
    }

    /// The rules of a set that can decide a packet, as indices into the policy in ascending order.
    pub(super) fn rules(&self, set: SetId) -> Vec<u32> {
        let set = &self.sets[set as usize];
        let lists = set.lists.iter().map(|list| &self.lists[*list as usize]);
        let mut rules: Vec<u32> = lists
            .flat_map(|list| &list.rules)
            .copied()
            .filter(|rule| *rule < set.end[usize::from(*rule >= self.first_outbound)])
            .collect();
        // Stable sorting is quick where there are few ascending runs.
        rules.sort();
        rules
    }

    /// `set` and one list more.
    pub(super) fn with_list(&mut self, set: SetId, list: u32) -> SetId {
        if let Some((asked, union)) = self.last_union
            && asked == (set, list)
        {
            return union;
        }
        let union = match self.unions.get(&(set, list)) {
            Some(union) => *union,
            None => self.unite(set, list),
        };
        self.last_union = Some(((set, list), union));
        union
    }

    fn unite(&mut self, set: SetId, list: u32) -> SetId {
        let Set { lists, end } = &self.sets[set as usize];
        let added = &self.lists[list as usize];
        let end = [0, 1].map(|direction| end[direction].min(added.end[direction]));
        let mut united = lists.to_vec();
        if let Err(place) = united.binary_search(&list) {
            united.insert(place, list);
        }
        united.retain(|list| {
            let first = self.lists[*list as usize].first;
            first[0] < end[0] || first[1] < end[1]
        });
        let united: Arc<[u32]> = united.into();
        let next = self.sets.len() as SetId;
        let id = *self.ids.entry(united.clone()).or_insert(next);
        if id == next {
            self.sets.push(Set { lists: united, end });
        }
        self.unions.insert((set, list), id);
        id
    }
}
