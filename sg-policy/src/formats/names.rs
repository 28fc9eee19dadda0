//! What the sets are called when the files of a policy become one. Files may have different sets of
//! one name; all but the first of them get a number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::policy::{Group, NamedSet, Policy, Remote, Sets};

/// The longest name of a set, less what a number takes.
const ROOM: usize = 56;

/// A set that is written.
pub(super) struct Written<'p, V> {
    pub(super) name: String,
    /// The sets of the file that it comes from.
    pub(super) sets: &'p Arc<Sets>,
    pub(super) set: &'p NamedSet<V>,
}

/// The names, by file and by the name that the file has.
pub(super) struct Names<'p> {
    /// The sets that are written.
    pub(super) addresses: Vec<Written<'p, Remote>>,
    pub(super) ports: Vec<Written<'p, Vec<(u16, u16)>>>,
    /// Only those that differ.
    renamed: HashMap<(*const Sets, &'p str), String>,
}

impl<'p> Names<'p> {
    pub(super) fn of(policy: &'p Policy) -> Names<'p> {
        let mut names = Names {
            addresses: Vec::new(),
            ports: Vec::new(),
            renamed: HashMap::new(),
        };
        let mut files: Vec<&Arc<Sets>> = Vec::new();
        for Group { sets, .. } in &policy.groups {
            if !files.iter().any(|known| Arc::ptr_eq(known, sets)) {
                files.push(sets);
            }
        }
        // A name that any file uses is not made up for another set.
        let all = files.iter().flat_map(|sets| {
            let ports = sets.ports.iter().map(|set| set.name.as_str());
            sets.addresses
                .iter()
                .map(|set| set.name.as_str())
                .chain(ports)
        });
        let mut taken: BTreeMap<String, bool> = all.map(|name| (name.to_owned(), false)).collect();
        for sets in files {
            for set in &sets.addresses {
                let (name, is_new) = place(set, &names.addresses, &mut taken);
                names.add(sets, &set.name, &name);
                if is_new {
                    names.addresses.push(Written { name, sets, set });
                }
            }
            for set in &sets.ports {
                let (name, is_new) = place(set, &names.ports, &mut taken);
                names.add(sets, &set.name, &name);
                if is_new {
                    names.ports.push(Written { name, sets, set });
                }
            }
        }
        names
    }

    fn add(&mut self, sets: &'p Arc<Sets>, set: &'p str, name: &str) {
        if set != name {
            self.renamed
                .insert((Arc::as_ptr(sets), set), name.to_owned());
        }
    }

    /// What an entry of a list, or the name of a set, of one of the files is called in the text.
    pub(super) fn name<'n>(&'n self, sets: &Arc<Sets>, entry: &'n str) -> &'n str {
        match self.renamed.is_empty() {
            true => entry,
            false => self
                .renamed
                .get(&(Arc::as_ptr(sets), entry))
                .map_or(entry, String::as_str),
        }
    }
}

/// The name under which a set is written, and whether it has to be written there: one with the same
/// contents may be there already. `taken` has all names of sets of the policy, each with whether a
/// set was written under it.
fn place<V: PartialEq>(
    set: &NamedSet<V>,
    written: &[Written<'_, V>],
    taken: &mut BTreeMap<String, bool>,
) -> (String, bool) {
    let is_same = |known: &&Written<'_, V>| {
        let NamedSet {
            name,
            entries,
            value,
        } = known.set;
        *name == set.name && *entries == set.entries && *value == set.value
    };
    if let Some(known) = written.iter().find(is_same) {
        return (known.name.clone(), false);
    }
    if taken.insert(set.name.clone(), true) != Some(true) {
        return (set.name.clone(), true);
    }
    let stem = set.name.get(..ROOM).unwrap_or(&set.name);
    let mut names = (2u32..).map(|number| format!("{stem}-{number}"));
    let free = names.find(|name| !taken.contains_key(name));
    let name = free.unwrap_or_else(|| set.name.clone());
    taken.insert(name.clone(), true);
    (name, true)
}
