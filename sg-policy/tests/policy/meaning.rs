//! What a policy means: families, groups and their order, identities, digests, rules without
//! effect.

use sg_policy::policy::*;

use crate::{codes, good, rule, write};

/// Proves P5.
#[test]
fn a_family_is_what_was_written_and_what_the_protocol_leaves() {
    let policy = rules_from_lines(
        "in tcp 22 from 0.0.0.0/0 accept
         in tcp 22 from ::/0 accept
         in tcp 22 from any accept
         in icmp 8/0 from any accept
         in icmpv6 128 from any accept log
         in 51 from 10.0.0.0/8,2001:db8::/32 accept
         in 6 80 from any drop
         out all to any drop",
    );
    let families: Vec<(bool, bool)> = policy
        .rules
        .iter()
        .map(|r| (!r.remote.v4.is_empty(), !r.remote.v6.is_empty()))
        .collect();
    let both = (true, true);
    assert_eq!(
        families,
        [
            (true, false),
            (false, true),
            both,
            (true, false),
            (false, true),
            (true, false),
            both,
            both
        ]
    );
    assert_eq!(
        policy.rules[3].icmp,
        Some(IcmpMatch {
            kind: 8,
            code: Some(0)
        })
    );
    assert_eq!(policy.rules[3].summary, "icmp 8/0 from any");
    assert_eq!(policy.rules[5].summary, "ah from 10.0.0.0/8,2001:db8::/32");
    assert_eq!(policy.rules[6].summary, "tcp 80 from any");
    assert!(policy.rules[4].log && !policy.rules[3].log);
    assert_eq!(policy.rules[7].direction, Direction::Outbound);
    assert_eq!(policy.rules[7].position, 1);
}

const TWO_GROUPS: &str = "
groups:
- name: first
  inbound:
  - {protocol: tcp, ports: 22, from: any, action: accept}
  - {protocol: all, from: 0.0.0.0/0, action: drop}
  - {protocol: all, from: '::/0', action: drop}
- name: second
  inbound:
  - {protocol: tcp, ports: 80, from: any, action: accept}
  - {protocol: all, from: any, action: drop}
";

/// Proves P3.
#[test]
fn a_trailing_deny_is_deferred_to_the_last_group_unless_it_is_honoured() {
    let summaries = |loaded: &Loaded| -> Vec<String> {
        let rules = loaded.policy.rules.iter();
        rules
            .map(|r| format!("{} {} {}", r.position, r.group, r.summary))
            .collect()
    };
    let deferred = good(TWO_GROUPS);
    assert_eq!(
        summaries(&deferred),
        [
            "1 first tcp 22 from any",
            "2 second tcp 80 from any",
            "3 second all from any"
        ]
    );
    assert!(codes(&deferred).contains(&"trailing-deny-deferred"));
    let honoured = good(&format!("trailing-deny: honour{TWO_GROUPS}"));
    assert_eq!(honoured.policy.rules.len(), 5);
    assert!(codes(&honoured).contains(&"trailing-deny-honoured"));
    let alone = good(&rule("protocol: all, from: any, action: drop"));
    assert!(!codes(&alone).iter().any(|c| c.starts_with("trailing")));
}

/// Proves P9: what no rule matches is logged where that is said, by direction.
#[test]
fn what_no_rule_matches_can_be_logged() {
    for (value, expected) in [
        ("true", [true, true]),
        ("false", [false, false]),
        ("inbound", [true, false]),
        ("outbound", [false, true]),
    ] {
        let policy = good(&format!(
            "log-no-match: {value}\n{}",
            rule("protocol: tcp, from: any, action: accept")
        ))
        .policy;
        assert_eq!(policy.log_no_match, expected, "{value}");
        assert_eq!(policy.logs(), expected.contains(&true), "{value}");
    }
    assert!(!good("{}\n").policy.logs());
    let error = load_text("p.yaml", "log-no-match: both\n", None, &[]).unwrap_err();
    let printed = error.to_string();
    assert!(
        printed.contains("p.yaml:1:15") && printed.contains("inbound, outbound"),
        "{printed}"
    );
}

/// Proves P9: of a deny that is deferred, what it would have logged is logged, and nothing else.
#[test]
fn a_deferred_trailing_deny_keeps_its_log() {
    let of = |first: &str, last: &str| {
        let text = format!(
            "groups:\n- name: base\n  inbound:\n  - {{protocol: tcp, from: any, action: accept}}\n{first}\
             - name: team\n  inbound:\n  - {{protocol: udp, from: any, action: accept}}\n{last}"
        );
        let rules = good(&text).policy.rules;
        let shown = rules.iter().map(|r| {
            let log = if r.log { " log" } else { "" };
            format!("{}: {} {}{log}", r.group, r.title(), r.action.name())
        });
        shown.collect::<Vec<_>>()
    };
    let deny = |from: &str, more: &str| {
        format!("  - {{protocol: all, from: {from:?}, action: drop{more}}}\n")
    };
    let accepts = ["base: tcp from any accept", "team: udp from any accept"];
    // Without a log it is left out, as ever.
    assert_eq!(of(&deny("any", ""), ""), accepts);
    // The last group has none of its own.
    let logged = deny("any", ", log: true, name: rest");
    let kept = "team: [rest] all from any drop log";
    assert_eq!(of(&logged, ""), [accepts[0], accepts[1], kept]);
    // The same: that one logs.
    assert_eq!(
        of(&logged, &deny("any", "")),
        [accepts[0], accepts[1], "team: all from any drop log"]
    );
    // Another: only what was to be logged is.
    assert_eq!(
        of(&deny("0.0.0.0/0", ", log: true"), &deny("any", "")),
        [
            accepts[0],
            accepts[1],
            "team: all from 0.0.0.0/0 drop log",
            "team: all from any drop"
        ]
    );
}

/// Proves P1, P2 and P3.
#[test]
fn several_files_bind_their_groups_in_order_and_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, text: &str| PolicyInput::File(write(dir.path(), name, text));
    let a = of(
        "a.yaml",
        "essential: false\ninbound: [{protocol: tcp, from: any, action: accept}, {protocol: all, from: any, action: drop}]\n",
    );
    let b = of(
        "b.yaml",
        "timeouts: {udp: 1m}\ninbound: [{protocol: udp, from: any, action: accept}]\n",
    );
    let loaded = load(&[b.clone(), a.clone()], &[]).unwrap();
    let groups: Vec<&str> = loaded
        .policy
        .rules
        .iter()
        .map(|r| r.group.as_str())
        .collect();
    assert_eq!(groups, ["b", "a", "a"]);
    assert_eq!(loaded.policy.name, "b+a");
    assert!(!loaded.policy.essential);
    assert_eq!(
        loaded.policy.timeouts[sg_common::flow::Timeout::Udp as usize],
        60
    );
    assert_eq!(
        load(&[a.clone(), b.clone()], &[])
            .unwrap()
            .policy
            .rules
            .len(),
        2
    );

    let c = of("c.yaml", "name: a\nessential: true\ntimeouts: {udp: 2m}\n");
    let errors = load(&[a.clone(), b, c], &[]).unwrap_err();
    let printed = errors.to_string();
    assert_eq!(errors.0.len(), 3, "{printed}");
    for part in [
        "c.yaml:2:1",
        "a.yaml:1:1",
        "`timeouts: udp`",
        "b.yaml:1:12",
        "second group `a`",
    ] {
        assert!(printed.contains(part), "{part} is missing in\n{printed}");
    }
    assert!(
        load(&[a.clone(), a], &[])
            .unwrap_err()
            .to_string()
            .contains("named twice")
    );
}

/// Proves P2.
#[test]
fn a_policy_without_rules_denies_everything_and_check_says_so() {
    for text in ["inbound: []\n", "name: x\n", "{}\n"] {
        let loaded = good(text);
        assert!(loaded.policy.rules.is_empty());
        assert_eq!(codes(&loaded), ["denies-everything", "ssh-closed"]);
    }
}

/// Proves A3.
#[test]
fn an_identity_survives_moves_and_rewording_and_is_unique() {
    let first =
        "in tcp 22,80 from 10.0.0.0/8,::1 accept\nin udp from any drop\nin udp from any drop";
    let second = "in all from 192.0.2.1/32 drop\nin udp from any drop\nin 6 80,22 from ::1,10.0.0.0/8 accept log";
    let (first, second) = (rules_from_lines(first), rules_from_lines(second));
    assert_eq!(first.rules[0].identity, second.rules[2].identity);
    assert_eq!(first.rules[1].identity, second.rules[1].identity);
    assert_eq!(
        first.rules[2].identity,
        format!("{}#2", first.rules[1].identity)
    );
    let other = rules_from_lines("out udp to any drop\nin udp from any accept");
    for rule in &other.rules {
        assert!(first.rules.iter().all(|r| r.identity != rule.identity));
    }
}

#[test]
fn the_digest_counts_meaning_and_not_spelling_or_paths() {
    let plain = "inbound:\n- {protocol: tcp, ports: 22-23, from: 10.0.0.0-10.255.255.255, action: accept}\n";
    let spelled = "# hello\ninbound:\n  - protocol: 6\n    ports: [23, '22']\n    from: [10.0.0.0/8]\n    action: accept\n";
    let of = |name: &str, text: &str| load_text(name, text, None, &[]).unwrap().policy.digest;
    let digest = of("a.yaml", plain);
    assert!(digest.starts_with("sha256:") && digest.len() == 7 + 64);
    assert_eq!(digest, of("dir/b.yaml", spelled));
    for changed in [
        plain.replace("accept", "drop"),
        plain.replace("22-23", "22-24"),
        plain.replace("10.0.0.0-", "10.0.0.1-"),
        plain.replace("inbound", "essential: false\ninbound"),
        plain.replace("inbound", "non-ip: arp-only\ninbound"),
        plain.replace("inbound", "timeouts: {udp: 31}\ninbound"),
        plain.replace("}", ", log: true}"),
        plain.replace("inbound", "log-no-match: true\ninbound"),
        plain.replace("inbound", "log-no-match: outbound\ninbound"),
        plain.replace("inbound", "name: x\ninbound"),
    ] {
        assert_ne!(of("a.yaml", &changed), digest, "{changed}");
    }
}

/// Proves P3.
#[test]
fn rules_that_can_never_match_are_found_and_others_are_left_alone() {
    let shadowed = |lines: &str| -> Vec<u32> {
        let policy = rules_from_lines(lines);
        let yaml = yaml_of(lines);
        let found = good(&yaml).findings;
        let lines = found.iter().filter(|f| f.code == "shadowed-rule");
        let lines = lines
            .map(|f| f.location.as_ref().unwrap().line - 1)
            .collect();
        assert!(!policy.rules.is_empty());
        lines
    };
    let none: [u32; 0] = [];
    assert_eq!(
        shadowed("in tcp 22 from 10.0.0.0/8 drop\nin tcp 22 from 10.1.0.0/16 accept"),
        [2]
    );
    assert_eq!(
        shadowed("in all from any drop\nin icmp 8 from 1.2.3.4 accept"),
        [2]
    );
    assert_eq!(
        shadowed("in tcp 20-30 from any accept\nin tcp 22,25 from ::1 drop"),
        [2]
    );
    assert_eq!(
        shadowed("in icmp 8 from any accept\nin icmp 8/0 from any drop"),
        [2]
    );
    assert_eq!(
        shadowed("in icmp 8/0 from any accept\nin icmp 8 from any drop"),
        none
    );
    assert_eq!(
        shadowed("in tcp 22 from 0.0.0.0/0 accept\nin tcp 22 from any drop"),
        none
    );
    assert_eq!(
        shadowed("in tcp 22 from any accept\nin tcp 22-23 from any drop"),
        none
    );
    assert_eq!(
        shadowed("in tcp 22 from any accept\nin udp 22 from any drop"),
        none
    );
    assert_eq!(
        shadowed("in tcp from 10.0.0.0/9,10.128.0.0/9 drop\nin tcp from 10.0.0.0/10 drop"),
        [2]
    );
}

/// The inbound lines as a policy whose rule of line n stands on line n + 1.
fn yaml_of(lines: &str) -> String {
    let mut yaml = "inbound:\n".to_owned();
    for line in lines.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (detail, from, action) = match words[2..] {
            [detail, "from", from, action] => (Some(detail), from, action),
            ["from", from, action] => (None, from, action),
            _ => panic!("{line}"),
        };
        let detail = match (detail, words[1]) {
            (Some(detail), "icmp") => match detail.split_once('/') {
                Some((t, c)) => format!("icmp: {{type: {t}, code: {c}}}, "),
                None => format!("icmp: {{type: {detail}}}, "),
            },
            (Some(ports), _) => format!("ports: '{ports}', "),
            (None, _) => String::new(),
        };
        let protocol = words[1];
        yaml += &format!("- {{protocol: {protocol}, {detail}from: '{from}', action: {action}}}\n");
    }
    yaml
}

/// Proves C6: a guard is part of what a policy means, whichever file has it, and accepts nothing.
#[test]
fn a_guard_is_in_the_digest_and_is_no_rule() {
    let load = |text: &str| load_text("p.yaml", text, None, &[]).unwrap();
    let rules = "inbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n";
    let plain = load(rules);
    let guarded = |entry: &str| load(&format!("guard: [{entry}]\n{rules}"));
    let one = guarded("{protocol: tcp, ports: 22, from: any}");
    assert_eq!(one.policy.rules.len(), 1);
    assert_eq!(one.policy.guard[0].summary, "tcp 22 from any");
    assert_eq!(
        load(&format!("guard: []\n{rules}")).policy.digest,
        plain.policy.digest
    );
    let mut digests = vec![plain.policy.digest, one.policy.digest];
    for entry in [
        "{protocol: tcp, ports: 23, from: any}",
        "{protocol: tcp, from: any}",
        "{protocol: udp, ports: 22, from: any}",
        "{protocol: tcp, ports: 22, from: 0.0.0.0/0}",
        "{protocol: tcp, ports: 22, from: any, description: us}",
        "{protocol: tcp, ports: 22, from: any}, {protocol: tcp, ports: 22, from: any}",
    ] {
        digests.push(guarded(entry).policy.digest);
    }
    let all = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), all);
    // A set that only the guard names is used, and one that is empty is noted.
    let named = "address-sets: {admin: []}\nguard: [{protocol: tcp, ports: 22, from: admin}]\n";
    let loaded = load(&format!("{named}{rules}"));
    assert!(
        codes(&loaded).contains(&"empty-set"),
        "{:?}",
        codes(&loaded)
    );
    assert!(
        !codes(&loaded).contains(&"unused-set"),
        "{:?}",
        codes(&loaded)
    );
}
