//! Which rules cover an address: sets of the address lists that contain it, each set kept once.
//!
//! Rules come in one or two *layers*, such as those of two policies, which are matched each for
//! itself. They are numbered through: those of the first layer from 0, then those of the second.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::verdict::Direction;

use crate::policy::{Policy, Protocol, Remote, Rule};

/// Identifies a set of address lists.
pub(super) type SetId = u32;

/// Where there is no rule.
const NONE: u32 = u32::MAX;

/// How many of the rules that match a packet are of interest. Behind as many rules that match
/// every packet no other is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Matches {
    First,
    FirstTwo,
    All,
}

/// Rules that are matched for themselves, inbound rules first.
pub(super) struct Layer<'p> {
    rules: Vec<&'p Rule>,
    matches: Matches,
}

impl<'p> Layer<'p> {
    pub(super) fn new(rules: impl IntoIterator<Item = &'p Rule>, matches: Matches) -> Self {
        Layer {
            rules: rules.into_iter().collect(),
            matches,
        }
    }

    pub(super) fn of(policy: &'p Policy, matches: Matches) -> Self {
        Layer::new(&policy.rules, matches)
    }
}

/// How many parts rules fall into: two directions of up to two layers.
const PARTS: usize = 4;

/// For each part, the indices after the first two rules that match every packet, or [`NONE`].
type Ends = [[u32; 2]; PARTS];

/// An address list and the rules that name it.
pub(super) struct List {
    pub(super) remote: Arc<Remote>,
    /// By number, ascending.
    rules: Vec<u32>,
    /// By part: the first of the rules, or [`NONE`].
    first: [u32; PARTS],
    ends: Ends,
}

/// Address lists that cover the same addresses.
struct Set {
    /// Indices, ascending.
    lists: Arc<[u32]>,
    ends: Ends,
}

/// All sets that occur. A list whose rules can decide nothing beside the others is left out, so
/// that two sets are equal exactly where the rules that they leave are equal. Sets are of lists,
/// and not of rules, because many rules may name one list, above all `any`.
pub(super) struct Coverage {
    /// Distinct lists.
    pub(super) lists: Vec<List>,
    /// The number of each part's first rule.
    begins: [u32; PARTS],
    /// How many matching rules are of interest in each part.
    matches: [Matches; PARTS],
    sets: Vec<Set>,
    ids: HashMap<Arc<[u32]>, SetId>,
    unions: HashMap<(SetId, u32), SetId>,
    /// The union that was asked for last: neighbouring prefixes are often of one list.
    last_union: Option<((SetId, u32), SetId)>,
}

impl Coverage {
    /// The set of no lists.
    pub(super) const EMPTY: SetId = 0;

    /// # Panics
    /// If there are more than two layers.
    pub(super) fn new(layers: &[Layer<'_>]) -> Self {
        let mut lists: Vec<List> = Vec::new();
        let mut by_pointer = HashMap::new();
        let mut begins = [NONE; PARTS];
        let mut matches = [Matches::First; PARTS];
        let mut number = 0;
        for (l, layer) in layers.iter().enumerate() {
            let is_inbound = |rule: &&&Rule| rule.direction == Direction::Inbound;
            let inbound = layer.rules.iter().take_while(is_inbound).count() as u32;
            (begins[2 * l], begins[2 * l + 1]) = (number, number + inbound);
            (matches[2 * l], matches[2 * l + 1]) = (layer.matches, layer.matches);
            for rule in &layer.rules {
                let index = *by_pointer
                    .entry(Arc::as_ptr(&rule.remote))
                    .or_insert_with(|| {
                        lists.push(List {
                            remote: rule.remote.clone(),
                            rules: Vec::new(),
                            first: [NONE; PARTS],
                            ends: [[NONE; 2]; PARTS],
                        });
                        lists.len() - 1
                    });
                let list = &mut lists[index];
                let part = 2 * l + rule.direction as usize;
                list.rules.push(number);
                list.first[part] = list.first[part].min(number);
                if rule.protocol == Protocol::All {
                    list.ends[part] = earliest(list.ends[part], [number + 1, NONE]);
                }
                number += 1;
            }
        }
        let lists_of_none: Arc<[u32]> = Arc::new([]);
        Coverage {
            lists,
            begins,
            matches,
            ids: HashMap::from([(lists_of_none.clone(), Self::EMPTY)]),
            sets: vec![Set {
                lists: lists_of_none,
                ends: [[NONE; 2]; PARTS],
            }],
            unions: HashMap::new(),
            last_union: None,
        }
    }

    /// Rules of a part from this number on are of no interest, since enough rules before them
    /// match every packet.
    fn end(&self, ends: &Ends, part: usize) -> u32 {
        match self.matches[part] {
            Matches::First => ends[part][0],
            Matches::FirstTwo => ends[part][1],
            Matches::All => NONE,
        }
    }

    /// The number of the first rule of the second layer.
    pub(super) fn second_layer(&self) -> u32 {
        self.begins[2]
    }

    /// The rules of a set that are of interest, by number in ascending order.
    pub(super) fn rules(&self, set: SetId) -> Vec<u32> {
        let set = &self.sets[set as usize];
        let ends: [u32; PARTS] = std::array::from_fn(|part| self.end(&set.ends, part));
        let [_, second, third, fourth] = self.begins;
        let part = |rule: u32| {
            usize::from(rule >= second) + usize::from(rule >= third) + usize::from(rule >= fourth)
        };
        let lists = set.lists.iter().map(|list| &self.lists[*list as usize]);
        let mut rules: Vec<u32> = lists
            .flat_map(|list| &list.rules)
            .copied()
            .filter(|&rule| rule < ends[part(rule)])
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
        let Set { lists, ends } = &self.sets[set as usize];
        let added = &self.lists[list as usize];
        let mut ends = *ends;
        let mut united = lists.to_vec();
        if let Err(place) = united.binary_search(&list) {
            united.insert(place, list);
            for (ends, added) in ends.iter_mut().zip(added.ends) {
                *ends = earliest(*ends, added);
            }
        }
        united.retain(|list| {
            let first = self.lists[*list as usize].first;
            (0..PARTS).any(|part| first[part] < self.end(&ends, part))
        });
        let united: Arc<[u32]> = united.into();
        let next = self.sets.len() as SetId;
        let id = *self.ids.entry(united.clone()).or_insert(next);
        if id == next {
            self.sets.push(Set {
                lists: united,
                ends,
            });
        }
        self.unions.insert((set, list), id);
        id
    }
}

/// The two earliest rules of both pairs.
fn earliest(a: [u32; 2], b: [u32; 2]) -> [u32; 2] {
    match a[0] <= b[0] {
        true => [a[0], a[1].min(b[0])],
        false => [b[0], b[1].min(a[0])],
    }
}
