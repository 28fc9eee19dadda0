//! The network of a test: the node, any number of routers, and a remote host, one after another.
//!
//! ```text
//! node eth0 ── left router right ── left router right ── eth0 remote
//!      .1         .2          .1         .2         .1       .2
//!       segment 0              segment 1            segment 2
//! ```
//!
//! Segment N has the prefixes 10.0.N.0/24 and 2001:db8:N::/64.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sg_policy::policy::Policy;
use sg_userspace::kernel::apply;

use crate::enforced::Enforced;
use crate::sandbox::Sandbox;
use sg_testbed::Host;

/// The interface under a policy, and the remote's.
pub(crate) const NIC: &str = "eth0";

/// Whether an address is IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The option by which tools are told the family.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }
}

pub(crate) struct Line {
    pub(crate) node: Host,
    pub(crate) routers: Vec<Host>,
    pub(crate) remote: Host,
}

/// Which end of a segment: the one nearer to the node, or the other.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Near = 1,
    Far = 2,
}

pub(crate) fn address(segment: usize, end: End, family: Family) -> IpAddr {
    let (n, host) = (segment as u8, end as u8);
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, n, host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, n.into(), 0, 0, 0, 0, host.into()).into(),
    }
}

fn with_prefix(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 24 } else { 64 };
    format!("{address}/{length}")
}

impl Line {
    /// Makes the hosts and joins them. The node's interface is down and has no addresses: nothing
    /// passes it before there is a policy.
    pub(crate) fn new(routers: usize) -> Line {
        let line = Line {
            node: Host::here(),
            routers: (0..routers).map(|_| Host::new()).collect(),
            remote: Host::new(),
        };
        line.node.hush();
        let hosts = line.hosts();
        for pair in hosts.windows(2) {
            pair[0].0.join(pair[0].2, pair[1].0, pair[1].1);
        }
        for (n, (host, near, far)) in hosts.iter().enumerate().skip(1) {
            line.raise(host, near, n - 1, End::Far);
            if n < hosts.len() - 1 {
                line.raise(host, far, n, End::Near);
            }
        }
        for (n, router) in line.routers.iter().enumerate() {
            router.set("net/ipv4/ip_forward", "1");
            router.set("net/ipv6/conf/all/forwarding", "1");
            // Their errors are what the tests are about; one for each probe.
            router.set("net/ipv4/icmp_ratelimit", "0");
            router.set("net/ipv6/icmp/ratelimit", "0");
            for family in Family::BOTH {
                for segment in (0..=routers).filter(|s| !(n..=n + 1).contains(s)) {
                    let gateway = match segment < n {
                        true => address(n, End::Near, family),
                        false => address(n + 1, End::Far, family),
                    };
                    let prefix = match family {
                        Family::V4 => format!("10.0.{segment}.0/24"),
                        Family::V6 => format!("2001:db8:{segment}::/64"),
                    };
                    router.ip(&format!("route add {prefix} via {gateway}"));
                }
            }
        }
        line.route_by(&line.remote, address(routers, End::Near, Family::V4));
        line.route_by(&line.remote, address(routers, End::Near, Family::V6));
        line
    }

    /// Each host with the names of its interfaces, from the node on.
    fn hosts(&self) -> Vec<(&Host, &'static str, &'static str)> {
        let routers = self.routers.iter().map(|host| (host, "left", "right"));
        std::iter::once((&self.node, "", NIC))
            .chain(routers)
            .chain(std::iter::once((&self.remote, NIC, "")))
            .collect()
    }

    /// Brings an interface up and gives it its addresses.
    fn raise(&self, host: &Host, interface: &str, segment: usize, end: End) {
        host.ip(&format!("link set {interface} up"));
        for family in Family::BOTH {
            let address = with_prefix(address(segment, end, family));
            host.ip(&format!("address add {address} dev {interface} nodad"));
        }
    }

    fn route_by(&self, host: &Host, gateway: IpAddr) {
        let family = if gateway.is_ipv4() { "-4" } else { "-6" };
        host.ip(&format!("{family} route add default via {gateway}"));
    }

    /// Attaches a policy to the node's interface, which then comes up: the enforcer sees every
    /// packet that has ever passed it.
    pub(crate) fn enforce(&self, sandbox: &Sandbox, policy: &Policy) -> Enforced {
        let enforced = self.enforce_bare(sandbox, policy);
        self.raise_node(enforced)
    }

    /// Brings the node's interface up, which has its policy.
    pub(crate) fn raise_node(&self, mut enforced: Enforced) -> Enforced {
        self.raise(&self.node, NIC, 0, End::Near);
        for family in Family::BOTH {
            self.route_by(&self.node, address(0, End::Far, family));
        }
        self.wait_for_carriers();
        enforced.begin();
        enforced
    }

    /// As [`Line::enforce`], but the node gets no addresses: it is to find them by itself.
    pub(crate) fn enforce_bare(&self, sandbox: &Sandbox, policy: &Policy) -> Enforced {
        let options = sandbox.options(NIC);
        apply(policy, &options).unwrap_or_else(|e| panic!("apply: {e}"));
        Enforced::new(&options.bpffs)
    }

    pub(crate) fn wait_for_carriers(&self) {
        for (host, near, far) in self.hosts() {
            for interface in [near, far].into_iter().filter(|name| !name.is_empty()) {
                host.wait_for_carrier(interface);
            }
        }
    }

    pub(crate) fn node_address(&self, family: Family) -> IpAddr {
        address(0, End::Near, family)
    }

    pub(crate) fn remote_address(&self, family: Family) -> IpAddr {
        address(self.routers.len(), End::Far, family)
    }
}
