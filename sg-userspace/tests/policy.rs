//! The policy layer as the rest of the program sees it: bad inputs with their places, the built-in
//! templates, groups, sets, identities and digests.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sg_userspace::policy::*;

fn text(policy: &str) -> Result<Loaded, PolicyErrors> {
    load_text("p.yaml", policy, None, &[])
}

fn good(policy: &str) -> Loaded {
    text(policy).unwrap_or_else(|e| panic!("{e}"))
}

fn builtin_policy(name: &str, sets: &[&str]) -> Loaded {
    let overrides: Vec<SetOverride> = sets.iter().map(|s| s.parse().unwrap()).collect();
    load(&[PolicyInput::Builtin(name.into())], &overrides).unwrap_or_else(|e| panic!("{e}"))
}

fn codes(loaded: &Loaded) -> Vec<&str> {
    loaded.findings.iter().map(|f| f.code).collect()
}

/// One inbound rule, written as a flow mapping on line 2 from column 6 on.
fn rule(rule: &str) -> String {
    format!("inbound:\n  - {{{rule}}}\n")
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn load_file(path: &Path) -> Result<Loaded, PolicyErrors> {
    load(&[PolicyInput::File(path.to_owned())], &[])
}

/// Proves P8.
#[test]
fn every_bad_policy_is_refused_with_its_place_and_a_remedy() {
    let tcp = |more: &str| rule(&format!("protocol: tcp, action: accept, {more}"));
    let all = |more: &str| rule(&format!("protocol: all, action: accept, {more}"));
    // Policy text, line:column, what the error says.
    let table: Vec<(String, &str, &str)> = vec![
        ("inbound: [\n".into(), "1:10", "not valid YAML"),
        ("groups:\n\t- a: 1\n".into(), "2:2", "not valid YAML"),
        ("- a\n".into(), "1:1", "the policy is a list"),
        ("hello\n".into(), "1:1", "the policy is `hello`"),
        ("# only this\n\n".into(), "1:1", "no policy"),
        ("inbound: []\n---\n".into(), "2:1", "second YAML document"),
        ("inbuond: []\n".into(), "1:1", "did you mean `inbound`"),
        ("inbound: []\ninbound: []\n".into(), "2:1", "stands twice"),
        ("inbound:\n".into(), "1:8", "expected a list"),
        ("inbound: {}\n".into(), "1:10", "expected a list"),
        (
            "groups: []\ninbound: []\n".into(),
            "1:1",
            "one or the other",
        ),
        ("groups: [{inbound: []}]\n".into(), "1:10", "no `name`"),
        (
            "groups:\n- {name: a}\n- {name: a}\n".into(),
            "3:10",
            "a second group `a`; the first is at line 2",
        ),
        (
            "trailing-deny: honor\n".into(),
            "1:16",
            "did you mean `honour`",
        ),
        ("essential: yes\n".into(), "1:12", "did you mean `true`"),
        ("established: kept\n".into(), "1:14", "did you mean `keep`"),
        ("timeouts: {udp: 0}\n".into(), "1:17", "not a timeout"),
        ("timeouts: {upd: 1}\n".into(), "1:12", "did you mean `udp`"),
        ("name: a|b\n".into(), "1:7", "not a name"),
        ("name: !!str x\n".into(), "1:13", "YAML tag"),
        (tcp("from: any, port: 22"), "2:48", "did you mean `ports`"),
        (tcp("from: admin"), "2:43", "unknown address set `admin`"),
        (
            tcp("from: any, ports: web"),
            "2:55",
            "unknown port set `web`",
        ),
        (
            tcp("from: 10.1.2.3/8"),
            "2:43",
            "`10.0.0.0/8` or the single address `10.1.2.3/32`",
        ),
        (tcp("from: [10.0.0.0/8, 1.2.3]"), "2:56", "four numbers"),
        (tcp("from: '10.0.0.0/8, 1.2.3'"), "2:56", "four numbers"),
        (tcp("from: 10.0.0.9-10.0.0.1"), "2:43", "runs backwards"),
        (tcp("from: '10.0.0.9-::1'"), "2:44", "mixes IPv4 and IPv6"),
        (tcp("from: '::ffff:1.2.3.4'"), "2:44", "write `1.2.3.4`"),
        (tcp("from: []"), "2:43", "matches nothing"),
        (tcp("from: ~"), "2:43", "`from` is nothing"),
        (tcp("from: [[any]]"), "2:44", "is a list"),
        (tcp("from: any, ports: 70000"), "2:55", "ports end at 65535"),
        (tcp("from: any, ports: 9-3"), "2:55", "did you mean `3-9`"),
        (tcp("from: any, ports: 0x16"), "2:55", "decimal"),
        (tcp("from: any, ports: 022"), "2:55", "octal"),
        (tcp("from: any, ports: '22:80'"), "2:56", "dash"),
        (tcp("from: any, ports: yes"), "2:55", "not a port"),
        (tcp("from: any, ports: []"), "2:55", "matches nothing"),
        (tcp("from: any, ports: [22,,80]"), "2:59", "not valid YAML"),
        (tcp("from: any, ports: '22,,80'"), "2:59", "missing"),
        (
            tcp("from: any, icmp: {type: 8}"),
            "2:48",
            "`icmp` on protocol `tcp`",
        ),
        (tcp("to: any"), "2:37", "`to` in an inbound rule"),
        (tcp("description: x"), "2:5", "no `from`"),
        (
            all("from: any, ports: 22"),
            "2:48",
            "`ports` on protocol `all`",
        ),
        (
            rule("protocol: icmp, action: drop, from: any, ports: 1"),
            "2:47",
            "`ports` on protocol `icmp`",
        ),
        (
            rule("protocol: icmp, action: drop, from: '2001:db8::/32'"),
            "2:42",
            "can match nothing",
        ),
        (
            rule("protocol: 1, action: drop, from: '2001:db8::/32'"),
            "2:39",
            "can match nothing",
        ),
        (
            rule("protocol: icmpv6, action: drop, from: 10.0.0.0/8"),
            "2:44",
            "can match nothing",
        ),
        (
            rule("protocol: ah, action: drop, from: '::/0'"),
            "2:40",
            "can match nothing",
        ),
        (
            rule("protocol: 44, action: drop, from: '::/0'"),
            "2:40",
            "can match nothing",
        ),
        (
            rule("protocol: icmp, action: drop, from: any, icmp: {type: pnig}"),
            "2:60",
            "unknown ICMP type",
        ),
        (
            rule("protocol: icmp, action: drop, from: any, icmp: {code: 1}"),
            "2:53",
            "no `type`",
        ),
        (
            rule("protocol: tpc, action: drop, from: any"),
            "2:16",
            "did you mean `tcp`",
        ),
        (
            rule("protocol: 256, action: drop, from: any"),
            "2:16",
            "from 0 to 255",
        ),
        (rule("action: drop, from: any"), "2:5", "no `protocol`"),
        (rule("protocol: all, from: any"), "2:5", "no `action`"),
        (
            rule("protocol: all, from: any, action: allow"),
            "2:40",
            "did you mean `accept`",
        ),
        (
            "address-sets: {a: [b], b: [a]}\n".into(),
            "1:28",
            "a → b → a",
        ),
        ("address-sets: {a: [a]}\n".into(), "1:20", "a → a"),
        (
            "address-sets: {a: [b]}\n".into(),
            "1:20",
            "unknown address set `b`",
        ),
        (
            "address-sets: {Any: []}\n".into(),
            "1:16",
            "cannot name a set",
        ),
        (
            "address-sets: {any: []}\n".into(),
            "1:16",
            "cannot name a set",
        ),
        ("address-sets: {a: }\n".into(), "1:17", "no contents"),
        (
            "address-sets: {a: {flie: x}}\n".into(),
            "1:20",
            "did you mean `file`",
        ),
        (
            "address-sets: {a: {file: x}}\n".into(),
            "1:26",
            "cannot read files",
        ),
        (
            "address-sets: {a: []}\nport-sets: {a: []}\n".into(),
            "2:13",
            "both",
        ),
    ];
    let mut failures = String::new();
    for (policy, place, says) in table {
        let Err(errors) = text(&policy) else {
            failures += &format!("accepted:\n{policy}\n");
            continue;
        };
        let found = errors
            .0
            .iter()
            .any(|e| format!("{}:{}", e.line, e.column) == place && e.to_string().contains(says));
        if !found {
            failures += &format!("expected {place} `{says}` for\n{policy}got\n{errors}\n\n");
        }
        for error in &errors.0 {
            assert!(error.help.is_some(), "no remedy: {error}");
            assert_eq!(error.file, "p.yaml");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Proves P8.
#[test]
fn all_errors_are_reported_at_once_with_their_places() {
    let policy = "\
nmae: x
address-sets:
  a: [10.1.2.3/8]
inbound:
  - protocol: tcp
    ports: [22, 70000, 9-3]
    from: [nobody-here, 1.2.3.4.5]
    action: allow
  - {protocol: icmp, ports: 3, from: '::/0', action: drop}
outbound:
  - {protocol: all, from: any, action: accept}
essential: 1
";
    let errors = text(policy).unwrap_err();
    let places: Vec<(u32, u32)> = errors.0.iter().map(|e| (e.line, e.column)).collect();
    for place in [
        (1, 1),
        (3, 7),
        (6, 17),
        (6, 24),
        (7, 12),
        (7, 25),
        (8, 13),
        (9, 22),
        (9, 38),
        (11, 21),
        (12, 12),
    ] {
        assert!(places.contains(&place), "{place:?} is missing in\n{errors}");
    }
    let json = serde_json::to_value(&errors).unwrap();
    assert_eq!(json[0]["file"], "p.yaml");
    assert!(json[0]["line"].is_u64() && json[0]["help"].is_string());
}

/// Proves P8.
#[test]
fn files_that_cannot_be_a_policy_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let huge = dir.path().join("huge.yaml");
    File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    let fifo = dir.path().join("fifo.yaml");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let binary = dir.path().join("binary.yaml");
    fs::write(&binary, b"name: x\nab\xff\n").unwrap();
    for (path, place, says) in [
        (dir.path().join("missing.yaml"), "1:1", "cannot read"),
        (dir.path().to_owned(), "1:1", "directory"),
        (huge, "1:1", "larger than 16 MiB"),
        (fifo, "1:1", "pipe"),
        (binary, "2:3", "not UTF-8"),
        (write(dir.path(), "empty.yaml", ""), "1:1", "empty"),
        (
            write(dir.path(), "comment.yaml", "# x\n"),
            "1:1",
            "no policy",
        ),
    ] {
        let started = Instant::now();
        let errors = load_file(&path).unwrap_err();
        let printed = errors.to_string();
        assert!(
            printed.starts_with(&format!("{}:{place}: ", path.display())),
            "{printed}"
        );
        assert!(
            printed.contains(says) && printed.contains("help: "),
            "{printed}"
        );
        assert!(started.elapsed() < Duration::from_secs(1), "{says}");
    }
    assert!(load(&[], &[]).is_err());
    let unknown = load(&[PolicyInput::from("builtin:tkee")], &[]).unwrap_err();
    assert!(
        unknown.to_string().contains("did you mean `builtin:tke`"),
        "{unknown}"
    );
}

/// Proves P6.
#[test]
fn a_set_file_is_read_beside_the_policy_and_its_errors_name_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sets")).unwrap();
    let set = write(
        dir.path(),
        "sets/admin.txt",
        "# who may\n\n10.0.0.0/8   # office\r\n 192.0.2.1-192.0.2.2\n2001:db8::/32\n",
    );
    let policy = write(
        dir.path(),
        "p.yaml",
        "address-sets: {admin: {file: sets/admin.txt}}\ninbound:\n- {protocol: tcp, from: admin, action: accept}\n",
    );
    let loaded = load_file(&policy).unwrap();
    let remote = &loaded.policy.rules[0].remote;
    assert_eq!((remote.v4.len(), remote.v6.len()), (3, 1));
    assert_eq!(loaded.policy.sources, [policy.clone(), set.clone()]);
    assert_eq!(loaded.policy.rules[0].summary, "tcp from admin");
    assert_eq!(loaded.policy.name, "p");

    fs::write(
        &set,
        "10.0.0.0/8\n\n  10.0.0.1/8 # no\nadmin\n10.0.0.0/8, 1.2.3.4\n",
    )
    .unwrap();
    let errors = load_file(&policy).unwrap_err();
    let places: Vec<(u32, u32)> = errors.0.iter().map(|e| (e.line, e.column)).collect();
    assert_eq!(places, [(3, 3), (4, 1), (5, 1)], "{errors}");
    assert!(errors.0.iter().all(|e| e.file == set.display().to_string()));

    for (prepare, says) in [
        ("remove", "cannot read"),
        ("empty", "is empty"),
        ("dir", "directory"),
    ] {
        fs::remove_file(&set).ok();
        match prepare {
            "empty" => fs::write(&set, "").unwrap(),
            "dir" => fs::create_dir(&set).unwrap(),
            _ => {}
        }
        let errors = load_file(&policy).unwrap_err();
        assert!(errors.to_string().contains(says), "{errors}");
        assert_eq!((errors.0[0].line, errors.0[0].column), (1, 30), "{errors}");
        fs::remove_file(&set).ok();
    }
}

/// Proves P6.
#[test]
fn a_set_file_of_comments_only_is_the_empty_set() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.txt", "# nobody yet\n");
    let policy =
        "address-sets: {a: {file: a.txt}}\ninbound: [{protocol: all, from: a, action: accept}]";
    let loaded = load_text("p", policy, Some(dir.path()), &[]).unwrap();
    assert!(codes(&loaded).contains(&"empty-set"));
    assert!(loaded.policy.rules[0].remote.v4.is_empty());
}

/// Proves P6.
#[test]
fn sets_nest_and_are_replaced_from_the_command_line() {
    let policy = "
address-sets:
  office: [192.0.2.0/24, home]
  home: 198.51.100.1
  everybody: [office, '2001:db8::/32']
port-sets: {web: [80, 443], all-web: [web, 8000-8080]}
inbound:
- {protocol: tcp, ports: all-web, from: everybody, action: accept}
";
    let loaded = good(policy);
    let rule = &loaded.policy.rules[0];
    assert_eq!(
        rule.ports.as_deref(),
        Some(&[(80, 80), (443, 443), (8000, 8080)][..])
    );
    assert!(
        rule.remote
            .contains("198.51.100.1".parse::<IpAddr>().unwrap())
    );
    assert_eq!(rule.summary, "tcp all-web from everybody");

    let set = |argument: &str| load_text("p", policy, None, &[argument.parse().unwrap()]);
    let replaced = set("home=203.0.113.7,203.0.113.9").unwrap().policy;
    assert!(
        !replaced.rules[0]
            .remote
            .contains("198.51.100.1".parse().unwrap())
    );
    assert!(
        replaced.rules[0]
            .remote
            .contains("203.0.113.9".parse().unwrap())
    );
    assert_eq!(
        replaced.rules[0].identity, rule.identity,
        "a set counts by its name"
    );
    assert_ne!(replaced.digest, loaded.policy.digest);
    let ports = set("web=8443").unwrap().policy.rules[0].ports.clone();
    assert_eq!(ports, Some(vec![(8000, 8080), (8443, 8443)]));

    for (argument, place, says) in [
        ("hoem=1.2.3.4", "--set:1:1", "did you mean `home`"),
        ("home=1.2.3.4,10.1.1.1/8", "--set:1:14", "host bits"),
        ("home=@file", "--set:1:6", "reads no files"),
        ("home=office", "--set:1:6", "takes literals"),
        ("web=70000", "--set:1:5", "65535"),
    ] {
        let errors = set(argument).unwrap_err().to_string();
        assert!(
            errors.starts_with(place) && errors.contains(says),
            "{errors}"
        );
    }
    let twice = ["home=1.2.3.4", "home=1.2.3.5"].map(|s| s.parse().unwrap());
    let errors = load_text("p", policy, None, &twice).unwrap_err();
    assert!(errors.to_string().contains("given twice"), "{errors}");
}

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
            "ipv6-denied"
        ]
    );
    let text = loaded.findings[0].to_string();
    for part in ["32768", "30000-32767", "ephemeral", "builtin:tke:8:5"] {
        assert!(text.contains(part), "{text}");
    }
    let json = serde_json::to_value(&loaded.findings[3]).unwrap();
    assert_eq!(json["severity"], "warning");
    assert_eq!(json["code"], "ipv6-denied");
}

/// Proves P7.
#[test]
fn the_minimal_template_has_its_sets_and_lets_nobody_reach_ssh() {
    let loaded = builtin_policy("tke-minimal", &[]);
    assert_eq!(codes(&loaded), ["empty-set", "empty-set"]);
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
    assert_eq!(codes(&loaded), Vec::<&str>::new());
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
        assert_eq!(codes(&loaded), ["denies-everything"]);
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
        plain.replace("inbound", "timeouts: {udp: 31}\ninbound"),
        plain.replace("}", ", log: true}"),
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

#[test]
fn equal_remotes_are_shared() {
    let policy = "
address-sets: {a: [10.0.0.0/8, 192.0.2.0/24]}
inbound:
- {protocol: tcp, ports: 1, from: a, action: accept}
- {protocol: tcp, ports: 2, from: [a], action: accept}
- {protocol: tcp, ports: 3, from: [10.0.0.0/8, '::/0'], action: accept}
- {protocol: udp, ports: 3, from: ['::/0', 10.0.0.0/8], action: accept}
- {protocol: icmp, from: ['::/0', 10.0.0.0/8], action: accept}
- {protocol: icmp, from: [10.0.0.0/8, '::/0'], action: drop}
";
    let rules = good(policy).policy.rules;
    for (a, b) in [(0, 1), (2, 3), (4, 5)] {
        assert!(
            Arc::ptr_eq(&rules[a].remote, &rules[b].remote),
            "{a} and {b}"
        );
    }
}

#[test]
fn more_rules_than_the_limit_are_an_error() {
    let one = "- {protocol: all, from: any, action: drop}\n";
    let errors = text(&format!("inbound:\n{}", one.repeat(RULES + 1))).unwrap_err();
    assert_eq!(errors.0.len(), 1);
    assert_eq!(errors.0[0].line as usize, RULES + 2);
    assert!(errors.0[0].message.contains("too many rules"));
}

/// Ten thousand rules that name a set of a million networks neither copy it nor take long.
#[test]
fn a_huge_set_and_many_rules_load_quickly() {
    let dir = tempfile::tempdir().unwrap();
    let set: String = (0..1_000_000u32)
        .map(|i| format!("{}/30\n", std::net::Ipv4Addr::from(i << 2)))
        .collect();
    write(dir.path(), "big.txt", &set);
    let mut policy = "address-sets: {big: {file: big.txt}}\ninbound:\n".to_owned();
    for port in 0..10_000 {
        policy += &format!("- {{protocol: tcp, ports: {port}, from: big, action: accept}}\n");
    }
    let started = Instant::now();
    let loaded = load_text("p", &policy, Some(dir.path()), &[]).unwrap();
    let elapsed = started.elapsed();
    println!("1,000,000 networks and 10,000 rules: {elapsed:?}");
    assert_eq!(loaded.policy.rules[9_999].remote.v4.len(), 1_000_000);
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
}

#[test]
fn eight_thousand_different_rules_load_quickly() {
    let mut policy = "inbound:\n".to_owned();
    for i in 0..8_000u32 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + (i << 8));
        policy += &format!(
            "  - protocol: tcp\n    ports: [{}, 8000-9000]\n    from: [{address}/24, 192.0.2.0/24]\n    action: accept\n    description: rule {i}\n",
            i + 1
        );
    }
    let started = Instant::now();
    let loaded = good(&policy);
    let elapsed = started.elapsed();
    println!("8,000 rules: {elapsed:?}");
    assert_eq!(loaded.policy.rules.len(), 8_000);
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

/// Proves P8.
#[test]
fn a_bomb_of_nested_sets_is_stopped() {
    let mut policy = "address-sets:\n".to_owned();
    let ranges: Vec<String> = (1..2000)
        .map(|i| format!("{i}::1-{i}:ffff:ffff::2"))
        .collect();
    policy += &format!("  s0: ['{}']\n", ranges.join("', '"));
    for i in 1..2000 {
        policy += &format!("  s{i}: [s{}, 10.0.{}.{}]\n", i - 1, i / 256, i % 256);
    }
    let started = Instant::now();
    let errors = text(&policy).unwrap_err();
    assert!(
        errors.to_string().contains("add up to too much"),
        "{errors}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

/// Proves P8.
#[test]
fn files_made_to_be_slow_end_soon() {
    let million = 1 << 20;
    let cycle: String = (1..50_000)
        .map(|i| format!("  s{i}: [s{}, s0]\n", i - 1))
        .collect();
    let alias: String = "- {protocol: tcp, ports: *p, from: any, action: drop}\n".repeat(90_000);
    let ports: Vec<String> = (0..60_000).map(|p| p.to_string()).collect();
    let same = "- {protocol: tcp, ports: 5, from: any, action: drop}\n".repeat(90_000);
    let nested: String = (0..20_000u32)
        .map(|i| {
            format!(
                "- {{protocol: tcp, ports: {}, from: [10.0.0.0/8, 192.0.{}.{}], action: drop}}\n",
                i,
                i / 256,
                i % 256
            )
        })
        .collect();
    for (name, policy) in [
        (
            "small values",
            format!("inbound: [{}]", "1,".repeat(8 * million - 10)),
        ),
        (
            "commas",
            format!("address-sets:\n  a: '{}1'", "1.1.1.1,".repeat(million)),
        ),
        (
            "bad commas",
            format!("address-sets:\n  a: '{}1'", "x!,".repeat(5 * million)),
        ),
        (
            "names",
            format!("address-sets:\n  a: '{}b'", "b,".repeat(million - 5)),
        ),
        ("cycles", format!("address-sets:\n  s0: [s49999]\n{cycle}")),
        (
            "aliases",
            format!("description: &p '{}'\ninbound:\n{alias}", ports.join(",")),
        ),
        ("keys", (0..million).map(|i| format!("k{i}: 1\n")).collect()),
        (
            "one long line",
            format!("inbound: [{}]", "{a: b},".repeat(2 * million)),
        ),
        ("equal rules", format!("inbound:\n{same}")),
        ("nested remotes", format!("inbound:\n{nested}")),
    ] {
        let started = Instant::now();
        let loaded = text(&policy);
        let elapsed = started.elapsed();
        println!("{name}: {elapsed:?} {}", loaded.is_ok());
        assert!(elapsed < Duration::from_secs(20), "{name}: {elapsed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Proves P8.
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = text(&String::from_utf8_lossy(&bytes));
    }

    /// Proves P8.
    #[test]
    fn random_policies_never_panic_and_every_error_has_a_place(
        words in prop::collection::vec(prop::sample::select(vec![
            "inbound:", "outbound:", "\n", "\n  ", "\n- ", "\n  - ", "protocol: ", "tcp", "icmp",
            "ports: ", "22", "70000", "9-3", "from: ", "to: ", "any", "10.0.0.0/8", "::/0", "[", "]",
            "{", "}", ", ", "action: ", "accept", "address-sets:", "a", "a: ", "&x ", "*x", "groups:",
            "name: ", "'", "\"", "icmp: ", "type: ", "#", "é", "file: ", "timeouts: ", "udp: ", "~",
        ]), 0..60)
    ) {
        if let Err(errors) = text(&words.concat()) {
            prop_assert!(!errors.0.is_empty());
            for error in &errors.0 {
                prop_assert!(error.line >= 1 && error.column >= 1 && error.help.is_some());
            }
            // As a terminal shows it, with the lines of the file.
            let handler = miette::GraphicalReportHandler::new();
            for error in &errors.0 {
                let mut drawn = String::new();
                prop_assert!(handler.render_report(&mut drawn, error).is_ok());
                prop_assert!(!drawn.is_empty());
            }
        }
    }
}
