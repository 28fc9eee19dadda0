//! Files that are no policy: every error has its place and a remedy, and nothing panics.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sg_policy::policy::*;

use crate::{load_file, rule, text, write};

/// Policies that are none: the text, line:column of the error, and what it says.
pub(crate) fn refused() -> Vec<(String, &'static str, &'static str)> {
    let tcp = |more: &str| rule(&format!("protocol: tcp, action: accept, {more}"));
    let all = |more: &str| rule(&format!("protocol: all, action: accept, {more}"));
    vec![
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
        ("guard: 22\n".into(), "1:8", "expected a list"),
        ("guard: [{protocol: tcp}]\n".into(), "1:9", "no `from`"),
        ("guard: [{from: any}]\n".into(), "1:9", "no `protocol`"),
        (
            "guard: [{protocol: tcp, ports: 22, to: any}]\n".into(),
            "1:36",
            "unknown key `to` in the guard",
        ),
        (
            "guard: [{protocol: tcp, ports: 22, from: admin}]\n".into(),
            "1:42",
            "unknown address set `admin`",
        ),
        (
            "guard: [{protocol: gre, ports: 22, from: any}]\n".into(),
            "1:25",
            "`ports` on protocol `gre`",
        ),
        (
            "guard: [{protocol: tcp, from: any, action: accept}]\n".into(),
            "1:36",
            "unknown key `action` in the guard",
        ),
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
    ]
}

/// Proves P8.
#[test]
fn every_bad_policy_is_refused_with_its_place_and_a_remedy() {
    let mut failures = String::new();
    for (policy, place, says) in refused() {
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
    let json = serde_json::to_value(errors.findings()).unwrap();
    assert_eq!(json[0]["location"]["file"], "p.yaml");
    assert!(json[0]["location"]["line"].is_u64() && json[0]["help"].is_string());
    assert_eq!(json[0]["code"], "unknown-key");
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
        // Without a place: it is about the file as a whole.
        (dir.path().join("missing.yaml"), "", "cannot read"),
        (dir.path().to_owned(), "", "directory"),
        (huge, "", "larger than 16 MiB"),
        (fifo, "", "pipe"),
        (binary, "2:3:", "not UTF-8"),
        (write(dir.path(), "empty.yaml", ""), "", "empty"),
        (
            write(dir.path(), "comment.yaml", "# x\n"),
            "1:1:",
            "no policy",
        ),
    ] {
        let started = Instant::now();
        let errors = load_file(&path).unwrap_err();
        let printed = errors.to_string();
        assert!(
            printed.starts_with(&format!("{}:{place} ", path.display())),
            "{printed}"
        );
        assert!(
            printed.contains(says) && printed.contains("help: "),
            "{printed}"
        );
        assert!(started.elapsed() < Duration::from_secs(20), "{says}");
    }
    assert!(load(&[], &[]).is_err());
    let unknown = load(&[PolicyInput::from("builtin:tkee")], &[]).unwrap_err();
    assert!(
        unknown.to_string().contains("did you mean `builtin:tke`"),
        "{unknown}"
    );
}

/// The policy's author chooses which set file is read, and who makes a symbolic link which policy:
/// an error of a file that not everybody may read has its place and kind, and nothing of its text.
///
/// Proves P8.
#[test]
fn what_not_everybody_may_read_is_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let drawn = |errors: &PolicyErrors| {
        let mut out = errors.to_string();
        for error in &errors.0 {
            let theme = miette::GraphicalTheme::unicode_nocolor();
            let handler = miette::GraphicalReportHandler::new_themed(theme);
            handler.render_report(&mut out, error).unwrap();
        }
        format!("{out}{errors:?}")
    };
    let secret = write(dir.path(), "shadow", "# users\nroot:$6$hidden:19000::\n");
    let policy = write(
        dir.path(),
        "p.yaml",
        "address-sets: {a: {file: shadow}}\ninbound: [{protocol: tcp, from: a, action: drop}]\n",
    );
    let link = dir.path().join("link.yaml");
    symlink(&secret, &link).unwrap();
    for (mode, is_quoted) in [(0o644, true), (0o640, false), (0o600, false)] {
        set_mode(&secret, mode);
        for (path, file, line) in [(&policy, &secret, 2), (&link, &link, 1)] {
            let errors = load_file(path).unwrap_err();
            let first = &errors.0[0];
            assert_eq!(first.file, file.display().to_string());
            assert!(first.line >= line && !first.code.is_empty(), "{first:?}");
            let said = drawn(&errors);
            assert_eq!(said.contains("hidden"), is_quoted, "{mode:o}: {said}");
            let says_why = said.contains("not everybody may read the file");
            assert_eq!(says_why, !is_quoted, "{mode:o}: {said}");
        }
        // Who names the file itself reads the error.
        let said = drawn(&load_file(&secret).unwrap_err());
        assert!(said.contains("hidden"), "{said}");
    }
}

/// What stands in a file is quoted in errors, drawn and as a line, and nothing of it is a command
/// to the terminal of whoever reads them.
///
/// Proves P8.
#[test]
fn control_characters_do_not_reach_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "\u{1b}[2J\u{9b}31m\u{7}";
    let quoted = r"\e[2J\x9b31m\a";
    write(
        dir.path(),
        "list.txt",
        &format!("10.0.0.0/8 {evil}\n{evil}\n"),
    );
    write(dir.path(), &format!("list{evil}.txt"), "no address\n");
    let policies = [
        format!("name: \"{quoted}\"\n"),
        format!("name: {evil}\n"),
        format!("\"{quoted}\": 1\n"),
        format!(
            "inbound: [{{protocol: \"{quoted}\", from: \"{quoted}\", action: \"{quoted}\"}}]\n"
        ),
        format!("# {evil}\ninbound: [{{protocol: tcp}}] # {evil}\n"),
        "address-sets: {a: {file: list.txt}}\n".to_owned(),
        format!("address-sets: {{a: {{file: \"list{quoted}.txt\"}}}}\n"),
        format!("address-sets: {{a: {{file: \"no{quoted}.txt\"}}}}\n"),
    ];
    for policy in policies {
        let errors = load_text("p.yaml", &policy, Some(dir.path()), &[]).unwrap_err();
        let mut drawn = String::new();
        for error in &errors.0 {
            let handler = miette::GraphicalReportHandler::new_themed(
                miette::GraphicalTheme::unicode_nocolor(),
            );
            handler
                .with_links(false)
                .render_report(&mut drawn, error)
                .unwrap();
        }
        for said in [errors.to_string(), drawn] {
            let bad = said.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(bad, None, "{said:?}");
        }
    }
    // A description may have any text, and is shown without.
    let policy = format!(
        "inbound: [{{protocol: tcp, from: any, action: drop, description: \"a{quoted}b\"}}]\n"
    );
    let rules = text(&policy).unwrap().policy.rules;
    let description = rules[0].description.clone().unwrap();
    assert!(!description.contains(char::is_control), "{description:?}");
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
