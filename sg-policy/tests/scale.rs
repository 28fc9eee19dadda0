//! Large and awkward rule sets through policy and compiler: they compile in bounded time and
//! memory, and decide what the oracle decides. Sets from `SG_DATA` are read where it is set.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use nix::time::{ClockId, clock_gettime};
use sg_common::protocol::Kind;
use sg_common::verdict::FIRST_RULE_SLOT;
use sg_policy::analysis;
use sg_policy::compile::{Budget, Compiled};
use sg_policy::compile_policy as compile;
use sg_policy::oracle;
use sg_policy::policy::{Policy, load_text, rules_from_lines};
use sg_policy::testing;

/// What the calling thread has used of a processor: a bound on it says nothing about what else
/// the machine does.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.expect("threads have a clock").into()
}

fn compiled(policy: &Policy) -> (Compiled, Duration) {
    let slots: Vec<u32> = (0..policy.rules.len() as u32)
        .map(|i| FIRST_RULE_SLOT + i)
        .collect();
    let started = cpu_time();
    let compiled = compile(policy, &slots, Budget::default()).unwrap_or_else(|e| panic!("{e}"));
    (compiled, cpu_time() - started)
}

/// Compares verdict and rule for random packets at the edges of the rules.
fn agrees(policy: &Policy, compiled: &Compiled, packets: usize, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    for _ in 0..packets {
        let packet = testing::packet(&mut rng, policy);
        let (kind, number) = testing::kind_and_number(&packet);
        let verdict = compiled.decide(packet.direction, packet.remote, kind, number);
        let rule = verdict.slot().checked_sub(FIRST_RULE_SLOT);
        let expected = oracle::first_match(policy, &packet);
        assert_eq!(rule.map(|r| r as usize), expected, "{packet:?}");
    }
}

fn network(rng: &mut Rng, len: u32) -> String {
    let bits = rng.u32(..) & u32::MAX.checked_shl(32 - len).unwrap_or(0);
    format!("{}/{len}", Ipv4Addr::from(bits))
}

/// A limit that a debug build keeps on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn ten_thousand_rules_each_with_its_own_prefix_and_ports() {
    let mut rng = Rng::with_seed(1);
    let mut text = String::new();
    for i in 0..10_000 {
        let len = rng.u32(16..=32);
        let first = rng.u16(..);
        let last = rng.u16(first..);
        let action = if i % 2 == 0 { "accept" } else { "drop" };
        let _ = writeln!(
            text,
            "in tcp {first}-{last} from {} {action}",
            network(&mut rng, len)
        );
    }
    let policy = rules_from_lines(&text);
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    agrees(&policy, &compiled, 2000, 1);
}

#[test]
fn prefixes_nested_as_deep_as_they_go() {
    let mut rng = Rng::with_seed(2);
    let mut text = String::new();
    for chain in 0..100 {
        let address = rng.u32(..);
        for len in (1..=32).rev() {
            let bits = address & u32::MAX.checked_shl(32 - len).unwrap_or(0);
            let port = rng.u16(..);
            let action = if (chain + len) % 2 == 0 {
                "accept"
            } else {
                "drop"
            };
            let _ = writeln!(
                text,
                "in udp {port} from {}/{len} {action}",
                Ipv4Addr::from(bits)
            );
        }
    }
    let policy = rules_from_lines(&text);
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    agrees(&policy, &compiled, 2000, 2);
}

#[test]
fn thousands_of_ports_above_thousands_of_networks() {
    let mut rng = Rng::with_seed(3);
    let mut text = String::new();
    for i in 0..2000u32 {
        let _ = writeln!(text, "in tcp {} from any accept", i * 30 + 1);
        let _ = writeln!(
            text,
            "in tcp {}-{} from {} drop",
            i * 7,
            i * 7 + 40,
            network(&mut rng, 24)
        );
    }
    let policy = rules_from_lines(&text);
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    agrees(&policy, &compiled, 1000, 3);
}

#[test]
fn every_port_has_a_rule_of_its_own() {
    let mut text = String::new();
    for port in 0..=u16::MAX {
        let action = if port % 3 == 0 { "drop" } else { "accept" };
        let _ = writeln!(text, "in udp {port} from any {action}");
    }
    let policy = rules_from_lines(&text);
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    assert!(compiled.sizes().bytes < 1 << 20, "{:?}", compiled.sizes());
    agrees(&policy, &compiled, 500, 5);
}

/// A policy of `count` rules that each accept one port from anywhere, followed by `count` rules
/// that each drop a range of ports from a network of their own.
fn ports_above_ranges(seed: u64, count: usize) -> Policy {
    let mut rng = Rng::with_seed(seed);
    let mut text = String::new();
    for _ in 0..count {
        let _ = writeln!(text, "in tcp {} from any accept", rng.u16(..));
    }
    for _ in 0..count {
        let first = rng.u16(..);
        let last = rng.u16(first..);
        let network = network(&mut rng, 24);
        let _ = writeln!(text, "in tcp {first}-{last} from {network} drop");
    }
    rules_from_lines(&text)
}

/// Each class has all the single ports, and between them a range that no other class has.
#[test]
fn classes_and_ports_multiply() {
    let policy = ports_above_ranges(6, 1500);
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    agrees(&policy, &compiled, 500, 6);
    // A budget that is too small for it is reported as soon as it is exceeded.
    let slots: Vec<u32> = (FIRST_RULE_SLOT..).take(policy.rules.len()).collect();
    let budget = Budget {
        table_bytes: 1 << 20,
        ..Budget::default()
    };
    let refused = compile(&policy, &slots, budget).expect_err("it takes more than a mebibyte");
    assert!(refused.to_string().contains("1 MiB"), "{refused}");
}

/// The most that the tables can hold of such rules. Most parts of a class's tables are parts of
/// other classes' tables too, and are stored once.
#[test]
fn five_thousand_ports_above_five_thousand_networks_with_ranges() {
    let policy = ports_above_ranges(8, 5000);
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    agrees(&policy, &compiled, 300, 8);
}

#[test]
fn tens_of_thousands_of_ipv6_prefixes_of_all_lengths() {
    let mut rng = Rng::with_seed(7);
    let mut rules = Vec::new();
    for (action, count) in [("drop", 20_000), ("accept", 10_000)] {
        let mut prefixes = Vec::new();
        for _ in 0..count {
            let len = rng.u32(8..=128);
            let bits = rng.u128(..) & u128::MAX << (128 - len);
            prefixes.push(format!("{}/{len}", std::net::Ipv6Addr::from(bits)));
        }
        rules.push(format!("in all from {} {action}", prefixes.join(",")));
    }
    let policy = rules_from_lines(&rules.join("\n"));
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    agrees(&policy, &compiled, 100, 7);
}

#[test]
fn a_list_of_a_hundred_thousand_addresses_is_two_classes() {
    let mut rng = Rng::with_seed(4);
    let mut yaml = String::from("name: list\naddress-sets:\n  bad:\n");
    for _ in 0..100_000 {
        let _ = writeln!(yaml, "    - {}", Ipv4Addr::from(rng.u32(..)));
    }
    yaml.push_str(
        "inbound:\n- {protocol: all, from: bad, action: drop}\n\
         - {protocol: tcp, ports: 22, from: any, action: accept}\noutbound: []\n",
    );
    let policy = load_text("list.yaml", &yaml, None, &[])
        .unwrap_or_else(|e| panic!("{e}"))
        .policy;
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    assert_eq!(compiled.sizes().address_classes, 2);
    agrees(&policy, &compiled, 50, 4);
}

/// The folder of real data, if there is one; `cargo xtask test` says when there is not.
fn data() -> Option<PathBuf> {
    std::env::var_os("SG_DATA").map(PathBuf::from)
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("SG_DATA is set, but {}: {e}", path.display()))
}

#[test]
fn every_classbench_set_of_the_data_folder() {
    let Some(data) = data() else { return };
    let mut seen = 0;
    let entries = std::fs::read_dir(data.join("classbench")).expect("SG_DATA has classbench");
    for path in entries.filter_map(Result::ok).map(|e| e.path()) {
        let mut text = String::new();
        for (i, line) in read(path.clone()).lines().enumerate() {
            let words: Vec<&str> = line.trim_start_matches('@').split_whitespace().collect();
            let [source, _, _, ":", _, first, ":", last, protocol, ..] = words[..] else {
                panic!("{}:{}: unexpected columns", path.display(), i + 1);
            };
            let action = if i % 3 == 0 { "drop" } else { "accept" };
            let number = u8::from_str_radix(protocol[2..].split('/').next().unwrap_or(""), 16);
            let protocol = match (protocol, number) {
                ("0x00/0x00", _) => "all".to_owned(),
                (_, Ok(6)) => format!("tcp {first}-{last}"),
                (_, Ok(17)) => format!("udp {first}-{last}"),
                (_, Ok(number)) => number.to_string(),
                (other, _) => panic!("{}:{}: protocol {other}", path.display(), i + 1),
            };
            let _ = writeln!(text, "in {protocol} from {source} {action}");
        }
        let policy = rules_from_lines(&text);
        let (compiled, time) = compiled(&policy);
        assert!(time < PATIENCE, "{}: {time:?}", path.display());
        agrees(&policy, &compiled, 500, seen);
        seen += 1;
    }
    assert!(seen > 0, "no rule sets in SG_DATA");
}

#[test]
fn the_blocklist_and_the_countries_of_the_data_folder() {
    let Some(data) = data() else { return };
    let file = |name: &str| data.join(name).display().to_string();
    let yaml = format!(
        "name: real
address-sets:
  bad: {{file: {}}}
  france: [fr4, fr6]
  fr4: {{file: {}}}
  fr6: {{file: {}}}
inbound:
- {{protocol: all, from: bad, action: drop}}
- {{protocol: tcp, ports: 443, from: france, action: accept}}
outbound: []
",
        file("ipsum.txt"),
        file("country/fr-ipv4.txt"),
        file("country/fr-ipv6.txt")
    );
    let policy = load_text("real.yaml", &yaml, Some(&data), &[])
        .unwrap_or_else(|e| panic!("{e}"))
        .policy;
    let (compiled, time) = compiled(&policy);
    assert!(time < PATIENCE, "{time:?}");
    // Every listed address is dropped by the first rule.
    for line in read(data.join("ipsum.txt"))
        .lines()
        .filter(|l| !l.starts_with('#'))
        .take(5000)
    {
        let address: IpAddr = line.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
        let direction = sg_common::verdict::Direction::Inbound;
        let verdict = compiled.decide(direction, address, Kind::Tcp, 443);
        assert_eq!(verdict.slot(), FIRST_RULE_SLOT, "{address}");
    }
    agrees(&policy, &compiled, 100, 6);
}

/// What the calling thread uses for `work`.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = cpu_time();
    (work(), cpu_time() - started)
}

/// Ten thousand rules of ten prefixes each, many inside of others, with ports in common.
fn rules_with_prefixes(seed: u64, count: usize) -> String {
    let mut rng = Rng::with_seed(seed);
    let mut text = String::new();
    for i in 0..count {
        let prefixes: Vec<String> = (0..10)
            .map(|_| {
                let len = rng.u32(12..=32);
                network(&mut rng, len)
            })
            .collect();
        let first = rng.u16(..);
        let last = first.saturating_add(rng.u16(..1000));
        let action = if i % 3 == 0 { "drop" } else { "accept" };
        let _ = writeln!(
            text,
            "in tcp {first}-{last} from {} {action}",
            prefixes.join(",")
        );
    }
    text
}

/// Proves C8 and C7 at their size: 10,000 rules with 100,000 prefixes.
#[test]
fn rules_that_do_nothing_and_differences_among_a_hundred_thousand_prefixes() {
    let text = rules_with_prefixes(9, 10_000);
    // One that never matches, one that changes nothing, and one that makes a difference.
    let (before, behind) = text.split_at(text.len() / 2);
    let (line, behind) = behind.split_once('\n').expect("there are more rules");
    let begun = format!("{before}{line}\n");
    let never = "in tcp 7 from 0.0.0.0/0 drop\nin tcp 7 from 10.1.2.0/24 accept\n";
    let old = rules_from_lines(&format!("in tcp 7 from 0.0.0.0/0 drop\n{begun}{behind}"));
    let new = rules_from_lines(&format!(
        "{never}{begun}{behind}in udp 9 from 10.0.0.0/8 accept\n"
    ));
    let prefixes: usize = new.rules.iter().map(|rule| rule.remote.v4.len()).sum();
    assert!(new.rules.len() > 10_000 && prefixes > 100_000, "{prefixes}");

    let (found, time) = timed(|| analysis::idle(&new));
    println!("{} rules that do nothing, in {time:?}", found.len());
    assert!(time < PATIENCE, "{time:?}");
    let second = found.iter().find(|one| one.rule == 1);
    let expected = analysis::Why::NeverMatches {
        covered_by: vec![0],
    };
    assert_eq!(second.map(|one| &one.why), Some(&expected));
    for one in &found {
        let decider = oracle::first_match(&new, &one.witness).map(|rule| rule as u32);
        match &one.why {
            analysis::Why::NeverMatches { covered_by } => {
                assert_eq!(decider, Some(covered_by[0]));
            }
            analysis::Why::ChangesNothing { .. } => assert_eq!(decider, Some(one.rule)),
        }
    }

    let (found, time) = timed(|| analysis::diff(&old, &new));
    println!("{} rows of a difference, in {time:?}", found.rows.len());
    assert!(time < PATIENCE, "{time:?}");
    let rows: Vec<_> = found.rows.iter().map(|row| (row.old, row.new)).collect();
    assert_eq!(rows, [(None, Some(new.rules.len() as u32 - 1))]);
    assert_eq!(found.rows[0].traffic.remotes_in_words(3), "10.0.0.0/8");
}

/// As many rules that never match as there can be, behind as many as cover them together.
#[test]
fn thousands_of_rules_that_never_match_above_thousands_of_networks() {
    let mut rng = Rng::with_seed(10);
    let mut text = String::new();
    for i in 0..1000u32 {
        let _ = writeln!(text, "in tcp {}-{} from any accept", i * 60, i * 60 + 59);
    }
    for _ in 0..1000 {
        let _ = writeln!(
            text,
            "in udp {} from {} accept",
            rng.u16(..),
            network(&mut rng, 24)
        );
    }
    for _ in 0..1000 {
        let first = rng.u16(..50_000);
        let last = first + rng.u16(..100);
        let _ = writeln!(
            text,
            "in tcp {first}-{last} from {} drop",
            network(&mut rng, 20)
        );
    }
    for _ in 0..500 {
        let first = rng.u16(..50_000);
        let _ = writeln!(text, "in tcp {first} from any drop");
    }
    let policy = rules_from_lines(&text);
    let (found, time) = timed(|| analysis::idle(&policy));
    println!("{} rules that do nothing, in {time:?}", found.len());
    assert!(time < PATIENCE, "{time:?}");
    let never = |one: &&analysis::Idle| matches!(one.why, analysis::Why::NeverMatches { .. });
    assert!(found.iter().filter(never).count() >= 1500);
}
