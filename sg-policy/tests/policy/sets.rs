//! Address sets and port sets: files, nesting, and values from the command line.

use std::fs;
use std::net::IpAddr;

use sg_policy::policy::*;

use crate::{codes, good, load_file, load_text, write};

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

/// Where no name of a set may stand none is expected.
#[test]
fn a_set_file_expects_literals_only() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.txt", "1.2.3\n");
    let policy =
        "address-sets: {a: {file: a.txt}}\ninbound: [{protocol: all, from: a, action: accept}]";
    let in_file = load_text("p", policy, Some(dir.path()), &[]).unwrap_err();
    let policy = "address-sets: {a: []}\ninbound: [{protocol: all, from: a, action: accept}]";
    let set = "a=1.2.3".parse().unwrap();
    let given = load_text("p", policy, None, &[set]).unwrap_err();
    for said in [in_file.to_string(), given.to_string()] {
        assert!(said.contains("four numbers, this has 3"), "{said}");
        assert!(said.contains("a CIDR") && !said.contains("name"), "{said}");
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

/// Public block lists are read as they are: comments that `#` or `;` begins, alone or behind an
/// entry, Windows line ends and a byte order mark.
///
/// Proves P6.
#[test]
fn set_files_are_read_as_block_lists_come() {
    let dir = tempfile::tempdir().unwrap();
    let load = |list: &str| {
        write(dir.path(), "a.txt", list);
        let policy =
            "address-sets: {a: {file: a.txt}}\ninbound: [{protocol: all, from: a, action: drop}]";
        load_text("p", policy, Some(dir.path()), &[])
    };
    let list = "\u{feff}; Spamhaus DROP List\r\n; Expires: never\r\n\r\n1.10.16.0/20 ; SBL256894\r\n\
                1.19.0.0/16;SBL434604\r\n# another kind\r\n192.0.2.7 # seen ; twice\r\n\
                2001:db8::/32\t; v6\r\n   ;  indented\r\n198.51.100.0-198.51.100.255";
    let remote = load(list).unwrap().policy.rules[0].remote.clone();
    assert_eq!((remote.v4.len(), remote.v6.len()), (4, 1));
    // What stands behind an entry and is no comment is an error, at its place.
    let errors = load("; fine\n192.0.2.7 7\n192.0.2.8 ; x\n").unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert_eq!((errors.0[0].line, errors.0[0].column), (2, 1), "{errors}");
    assert!(errors.to_string().contains("`#` or `;`"), "{errors}");
    // A port list too.
    write(dir.path(), "p.txt", "; web\r\n80;http\r\n443\r\n");
    let policy = "port-sets: {w: {file: p.txt}}\n\
                  inbound: [{protocol: tcp, ports: w, from: any, action: accept}]";
    let loaded = load_text("p", policy, Some(dir.path()), &[]).unwrap();
    assert_eq!(
        loaded.policy.rules[0].ports.as_deref(),
        Some(&[(80, 80), (443, 443)][..])
    );
}

/// Proves P5: an address that is probably meant as a network is spoken of, wherever it stands.
#[test]
fn the_unspecified_address_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.txt", "192.0.2.1\n  0.0.0.0\n");
    let of = |sets: &str, from: &str| {
        let policy = format!(
            "address-sets: {{{sets}}}\ninbound: [{{protocol: all, from: {from}, action: accept}}]"
        );
        load_text("p", &policy, Some(dir.path()), &[]).unwrap()
    };
    for (sets, from, place) in [
        ("", "0.0.0.0", "p:2:33"),
        ("", "[10.0.0.0/8, '::']", "p:2:47"),
        ("a: [0.0.0.0]", "a", "p:1:20"),
        ("a: {file: a.txt}", "a", "a.txt:2:3"),
    ] {
        let loaded = of(sets, from);
        let found = loaded
            .findings
            .iter()
            .find(|f| f.code == "unspecified-address");
        let found = found.unwrap_or_else(|| panic!("nothing is said of {sets} {from}"));
        assert!(found.to_string().contains(place), "{found}");
        assert_eq!(found.severity, Severity::Warning);
    }
    for from in [
        "0.0.0.0/0",
        "0.0.0.0/32",
        "'::/0'",
        "'::/128'",
        "0.0.0.0/8",
        "any",
        "0.0.0.0-0.0.0.9",
    ] {
        assert!(
            !codes(&of("", from)).contains(&"unspecified-address"),
            "{from}"
        );
    }
}
