//! What `sgctl metrics` prints: the numbers of the other commands, in formats that promtool reads.

use serde_json::Value;
use sg_userspace::observe::metrics::{FAMILIES, Kind};

use super::{PINGS, promtool, samples, world};
use crate::world::{World, ip};

fn metrics(world: &World, more: &[&str]) -> String {
    world.run(&[&["metrics"][..], more].concat()).ok().out
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// Proves O5: every rule, reason, flow and policy has the numbers that the other commands show, in
/// both formats, and promtool has nothing to say.
#[test]
fn metrics_are_what_the_other_commands_say() {
    let (world, path) = world();
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    world.ping_node(3);
    (0..4).for_each(|_| world.send_udp_to_node(5000));
    world.send_udp_to_node(7);
    let openmetrics = metrics(&world, &[]);
    let older = metrics(&world, &["--format", "text"]);
    let checked = promtool(&["check", "metrics"], &older);
    assert_eq!(checked.all(), "exit 0\n", "{older}");
    assert!(openmetrics.ends_with("# EOF\n"), "{openmetrics}");

    let found = samples(&openmetrics);
    let counters = world.run(&["counters", "--json"]).ok().json();
    let one = &counters[0];
    let mut expected = 0;
    for rule in one["rules"].as_array().unwrap() {
        let title = match rule["name"].as_str() {
            Some(name) => format!("[{name}] {}", text(&rule["summary"])),
            None => text(&rule["summary"]).to_owned(),
        };
        let labels = format!(
            "{{interface=\"nic\",direction=\"{}\",group=\"{}\",rule=\"{title}\",action=\"{}\"}}",
            text(&rule["direction"]),
            text(&rule["group"]),
            text(&rule["action"]),
        );
        for (family, key) in [
            ("packets", "packets"),
            ("bytes", "bytes"),
            ("replies", "reply_packets"),
        ] {
            let series = format!("sgctl_rule_{family}_total{labels}");
            assert_eq!(
                found.get(&series).copied(),
                rule[key].as_f64(),
                "{series}\n{openmetrics}"
            );
            expected += 1;
        }
    }
    for reason in one["reasons"].as_array().unwrap() {
        let series = format!(
            "sgctl_reason_packets_total{{interface=\"nic\",direction=\"{}\",action=\"{}\",reason=\"{}\"}}",
            text(&reason["direction"]),
            text(&reason["action"]),
            text(&reason["reason"]),
        );
        let packets = reason["packets"].as_f64();
        // The kernel's own packets may come between the two readings.
        let is_ours = text(&reason["reason"]) == "no-match";
        let now = found.get(&series).copied();
        assert!(
            now.is_some() && (!is_ours || now == packets),
            "{series}\n{openmetrics}"
        );
        expected += 1;
    }
    // A total is the sum of what the same reading has for its direction (A2).
    let sum_of = |family: &str, direction: &str| -> f64 {
        let begins = format!("sgctl_{family}_total{{interface=\"nic\",direction=\"{direction}\"");
        let series = found
            .iter()
            .filter(|(series, _)| series.starts_with(&begins));
        series.map(|(_, value)| value).sum()
    };
    for (direction, other) in [("inbound", "outbound"), ("outbound", "inbound")] {
        let decided = sum_of("rule_packets", direction) + sum_of("reason_packets", direction);
        let packets = sum_of("packets", direction);
        assert_eq!(
            packets,
            decided + sum_of("rule_replies", other),
            "{openmetrics}"
        );
        assert!(
            sum_of("bytes", direction) >= 60.0 * packets && packets > 0.0,
            "{openmetrics}"
        );
        expected += 2;
    }
    let counted = |line: &&String| {
        let families = ["rule_", "reason_", "packets_", "bytes_"];
        let is_counter = families
            .iter()
            .any(|it| line.starts_with(&format!("sgctl_{it}")));
        is_counter && line.contains("_total{")
    };
    assert_eq!(found.keys().filter(counted).count(), expected);
    // Each counter says since when it counts.
    let attached_at: jiff::Timestamp = text(&one["since"]).parse().unwrap();
    let created = found
        .iter()
        .filter(|(series, _)| series.contains("_created{"));
    let created: Vec<f64> = created.map(|(_, at)| *at).collect();
    let evictions = 2;
    assert_eq!(created.len(), expected + evictions);
    for at in created {
        assert!(
            (at - attached_at.as_millisecond() as f64 / 1000.0).abs() < 1.0,
            "{at}"
        );
    }

    for direction in ["inbound", "outbound"] {
        let series =
            format!("sgctl_attachment_healthy{{interface=\"nic\",direction=\"{direction}\"}}");
        assert_eq!(found[&series], 1.0);
    }
    let status = world.run(&["status", "--json"]).ok().json();
    let policy = &status[0]["policy"];
    let series = format!(
        "sgctl_policy_info{{name=\"metered\",digest=\"{}\",generation=\"1\"}}",
        text(&policy["digest"])
    );
    assert_eq!(found[&series], 1.0);
    assert_eq!(
        Some(found["sgctl_flow_capacity"]),
        status[0]["max_flows"].as_f64()
    );
    let flows = world.run(&["flows", "--json"]).ok().json();
    let listed = flows[0]["flows"].as_array().unwrap().len();
    let of_states = found
        .iter()
        .filter(|(series, _)| series.starts_with("sgctl_flows{"));
    let of_states: Vec<f64> = of_states.map(|(_, count)| *count).collect();
    assert_eq!(
        of_states.iter().sum::<f64>(),
        listed as f64,
        "{flows}\n{openmetrics}"
    );
    assert_eq!(of_states.len(), 15, "zeros too: the table was read");

    // The older format has the same, but for the times of creation.
    let mut without: Vec<String> = found.keys().cloned().collect();
    without.retain(|series| !series.contains("_created{"));
    assert_eq!(samples(&older).into_keys().collect::<Vec<_>>(), without);
    // Every family is documented, with its labels. None is missing, but for the deadline of a
    // trial, what only `run` knows, and a candidate.
    let mut missing: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
    for series in &without {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let family = FAMILIES.iter().find(|family| family.name == name);
        let family = family.unwrap_or_else(|| panic!("{series} is of no family"));
        missing.retain(|it| *it != name);
        let parts = labels.trim_end_matches('}').split("\",");
        let names = parts.filter_map(|part| Some(part.split_once("=\"")?.0));
        assert_eq!(names.collect::<Vec<_>>(), family.labels, "{series}");
        let is_counter = name.ends_with("_total");
        assert_eq!(is_counter, family.kind == Kind::Counter, "{name}");
    }
    let deadline = "sgctl_confirm_deadline_timestamp_seconds";
    assert_eq!(
        missing,
        [
            deadline,
            "sgctl_events_total",
            "sgctl_candidate_differences_total"
        ]
    );
    world.run(&[
        "apply",
        &path,
        "builtin:tke",
        "--iface",
        "nic",
        "--confirm-within",
        "10m",
    ]);
    let left = samples(&metrics(&world, &[]))[deadline] - jiff::Timestamp::now().as_second() as f64;
    assert!((500.0..=601.0).contains(&left), "{left}");
}

/// A rule keeps its series when it moves and is described in other words.
#[test]
fn a_reload_leaves_series_as_they_are() {
    let (world, path) = world();
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    world.ping_node(2);
    let before = samples(&metrics(&world, &[]));
    let moved = "\
name: metered
inbound:
  - {protocol: gre, from: any, action: drop}
  - {protocol: tcp, ports: 22, from: any, action: accept, description: shells}
  - {name: dns, protocol: udp, ports: 5000, from: 192.0.2.0/24, action: accept}
  - {protocol: icmp, from: any, action: drop}
outbound: [{protocol: all, to: any, action: accept}]
";
    std::fs::write(&path, moved).unwrap();
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    world.ping_node(1);
    let after = samples(&metrics(&world, &[]));
    let of_rules = before
        .iter()
        .filter(|(series, _)| series.contains("_total{"));
    for (series, count) in of_rules {
        assert!(after.get(series) >= Some(count), "{series}");
    }
    let pings = after.iter().find(|(series, _)| {
        series.starts_with("sgctl_rule_packets_total") && series.contains("icmp")
    });
    assert_eq!(pings.map(|(_, count)| *count), Some(3.0));
}

/// A removed rule keeps its series under the policy that has removed it. Under the next one it
/// ends, unless a flow refers to it.
#[test]
fn the_series_of_a_removed_rule_ends_with_the_next_policy() {
    let (world, path) = world();
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    world.ping_node(2);
    let pings = || {
        let all = samples(&metrics(&world, &[])).into_iter();
        let mut pings = all.filter(|(series, _)| {
            series.starts_with("sgctl_rule_packets_total") && series.contains(PINGS)
        });
        pings.next().map(|(_, count)| count)
    };
    assert_eq!(pings(), Some(2.0));
    for (protocol, expected) in [("gre", Some(2.0)), ("esp", None)] {
        let other = format!("inbound: [{{protocol: {protocol}, from: any, action: drop}}]\n");
        std::fs::write(&path, other).unwrap();
        world.run(&["apply", &path, "--iface", "nic"]).ok();
        assert_eq!(pings(), expected, "{protocol}");
    }
    let counters = world.run(&["counters", "--json"]).ok().json();
    let rules = counters[0]["rules"].as_array().unwrap();
    let gone = rules
        .iter()
        .find(|rule| rule["summary"] == "rules of earlier policies");
    let packets = gone.map(|rule| &rule["packets"]);
    assert_eq!(packets, Some(&Value::from(2)), "{rules:?}");
}

/// Proves O5: what cannot be read is absent and not zero, and an interface that enforces nothing is
/// not healthy.
#[test]
fn what_could_not_be_read_is_absent() {
    let (world, path) = world();
    // Nothing is attached: that is no error, and no series says anything else.
    let nothing = metrics(&world, &[]);
    assert_eq!(samples(&nothing).len(), 1, "{nothing}");
    assert!(nothing.contains("sgctl_build_info{version="), "{nothing}");
    let named = samples(&metrics(&world, &["--iface", "nic"]));
    assert_eq!(
        named["sgctl_attachment_healthy{interface=\"nic\",direction=\"inbound\"}"],
        0.0
    );

    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let pins = world.pin_dir();
    let shared = pins.parent().unwrap();
    std::fs::remove_file(shared.join("flow_pages")).unwrap();
    let without = metrics(&world, &[]);
    assert!(!without.contains("sgctl_flows{"), "{without}");
    // They are counted beside the table.
    assert!(without.contains("sgctl_flow_evictions_total{"), "{without}");
    std::fs::remove_file(shared.join("flow_stats")).unwrap();
    let without = metrics(&world, &[]);
    assert!(!without.contains("sgctl_flow_evictions"), "{without}");
    assert!(without.contains("sgctl_rule_packets_total{"), "{without}");
    std::fs::remove_file(pins.join("counters_0")).unwrap();
    let without = metrics(&world, &[]);
    assert!(!without.contains("_packets_total{"), "{without}");
    assert!(without.contains("sgctl_policy_info{"), "{without}");

    ip(&["-n", &world.node, "link", "del", "nic"]);
    let gone = samples(&metrics(&world, &["--iface", "nic"]));
    for direction in ["inbound", "outbound"] {
        let series =
            format!("sgctl_attachment_healthy{{interface=\"nic\",direction=\"{direction}\"}}");
        assert_eq!(gone[&series], 0.0);
    }
}

/// The file for node_exporter is in the older format and always whole.
#[test]
fn the_textfile_is_replaced() {
    let (world, path) = world();
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let target = world.dir.path().join("sgctl.prom");
    let words = ["metrics", "--textfile", target.to_str().unwrap()];
    for _ in 0..2 {
        assert_eq!(world.run(&words).ok().out, "");
        let written = std::fs::read_to_string(&target).unwrap();
        assert!(
            written.contains("# TYPE sgctl_rule_packets_total counter\n"),
            "{written}"
        );
        assert_eq!(promtool(&["check", "metrics"], &written).all(), "exit 0\n");
    }
    let nowhere = world.dir.path().join("nowhere/sgctl.prom");
    world
        .run(&["metrics", "--textfile", nowhere.to_str().unwrap()])
        .fails(1, "nowhere/sgctl.prom")
        .fails(1, "help: `mkdir -p ");
}

/// The page lists the families as the code has them.
#[test]
fn the_page_lists_every_family() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).expect("docs/metrics.md");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `sgctl_"))
        .collect();
    let expected: Vec<String> = FAMILIES
        .iter()
        .map(|family| {
            let labels: Vec<String> = family.labels.iter().map(|it| format!("`{it}`")).collect();
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Info => "info",
            };
            format!(
                "| `{}` | {kind} | {} | {} |",
                family.name,
                labels.join(", "),
                family.help
            )
        })
        .collect();
    assert_eq!(rows, expected, "\n{}", expected.join("\n"));
}
