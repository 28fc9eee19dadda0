//! The network of a cluster: two nodes with pods behind them, a control plane, and who is outside,
//! each a network namespace.
//!
//! ```text
//!             control plane   N1 ── p, r      N2 ── P, q        pods are routed
//!                  │           │               │
//!             ─────┴───────────┴──── switch ───┴─────           10.0.0.0/24
//!                                      │
//!                C   client   B   balancer   A   admin   X   outside
//! ```
//!
//! The switch is a router too. What is on a node's wire is seen at its end, so that it is seen
//! before the node has dropped it.

use std::net::Ipv4Addr;

use sg_testbed::{Namespace, Scratch, interfaces, require_root, run, set_sysctl, sysctl};

use super::super::world;

/// A host by its name on the page.
pub(super) type Who = &'static str;

const fn at(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// The nodes and the control plane: one network.
pub(super) const MEMBERS: [(Who, Ipv4Addr); 3] = [
    ("API", at(10, 0, 0, 2)),
    ("N1", at(10, 0, 0, 11)),
    ("N2", at(10, 0, 0, 12)),
];

pub(super) const NODES: [Who; 2] = ["N1", "N2"];

/// The pods, and the node of each.
const PODS: [(Who, Ipv4Addr, Who); 4] = [
    ("p", at(10, 244, 1, 2), "N1"),
    ("r", at(10, 244, 1, 3), "N1"),
    ("P", at(10, 244, 2, 2), "N2"),
    ("q", at(10, 244, 2, 3), "N2"),
];

/// Who is not of the cluster.
const OTHERS: [(Who, Ipv4Addr); 4] = [
    ("C", at(203, 0, 113, 5)),
    ("B", at(10, 0, 9, 3)),
    ("A", at(198, 51, 100, 3)),
    ("X", at(192, 0, 2, 9)),
];

/// Addresses of services that are routed to a node.
const ROUTED: [(Who, Ipv4Addr, Who); 2] = [
    ("E1", at(192, 0, 2, 81), "N1"),
    ("E2", at(192, 0, 2, 82), "N2"),
];

const SWITCH: Who = "switch";

/// Who sends pods' packets on; the same at each of them.
const GATEWAY: &str = "169.254.1.1";

pub(super) const CLUSTER_CIDR: &str = "10.244.0.0/16";

/// All names and addresses.
fn all() -> impl Iterator<Item = (Who, Ipv4Addr)> {
    let with_node = |(who, at, _): (Who, Ipv4Addr, Who)| (who, at);
    let inside = MEMBERS.into_iter().chain(PODS.map(with_node));
    inside.chain(OTHERS).chain(ROUTED.map(with_node))
}

pub(super) fn address(who: &str) -> Ipv4Addr {
    let found = all().find(|(name, _)| *name == who);
    found.unwrap_or_else(|| panic!("nobody is called {who}")).1
}

/// Who has an address.
pub(super) fn name(at: Ipv4Addr) -> String {
    let found = all().find(|(_, its)| *its == at);
    found.map_or_else(|| at.to_string(), |(who, _)| who.to_owned())
}

pub(super) struct Network {
    pub(super) dir: Scratch,
    namespaces: Vec<(Who, String)>,
}

impl Network {
    /// # Panics
    /// Without root.
    pub(super) fn new() -> Network {
        require_root();
        let dir = Scratch::new("sgkube").expect("root may make names and folders");
        let mut network = Network {
            dir,
            namespaces: Vec::new(),
        };
        let pods = PODS.map(|(who, ..)| who);
        let others = OTHERS.map(|(who, _)| who);
        let hosts = MEMBERS.map(|(who, _)| who).into_iter().chain(pods);
        for (n, who) in hosts.chain(others).chain([SWITCH]).enumerate() {
            let suffix = format!("{n}");
            let named = network.dir.namespace(&suffix);
            let named = named.unwrap_or_else(|e| panic!("{who}: {e}"));
            network.namespaces.push((who, named));
            network.inside(who, || {
                // IPv4 alone, with nothing that sends by itself.
                for name in ["all", "default"] {
                    set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
                }
                sysctl::set_sysctl("net/ipv4/conf/all/rp_filter", "0").expect("a setting");
                interfaces::set_up("lo").expect("a loopback");
            });
        }
        for router in NODES.into_iter().chain([SWITCH]) {
            network.inside(router, || {
                set("net/ipv4/ip_forward", "1");
                for name in ["all", "default"] {
                    set(&format!("net/ipv4/conf/{name}/send_redirects"), "0");
                    set(&format!("net/ipv4/conf/{name}/rp_filter"), "0");
                }
            });
        }
        network.join_members();
        for (pod, at, node) in PODS {
            network.hang(pod, at, node, Some(address(node)));
        }
        for (who, at) in OTHERS {
            network.hang(who, at, SWITCH, None);
        }
        for (_, at, node) in ROUTED {
            network.ip(SWITCH, &format!("route add {at}/32 via {}", address(node)));
        }
        network
    }

    /// One network of the nodes and the control plane, with routes to the pods.
    fn join_members(&self) {
        self.ip(SWITCH, "link add br0 type bridge forward_delay 0");
        self.ip(SWITCH, "address add 10.0.0.1/24 dev br0");
        self.ip(SWITCH, "link set br0 up");
        for (who, at) in MEMBERS {
            let port = port(who);
            self.pair((who, "eth0"), (SWITCH, &port));
            self.ip(SWITCH, &format!("link set {port} master br0"));
            self.ip(SWITCH, &format!("link set {port} up"));
            self.ip(who, &format!("address add {at}/24 dev eth0"));
            self.ip(who, "link set eth0 up");
            self.ip(who, "route add default via 10.0.0.1");
        }
        let members = MEMBERS.map(|(who, _)| who);
        for (n, node) in NODES.into_iter().enumerate() {
            for who in members.into_iter().chain([SWITCH]).filter(|it| *it != node) {
                let pods = format!("10.244.{}.0/24", n + 1);
                self.ip(who, &format!("route add {pods} via {}", address(node)));
            }
            // A frame is one packet for the interface, as it is for the counters.
            self.run(node, "ethtool", &["-K", "eth0", "tso", "off"]);
        }
    }

    /// A host behind a router, with an interface of its own there. The router's own packets to it
    /// have the address `source`.
    fn hang(&self, who: Who, at: Ipv4Addr, router: Who, source: Option<Ipv4Addr>) {
        let port = port(who);
        self.pair((who, "eth0"), (router, &port));
        self.ip(who, &format!("address add {at}/32 dev eth0"));
        self.ip(who, "link set eth0 up");
        self.ip(who, &format!("route add {GATEWAY} dev eth0 scope link"));
        self.ip(who, &format!("route add default via {GATEWAY} dev eth0"));
        self.ip(
            router,
            &format!("address add {GATEWAY}/32 dev {port} scope link"),
        );
        self.ip(router, &format!("link set {port} up"));
        let source = source.map_or_else(String::new, |it| format!(" src {it}"));
        self.ip(router, &format!("route add {at}/32 dev {port}{source}"));
    }

    fn pair(&self, one: (Who, &str), other: (Who, &str)) {
        let (here, there) = (self.namespace(one.0), self.namespace(other.0));
        interfaces::add_veth((&here, one.1), (&there, other.1)).expect("a veth pair");
    }

    /// The name of a host's namespace.
    pub(super) fn netns(&self, who: &str) -> &str {
        let found = self.namespaces.iter().find(|(name, _)| *name == who);
        &found.unwrap_or_else(|| panic!("no host {who}")).1
    }

    fn namespace(&self, who: &str) -> Namespace {
        world::namespace(self.netns(who))
    }

    pub(super) fn inside<T: Send>(&self, who: &str, act: impl FnOnce() -> T + Send) -> T {
        world::inside(self.netns(who), act)
    }

    #[track_caller]
    pub(super) fn run(&self, who: &str, program: &str, words: &[&str]) -> String {
        self.inside(who, || run(program, words))
    }

    #[track_caller]
    fn ip(&self, who: &str, words: &str) {
        self.inside(who, || sg_testbed::ip(words));
    }

    /// In the namespace where the wires of the nodes can be seen.
    pub(super) fn at_the_switch<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.inside(SWITCH, act)
    }
}

/// The interface by which a host is reached.
pub(super) fn port(who: &str) -> String {
    format!("to-{who}")
}

fn set(name: &str, value: &str) {
    set_sysctl(name, value).unwrap_or_else(|e| panic!("{e}"));
}
