//! A policy that is written and loaded again is the same policy: digest, rules, counters, sets.

use std::fs;
use std::path::PathBuf;

use fastrand::Rng;
use sg_policy::formats::{Style, write};
use sg_policy::policy::*;
use sg_policy::testing;

/// What must be the same of two policies, as text.
fn rules(policy: &Policy, is_one_file: bool) -> Vec<String> {
    let of = |rule: &Rule| {
        let Rule {
            direction,
            position,
            group,
            name,
            description,
            protocol,
            ports,
            icmp,
            remote,
            written,
            action,
            audit,
            log,
            summary,
            identity,
            source: _,
        } = rule;
        let mut text = format!(
            "{direction:?} {position} {group} {name:?} {description:?} {protocol:?} {ports:?} \
             {icmp:?} {remote:?} {action:?} {audit} {log}"
        );
        // Sets of one name in several files have to be told apart, and then rules call them so.
        if is_one_file {
            text.push_str(&format!(" {written:?} {summary} {identity}"));
        }
        text
    };
    policy.rules.iter().map(of).collect()
}

fn sets(policy: &Policy) -> Vec<String> {
    let of = |group: &Group| {
        let Group {
            name,
            is_named,
            description,
            sets: _,
        } = group;
        format!("{name} {is_named} {description:?}")
    };
    policy.groups.iter().map(of).collect()
}

/// Writes and loads `policy`, in both styles, and compares.
fn assert_same(policy: &Policy, is_one_file: bool) -> PolicyText {
    let whole = write(policy, Style::default());
    assert!(whole.files.is_empty());
    let styles = [Style::default(), Style { entries_inline: 1 }];
    for written in styles.map(|style| write(policy, style)) {
        let again = load_written("again", &written)
            .unwrap_or_else(|e| panic!("{e}\n{}", written.yaml))
            .policy;
        assert_eq!(again.digest, policy.digest, "{}", written.yaml);
        assert_eq!(again.name, policy.name);
        assert_eq!(again.description, policy.description, "{}", written.yaml);
        assert_eq!(again.trailing_deny, policy.trailing_deny);
        assert_eq!(again.timeouts, policy.timeouts);
        assert_eq!(
            (
                again.essential,
                again.non_ip,
                again.established,
                again.log_no_match
            ),
            (
                policy.essential,
                policy.non_ip,
                policy.established,
                policy.log_no_match
            )
        );
        assert_eq!(
            rules(&again, is_one_file),
            rules(policy, is_one_file),
            "{}",
            written.yaml
        );
        assert_eq!(sets(&again), sets(policy), "{}", written.yaml);
        assert!(
            again.sources.is_empty(),
            "no file was read: {:?}",
            again.sources
        );
        assert_eq!(write(&again, Style::default()), whole, "written twice");
    }
    whole
}

/// Proves C3: random policies of one file and of several.
#[test]
fn a_random_policy_is_the_same_after_writing_and_loading() {
    let dir = tempfile::tempdir().unwrap();
    let (mut grouped, mut renamed, mut deferred, mut unnamed) = (0, 0, 0, 0);
    for seed in 0..600 {
        let mut rng = Rng::with_seed(seed);
        let names = &["a", "b", "c"][..rng.usize(1..4)];
        let mut inputs = Vec::new();
        for name in names {
            let path = dir.path().join(format!("{name}-{seed}.yaml"));
            fs::write(&path, testing::policy_file(&mut rng, name)).unwrap();
            inputs.push(PolicyInput::File(path));
        }
        let loaded = load(&inputs, &[]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let written = assert_same(&loaded.policy, names.len() == 1);
        grouped += usize::from(written.yaml.contains("groups:"));
        renamed += usize::from(written.yaml.contains("alpha-2"));
        unnamed += usize::from(written.yaml.contains("file-name:"));
        let codes = loaded.findings.iter().map(|finding| finding.code);
        deferred += usize::from(
            codes
                .into_iter()
                .any(|code| code == "trailing-deny-deferred"),
        );
    }
    for (what, count) in [
        ("groups", grouped),
        ("renamed sets", renamed),
        ("deferred denies", deferred),
        ("unnamed groups", unnamed),
    ] {
        assert!(count > 50, "{count} policies with {what}");
    }
}

/// Proves C3: random lists of rules, as other tests use them.
#[test]
fn random_rules_are_the_same_after_writing_and_loading() {
    for seed in 0..100 {
        let mut rng = Rng::with_seed(seed);
        let shape = testing::Shape {
            rules: 40,
            ipv6: 40,
            inbound_only: false,
        };
        let rules = testing::rules(&mut rng, shape);
        assert_same(&rules_from_lines(&rules), true);
        // C9: rules that are only watched say so, but what `--audit` adds is not in the text.
        let audited = rules_from_lines(&rules.replace(" drop\n", " drop audit\n"));
        assert!(audited.audits());
        assert_same(&audited, true);
        let policy = rules_from_lines(&rules).audited(AuditScope::Policy);
        let text = write(&policy, Style::default());
        let again = load_written("again", &text).unwrap_or_else(|e| panic!("{e}"));
        assert!(!again.policy.audits(), "{}", text.yaml);
        assert_eq!(again.policy.digest, rules_from_lines(&rules).digest);
    }
}

/// Proves C3: the templates, as they are and with their sets replaced.
#[test]
fn the_templates_are_the_same_after_writing_and_loading() {
    for builtin in builtins() {
        let input = [PolicyInput::Builtin(builtin.name.to_owned())];
        let policy = load(&input, &[]).unwrap().policy;
        assert_same(&policy, true);
        let sets = &policy.groups[0].sets;
        let addresses = sets.addresses.iter();
        let addresses = addresses.map(|set| format!("{}=192.0.2.7,2001:db8::/32", set.name));
        let ports = sets.ports.iter().map(|set| format!("{}=7-9,80", set.name));
        let sets: Vec<SetOverride> = addresses
            .chain(ports)
            .map(|it| it.parse().unwrap())
            .collect();
        let fitted = load(&input, &sets).unwrap().policy;
        let written = assert_same(&fitted, true);
        assert!(
            sets.is_empty() || written.yaml.contains("192.0.2.7"),
            "{}",
            written.yaml
        );
    }
}

/// Proves C3: the examples, of which one has a set file.
#[test]
fn the_examples_are_the_same_after_writing_and_loading() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "yaml") {
            let policy = load(&[PolicyInput::File(path)], &[]).unwrap().policy;
            assert_same(&policy, true);
            count += 1;
        }
    }
    assert!(count >= 8, "{count} examples");
}

/// Descriptions and names survive; a long set has a line for each entry, or a file.
#[test]
fn a_policy_is_written_for_people() {
    let blocked: Vec<String> = (0..40).map(|i| format!("198.51.100.{i}")).collect();
    let text = format!(
        "# Comments are not kept.
description: 'A server: public'
established: keep
timeouts: {{udp: 90, tcp-established: 2d}}
address-sets:
  admin: [192.0.2.7, '2001:db8::/32']
  blocked: [{}]
inbound:
  - {{protocol: all, from: blocked, action: drop, name: blocked}}
  - {{protocol: tcp, ports: [22, 8000-8080], from: [admin, 10.0.0.0/8], action: accept, log: true}}
  - {{protocol: icmp, icmp: {{type: echo-request}}, from: any, action: accept, description: 'pings, all'}}
",
        blocked.join(", ")
    );
    let policy = load_text("dir/server.yaml", &text, None, &[])
        .unwrap()
        .policy;
    let written = assert_same(&policy, true);
    let expected = "\
file-name: server
description: \"A server: public\"
established: keep
timeouts:
  tcp-established: 2d
  udp: 90s

address-sets:
  admin: [192.0.2.7, \"2001:db8::/32\"]
  blocked:
    - 198.51.100.0
";
    assert!(written.yaml.starts_with(expected), "{}", written.yaml);
    let expected = "
inbound:
  - protocol: all
    from: blocked
    action: drop
    name: blocked
  - protocol: tcp
    ports: [22, 8000-8080]
    from: [admin, 10.0.0.0/8]
    action: accept
    log: true
  - protocol: icmp
    icmp: {type: 8}
    from: any
    action: accept
    description: \"pings, all\"
";
    assert!(written.yaml.ends_with(expected), "{}", written.yaml);
    let written = write(&policy, Style { entries_inline: 20 });
    assert!(written.yaml.contains("\n  blocked: {file: blocked.txt}\n"));
    assert_eq!(written.files.len(), 1);
    assert_eq!(written.files[0].name, "blocked.txt");
    assert_eq!(written.files[0].text, blocked.join("\n") + "\n");
}

/// A name of its own and one of a file are not the same to the digest; both survive.
#[test]
fn the_name_of_a_file_stays_that() {
    let rules = "inbound: [{protocol: tcp, from: any, action: accept}]\n";
    let of = |head: &str| load_text("x.yaml", &format!("{head}{rules}"), None, &[]);
    let unnamed = load_text("dir/web.yaml", rules, None, &[]).unwrap().policy;
    let kept = of("file-name: web\n").unwrap().policy;
    assert_eq!((&kept.name, &kept.digest), (&unnamed.name, &unnamed.digest));
    assert_eq!(kept.rules[0].identity, unnamed.rules[0].identity);
    assert_ne!(of("name: web\n").unwrap().policy.digest, kept.digest);
    let error = of("name: a\nfile-name: b\n").unwrap_err().to_string();
    assert!(error.contains("`file-name` beside `name`"), "{error}");
}

/// A set file may list more than a policy file: what is written as files loads again.
#[test]
fn a_set_of_many_addresses_is_the_same_after_writing_and_loading() {
    let dir = tempfile::tempdir().unwrap();
    let mut list = String::from("# A block list.\n");
    for i in 0..200_000u32 {
        list.push_str(&format!(
            "{} ; listed\n",
            std::net::Ipv4Addr::from(i * 9973)
        ));
    }
    list.push_str("10.1.2.3 - 10.1.3.200\nany\n");
    fs::write(dir.path().join("list.txt"), list).unwrap();
    let path = dir.path().join("p.yaml");
    let text = "address-sets: {blocked: {file: list.txt}}\n\
                inbound: [{protocol: all, from: blocked, action: drop}]\n";
    fs::write(&path, text).unwrap();
    let policy = load(&[PolicyInput::File(path)], &[]).unwrap().policy;
    let written = write(
        &policy,
        Style {
            entries_inline: 1000,
        },
    );
    assert_eq!(written.files.len(), 1);
    let again = load_written("p", &written).unwrap().policy;
    assert_eq!(again.digest, policy.digest);
    let inline = write(&policy, Style::default());
    let again = load_written("p", &inline).unwrap().policy;
    assert_eq!(again.digest, policy.digest);
}
