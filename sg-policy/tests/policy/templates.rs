//! The built-in templates.

use sg_policy::policy::*;

use crate::{builtin_policy, codes, load_text};

/// Proves P7.
#[test]
fn the_tke_template_is_the_table_row_by_row() {
    let loaded = builtin_policy("tke", &[]);
    let rows: Vec<String> = loaded
        .policy
        .rules
        .iter()
        .map(|r| {
            format!(
                "{} {} {} | {} | {} | {}",
                r.group,
                r.direction.name(),
                r.position,
                r.summary,
                r.action.name(),
                r.description.as_deref().unwrap_or("-")
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            "tke inbound 1 | tcp 30000-32768 from 0.0.0.0/0 | accept | NodePort services over TCP",
            "tke inbound 2 | udp 30000-32768 from 0.0.0.0/0 | accept | NodePort services over UDP",
            "tke inbound 3 | all from 10.0.0.0/8 | accept | private network: pods and nodes",
            "tke inbound 4 | all from 172.16.0.0/12 | accept | private network: pods and nodes",
            "tke inbound 5 | all from 192.168.0.0/16 | accept | private network: pods and nodes",
            "tke inbound 6 | tcp 22 from 0.0.0.0/0 | accept | SSH to the node",
            "tke inbound 7 | all from 0.0.0.0/0 | drop | everything else",
            "tke outbound 1 | all to 0.0.0.0/0 | accept | all outbound traffic",
        ]
    );
    assert_eq!(loaded.policy.name, "tke");
    assert!(
        loaded.policy.rules.iter().all(|r| r.remote.v6.is_empty()),
        "IPv4 only (P5)"
    );
    assert_eq!(loaded.policy.rules[0].source.file, "builtin:tke");
}

/// Proves P7.
#[test]
fn checking_the_tke_template_notes_its_weak_points_and_nothing_else() {
    let loaded = builtin_policy("tke", &[]);
    assert_eq!(
        codes(&loaded),
        [
            "node-port-range",
            "node-port-range",
            "ssh-open",
            "redundant-rule",
            "ipv6-denied"
        ]
    );
    let text = loaded.findings[0].to_string();
    for part in ["32768", "30000-32767", "ephemeral", "builtin:tke:8:5"] {
        assert!(text.contains(part), "{text}");
    }
    let json = serde_json::to_value(&loaded.findings[4]).unwrap();
    assert_eq!(json["severity"], "warning");
    assert_eq!(json["code"], "ipv6-denied");
}

/// Proves P7.
#[test]
fn the_minimal_template_has_its_sets_and_lets_nobody_reach_ssh() {
    let loaded = builtin_policy("tke-minimal", &[]);
    let cut_off = [
        "empty-set",
        "empty-set",
        "ssh-closed",
        "shared-addresses-closed",
        "global-ipv6-closed",
        "api-server-closed",
        "ping-closed",
    ];
    assert_eq!(codes(&loaded), cut_off);
    let ssh = |loaded: &Loaded| {
        let rules = loaded.policy.rules.clone();
        rules
            .into_iter()
            .find(|r| r.ports.as_deref() == Some(&[(22, 22)]))
            .unwrap()
    };
    assert!(ssh(&loaded).remote.v4.is_empty() && ssh(&loaded).remote.v6.is_empty());
    let sets = [
        "admin=192.0.2.7,2001:db8::7",
        "pods=172.16.0.0/16",
        "nodes=10.0.1.0/24",
        "peer-clusters=10.9.0.0/16",
        "node-ports=30000-30100",
    ];
    let loaded = builtin_policy("tke-minimal", &sets);
    // Once the sets name the cluster's ranges, nothing is said about these ranges any more. The
    // notes about the API server and about pings stay.
    assert_eq!(codes(&loaded), ["api-server-closed", "ping-closed"]);
    assert!(ssh(&loaded).remote.contains("2001:db8::7".parse().unwrap()));
    let closed = builtin_policy("tke-minimal", &["node-ports="]);
    let rule = closed
        .policy
        .rules
        .iter()
        .find(|r| r.summary.contains("node-ports"))
        .unwrap();
    assert_eq!(rule.ports.as_deref(), Some(&[][..]));
    assert!(
        rule.remote.v4.is_empty(),
        "a rule without ports matches nothing"
    );
}

/// The minimal template has a note for each kind of traffic that it cuts off. A note disappears
/// when a rule or a set opens that traffic.
///
/// Proves P7.
#[test]
fn what_the_minimal_template_cuts_off_is_said_while_it_is_so() {
    let all = [
        "shared-addresses-closed",
        "global-ipv6-closed",
        "api-server-closed",
        "ping-closed",
        "ssh-closed",
    ];
    let text = builtin("tke-minimal").unwrap().text;
    let wide = "pods: [10.0.0.0/8, ";
    let inbound = "inbound:\n";
    let outbound = "outbound:\n";
    let rule = |list: &str, rule: &str| text.replacen(list, &format!("{list}  - {rule}\n"), 1);
    let ping = "{protocol: icmp, icmp: {type: 8}, from: 0.0.0.0/0, action: accept}";
    let cases = [
        (text.to_owned(), vec![]),
        (
            text.replace(wide, "pods: [100.64.0.0/16, 10.0.0.0/8, "),
            vec!["shared-addresses-closed"],
        ),
        (
            text.replace(wide, "pods: ['2001:db8::/32', 10.0.0.0/8, "),
            vec!["global-ipv6-closed", "api-server-closed", "ping-closed"],
        ),
        (
            rule(
                outbound,
                "{protocol: tcp, ports: 6443, to: 198.51.100.7, action: accept}",
            ),
            vec!["api-server-closed"],
        ),
        (
            rule(
                outbound,
                "{protocol: tcp, ports: 6443, to: 10.0.0.0/8, action: accept}",
            ),
            vec![],
        ),
        (
            rule(
                inbound,
                "{protocol: tcp, ports: 22, from: 192.0.2.7, action: accept}",
            ),
            vec!["ssh-closed"],
        ),
        // Accepted by one rule, but taken away by an earlier one.
        (
            rule(inbound, "{protocol: all, from: any, action: drop}").replacen(
                "admin: []",
                "admin: [192.0.2.7]",
                1,
            ),
            vec![],
        ),
        (rule(inbound, ping), vec![]),
        (
            rule(inbound, ping).replacen(
                outbound,
                "outbound:\n  - {protocol: icmpv6, to: any, action: accept}\n",
                1,
            ),
            vec!["ping-closed"],
        ),
    ];
    for (policy, gone) in cases {
        let loaded = load_text("p", &policy, None, &[]).unwrap_or_else(|e| panic!("{e}"));
        let found = codes(&loaded);
        for code in all {
            let expected = !gone.contains(&code);
            assert_eq!(
                found.contains(&code),
                expected,
                "{code} of\n{policy}\n{found:?}"
            );
        }
    }
}

/// Proves P7: SSH is spoken of when nobody can reach it, by whatever policy.
#[test]
fn a_policy_that_lets_nobody_reach_ssh_is_warned_of() {
    for (rules, closed) in [
        ("[]", true),
        (
            "[{protocol: tcp, ports: 80, from: any, action: accept}]",
            true,
        ),
        (
            "[{protocol: udp, ports: 22, from: any, action: accept}]",
            true,
        ),
        (
            "[{protocol: tcp, ports: 20-30, from: 192.0.2.7, action: accept}]",
            false,
        ),
        (
            "[{protocol: tcp, from: '2001:db8::/64', action: accept}]",
            false,
        ),
        ("[{protocol: all, from: 10.0.0.0/8, action: accept}]", false),
        (
            "[{protocol: tcp, ports: 22, from: 10.0.0.0/8, action: drop}, {protocol: all, from: 10.1.0.0/16, action: accept}]",
            true,
        ),
        (
            "[{protocol: tcp, ports: 22, from: [10.0.0.0/9, 10.128.0.0/9], action: drop}, {protocol: all, from: 10.0.0.0/8, action: accept}]",
            true,
        ),
        (
            "[{protocol: tcp, ports: 22, from: 10.0.0.0/9, action: drop}, {protocol: all, from: 10.0.0.0/8, action: accept}]",
            false,
        ),
    ] {
        let policy =
            format!("outbound: [{{protocol: all, to: any, action: accept}}]\ninbound: {rules}\n");
        let loaded = load_text("p", &policy, None, &[]).unwrap();
        assert_eq!(codes(&loaded).contains(&"ssh-closed"), closed, "{rules}");
    }
}

/// Without essential traffic IPv6 finds no neighbour unless rules say so: a note, as long as
/// there is IPv6.
#[test]
fn neighbour_discovery_that_nothing_accepts_is_noted() {
    let all = |direction: &str, side: &str, protocol: &str| {
        format!("{direction}: [{{protocol: {protocol}, {side}: any, action: accept}}]\n")
    };
    let (web, node) = (all("inbound", "from", "tcp"), all("outbound", "to", "all"));
    let v4 = "inbound: [{protocol: tcp, from: 0.0.0.0/0, action: accept}]\n\
              outbound: [{protocol: all, to: 0.0.0.0/0, action: accept}]\n";
    for (policy, noted) in [
        (format!("essential: false\n{web}{node}"), true),
        (format!("{web}{node}"), false),
        (
            format!(
                "essential: false\n{}{node}",
                all("inbound", "from", "icmpv6")
            ),
            false,
        ),
        (
            format!("essential: false\n{}{node}", all("inbound", "from", "all")),
            false,
        ),
        (format!("essential: false\n{v4}"), false),
    ] {
        let loaded = load_text("p", &policy, None, &[]).unwrap();
        assert_eq!(
            codes(&loaded).contains(&"neighbours-closed"),
            noted,
            "{policy}"
        );
        for finding in &loaded.findings {
            if finding.code == "neighbours-closed" {
                assert_eq!(finding.severity, Severity::Note);
                assert!(finding.message.contains("neighbour-solicitation inbound"));
                assert!(!finding.message.contains("outbound"), "{}", finding.message);
            }
        }
    }
}

/// Which rule of a policy decides `in tcp 22 192.0.2.1` or `out icmp 192.0.2.1`: its name, else its
/// description, or nothing where no rule matches. All rules of these templates accept.
fn decided_by(policy: &Policy, packet: &str) -> String {
    let words: Vec<&str> = packet.split(' ').collect();
    let direction = match words[0] {
        "in" => Direction::Inbound,
        _ => Direction::Outbound,
    };
    let remote: std::net::IpAddr = words.last().unwrap().parse().unwrap();
    let (protocol, port, icmp) = match (words[1], remote.is_ipv4()) {
        ("tcp", _) => (6, words[2].parse().unwrap(), (0, 0)),
        ("udp", _) => (17, words[2].parse().unwrap(), (0, 0)),
        ("ping", true) => (1, 0, (8, 0)),
        ("ping", false) => (58, 0, (128, 0)),
        (other, _) => panic!("{other}"),
    };
    let packet = sg_policy::oracle::Packet {
        direction,
        remote,
        protocol,
        port,
        icmp,
    };
    let rule = sg_policy::oracle::first_match(policy, &packet).map(|index| &policy.rules[index]);
    rule.map_or_else(String::new, |rule| {
        assert_eq!(rule.action, Action::Accept);
        let name = rule.name.clone().or(rule.description.clone());
        name.unwrap()
    })
}

/// A template, and what decides some packets under the sets of its scenario. With empty sets, all
/// of them are dropped.
struct Fitted {
    name: &'static str,
    rows: &'static [(&'static str, &'static str)],
}

const FITTED: [Fitted; 5] = [
    Fitted {
        name: "web",
        rows: &[
            ("in tcp 80 203.0.113.9", "service"),
            ("in tcp 443 2001:db8:1::9", "service"),
            ("in tcp 8080 203.0.113.9", ""),
            ("in tcp 443 198.51.100.7", ""),
            ("in udp 443 203.0.113.9", "service over UDP"),
            ("in udp 80 203.0.113.9", ""),
            ("in tcp 22 198.51.100.7", "ssh"),
            ("in tcp 22 203.0.113.9", ""),
            ("in tcp 9100 fd00:30::1", "metrics"),
            ("in tcp 9100 203.0.113.9", ""),
            ("in ping 198.51.100.7", "pings"),
            ("in ping fd00:30::1", "pings"),
            ("in ping 203.0.113.9", ""),
            ("out tcp 5432 10.50.0.9", "backends"),
            ("out tcp 22 10.50.0.9", ""),
            ("out tcp 443 192.0.2.80", "updates"),
            ("out tcp 443 203.0.113.9", ""),
            ("out udp 53 fd00::2", "name resolution and time"),
            ("out tcp 53 10.0.0.2", "name resolution, long answers"),
            ("out udp 53 203.0.113.9", ""),
        ],
    },
    Fitted {
        name: "bastion",
        rows: &[
            ("in tcp 22 198.51.100.9", "ssh"),
            ("in tcp 22 2001:db8:10::9", "ssh"),
            ("in tcp 22 10.0.3.3", ""),
            ("in tcp 443 198.51.100.9", ""),
            ("in ping 2001:db8:10::9", "pings"),
            ("in ping 10.0.3.3", ""),
            ("out tcp 22 10.0.3.3", "fleet"),
            ("out tcp 22 2001:db8:20::3", "fleet"),
            ("out tcp 22 198.51.100.9", ""),
            ("out tcp 443 10.0.3.3", ""),
            ("out tcp 80 192.0.2.80", "updates"),
            ("out udp 123 10.0.0.2", "name resolution and time"),
        ],
    },
    Fitted {
        name: "database",
        rows: &[
            ("in tcp 5432 10.60.0.7", "service"),
            ("in tcp 5432 fd00:60::7", "service"),
            ("in tcp 5432 10.50.0.12", "service"),
            ("in tcp 5432 10.40.0.1", ""),
            ("in tcp 3306 10.60.0.7", ""),
            ("in tcp 9187 10.30.0.10", "metrics"),
            ("in tcp 22 10.40.0.1", "ssh"),
            ("in tcp 22 10.60.0.7", ""),
            ("in ping 10.60.0.7", ""),
            ("out tcp 5432 10.50.0.12", "replication"),
            ("out tcp 5432 10.60.0.7", ""),
            ("out tcp 443 10.70.0.5", "backups"),
            ("out tcp 443 10.60.0.7", ""),
            ("out udp 53 10.0.0.2", "name resolution and time"),
        ],
    },
    Fitted {
        name: "control-plane",
        rows: &[
            ("in tcp 6443 10.0.1.5", "api server"),
            ("in tcp 6443 172.16.3.4", "api server"),
            ("in tcp 6443 10.0.9.4", "api server"),
            ("in tcp 6443 198.51.100.7", "api server"),
            ("in tcp 6443 203.0.113.9", ""),
            ("in tcp 2379 10.0.0.11", "etcd"),
            ("in tcp 2380 fd00::a", "etcd"),
            ("in tcp 2379 10.0.1.5", ""),
            ("in tcp 2379 172.16.3.4", ""),
            ("in tcp 2379 198.51.100.7", ""),
            ("in tcp 10250 10.0.0.11", "components"),
            ("in tcp 10259 10.30.0.10", "components"),
            ("in tcp 10250 10.0.1.5", ""),
            ("in tcp 10250 172.16.3.4", ""),
            ("in udp 8472 10.0.1.5", "overlay"),
            ("in udp 4789 fd00:1::5", "overlay"),
            ("in udp 8472 172.16.3.4", ""),
            ("in tcp 30080 10.0.1.5", ""),
            ("in tcp 22 198.51.100.7", "ssh"),
            ("in tcp 22 10.0.1.5", ""),
            ("in ping 10.0.9.4", "pings"),
            ("in ping fd00:1::5", "pings"),
            ("in ping 172.16.3.4", ""),
            ("out tcp 2380 10.0.0.11", "control plane"),
            ("out tcp 6443 fd00::a", "control plane"),
            ("out tcp 2380 10.0.1.5", ""),
            ("out tcp 10250 10.0.1.5", "kubelets"),
            ("out tcp 9443 172.16.3.4", "webhooks"),
            ("out tcp 8080 172.16.3.4", ""),
            ("out udp 8472 10.0.1.5", "overlay"),
            ("out tcp 443 192.0.2.80", "registries"),
            ("out tcp 443 203.0.113.9", ""),
        ],
    },
    Fitted {
        name: "worker",
        rows: &[
            ("in tcp 8080 10.0.1.5", "cluster"),
            ("in udp 8472 10.0.1.5", "cluster"),
            ("in udp 5353 172.16.3.4", "cluster"),
            ("in ping fd00:1::5", "cluster"),
            ("in tcp 10250 10.0.0.10", "control plane"),
            ("in tcp 9443 10.0.0.10", "control plane"),
            ("in tcp 2379 10.0.0.10", ""),
            ("in udp 4789 10.0.0.10", "overlay"),
            ("in tcp 10250 10.30.0.10", "metrics"),
            ("in tcp 10250 203.0.113.9", ""),
            ("in tcp 10256 10.0.9.4", "balancers"),
            ("in tcp 30080 10.0.9.4", "balancers"),
            ("in udp 30053 10.0.9.4", "balancers over UDP"),
            ("in tcp 22 10.0.9.4", ""),
            ("in tcp 30080 203.0.113.9", "clients"),
            ("in udp 32767 203.0.113.9", "clients over UDP"),
            ("in tcp 32768 203.0.113.9", ""),
            ("in tcp 10256 203.0.113.9", ""),
            ("in tcp 22 198.51.100.7", "ssh"),
            ("in tcp 22 203.0.113.9", ""),
            ("in ping 10.0.0.10", "pings"),
            ("in ping 203.0.113.9", ""),
            ("out tcp 8080 172.16.3.4", "cluster"),
            ("out tcp 6443 10.0.0.10", "api server"),
            ("out tcp 2379 10.0.0.10", ""),
            ("out udp 8472 10.0.0.10", "overlay"),
            ("out tcp 443 192.0.2.80", "external"),
            ("out udp 443 192.0.2.80", ""),
            ("out tcp 443 203.0.113.9", ""),
            ("out udp 53 10.0.0.2", "name resolution and time"),
        ],
    },
];

/// Proves P7: what each of these templates accepts with its sets, by which rule, and what it does
/// not; with empty sets nobody gets in, and nothing but DHCP out.
#[test]
fn templates_accept_what_their_sets_say_and_nothing_else() {
    for Fitted { name, rows } in FITTED {
        let fitted = builtin_policy(name, builtin(name).unwrap().scenario).policy;
        let empty = builtin_policy(name, &[]).policy;
        for (packet, expected) in rows {
            assert_eq!(decided_by(&fitted, packet), *expected, "{name}: {packet}");
            assert_eq!(
                decided_by(&empty, packet),
                "",
                "{name} with empty sets: {packet}"
            );
        }
        for policy in [&fitted, &empty] {
            for remote in ["255.255.255.255", "ff02::1:2"] {
                let packet = |port: u16| format!("out udp {port} {remote}");
                assert_eq!(decided_by(policy, &packet(67)), "DHCP and DHCPv6 requests");
                assert_eq!(decided_by(policy, &packet(68)), "");
            }
        }
        // Each rule but that of DHCP decides some packet of the table.
        let mut unused: Vec<String> = fitted.rules.iter().map(Rule::title).collect();
        for (packet, _) in rows {
            let decides = |rule: &Rule| {
                let name = rule.name.clone().or(rule.description.clone()).unwrap();
                name == decided_by(&fitted, packet)
            };
            let used = fitted
                .rules
                .iter()
                .filter(|rule| decides(rule))
                .map(Rule::title);
            let used: Vec<String> = used.collect();
            unused.retain(|title| !used.contains(title));
        }
        unused.retain(|title| {
            !title.contains("67") && !title.contains("icmp") && !title.contains(" 53")
        });
        assert_eq!(unused, Vec::<String>::new(), "{name}");
        // Whatever `check` says of the empty template is that sets are empty and what that closes.
        for code in codes(&builtin_policy(name, &[])) {
            let is_known = ["empty-set", "denies-inbound"].contains(&code);
            assert!(is_known || code.ends_with("-closed"), "{name}: {code}");
        }
    }
}

/// Proves P7: a template whose sets are replaced in its text is what `--set` makes of it, with its
/// comments.
#[test]
fn a_template_that_is_fitted_is_the_same_policy_as_with_set() {
    for builtin in builtins() {
        let plain = builtin_policy(builtin.name, &[]).policy;
        let sets = &plain.groups[0].sets;
        let addresses = sets.addresses.iter();
        let addresses = addresses.map(|set| format!("{}=192.0.2.7,2001:db8::/32", set.name));
        let ports = sets.ports.iter().map(|set| format!("{}=7-9,80", set.name));
        let sets: Vec<String> = addresses.chain(ports).collect();
        let words: Vec<&str> = sets.iter().map(String::as_str).collect();
        let overrides: Vec<SetOverride> = words.iter().map(|it| it.parse().unwrap()).collect();
        let text = sg_policy::formats::fit(builtin, &overrides);
        let comments = |text: &str| text.lines().filter(|line| line.contains('#')).count();
        assert_eq!(comments(&text), comments(builtin.text));
        let fitted = load_text("x", &text, None, &[]).unwrap().policy;
        assert_eq!(
            fitted.digest,
            builtin_policy(builtin.name, &words).policy.digest
        );
        assert_eq!(sg_policy::formats::fit(builtin, &[]), builtin.text);
    }
}

/// A set with addresses of one family may stand in a rule for the other, which then matches
/// nothing, and a note says so: it is a parameter. A literal may not.
#[test]
fn a_set_without_addresses_of_a_family_is_noted() {
    let text = "address-sets: {admin: [192.0.2.7]}\n\
                outbound: [{protocol: all, to: any, action: accept}]\n\
                inbound: [{protocol: icmpv6, from: admin, action: accept}, {protocol: all, from: admin, action: accept}]\n";
    let loaded = load_text("p", text, None, &[]).unwrap();
    let found = loaded
        .findings
        .iter()
        .find(|it| it.code == "empty-set")
        .unwrap();
    assert_eq!(
        found.message,
        "`admin` has no IPv6 address, so that `icmpv6 from admin` matches nothing"
    );
    assert!(loaded.policy.rules[0].remote.v6.is_empty());
    let literal = text.replace("icmpv6, from: admin", "icmpv6, from: 192.0.2.7");
    assert!(load_text("p", &literal, None, &[]).is_err());
}
