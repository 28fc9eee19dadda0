//! The policies that come with the binary, for `templates` and `builtin:NAME`.

/// A built-in policy.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// What stands behind `builtin:`.
    pub name: &'static str,
    /// One line on what it is for.
    pub summary: &'static str,
    /// The policy file.
    pub text: &'static str,
    /// Sets as `--set` takes them, with which the lab tries a template whose sets are empty.
    pub scenario: &'static [&'static str],
}

const ALL: &[Builtin] = &[
    Builtin {
        name: "tke",
        summary: "the recommended policy for a node of a container cluster",
        text: include_str!("../../templates/tke.yaml"),
        scenario: &[],
    },
    Builtin {
        name: "tke-minimal",
        summary: "the same with the least permission, for IPv4 and IPv6",
        text: include_str!("../../templates/tke-minimal.yaml"),
        scenario: &[],
    },
    Builtin {
        name: "web",
        summary: "a web server: a service for clients",
        text: include_str!("../../templates/web.yaml"),
        scenario: &[
            "clients=203.0.113.0/24,2001:db8:1::/48",
            "admin=198.51.100.7",
            "monitoring=10.30.0.10,fd00:30::1",
            "backends=10.50.0.0/24",
            "infrastructure=10.0.0.2,fd00::2",
            "updates=192.0.2.80",
            "service-udp=443",
        ],
    },
    Builtin {
        name: "bastion",
        summary: "the machine from which others are administered",
        text: include_str!("../../templates/bastion.yaml"),
        scenario: &[
            "admin=198.51.100.0/24,2001:db8:10::/48",
            "fleet=10.0.0.0/16,2001:db8:20::/48",
            "infrastructure=10.0.0.2",
            "updates=192.0.2.80",
        ],
    },
    Builtin {
        name: "database",
        summary: "a database server, with replicas",
        text: include_str!("../../templates/database.yaml"),
        scenario: &[
            "applications=10.60.0.0/24,fd00:60::/64",
            "replicas=10.50.0.12",
            "admin=10.40.0.1",
            "monitoring=10.30.0.10",
            "backups=10.70.0.5",
            "infrastructure=10.0.0.2",
        ],
    },
    Builtin {
        name: "control-plane",
        summary: "a control-plane machine of a Kubernetes cluster",
        text: include_str!("../../templates/control-plane.yaml"),
        scenario: &[
            "control-plane=10.0.0.10,10.0.0.11,fd00::a",
            "workers=10.0.1.0/24,fd00:1::/64",
            "pods=172.16.0.0/16",
            "api-clients=198.51.100.7",
            "balancers=10.0.9.0/24",
            "monitoring=10.30.0.10",
            "admin=198.51.100.7",
            "infrastructure=10.0.0.2",
            "registries=192.0.2.80",
        ],
    },
    Builtin {
        name: "worker",
        summary: "a worker node of a Kubernetes cluster",
        text: include_str!("../../templates/worker.yaml"),
        scenario: &[
            "workers=10.0.1.0/24,fd00:1::/64",
            "pods=172.16.0.0/16",
            "control-plane=10.0.0.10",
            "clients=203.0.113.0/24",
            "balancers=10.0.9.0/24",
            "monitoring=10.30.0.10",
            "admin=198.51.100.7",
            "infrastructure=10.0.0.2",
            "external=192.0.2.80",
        ],
    },
];

/// Every built-in policy.
pub fn builtins() -> &'static [Builtin] {
    ALL
}

/// The built-in policy of that name.
pub fn builtin(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|builtin| builtin.name == name)
}
