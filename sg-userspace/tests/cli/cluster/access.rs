//! Every way in which a service is reached, and which policies keep whom from it.

use std::net::Ipv4Addr;

use super::network::address;
use super::servers::How;
use super::services::{
    API, CLUSTER, HEALTH, HOST, LOCAL, ON_HOST, PORT, PROXY_HEALTH, TARGET, UDP, WEB,
};

/// Ports that are no service's: the kubelet's, SSH, the web and mail of somebody outside.
pub(super) const KUBELET: u16 = 10250;
pub(super) const SSH: u16 = 22;
pub(super) const HTTPS: u16 = 443;
pub(super) const SMTP: u16 = 25;

/// Where it is written what is on the wires, and whom the server sees.
pub(super) enum Expected {
    /// The row of the page that begins with this.
    Page(&'static str),
    /// What is not about services: N1's wire, N2's wire, whom the server sees.
    Here([&'static str; 3]),
}

pub(super) struct Access {
    pub(super) expected: Expected,
    pub(super) from: &'static str,
    pub(super) how: How,
    pub(super) to: (Ipv4Addr, u16),
    /// The policies that do not let it pass.
    pub(super) dropped_by: &'static [&'static str],
}

/// Whose clients have no rule: NodePorts are for balancers only.
const ONLY_BALANCERS: &[&str] = &["calico", "example", "example with a service's port"];
/// Where the service's own port is closed to everybody outside.
const NO_SERVICE_PORT: &[&str] = &["tke", "tke-minimal", "base", "calico", "example"];
/// Every policy.
const ALL: &[&str] = &[
    "tke",
    "tke-minimal",
    "base",
    "calico",
    "example",
    "example with a service's port",
];
const NONE: &[&str] = &[];

fn access(
    row: &'static str,
    from: &'static str,
    to: (Ipv4Addr, u16),
    dropped_by: &'static [&'static str],
) -> Access {
    Access {
        expected: Expected::Page(row),
        from,
        how: How::Tcp,
        to,
        dropped_by,
    }
}

fn other(
    expected: [&'static str; 3],
    from: &'static str,
    to: (Ipv4Addr, u16),
    dropped_by: &'static [&'static str],
) -> Access {
    Access {
        expected: Expected::Here(expected),
        ..access("", from, to, dropped_by)
    }
}

impl Access {
    fn by(self, how: How) -> Access {
        Access { how, ..self }
    }
}

/// Those of the page's table, row by row.
pub(super) fn of_the_page() -> Vec<Access> {
    let (n1, n2) = (address("N1"), address("N2"));
    let localhost = Ipv4Addr::LOCALHOST;
    vec![
        access(
            "NodePort of N1, `externalTrafficPolicy: Cluster`",
            "C",
            (n1, CLUSTER),
            ONLY_BALANCERS,
        ),
        access(
            "NodePort of N2, policy `Cluster`",
            "C",
            (n2, CLUSTER),
            ONLY_BALANCERS,
        ),
        access(
            "NodePort of N1, policy `Local`",
            "C",
            (n1, LOCAL),
            ONLY_BALANCERS,
        ),
        access(
            "NodePort of N2, policy `Local`",
            "C",
            (n2, LOCAL),
            ONLY_BALANCERS,
        ),
        access("NodePort of N1 over UDP", "C", (n1, UDP), ONLY_BALANCERS).by(How::Udp),
        access(
            "pod on the host's network, by the NodePort of N1",
            "C",
            (n1, ON_HOST),
            ONLY_BALANCERS,
        ),
        access(
            "address that is routed to N1, policy `Cluster`",
            "C",
            (address("E1"), PORT),
            NO_SERVICE_PORT,
        ),
        access(
            "address that is routed to N2, policy `Local`",
            "C",
            (address("E2"), PORT),
            NO_SERVICE_PORT,
        ),
        access(
            "balancer that translates the source, by the NodePort of N1",
            "B",
            (n1, CLUSTER),
            NONE,
        ),
        access("health check of kube-proxy", "B", (n1, PROXY_HEALTH), NONE).by(How::Http),
        access(
            "health check of a service with policy `Local`",
            "B",
            (n2, HEALTH),
            NONE,
        )
        .by(How::Http),
        access("service from a pod p (ClusterIP)", "p", (WEB, PORT), NONE),
        access(
            "service from N1 itself (ClusterIP)",
            "N1",
            (WEB, PORT),
            NONE,
        ),
        access("`localhost:NP` on N1", "N1", (localhost, CLUSTER), NONE),
        access("NodePort of N2 from a pod p", "p", (n2, CLUSTER), NONE),
        access(
            "NodePort of its own node from a pod p",
            "p",
            (n1, CLUSTER),
            NONE,
        ),
        access(
            "address that is routed to nodes, from a pod p",
            "p",
            (address("E1"), PORT),
            NONE,
        ),
        access(
            "the API from a pod p (`kubernetes.default`)",
            "p",
            (API, HTTPS),
            NONE,
        )
        .by(How::Connect),
        access(
            "the API from N1 (`kubernetes.default`), and kube-proxy",
            "N1",
            (API, HTTPS),
            NONE,
        )
        .by(How::Connect),
        access("pod to pod", "p", (address("P"), TARGET), NONE),
        access(
            "pod to outside, masqueraded",
            "p",
            (address("X"), HTTPS),
            NONE,
        ),
        access("pods of one node", "q", (address("P"), TARGET), NONE),
        access("service from its own backend", "P", (WEB, PORT), NONE),
    ]
}

/// What a node does besides, and what is nobody's business.
pub(super) fn others() -> Vec<Access> {
    let (n1, n2, pod) = (address("N1"), address("N2"), address("P"));
    vec![
        other(["in API → N1:10250", "", "API"], "API", (n1, KUBELET), NONE),
        other(["in C → N1:10250", "", "C"], "C", (n1, KUBELET), ALL),
        other(
            ["in A → N1:22", "", "A"],
            "A",
            (n1, SSH),
            &["tke-minimal", "base"],
        ),
        other(
            ["in C → N1:22", "", "C"],
            "C",
            (n1, SSH),
            &[
                "tke-minimal",
                "base",
                "calico",
                "example",
                "example with a service's port",
            ],
        ),
        other(["", "in C → P:TP", "C"], "C", (pod, TARGET), ALL),
        // Not by the service: the port of the host itself.
        other(["", "in C → N2:HP", "C"], "C", (n2, HOST), ALL),
        other(["in C → N1:10256", "", "C"], "C", (n1, PROXY_HEALTH), ALL).by(How::Http),
        other(["", "in C → N2:HC", "C"], "C", (n2, HEALTH), ONLY_BALANCERS).by(How::Http),
        // N1 has no pod of the service.
        other(["in B → N1:HC", "", "503"], "B", (n1, HEALTH), NONE).by(How::Http),
        other(
            ["out N1 → X:25", "", "N1"],
            "p",
            (address("X"), SMTP),
            &["tke-minimal", "example", "example with a service's port"],
        ),
        other(
            ["out N1 → X:25", "", "N1"],
            "N1",
            (address("X"), SMTP),
            &["tke-minimal", "example", "example with a service's port"],
        ),
    ]
}
