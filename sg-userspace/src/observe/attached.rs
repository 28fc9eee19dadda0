//! Which interfaces have an attachment: their pins, and their records.

use std::path::Path;

use crate::kernel::inspect::inspect;
use crate::kernel::location::is_attached_here;
use crate::kernel::pins::{InterfacePins, PinTree};
use crate::kernel::state::State;
use crate::kernel::{KernelError, NoRecord, Zero, bpffs, interfaces, netns};

/// The attached interfaces that a command is about.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every interface in every network namespace.
    Machine,
    /// Every interface of the current network namespace.
    Namespace,
    /// One interface of the current network namespace.
    Interface(String),
    /// Some interfaces of the current network namespace. A pattern stands for all attached ones
    /// that match it.
    Interfaces(Vec<String>),
}

/// An interface that has pins.
#[derive(Clone, Debug)]
pub struct Attached {
    pub pins: InterfacePins,
    /// The record, or why there is none. Detaching works without it.
    pub state: Result<State, NoRecord>,
}

/// The pins that a scope selects.
enum Wanted {
    Everything,
    Namespace {
        cookie: u64,
    },
    Interface {
        cookie: u64,
        name: String,
        index: Option<u32>,
    },
}

impl Wanted {
    fn of(scope: &Scope) -> Result<Wanted, KernelError> {
        Ok(match scope {
            Scope::Machine => Wanted::Everything,
            Scope::Namespace | Scope::Interfaces(_) => Wanted::Namespace {
                cookie: netns::cookie()?,
            },
            Scope::Interface(name) => Wanted::Interface {
                cookie: netns::cookie()?,
                name: name.clone(),
                index: match interfaces::index_of(name) {
                    Ok(index) => Some(index),
                    // The interface may have been moved away or deleted.
                    Err(KernelError::NoInterface { .. }) => None,
                    Err(error) => return Err(error),
                },
            },
        })
    }

    /// Whether the pins are selected by the place that they name.
    fn has(&self, pins: &InterfacePins) -> bool {
        match self {
            Wanted::Everything => true,
            Wanted::Namespace { cookie } => pins.netns_cookie == *cookie,
            Wanted::Interface { cookie, index, .. } => {
                pins.netns_cookie == *cookie && *index == Some(pins.ifindex)
            }
        }
    }

    /// Whether the pins are selected for another reason: the interface was moved here, or it is
    /// gone from here and its name was given.
    fn has_strayed(&self, one: &Attached) -> Result<bool, KernelError> {
        match self {
            Wanted::Everything => Ok(true),
            Wanted::Namespace { .. } => is_attached_here(&one.pins, None),
            Wanted::Interface {
                cookie,
                name,
                index,
            } => {
                if let Some(index) = index
                    && is_attached_here(&one.pins, Some(*index))?
                {
                    return Ok(true);
                }
                let is_namesake = one.pins.netns_cookie == *cookie
                    && one.state.as_ref().is_ok_and(|s| s.interface == *name);
                // An interface that was renamed is not selected by its old name.
                Ok(is_namesake && interfaces::inspect(one.pins.ifindex)?.is_none())
            }
        }
    }
}

/// The attached interfaces in `scope`, ordered by namespace and index. It is an error if a named
/// interface is not attached. Otherwise the list may be empty.
pub fn attached(bpffs: &Path, scope: &Scope) -> Result<Vec<Attached>, KernelError> {
    if let Scope::Interfaces(names) = scope {
        let mut all = Vec::new();
        for name in chosen(bpffs, names)? {
            all.extend(attached(bpffs, &Scope::Interface(name))?);
        }
        all.sort_by(|a: &Attached, b| a.pins.cmp(&b.pins));
        all.dedup_by(|a, b| a.pins == b.pins);
        return Ok(all);
    }
    let wanted = Wanted::of(scope)?;
    let found = match bpffs::find(bpffs)? {
        None => Vec::new(),
        Some(found) => PinTree::new(&found.path).interfaces()?,
    };
    let found = found
        .into_iter()
        .map(|pins| {
            let is_wanted = wanted.has(&pins);
            let one = Attached::read(pins)?;
            let is_wanted = is_wanted || wanted.has_strayed(&one)?;
            Ok(is_wanted.then_some(one))
        })
        .filter_map(Result::transpose)
        .collect::<Result<Vec<Attached>, KernelError>>()?;
    match scope {
        Scope::Interface(name) if found.is_empty() => {
            let other = other_layouts(bpffs, scope)?.into_iter().next();
            // Another error says that the interface does not exist.
            interfaces::index_of(name)?;
            Err(other.unwrap_or(KernelError::NotAttached {
                scope: format!("`{name}`"),
            }))
        }
        _ => Ok(found),
    }
}

/// The attached interfaces in `scope`, as [`attached`] has them. It is an error if all of them have
/// another layout: it would be wrong to say that nothing is attached.
pub fn found(bpffs: &Path, scope: &Scope) -> Result<Vec<Attached>, KernelError> {
    let found = attached(bpffs, scope)?;
    match found.is_empty() {
        true => match other_layouts(bpffs, scope)?.into_iter().next() {
            Some(other) => Err(other),
            None => Ok(found),
        },
        false => Ok(found),
    }
}

/// The interfaces that a name or pattern stands for: all attached ones that match it.
fn chosen(bpffs: &Path, names: &[String]) -> Result<Vec<String>, KernelError> {
    let mut all = Vec::new();
    for pattern in names {
        let is_name = !interfaces::is_pattern(pattern) || interfaces::names().contains(pattern);
        if is_name {
            all.push(pattern.clone());
            continue;
        }
        let found = attached(bpffs, &Scope::Namespace)?;
        let names = found.iter().filter_map(Attached::name);
        let before = all.len();
        all.extend(names.filter(|name| interfaces::matches(pattern, name)));
        if all.len() == before {
            return Err(KernelError::NotAttached {
                scope: format!("an interface that matches `{pattern}`"),
            });
        }
    }
    Ok(all)
}

/// What is attached to an interface of the current network namespace.
pub fn attached_to(bpffs: &Path, interface: &str) -> Result<Attached, KernelError> {
    let found = attached(bpffs, &Scope::Interface(interface.to_owned()))?;
    let one = found.into_iter().next();
    one.ok_or_else(|| KernelError::NotAttached {
        scope: format!("`{interface}`"),
    })
}

/// The attachments of other layout versions in `scope`, each as an error with its remedy. This
/// program can neither read nor remove them, but must not report that nothing is attached.
pub fn other_layouts(bpffs: &Path, scope: &Scope) -> Result<Vec<KernelError>, KernelError> {
    if let Scope::Interfaces(names) = scope {
        let mut all = Vec::new();
        for name in names {
            all.extend(other_layouts(bpffs, &Scope::Interface(name.clone()))?);
        }
        return Ok(all);
    }
    let wanted = Wanted::of(scope)?;
    let Some(bpffs) = bpffs::find(bpffs)? else {
        return Ok(Vec::new());
    };
    let found = PinTree::new(&bpffs.path).other_layouts()?;
    Ok(found
        .into_iter()
        .filter(|(_, pins)| wanted.has(pins))
        .map(|(version, pins)| KernelError::OtherLayout {
            path: pins.dir,
            found: version,
            ours: sg_common::LAYOUT_VERSION,
        })
        .collect())
}

/// The name that an interface has now, if it is in the current network namespace: it may have been
/// renamed since its record was written.
pub fn name_now(pins: &InterfacePins) -> Option<String> {
    let is_here = netns::cookie().is_ok_and(|cookie| cookie == pins.netns_cookie);
    is_here.then(|| interfaces::name_of(pins.ifindex)).flatten()
}

impl Attached {
    fn read(pins: InterfacePins) -> Result<Attached, KernelError> {
        let state = match State::read(&pins) {
            Ok(Some(state)) => Ok(state),
            Ok(None) => match inspect(&pins) {
                Ok(found) => found.record(),
                // Something may be attached.
                Err(_) => Err(NoRecord::Missing),
            },
            // This error does not mean that the record is damaged.
            Err(error @ KernelError::NotPermitted { .. }) => return Err(error),
            Err(error) => Err(NoRecord::unreadable(&error)),
        };
        Ok(Attached { pins, state })
    }

    /// The interface's name, from the kernel if it still exists, or else from its record.
    pub fn name(&self) -> Option<String> {
        name_now(&self.pins).or_else(|| {
            self.state
                .as_ref()
                .ok()
                .map(|state| state.interface.clone())
        })
    }

    /// As [`Attached::name`], or else its index.
    pub fn name_or_index(&self) -> String {
        let index = || format!("#{}", self.pins.ifindex);
        self.name().unwrap_or_else(index)
    }

    /// The other interfaces of its attachment, which share its flows. One on which the first
    /// `apply` was cut short has not come so far.
    pub fn others(&self) -> Vec<Attached> {
        let all = self.pins.of_attachment().unwrap_or_default().into_iter();
        let others = all.filter(|other| *other != self.pins);
        let read = |pins: InterfacePins| {
            Attached::read(pins.clone()).unwrap_or_else(|error| Attached {
                pins,
                state: Err(NoRecord::unreadable(&error)),
            })
        };
        let others = others.map(read);
        others.filter(|one| !one.is_cut_short()).collect()
    }

    /// The names of the other interfaces of its attachment.
    pub fn shared_with(&self) -> Vec<String> {
        let others = self.others().into_iter();
        others.map(|other| other.name_or_index()).collect()
    }

    /// The record, or an error with its remedy.
    pub fn state(&self) -> Result<&State, KernelError> {
        self.state.as_ref().map_err(|why| match why {
            NoRecord::CutShort => KernelError::CutShort {
                interface: self.name_or_index(),
            },
            NoRecord::Missing | NoRecord::Unreadable(_) => KernelError::DamagedState {
                path: self.pins.state(),
                reason: why.reason().to_owned(),
            },
        })
    }

    /// See [`NoRecord::CutShort`].
    pub fn is_cut_short(&self) -> bool {
        matches!(self.state, Err(NoRecord::CutShort))
    }

    /// Since when its counters count: the last zero (A5), or else its attachment.
    pub fn counted_since(&self) -> Result<String, KernelError> {
        match Zero::read(&self.pins) {
            // A new one takes its place.
            Ok(None) | Err(KernelError::DamagedZero { .. }) => {
                Ok(self.state()?.attached_at.clone())
            }
            Ok(Some(zero)) => Ok(zero.at),
            Err(error) => Err(error),
        }
    }
}
