//! The tree of pins on a BPF file system: which interfaces have some, in this layout version and in
//! others.

use std::path::{Path, PathBuf};

use sg_common::LAYOUT_VERSION;

use super::interface::InterfacePins;
use super::names::{names_in, numbers_in, small_numbers_in};
use crate::kernel::error::KernelError;
use crate::kernel::machine::trust;

/// The tree of pins on one BPF file system.
#[derive(Clone, Debug)]
pub struct PinTree {
    pub(super) bpffs: PathBuf,
    pub(super) root: PathBuf,
}

impl PinTree {
    pub fn new(bpffs: &Path) -> Self {
        PinTree {
            bpffs: bpffs.to_owned(),
            root: bpffs.join(trust::ROOT),
        }
    }

    /// Whether the enforcer has any pin at all.
    pub(in crate::kernel) fn exists(&self) -> bool {
        self.root.exists()
    }

    pub(super) fn version_dir(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    pub(super) fn netns_dir(&self, netns_cookie: u64) -> PathBuf {
        self.version_dir().join(netns_cookie.to_string())
    }

    /// The existing pins of an interface. If there are none, those that it would have in a new
    /// attachment.
    ///
    /// # Errors
    /// If the directory cannot be read, since the interface may have pins in it.
    pub fn interface(&self, netns_cookie: u64, ifindex: u32) -> Result<InterfacePins, KernelError> {
        let taken = attachments_in(&self.netns_dir(netns_cookie))?;
        let of = |attachment| self.interface_of(netns_cookie, attachment, ifindex);
        let mut there = taken.iter().map(|number| of(*number));
        let there = there.find(InterfacePins::exists);
        Ok(there.unwrap_or_else(|| of(lowest_free(&taken))))
    }

    /// The pins of an interface in an attachment, whether or not they exist.
    pub(in crate::kernel) fn interface_of(
        &self,
        netns_cookie: u64,
        attachment: u32,
        ifindex: u32,
    ) -> InterfacePins {
        InterfacePins {
            dir: self
                .netns_dir(netns_cookie)
                .join(attachment.to_string())
                .join(ifindex.to_string()),
            netns_cookie,
            attachment,
            ifindex,
        }
    }

    /// The lowest number that no attachment of a network namespace uses.
    pub(in crate::kernel) fn free_attachment(&self, netns_cookie: u64) -> Result<u32, KernelError> {
        attachments_in(&self.netns_dir(netns_cookie)).map(|taken| lowest_free(&taken))
    }

    /// The pins of all interfaces that have some in this layout version.
    pub fn interfaces(&self) -> Result<Vec<InterfacePins>, KernelError> {
        let mut found = Vec::new();
        for netns in numbers_in(&self.version_dir())? {
            for attachment in attachments_in(&self.netns_dir(netns))? {
                found.extend(self.interfaces_of(netns, attachment)?);
            }
        }
        found.retain(InterfacePins::exists);
        found.sort();
        Ok(found)
    }

    pub(super) fn interfaces_of(
        &self,
        netns_cookie: u64,
        attachment: u32,
    ) -> Result<Vec<InterfacePins>, KernelError> {
        let dir = self.netns_dir(netns_cookie).join(attachment.to_string());
        let of = |index| self.interface_of(netns_cookie, attachment, index);
        Ok(small_numbers_in(&dir)?.into_iter().map(of).collect())
    }

    /// The pins of all interfaces that have some in another layout version, with that version.
    pub fn other_layouts(&self) -> Result<Vec<(String, InterfacePins)>, KernelError> {
        let mut found = Vec::new();
        for version in names_in(&self.root)? {
            let dir = self.root.join(&version);
            if dir == self.version_dir() {
                continue;
            }
            let number = version.trim_start_matches('v').to_owned();
            for netns_cookie in numbers_in(&dir)? {
                let netns = dir.join(netns_cookie.to_string());
                let mut parents = vec![(0, netns.clone())];
                if has_attachments(&number) {
                    let attachments = attachments_in(&netns)?.into_iter();
                    parents = attachments
                        .map(|attachment| (attachment, netns.join(attachment.to_string())))
                        .collect();
                }
                for (attachment, parent) in parents {
                    for ifindex in small_numbers_in(&parent)? {
                        let pins = InterfacePins {
                            dir: parent.join(ifindex.to_string()),
                            netns_cookie,
                            attachment,
                            ifindex,
                        };
                        found.push((number.clone(), pins));
                    }
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Fails if this interface has pins of another layout version.
    pub(crate) fn refuse_other_layouts(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        let is_of_it = |other: &InterfacePins| {
            (other.netns_cookie, other.ifindex) == (pins.netns_cookie, pins.ifindex)
        };
        let mut others = self.other_layouts()?.into_iter();
        match others.find(|(_, other)| is_of_it(other)) {
            None => Ok(()),
            Some((found, theirs)) => Err(KernelError::OtherLayout {
                path: theirs.dir,
                found,
                ours: LAYOUT_VERSION,
            }),
        }
    }
}

/// The numbers of the attachments in the directory of a network namespace.
pub(super) fn attachments_in(netns: &Path) -> Result<Vec<u32>, KernelError> {
    small_numbers_in(netns)
}

/// The lowest number that no attachment has.
fn lowest_free(taken: &[u32]) -> u32 {
    (1..).find(|number| !taken.contains(number)).unwrap_or(1)
}

/// Whether this layout version has directories for attachments. Before version 8 each interface was
/// an attachment.
fn has_attachments(version: &str) -> bool {
    version.parse::<u32>().is_ok_and(|number| number >= 8)
}
