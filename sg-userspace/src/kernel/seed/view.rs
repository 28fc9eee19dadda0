//! What one network namespace knows about its connections, from sockets and connection tracking,
//! together with what the namespaces that belong to it know.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};

use super::super::error::KernelError;
use super::super::machine::capabilities::TO_ENFORCE;
use super::super::machine::own_addresses::ip_of;
use super::existing::{Existing, Key};
use super::namespaces::{Search, look_into};
use super::sockets::Listener;
use super::unseen::{Unseen, bridged, forwards};
use super::{conntrack, sctp, sockets};

/// Which sockets are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum Extent {
    /// All sockets of this namespace and of those that belong to it.
    All,
    /// Only TCP sockets of this namespace, which takes little time.
    Tcp,
}

/// The connections that were found.
#[derive(Debug, Default)]
pub(in crate::kernel) struct View {
    /// The addresses of this namespace.
    pub(in crate::kernel) own: HashSet<IpAddr>,
    /// Flows in connection tracking, which has seen their packets and so knows the originator.
    pub(in crate::kernel) tracked: Vec<Existing>,
    pub(in crate::kernel) sockets: Vec<Existing>,
    /// The inodes of the connected sockets, where a process has them open.
    pub(in crate::kernel) inodes: HashMap<Key, u32>,
    pub(in crate::kernel) listeners: Vec<Listener>,
    /// The tuples of sockets that are others on the wire, because the host translates addresses;
    /// each with the one on the wire.
    pub(in crate::kernel) translated: HashMap<Key, Key>,
    /// Kinds of connections that cannot be seen.
    pub(in crate::kernel) unseen: Vec<Unseen>,
}

impl View {
    /// Reads the current network namespace, in which the interfaces have these indices.
    pub(in crate::kernel) fn take(interfaces: &[u32], extent: Extent) -> Result<View, KernelError> {
        let mut view = View::here(extent).map_err(Blind::error)?;
        if extent == Extent::Tcp {
            return Ok(view);
        }
        // Errors in other namespaces do not stop the attachment: every connection that was found is
        // kept, and the rest is reported.
        let others = look_into(interfaces, || View::here(extent).map_err(io::Error::from));
        let others = others.unwrap_or_else(|_| Search {
            closed: 1,
            ..Search::default()
        });
        for other in others.found {
            // A flow to one of the host's own addresses does not cross its interface.
            let is_outside = |flow: &Existing| flow.key.can_be_on_the_wire(&view.own);
            view.tracked
                .extend(other.tracked.into_iter().filter(is_outside));
            view.sockets
                .extend(other.sockets.into_iter().filter(is_outside));
            view.inodes.extend(other.inodes);
            view.listeners.extend(other.listeners);
            view.translated.extend(other.translated);
            let of_sockets = Unseen::is_of_sockets;
            view.unseen
                .extend(other.unseen.into_iter().filter(of_sockets));
        }
        let unseen = &mut view.unseen;
        unseen.extend((others.closed > 0).then(|| Unseen::closed(others.closed)));
        unseen.extend((others.hidden > 0).then(|| Unseen::hidden(others.hidden)));
        unseen.extend(others.may_be_more.then(Unseen::of_other_processes));
        let bridges = interfaces.iter().filter_map(|index| bridged(*index));
        view.unseen.extend(bridges.map(|by| Unseen::bridged(&by)));
        view.unseen.sort();
        view.unseen.dedup();
        Ok(view)
    }

    /// Reads the calling thread's network namespace alone.
    fn here(extent: Extent) -> Result<View, Blind> {
        let interfaces = nix::ifaddrs::getifaddrs().map_err(|e| Blind::Addresses(e.into()))?;
        let own = interfaces.filter_map(|i| ip_of(&i.address?)).collect();
        let mut view = View {
            own,
            ..View::default()
        };
        let protocols: &[u8] = match extent {
            Extent::All => &[IPPROTO_TCP, IPPROTO_UDP],
            Extent::Tcp => &[IPPROTO_TCP],
        };
        let mut listed = Vec::new();
        for &protocol in protocols {
            listed.extend(sockets::list(protocol).map_err(Blind::Sockets)?);
        }
        view.sockets = sockets::flows(&listed, &view.own);
        if extent == Extent::All {
            view.inodes = sockets::inodes(&listed).collect();
            view.listeners = sockets::listeners(&listed).collect();
        }
        // Connection tracking is read last, because it has flows that began a moment ago with their
        // true originator.
        let tracked = conntrack::list().map_err(Blind::Connections)?;
        let flows = tracked.iter().flat_map(|e| conntrack::flows(e, &view.own));
        view.tracked = flows.collect();
        if extent == Extent::All {
            view.translated = tracked.iter().flat_map(conntrack::translations).collect();
            match sctp::list() {
                Ok((associations, served)) => {
                    let flows = sctp::flows(&associations, &served, &view.own);
                    view.sockets.extend(flows);
                }
                Err(e) => view.unseen.push(Unseen::sctp(&e)),
            }
            if tracked.is_empty() {
                view.unseen.push(Unseen::untracked());
                if forwards() {
                    view.unseen.push(Unseen::forwarded());
                }
            }
        }
        Ok(view)
    }
}

/// Why a namespace's connections cannot be listed.
#[derive(Debug)]
enum Blind {
    Addresses(io::Error),
    Sockets(io::Error),
    Connections(io::Error),
}

impl From<Blind> for io::Error {
    fn from(blind: Blind) -> io::Error {
        match blind {
            Blind::Addresses(e) | Blind::Sockets(e) | Blind::Connections(e) => e,
        }
    }
}

impl Blind {
    /// Unknown connections cannot be kept, so the attachment fails before it changes anything.
    fn error(self) -> KernelError {
        let (what, needs, error) = match self {
            Blind::Addresses(e) => return KernelError::io("listing this host's addresses", e),
            Blind::Sockets(e) => (
                "the host's sockets",
                "kernel modules tcp_diag and udp_diag",
                e,
            ),
            Blind::Connections(e) => (
                "tracked connections",
                "kernel module nf_conntrack_netlink",
                e,
            ),
        };
        let what = format!("listing {what}, to keep existing connections");
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => KernelError::not_permitted(what, TO_ENFORCE),
            _ => KernelError::Refused {
                what,
                reason: error.to_string(),
                help: format!(
                    "it needs the {needs}; or attach with --cut-existing, which cuts those \
                     connections off unless the rules pass them"
                ),
            },
        }
    }
}
