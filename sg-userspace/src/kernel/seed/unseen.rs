//! The kinds of connections that seeding cannot see on this machine. They are reported, because an
//! attachment may cut them.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::link::Link;

/// A kind of connections that may exist and cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnseenKind {
    /// Forwarded connections, on a host that does not track them.
    Forwarded,
    /// Connections of machines behind a bridge or a stacked interface, which are not namespaces of
    /// this machine.
    Bridged,
    /// Requests of unconnected sockets, and protocols without sockets: only connection tracking
    /// knows them.
    Untracked,
    /// Connections of network namespaces that could not be read.
    Namespaces,
    /// SCTP associations that the kernel does not list.
    Sctp,
}

/// A kind, with the reason why it cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unseen {
    pub kind: UnseenKind,
    pub message: String,
}

impl Unseen {
    pub(super) fn forwarded() -> Self {
        Unseen {
            kind: UnseenKind::Forwarded,
            message: "forwarded connections: this host forwards, and tracks no connection".into(),
        }
    }

    pub(super) fn bridged(by: &str) -> Self {
        Unseen {
            kind: UnseenKind::Bridged,
            message: format!(
                "connections of machines behind `{by}`, which has them beside this host's"
            ),
        }
    }

    pub(super) fn untracked() -> Self {
        Unseen {
            kind: UnseenKind::Untracked,
            message: "requests under way of UDP sockets without a peer, and protocols other than TCP, UDP and \
                      SCTP: this host tracks no connection"
                .into(),
        }
    }

    pub(super) fn closed(namespaces: usize) -> Self {
        Self::in_namespaces(match namespaces {
            1 => "1 network namespace could not be entered".into(),
            n => format!("{n} network namespaces could not be entered"),
        })
    }

    pub(super) fn hidden(processes: usize) -> Self {
        Self::in_namespaces(match processes {
            1 => "1 process does not show its network namespace".into(),
            n => format!("{n} processes do not show their network namespaces"),
        })
    }

    pub(super) fn of_other_processes() -> Self {
        Self::in_namespaces("the host's other processes cannot be seen from this container".into())
    }

    fn in_namespaces(reason: String) -> Self {
        Unseen {
            kind: UnseenKind::Namespaces,
            message: format!("all connections of pods and containers: {reason}"),
        }
    }

    pub(super) fn sctp(reason: &std::io::Error) -> Self {
        Unseen {
            kind: UnseenKind::Sctp,
            message: format!("SCTP associations: the kernel does not list them ({reason})"),
        }
    }

    /// Whether it is about the namespace's own sockets, and not about packets that it forwards.
    pub(super) fn is_of_sockets(&self) -> bool {
        self.kind == UnseenKind::Sctp
    }
}

/// The name of the bridge or stacked interface that connects `ifindex` with machines that are no
/// namespaces of this one, such as virtual machines or another network.
pub(super) fn bridged(ifindex: u32) -> Option<String> {
    // If the interfaces cannot be listed, nothing is reported: there may be no such machines.
    behind(&Link::list().ok()?, ifindex)
}

fn behind(links: &[Link], ifindex: u32) -> Option<String> {
    let of = |index| links.iter().find(|link| link.index == index);
    let nic = of(ifindex)?;
    let master = nic.master.and_then(of).unwrap_or(nic);
    let serves_others = |link: &&Link| {
        // The peer of a veth is in a namespace, which is searched by itself.
        link.index != ifindex && link.master == Some(master.index) && link.kind != "veth"
    };
    if master.kind == "bridge" && links.iter().any(|link| serves_others(&link)) {
        return Some(master.name.clone());
    }
    let is_tap = |link: &&Link| link.kind == "macvtap" && link.other == Some(ifindex);
    links.iter().find(is_tap).map(|link| link.name.clone())
}

/// Whether forwarding is on for any interface of the calling thread's network namespace.
pub(super) fn forwards() -> bool {
    let is_on = |path: &Path| {
        fs::read_to_string(path.join("forwarding")).is_ok_and(|value| value.trim() == "1")
    };
    ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"]
        .iter()
        .filter_map(|family| fs::read_dir(family).ok())
        .flatten()
        .flatten()
        .any(|interface| is_on(&interface.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str, master: u32, on_top_of: u32) -> Link {
        let some = |index| (index != 0).then_some(index);
        Link {
            index,
            name: name.into(),
            kind: kind.into(),
            master: some(master),
            other: some(on_top_of),
            namespace: None,
        }
    }

    /// Proves K12: other machines behind the same bridge are reported.
    #[test]
    fn machines_behind_a_bridge_are_said() {
        let bridge = |others: Vec<Link>| {
            let mut links = vec![link(2, "eth0", "", 3, 0), link(3, "br0", "bridge", 0, 0)];
            links.extend(others);
            links
        };
        for (links, expected) in [
            (vec![], None),
            (vec![link(2, "eth0", "", 0, 0)], None),
            (bridge(vec![]), None),
            (bridge(vec![link(4, "pod", "veth", 3, 9)]), None),
            (bridge(vec![link(4, "tap0", "tun", 3, 0)]), Some("br0")),
            (bridge(vec![link(4, "eth1", "", 3, 0)]), Some("br0")),
            (bridge(vec![link(4, "tap0", "tun", 0, 0)]), None),
            // A bond has no other machines behind it.
            (
                vec![
                    link(2, "eth0", "", 3, 0),
                    link(3, "bond0", "bond", 0, 0),
                    link(4, "eth1", "", 3, 0),
                ],
                None,
            ),
            (
                vec![link(2, "eth0", "", 0, 0), link(4, "vm", "macvtap", 0, 2)],
                Some("vm"),
            ),
            (
                vec![link(2, "eth0", "", 0, 0), link(4, "vm", "macvtap", 0, 3)],
                None,
            ),
        ] {
            assert_eq!(behind(&links, 2).as_deref(), expected);
        }
        // The attached interface may be the bridge itself.
        let links = bridge(vec![]);
        assert_eq!(
            behind(&links, 3).as_deref(),
            Some("br0"),
            "eth0 is behind it"
        );
    }
}
