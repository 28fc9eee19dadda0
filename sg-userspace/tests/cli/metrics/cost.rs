//! What a reading costs with ten thousand rules.

use std::process::Command;
use std::time::{Duration, Instant};

use sg_userspace::observe::attached::Scope;
use sg_userspace::observe::metrics::{Format, Reader, expose};

use super::{samples, world};
use crate::world::{Ran, World, file, inside};

fn rules(count: usize) -> String {
    let mut text = "name: many\ninbound:\n".to_owned();
    for i in 0..count {
        let (a, b) = (i / 250, i % 250);
        text.push_str(&format!(
            "  - {{protocol: tcp, ports: {}, from: 10.{a}.{b}.0/24, action: accept}}\n",
            1 + i % 60_000
        ));
    }
    text
}

/// How many calls of bpf(2) `sgctl metrics` makes.
fn calls(world: &World) -> usize {
    let mut words = vec!["-f", "-qq", "-e", "trace=bpf", "-o"];
    let log = world.dir.path().join("calls");
    words.push(log.to_str().unwrap());
    let sgctl = world.command(&["metrics"]);
    let ran = Command::new("strace")
        .args(words)
        .arg(sgctl.get_program())
        .args(sgctl.get_args())
        .output();
    let ran = Ran::of(&ran.expect("the tests need strace"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let log = std::fs::read_to_string(&log).unwrap();
    log.lines().filter(|line| line.contains("bpf(")).count()
}

/// Proves O5: a reading of ten thousand rules takes no system call for each of them, every one has
/// a series, and it takes less than 20 ms (a tenth of a second in a build for tests, on a busy
/// machine: what it took is printed).
#[test]
fn ten_thousand_rules_are_read_at_once() {
    let (world, _) = world();
    let few = file(world.dir.path(), "few.yaml", &rules(10));
    let apply = |path: &str| {
        let applied = world.run(&["apply", path, "--iface", "nic"]);
        assert_eq!(applied.code, 0, "{}", applied.all());
    };
    apply(&few);
    let with_few = calls(&world);
    let many = file(world.dir.path(), "many.yaml", &rules(10_000));
    apply(&many);
    let with_many = calls(&world);
    assert!(
        with_many < with_few + 100,
        "{with_few} calls became {with_many}"
    );

    let (text, took) = inside(&world.node, || {
        let mut reader = Reader::new(&world.bpffs, Scope::Namespace, Vec::new());
        let mut fastest = Duration::MAX;
        let mut text = String::new();
        for _ in 0..10 {
            let began = Instant::now();
            let sample = reader.read().unwrap();
            text = expose(sample, Format::OpenMetrics).unwrap();
            fastest = fastest.min(began.elapsed());
        }
        (text, fastest)
    });
    let found = samples(&text);
    let of_rules = found
        .keys()
        .filter(|it| it.starts_with("sgctl_rule_packets_total{"));
    let series = of_rules.count();
    println!(
        "10,000 rules: {} bytes in {:.1} ms, {with_many} calls of bpf(2)",
        text.len(),
        took.as_secs_f64() * 1000.0
    );
    // Those of the policy before are not forgotten yet, and what is beyond the bound is one series.
    assert!((10_000..=10_004).contains(&series), "{series}");
    assert!(took < Duration::from_millis(100), "{took:?}");
}
