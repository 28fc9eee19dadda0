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
