//! The commands that need no privilege: help, templates, `check`, `explain` and usage errors.
//! Snapshots make every change of their output visible.

use super::world::{assert_shown, file, run, run_with, sgctl};

/// Every command that has its own help text. The first is `sgctl` itself.
const COMMANDS: [&str; 22] = [
    "",
    "templates",
    "check",
    "schema",
    "explain",
    "diff",
    "apply",
    "run",
    "confirm",
    "rollback",
    "promote",
    "status",
    "counters",
    "top",
    "flows",
    "log",
    "metrics",
    "show",
    "history",
    "detach",
    "lab",
    "completions",
];

#[test]
fn help_has_examples_and_exit_codes() {
    for command in COMMANDS {
        let arguments: Vec<&str> = match command {
            "" => vec!["--help"],
            command => vec![command, "--help"],
        };
        let ran = run(&arguments).ok();
        assert!(ran.out.contains("Examples:"), "{}", ran.out);
        let name = if command.is_empty() { "sgctl" } else { command };
        assert_shown!(format!("help_{name}"), ran.out);
    }
}

/// On a terminal of eighty columns no line of help is longer, and examples are not broken into
/// lines.
#[test]
fn help_fits_eighty_columns() {
    for command in COMMANDS {
        let words: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|w| !w.is_empty())
            .collect();
        let ran = sgctl(&words).env("COLUMNS", "80").output().unwrap();
        let help = super::world::Ran::of(&ran).ok().out;
        assert!(help.is_ascii(), "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "sgctl {command}: {line}");
        }
        let wide = run(&words).ok().out;
        for example in wide.lines().filter(|line| line.starts_with("  sgctl ")) {
            assert!(
                help.lines().any(|line| line == example),
                "sgctl {command}: {example}"
            );
        }
    }
}

#[test]
fn templates_are_listed_and_shown() {
    assert_shown!("templates", run(&["templates"]).ok().out);
    let shown = run(&["templates", "show", "tke"]).ok();
    assert_eq!(
        shown.out,
        include_str!("../../../sg-policy/templates/tke.yaml")
    );
    let json = run(&["templates", "show", "tke-minimal", "--json"]).json();
    assert_eq!(
        json["text"],
        include_str!("../../../sg-policy/templates/tke-minimal.yaml")
    );
    run(&["templates", "show", "tk"]).fails(1, "did you mean");
}

/// Proves P7: `check` says what the recommended policy does.
#[test]
fn check_says_what_the_recommended_policy_does() {
    assert_shown!("check_tke", run(&["check", "builtin:tke"]).all());
    assert_shown!(
        "check_tke_json",
        run(&["check", "builtin:tke", "--json"]).all()
    );
}

/// Proves P8: `check` prints every error with its place and a remedy.
#[test]
fn check_prints_every_error_of_a_bad_policy() {
    let dir = tempfile::tempdir().unwrap();
    let bad = file(
        dir.path(),
        "bad.yaml",
        "inbound:\n  - protocol: tcp\n    ports: 70000\n    from: 10.1.2.3/8\n    acton: drop\n  \
         - protocol: icmp\n    ports: 22\n    from: officee\n    action: accept\n",
    );
    assert_shown!("check_bad", run(&["check", &bad]).all());
    let ran = run(&["check", &bad, "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let json = ran.json();
    assert_eq!(json["valid"], false);
    assert_eq!(json["errors"].as_array().map(Vec::len), Some(6), "{json}");
    assert_eq!(json["errors"][0]["location"]["line"], 2);
}

#[test]
fn check_reads_standard_input_and_says_when_tables_are_too_large() {
    let policy = "inbound: [{protocol: tcp, ports: 22, from: 192.0.2.7, action: accept}]";
    let ran = run_with(&["check", "-", "--json"], policy);
    assert_eq!(ran.json()["policy"]["rules"], 1);
    let many: String = (0..4000u32)
        .map(|n| {
            let (a, b) = (n / 200, n % 200);
            // Each address has eleven ports that no other address has, so that the tables grow
            // beyond the budget.
            let ports: Vec<String> = (0..11).map(|i| (1 + n + i * 5000).to_string()).collect();
            let ports = ports.join(", ");
            format!("  - {{protocol: tcp, ports: [{ports}], from: 10.{a}.{b}.7, action: accept}}\n")
        })
        .collect();
    let many = format!("inbound:\n{many}");
    let ran = run_with(&["check", "-", "--table-memory", "1"], &many);
    ran.fails(1, "raise --table-memory");
    let json = run_with(&["check", "-", "--table-memory", "1", "--json"], &many).json();
    assert_eq!(json["valid"], false);
    assert_eq!(json["policy"]["rules"], 4000);
}

/// Proves that `explain` says what docs/spec.md promises: the rule or the reason that decides.
#[test]
fn explain_names_the_rule_and_the_reason() {
    let questions = [
        ("ssh", "inbound tcp 203.0.113.9 10.0.0.5:22"),
        ("database", "inbound tcp 203.0.113.9:40000 10.0.0.5:3306"),
        ("pods", "in udp 172.16.9.9 10.0.0.5:3306"),
        ("outbound", "outbound udp 192.0.2.53:53 10.0.0.5"),
        ("ping", "inbound icmp 203.0.113.9 10.0.0.5"),
        ("ipv6", "inbound tcp 2001:db8::9 [2001:db8::5]:22"),
        ("neighbours", "inbound icmpv6:135 fe80::9 fe80::5"),
        ("dhcp", "inbound udp 203.0.113.1:67 203.0.113.9:68"),
        ("arp", "inbound arp 203.0.113.9 10.0.0.5"),
        ("igmp", "inbound 2 203.0.113.1 224.0.0.1"),
        ("mld", "outbound icmpv6:143 ff02::16 ::"),
        ("dhcpv6", "inbound udp [fe80::1]:40000 [fe80::9]:546"),
        ("gre", "outbound gre 203.0.113.9 10.0.0.5"),
    ];
    for (name, question) in questions {
        let words = |json| {
            let start = ["explain", "builtin:tke"].into_iter();
            start
                .chain(question.split(' '))
                .chain(json)
                .collect::<Vec<_>>()
        };
        let human = run(&words(None)).ok().out;
        let json = run(&words(Some("--json"))).ok().out;
        assert_shown!(format!("explain_{name}"), format!("{human}{json}"));
    }
}

/// Proves P10: `check` and `explain` say what happens to frames that are not IP.
#[test]
fn what_happens_to_other_frames_than_ip_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let of = |option: &str| file(dir.path(), "p.yaml", &format!("{option}inbound: []\n"));
    for (option, word, other) in [
        ("", "accept", "accept"),
        ("non-ip: accept\n", "accept", "accept"),
        ("non-ip: arp-only\n", "arp-only", "drop"),
    ] {
        let policy = of(option);
        let checked = run(&["check", &policy, "--json"]).ok().json();
        assert_eq!(checked["policy"]["non_ip"], word);
        let human = run(&["check", &policy]).ok().out;
        assert_eq!(
            human.contains("only ARP passes"),
            other == "drop",
            "{human}"
        );
        for (protocol, verdict) in [("arp", "accept"), ("non-ip", other)] {
            for direction in ["inbound", "outbound"] {
                let (remote, local) = ("203.0.113.9", "10.0.0.5");
                let words = [
                    "explain", &policy, direction, protocol, remote, local, "--json",
                ];
                let json = run(&words).ok().json();
                assert_eq!(json["verdict"], verdict, "{option}{direction} {protocol}");
                assert_eq!(json["reason"], "non-ip");
            }
        }
    }
    let bad = of("non-ip: drop\n");
    run(&["check", &bad]).fails(1, "expected one of accept, arp-only");
}

/// Proves C8: `explain` confirms what `check` says of rules that do nothing.
#[test]
fn check_names_rules_that_do_nothing_with_packets_that_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let rules = [
        "{protocol: tcp, ports: 22, from: 10.0.0.0/9, action: accept}",
        "{protocol: tcp, ports: 22, from: 10.128.0.0/9, action: accept}",
        "{protocol: tcp, ports: 22, from: 10.0.0.0/8, action: drop}",
        "{protocol: udp, ports: 53, from: 192.0.2.0/24, action: accept}",
        "{protocol: udp, from: 192.0.2.0/24, action: accept}",
        "{protocol: icmpv6, icmp: {type: 135}, from: any, action: drop}",
    ];
    let text = |without: Option<usize>| {
        let kept = rules
            .iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != without);
        let kept: Vec<String> = kept.map(|(_, rule)| format!("- {rule}\n")).collect();
        format!("inbound:\n{}", kept.concat())
    };
    let policy = file(dir.path(), "p.yaml", &text(None));
    let ran = run(&["check", &policy]).ok();
    let shown = ran.all().replace(dir.path().to_str().unwrap(), "[dir]");
    assert_shown!("check_rules_that_do_nothing", shown);
    let json = run(&["check", &policy, "--json"]).ok().json();
    let decides = |policy: &str, question: &str| {
        let words = ["explain", policy].into_iter().chain(question.split(' '));
        let explained = run(&words.chain(["--json"]).collect::<Vec<_>>())
            .ok()
            .json();
        explained["rule"]["position"].as_u64()
    };
    let said = |code: &str| {
        let of = |line: &str| line.strip_prefix("  such as ").map(str::to_owned);
        let lines: Vec<&str> = ran.out.lines().collect();
        let found = lines.windows(2).filter(|pair| pair[0].contains(code));
        found.filter_map(|pair| of(pair[1])).collect::<Vec<_>>()
    };
    let [never] = &said("[shadowed-rule]")[..] else {
        panic!("{}", ran.out)
    };
    assert_eq!(
        decides(&policy, never),
        Some(1),
        "of rules 1 and 2, which cover 3 together"
    );
    let findings = json["findings"].as_array().unwrap();
    let never = findings
        .iter()
        .find(|f| f["code"] == "shadowed-rule")
        .unwrap();
    let covering = never["rules"].as_array().unwrap();
    assert_eq!(
        (&covering[0]["position"], &covering[1]["position"]),
        (&1.into(), &2.into())
    );
    let nothing = said("[redundant-rule]");
    assert_eq!(nothing.len(), 2, "{}", ran.out);
    for (question, rule, instead) in [(&nothing[0], 4, Some(4)), (&nothing[1], 6, None)] {
        // Neighbour discovery passes whatever the rules say.
        let essential = question.contains("icmpv6:135");
        let confirmed = if essential { None } else { Some(rule as u64) };
        assert_eq!(decides(&policy, question), confirmed, "{question}");
        let without = file(dir.path(), "without.yaml", &text(Some(rule - 1)));
        assert_eq!(decides(&without, question), instead, "{question}");
    }
}

/// Proves C7: `diff` says what differs, and `explain` confirms each row with either policy.
#[test]
fn diff_says_which_traffic_is_decided_differently() {
    let dir = tempfile::tempdir().unwrap();
    let mine = file(
        dir.path(),
        "mine.yaml",
        "name: mine\ninbound:\n  - {protocol: tcp, ports: 30000-32767, from: 0.0.0.0/0, action: \
         accept}\n  - {protocol: all, from: 10.0.0.0/8, action: accept}\n  - {protocol: tcp, ports: \
         22, from: 192.0.2.0/24, action: accept, name: ssh}\n  - {protocol: icmpv6, from: any, \
         action: accept}\noutbound:\n  - {protocol: all, to: any, action: accept}\ntimeouts: \
         {udp: 1m}\nlog-no-match: inbound\n",
    );
    // Where lines break does not depend on where the test runs.
    let here = ["diff", "builtin:tke", "mine.yaml"];
    let ran = sgctl(&here).current_dir(dir.path()).output().unwrap();
    let ran = super::world::Ran::of(&ran);
    assert_shown!("diff_tke", ran.all());
    assert_eq!(ran.code, 1);
    let is_long = |line: &&str| line.chars().count() > 80;
    assert_eq!(ran.out.lines().find(is_long), None);
    let words = ["diff", "builtin:tke", &mine];
    let json = run(&[&words[..], &["--json"]].concat()).json();
    let rows = json["rows"].as_array().unwrap();
    assert!(rows.len() > 5, "{json:#}");
    for row in rows {
        for (side, policy) in [("old", "builtin:tke"), ("new", &mine)] {
            let question = row["explain"].as_str().unwrap();
            let words = ["explain", policy].into_iter().chain(question.split(' '));
            let words: Vec<&str> = words.chain(["--json"]).collect();
            let explained = run(&words).ok().json();
            assert_eq!(explained["verdict"], row[side]["action"], "{row:#}");
            let position = |rule: &serde_json::Value| rule["position"].clone();
            assert_eq!(
                position(&explained["rule"]),
                position(&row[side]["rule"]),
                "{row:#}"
            );
        }
    }
    let same = run(&["diff", "builtin:tke", "builtin:tke"]).ok().out;
    assert!(same.contains("the same for every packet"), "{same}");
    run(&["diff", "-", "-"]).fails(2, "named twice");
    run(&["diff", "builtin:tke"]).fails(2, "cannot be compared");
    run(&["diff", "--iface", "eth9", "a", "b"]).fails(2, "only NEW");
    run(&["diff", "builtin:tke", "builtin:tk"]).fails(1, "did you mean");
}

#[test]
fn several_policies_are_asked_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let rule = |name: &str, action: &str| {
        let text = format!(
            "name: {name}\naddress-sets: {{office: [192.0.2.0/24]}}\ninbound:\n  - {{protocol: \
             tcp, ports: 22, from: office, action: {action}}}\n"
        );
        file(dir.path(), &format!("{name}.yaml"), &text)
    };
    let (first, second) = (rule("first", "accept"), rule("second", "drop"));
    let question = ["in", "tcp", "192.0.2.7", "10.0.0.5:22", "--json"];
    for (a, b, group, verdict) in [
        (&first, &second, "first", "accept"),
        (&second, &first, "second", "drop"),
    ] {
        let mut words = vec!["explain", a.as_str(), b.as_str()];
        words.extend(question);
        let json = run(&words).ok().json();
        assert_eq!(
            (&json["rule"]["group"], &json["verdict"]),
            (&group.into(), &verdict.into())
        );
    }
}

#[test]
fn usage_errors_exit_with_two_and_say_what_was_expected() {
    let cases: [(&str, &str); 22] = [
        ("", "Usage: sgctl"),
        ("frobnicate", "unrecognized subcommand"),
        ("stauts", "'status'"),
        ("trace", "'explain'"),
        ("check", "<POLICY>"),
        ("apply builtin:tke", "--iface <IF>"),
        ("check builtin:tke --set admin", "write NAME=VALUE"),
        ("apply builtin:tke --iface nic --max-flows 0", "0 is not in"),
        ("counters --watch 0", "expected seconds from 0.1"),
        (
            "run builtin:tke --iface nic --interval nan",
            "expected seconds from 0.1",
        ),
        ("explain in tcp", "2 words are too few"),
        ("explain tcp", "1 word is too few"),
        (
            "explain builtin:tke in tcp 192.0.2.1",
            "LOCAL, the address of the node itself, is missing",
        ),
        (
            "explain in tcp 192.0.2.1",
            "LOCAL, the address of the node itself, is missing",
        ),
        (
            "explain builtin:tke in icmp:echo 192.0.2.1 192.0.2.2",
            "such as echo-request",
        ),
        ("apply builtin:tke eth7", "named with '--iface eth7'"),
        ("run builtin:tke lo --persist", "named with '--iface lo'"),
        (
            "explain in tcp 192.0.2.1 192.0.2.2:22",
            "name a POLICY before DIRECTION",
        ),
        (
            "explain builtin:tke in tcp 192.0.2.1 192.0.2.2",
            "like 192.0.2.2:443",
        ),
        (
            "explain builtin:tke out tcp 2001:db8::1 ::1",
            "like [2001:db8::1]:443",
        ),
        (
            "explain --iface nic p.yaml in icmp 192.0.2.1 192.0.2.2",
            "one word too many",
        ),
        ("completions cmd", "possible values: bash"),
    ];
    for (words, message) in cases {
        let ran = run(&words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(ran.code, 2, "{words}: {}", ran.all());
        assert!(ran.err.contains(message), "{words}: {}", ran.all());
        assert_eq!(ran.out, "", "{words}");
        // The suggestion for a mistyped command is never one that ends enforcement.
        assert!(!ran.err.contains("'detach'"), "{words}: {}", ran.all());
    }
}

/// The hint about `--iface` appears only if there is an interface of that name; the name of a
/// policy is none.
#[test]
fn no_interface_is_suggested_where_there_is_none() {
    for words in [
        &["apply", "builtin:tke"][..],
        &["run", "p.yaml", "--color", "never"],
    ] {
        let ran = run(words);
        assert_eq!(ran.code, 2, "{}", ran.all());
        assert!(!ran.err.contains("is named with"), "{words:?}: {}", ran.err);
    }
}

/// Proves P8: an error about a file that cannot be read names no line of it.
#[test]
fn a_file_that_is_not_there_has_no_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nope.yaml").display().to_string();
    let ran = run(&["check", &path]).fails(1, "cannot read the policy file");
    assert!(ran.err.starts_with(&format!("{path}: ")), "{}", ran.err);
    let json = run(&["check", &path, "--json"]).json();
    assert_eq!(json["errors"][0]["location"], serde_json::Value::Null);
    let message = json["errors"][0]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("{path}: ")), "{message}");
}

/// Each script asks sgctl, which knows the commands; bash, zsh and fish themselves are asked in
/// [`super::complete`].
#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell]).ok();
        assert!(ran.out.contains("SGCTL_COMPLETE"), "{shell}: {}", ran.out);
        let asked = sgctl(&["--", "sgctl", "cou"])
            .env("SGCTL_COMPLETE", shell)
            .env("_CLAP_COMPLETE_INDEX", "1")
            .output()
            .unwrap();
        let asked = super::world::Ran::of(&asked).ok();
        assert!(asked.out.contains("counters"), "{shell}: {}", asked.out);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = sgctl(&["templates", "show", "tke"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = super::world::Ran::of(&child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn colours_are_for_terminals_unless_asked_for() {
    assert!(!run(&["check", "builtin:tke"]).out.contains('\x1b'));
    let always = run(&["check", "builtin:tke", "--color", "always"]).out;
    assert!(always.contains("\x1b[32mvalid\x1b[0m"), "{always}");
}
