//! What people write who know other tools is refused, with a remedy that widens nothing.

use crate::{rule, text};

/// What people write who know other tools, and what the error says.
pub(crate) fn foreign() -> Vec<(String, &'static str)> {
    let tcp = |more: &str| rule(&format!("protocol: tcp, action: accept, {more}"));
    let with = |protocol: &str| rule(&format!("protocol: {protocol}, action: accept, from: any"));
    let out = |more: &str| format!("outbound:\n  - {{protocol: tcp, action: accept, {more}}}\n");
    let deny = "inbound: [{protocol: all, from: any, action: drop}]\n";
    vec![
        // Networks with exceptions, and addresses that are none.
        (
            tcp("from: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: [{ipBlock: {cidr: 10.0.0.0/8}}]"),
            "a network is written as it is",
        ),
        (tcp("from: {cidr: 10.0.0.0/8}"), "write the CIDR alone"),
        (
            tcp("from: 10.0.0.0/33"),
            "a single address is `10.0.0.0/32`",
        ),
        (tcp("from: localhost"), "host names are not looked up"),
        (
            rule("protocol: icmp, action: accept, from: any, icmp: {type: echo}"),
            "did you mean `echo-request`",
        ),
        (
            "timeouts: {udp: 0s}\n".into(),
            "the shortest timeout is 1 second",
        ),
        // Directions.
        ("ingress: []\n".into(), "did you mean `inbound`"),
        ("egress: []\n".into(), "did you mean `outbound`"),
        ("input: []\n".into(), "did you mean `inbound`"),
        (
            "groups: [{name: a, ingress: []}]\n".into(),
            "did you mean `inbound`",
        ),
        ("sets: {}\n".into(), "did you mean `address-sets`"),
        (
            format!("{deny}policy: drop\n"),
            "what no rule matches is dropped",
        ),
        // Whole documents of another kind.
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: {podSelector: {}}\n"
                .into(),
            "this is a Kubernetes NetworkPolicy",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n".into(),
            "selects pods by their labels",
        ),
        (
            "kind: NetworkPolicy\nmetadata: {name: x}\nspec: {podSelector: {}}\n".into(),
            "this is a Kubernetes NetworkPolicy",
        ),
        (
            "spec: {podSelector: {}, policyTypes: [Ingress]}\n".into(),
            "this is a Kubernetes NetworkPolicy",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n".into(),
            "CiliumNetworkPolicy",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {}\n".into(),
            "a Kubernetes ConfigMap",
        ),
        (
            "table inet filter {\n  chain input {\n  }\n}\n".into(),
            "a ruleset of nftables",
        ),
        (
            "*filter\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n".into(),
            "a ruleset of iptables",
        ),
        (
            "{\"SecurityGroups\": []}\n".into(),
            "an answer of the AWS API",
        ),
        (
            "{\"SecurityGroupPolicySet\": {\"Ingress\": []}}\n".into(),
            "Tencent Cloud",
        ),
        (
            "resource \"aws_security_group\" \"a\" {\n}\n".into(),
            "a Terraform document",
        ),
        // Protocols.
        (with("[tcp, udp]"), "one rule for each protocol"),
        (with("'tcp,udp'"), "one rule for each protocol"),
        (with("tcp/udp"), "one rule for each protocol"),
        (with("tcp/80"), "`protocol: tcp` and `ports: 80`"),
        (with("-1"), "did you mean `all`"),
        (with("TCP"), "did you mean `tcp`"),
        (
            rule("proto: tcp, from: any, action: accept"),
            "did you mean `protocol`",
        ),
        (
            rule("IpProtocol: tcp, from: any, action: accept"),
            "did you mean `protocol`",
        ),
        // Ports.
        (tcp("from: any, port: 22"), "did you mean `ports`"),
        (tcp("from: any, dport: 22"), "did you mean `ports`"),
        (tcp("from: any, from_port: 22"), "as one range"),
        (
            tcp("from: any, source-ports: 1024-65535"),
            "source ports are not matched",
        ),
        (
            tcp("from: any, sport: 1024-65535"),
            "a rule without this line matches more",
        ),
        (
            out("to: any, source_port: 53"),
            "source ports are not matched",
        ),
        (tcp("from: any, ports: http"), "usually 80"),
        (tcp("from: any, ports: 80/tcp"), "stands under `protocol`"),
        (tcp("from: any, ports: '*'"), "every port is `all`"),
        (tcp("from: any, ports: $web"), "write `web`"),
        (
            tcp("from: any, ports: !22"),
            "list the ranges around what is left out",
        ),
        // Addresses.
        (tcp("cidr: 10.0.0.0/8"), "did you mean `from`"),
        (tcp("source: 10.0.0.0/8"), "did you mean `from`"),
        (tcp("cidr_blocks: [10.0.0.0/8]"), "did you mean `from`"),
        (tcp("CidrBlock: 10.0.0.0/8"), "did you mean `from`"),
        (out("daddr: 10.0.0.0/8"), "did you mean `to`"),
        (out("cidr: 10.0.0.0/8"), "did you mean `to`"),
        (tcp("from: any, destination: 10.0.0.1"), "remote end only"),
        (out("to: any, source: 10.0.0.1"), "remote end only"),
        (
            tcp("from: any, to: 10.0.0.1"),
            "a rule without `to` matches more",
        ),
        (tcp("from: $office"), "write `office`"),
        (tcp("from: @office"), "write `office`"),
        (tcp("from: '@office'"), "write `office`"),
        (tcp("from: '${office}'"), "write `office`"),
        (
            tcp("from: !10.1.0.0/16"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: '!10.1.0.0/16'"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: [any, !10.1.0.0/16]"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: 'not 10.1.0.0/16'"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: '10.0.0.0/8 except 10.1.0.0/16'"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: '^10.1.0.0/16'"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: any, ports: '!25'"),
            "list the ranges around what is left out",
        ),
        (
            tcp("from: any, except: [10.1.0.0/16]"),
            "list the ranges around what is left out",
        ),
        (
            rule("protocol: '!tcp', from: any, action: drop"),
            "a rule for each protocol",
        ),
        (tcp("from: any, ports: '22:25'"), "`22-25`"),
        (tcp("from: '*'"), "every address is `any`"),
        (tcp("from: *"), "every address is `any`"),
        (tcp("from: 10.0.0.*"), "as a CIDR"),
        (tcp("from: all"), "every address is `any`"),
        (tcp("from: anywhere"), "every address is `any`"),
        (tcp("from: sg-0123456789abcdef0"), "are not looked up"),
        (
            tcp("from: any, source_security_group_id: sg-1"),
            "rules match addresses",
        ),
        (
            tcp("from: 10.0.0.0/8, except: [10.1.0.0/16]"),
            "list the ranges around what is left out",
        ),
        // Actions.
        (
            rule("protocol: tcp, from: any, action: allow"),
            "did you mean `accept`",
        ),
        (
            rule("protocol: tcp, from: any, action: ACCEPT"),
            "did you mean `accept`",
        ),
        (
            rule("protocol: tcp, from: any, action: deny"),
            "did you mean `drop`",
        ),
        (
            rule("protocol: tcp, from: any, action: reject"),
            "did you mean `drop`? Nobody is told",
        ),
        (
            rule("protocol: tcp, from: any, action: DROP"),
            "did you mean `drop`",
        ),
        (
            rule("protocol: tcp, from: any, verdict: accept"),
            "did you mean `action`",
        ),
        (
            rule("protocol: tcp, from: any, policy: accept"),
            "did you mean `action`",
        ),
        // The rest of a rule.
        (tcp("from: any, comment: x"), "did you mean `description`"),
        (
            tcp("from: any, PolicyDescription: x"),
            "did you mean `description`",
        ),
        (
            tcp("from: any, state: new"),
            "a rule without this line matches more",
        ),
        (
            tcp("from: any, iifname: eth0"),
            "a rule without this line matches more",
        ),
        (
            tcp("from: any, limit: 10/second"),
            "a rule without this line matches more",
        ),
        (tcp("from: any, priority: 1"), "in the order of the file"),
        (
            tcp("from: any, ethertype: IPv4"),
            "`0.0.0.0/0` is every IPv4",
        ),
        (tcp("from: any, frobnicate: 1"), "may match more"),
        (
            rule("protocol: icmp, action: accept, from: any, icmp: 8"),
            "`icmp: {type: 8}`",
        ),
        (
            rule("protocol: icmp, action: accept, from: any, icmp_type: 8"),
            "`icmp: {type: ..., code: ...}`",
        ),
        (
            rule("protocol: all, action: accept, from: any, ports: 22"),
            "each with these ports",
        ),
        // Options.
        ("timeouts: {tcp: 1h}\n".into(), "`tcp-established`"),
        (
            "timeouts: {established: 1h}\n".into(),
            "did you mean `tcp-established`",
        ),
        (
            "timeouts: {nf_conntrack_tcp_timeout_established: 1h}\n".into(),
            "did you mean `tcp-established`",
        ),
        (
            "timeouts: {nf_conntrack_udp_timeout_stream: 1h}\n".into(),
            "did you mean `udp-stream`",
        ),
        (
            "timeouts: {udp: 400d}\n".into(),
            "the longest timeout is 365 days",
        ),
        (
            "timeouts: {udp: 0}\n".into(),
            "the shortest timeout is 1 second",
        ),
        (
            "timeouts: {udp: 1h30m}\n".into(),
            "one whole number and one unit",
        ),
        ("timeouts: {udp: 2w}\n".into(), "the units are"),
        ("established: revalid\n".into(), "did you mean `revalidate`"),
    ]
}

/// What people write who know other tools: each is refused with a remedy that says how it is
/// written here, and none of the remedies lets more through than what was written.
///
/// Proves P8.
#[test]
fn words_of_other_tools_get_a_remedy_that_widens_nothing() {
    let mut failures = String::new();
    for (policy, says) in foreign() {
        let Err(errors) = text(&policy) else {
            failures += &format!("accepted:\n{policy}\n");
            continue;
        };
        if !errors
            .0
            .iter()
            .any(|error| error.to_string().contains(says))
        {
            failures += &format!("`{says}` is not said of\n{policy}but\n{errors}\n\n");
        }
        for error in &errors.0 {
            let help = error.help.as_deref().unwrap_or_default();
            for wrong in ["remove", "leave it out", "delete"] {
                if help.contains(wrong) {
                    failures += &format!("`{wrong}` in the remedy of\n{policy}: {help}\n");
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Where a restriction cannot stay as it is written, no remedy says to take it out.
///
/// Proves P8.
#[test]
fn no_remedy_says_to_take_a_restriction_out() {
    let cases = [
        rule("protocol: gre, action: accept, from: any, ports: 22"),
        rule("protocol: icmp, action: accept, from: any, ports: 22"),
        rule("protocol: tcp, action: accept, from: any, icmp: {type: 8}"),
        rule("protocol: icmp, action: accept, from: any, icmp: {code: 1}"),
        rule("protocol: icmp, action: accept, from: any, icmp: {type: 3, code: x}"),
        rule("protocol: tcp, action: accept, from: any, ports: []"),
        rule("protocol: tcp, action: accept, from: any, ports: ~"),
        rule("protocol: tcp, action: accept, from: []"),
        rule("protocol: tcp, action: accept, from: fe80::1%eth0"),
        rule("protocol: tcp, action: drop, from: any, from: 10.0.0.0/8"),
        rule("protocol: tcp, action: accept"),
        rule("action: accept, from: 10.0.0.0/8"),
        "address-sets: {a: [b], b: [a]}\n".to_owned(),
    ];
    for policy in cases {
        let errors = text(&policy).unwrap_err();
        for error in &errors.0 {
            let help = error.help.as_deref().unwrap_or_default();
            let is_wrong = [
                "remove",
                "leave",
                "delete",
                "write `from: any`",
                "`protocol: all`",
            ]
            .iter()
            .any(|word| help.contains(word));
            assert!(!is_wrong && !help.is_empty(), "{policy}: {help}");
        }
    }
}
