//! `sgctl counters`: the zero that can be set, CSV, and which rows are shown.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::World;

/// How long the test waits until no packet comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

const POLICY: &str = "\
name: zeros
inbound:
  - {protocol: icmp, from: any, action: accept, description: 'pings, of \"anybody\"'}
  - {protocol: udp, ports: 5000, from: any, action: drop}
  - {protocol: tcp, ports: 22, from: any, action: accept}
outbound: [{protocol: all, to: any, action: accept}]
";

fn with_policy() -> (World, String) {
    let (world, path) = World::enforcing("p.yaml", POLICY);
    (world, path)
}

fn counters(world: &World, more: &[&str]) -> Value {
    let words = [&["counters", "--json"][..], more].concat();
    world.run(&words).ok().json()[0].clone()
}

/// The packets of a rule, or of a reason.
#[track_caller]
fn packets(counters: &Value, what: &str) -> u64 {
    let rules = counters["rules"].as_array().unwrap().iter();
    let all = rules.chain(counters["reasons"].as_array().unwrap());
    let mut all = all.filter(|row| row["direction"] == "inbound");
    let is_it = |row: &&Value| row["summary"] == what || row["reason"] == what;
    let row = all
        .find(is_it)
        .unwrap_or_else(|| panic!("{what} in {counters}"));
    row["packets"].as_u64().unwrap()
}

/// Packets seen inbound are what all rows together have counted.
#[track_caller]
fn assert_adds_up(counters: &Value) {
    for total in counters["totals"].as_array().unwrap() {
        let sum = |rows: &str, key: &str, is_of: &dyn Fn(&Value) -> bool| {
            let rows = counters[rows].as_array().unwrap().iter();
            let of = rows.filter(|row| is_of(&row["direction"]));
            of.map(|row| row[key].as_u64().unwrap()).sum::<u64>()
        };
        let here = |direction: &Value| *direction == total["direction"];
        let there = |direction: &Value| *direction != total["direction"];
        let all = sum("rules", "packets", &here)
            + sum("rules", "reply_packets", &there)
            + sum("reasons", "packets", &here);
        assert_eq!(total["packets"], all, "{counters}");
    }
}

/// Proves A5: a zero changes nothing for who does not ask for it, and what was counted since is
/// exact, across a change of policy too. It goes with its attachment.
#[test]
fn a_zero_is_for_those_who_ask_for_it() {
    let (world, path) = with_policy();
    world.ping_node(3);
    world.send_udp_to_node(5000);
    let before = counters(&world, &[]);
    assert_eq!(before["reset_at"], Value::Null);
    assert_eq!(
        before["since"],
        counters(&world, &["--since-reset"])["since"]
    );
    let said = world.run(&["counters", "--since-reset"]).ok().out;
    assert!(said.contains("no zero was set: counted since"), "{said}");

    let reset = world.run(&["counters", "--reset"]).ok().out;
    assert!(reset.contains("nic: the zero is set at "), "{reset}");
    let at_zero = counters(&world, &["--since-reset"]);
    assert_eq!(at_zero["since"], at_zero["reset_at"]);
    assert_eq!(packets(&at_zero, "icmp from any"), 0);
    assert_eq!(packets(&at_zero, "udp 5000 from any"), 0);
    assert_adds_up(&at_zero);
    assert_eq!(packets(&counters(&world, &[]), "icmp from any"), 3);

    world.ping_node(2);
    world.send_udp_to_node(7);
    // The rule about pings goes, and the one about port 5000 counts under another name of the
    // policy.
    let changed = POLICY.replace("protocol: icmp", "protocol: gre");
    std::fs::write(&path, changed).unwrap();
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    world.send_udp_to_node(5000);
    let (all, since) = (counters(&world, &[]), counters(&world, &["--since-reset"]));
    for (counters, pings, udp) in [(&all, 5, 2), (&since, 2, 1)] {
        assert_eq!(packets(counters, "icmp from any"), pings, "{counters}");
        assert_eq!(packets(counters, "udp 5000 from any"), udp, "{counters}");
        assert_eq!(packets(counters, "no-match"), 1, "{counters}");
        assert_adds_up(counters);
    }
    assert_eq!(all["since"], before["since"]);
    assert_eq!(all["reset_at"], since["since"]);
    let said = world.run(&["counters", "--since-reset"]).ok().out;
    assert!(said.contains("counted since the zero of "), "{said}");

    // Another zero takes the place of the first.
    let again = world.run(&["counters", "--reset", "--json"]).ok().json();
    assert_eq!(again[0]["counted_since"], since["since"]);
    assert_eq!(
        packets(&counters(&world, &["--since-reset"]), "no-match"),
        0
    );

    world.run(&["detach"]).ok();
    world.assert_untouched();
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    assert_eq!(counters(&world, &[])["reset_at"], Value::Null);
}

/// Rows are chosen in the same way for a table, JSON and CSV; totals are of all packets.
#[test]
fn rows_are_chosen_and_sorted() {
    let (world, _) = with_policy();
    world.ping_node(2);
    for _ in 0..3 {
        world.send_udp_to_node(5000);
    }
    // The kernel itself sends packets now and then, such as neighbour discovery.
    let deadline = Instant::now() + PATIENCE;
    let (all, busiest, sorted) = loop {
        let all = counters(&world, &[]);
        let busiest = counters(&world, &["--top", "1"]);
        let sorted = counters(&world, &["--nonzero", "--sort", "packets"]);
        if counters(&world, &[])["totals"] == all["totals"] {
            break (all, busiest, sorted);
        }
        assert!(Instant::now() < deadline, "it is never quiet: {all}");
    };
    assert_eq!(busiest["rules"].as_array().unwrap().len(), 1);
    assert_eq!(busiest["totals"], all["totals"]);
    let rows = |counters: &Value, rows: &str| {
        let rows = counters[rows].as_array().unwrap().iter();
        let packets = |row: &Value| {
            row["packets"].as_u64().unwrap() + row["reply_packets"].as_u64().unwrap_or(0)
        };
        rows.map(packets).collect::<Vec<u64>>()
    };
    for what in ["rules", "reasons"] {
        let all = rows(&all, what);
        let nonzero = all.iter().filter(|packets| **packets > 0).count();
        assert_eq!(rows(&sorted, what).len(), nonzero, "{sorted}");
    }
    let text = world
        .run(&["counters", "--sort", "packets", "--top", "2"])
        .ok()
        .out;
    let drop = text
        .find("udp 5000 from any")
        .unwrap_or_else(|| panic!("{text}"));
    assert!(text.rfind(" total ").unwrap() > drop, "{text}");
    assert!(text.contains("more rows\n"), "{text}");
    // A rate is measured over a second.
    let by_rate = world
        .run(&["counters", "--sort", "rate", "--nonzero"])
        .ok()
        .out;
    assert!(by_rate.contains("PKT/S"), "{by_rate}");

    let csv = world.run(&["counters", "--csv"]).ok().out;
    let lines: Vec<&str> = csv.lines().collect();
    let lists = ["rules", "reasons", "totals"];
    let count: usize = lists
        .map(|list| all[list].as_array().unwrap().len())
        .iter()
        .sum();
    assert_eq!(lines.len(), 1 + count, "{csv}");
    assert!(lines[0].starts_with("sampled_at,since,interface,netns,direction,kind,position,"));
    let ping = lines
        .iter()
        .find(|line| line.contains("icmp from any"))
        .unwrap();
    let described =
        ",inbound,rule,1,zeros,,accept,icmp from any,\"pings, of \"\"anybody\"\"\",2,196,";
    assert!(ping.contains(described), "{ping}");
    let top = world.run(&["counters", "--csv", "--top", "1"]).ok().out;
    assert_eq!(top.lines().count(), 1 + 1 + 2, "{top}");

    world
        .run(&["counters", "--all", "--nonzero"])
        .fails(2, "cannot be used with");
    world
        .run(&["counters", "--reset", "--watch"])
        .fails(2, "cannot be used with");
}
