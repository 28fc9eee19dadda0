//! Policies of great size, and such as were made to be slow.

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sg_policy::policy::*;

use crate::{good, text, write};

/// What the calling thread has used of a processor: a bound on it says nothing about what else
/// the machine does.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.expect("threads have a clock").into()
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
    let started = cpu_time();
    let loaded = load_text("p", &policy, Some(dir.path()), &[]).unwrap();
    let elapsed = cpu_time() - started;
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
    let started = cpu_time();
    let loaded = good(&policy);
    let elapsed = cpu_time() - started;
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
    let started = cpu_time();
    let errors = text(&policy).unwrap_err();
    assert!(
        errors.to_string().contains("add up to too much"),
        "{errors}"
    );
    assert!(
        cpu_time() - started < Duration::from_secs(20),
        "{:?}",
        cpu_time() - started
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
        let started = cpu_time();
        let loaded = text(&policy);
        let elapsed = cpu_time() - started;
        println!("{name}: {elapsed:?} {}", loaded.is_ok());
        assert!(elapsed < Duration::from_secs(20), "{name}: {elapsed:?}");
    }
}

/// However many set files a policy names, and in however many spellings, no more of them are read
/// than a limit allows.
///
/// Proves P12.
#[test]
fn set_files_are_bounded_together() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["d", "e"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    // Another spelling of the same file for each number.
    let spelled = |n: usize, name: &str| {
        let bits = (0..14).map(|bit| ["d/../", "e/../"][n >> bit & 1]);
        bits.collect::<String>() + name
    };
    let of = |count: usize, name: &str| {
        let sets: String = (0..count)
            .map(|n| format!("  s{n}: {{file: {}}}\n", spelled(n, name)))
            .collect();
        let policy = format!("address-sets:\n{sets}inbound: []\n");
        load_text("p", &policy, Some(dir.path()), &[])
    };
    // One entry and comments, so that only the bytes count.
    let comment = "#".repeat((SET_BYTES - 16) as usize);
    write(dir.path(), "big.txt", &format!("10.0.0.0/8\n{comment}\n"));
    of((ALL_SET_BYTES / SET_BYTES) as usize, "big.txt").unwrap();
    let started = cpu_time();
    let errors = of(500, "big.txt").unwrap_err().to_string();
    let elapsed = cpu_time() - started;
    println!("500 spellings of one file of {SET_BYTES} bytes: {elapsed:?}");
    assert!(errors.contains("add up to too much"), "{errors}");
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");

    // What is not text was read as well.
    let binary = vec![0xff; SET_BYTES as usize];
    std::fs::write(dir.path().join("binary"), binary).unwrap();
    let errors = of(10, "binary").unwrap_err().to_string();
    assert!(errors.contains("not UTF-8"), "{errors}");
    assert!(errors.contains("add up to too much"), "{errors}");

    write(dir.path(), "one.txt", "10.0.0.0/8\n");
    let errors = of(SET_FILES + 1, "one.txt").unwrap_err().to_string();
    assert!(errors.contains("too many set files"), "{errors}");
    assert_eq!(
        errors
            .lines()
            .filter(|line| line.contains("too many"))
            .count(),
        1
    );
}
