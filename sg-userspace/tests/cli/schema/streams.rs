//! Commands that print one object on each line.

use serde_json::{Value, json};

use super::assert_shape;
use super::shapes::{applied, change, counters_of_one, packet};
use crate::run::Running;
use crate::world::{World, file};

/// Proves A4: `log` prints one object on each line, and at the end what became of all events.
#[test]
fn the_log_is_a_stream() {
    let world = World::new();
    let text = "name: p\ninbound: [{protocol: icmp, from: any, action: drop}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let running = Running::of(&mut world.command(&["log", "--follow", "--json"]));
    let found: Value = loop {
        world.ping_node(1);
        let wait = std::time::Duration::from_millis(500);
        if let Ok(line) = running.lines.recv_timeout(wait) {
            break serde_json::from_str(&line).unwrap();
        }
    };
    let mut expected = packet("inbound", "drop");
    expected["event"] = "packet".into();
    assert_shape(&expected, &found);
    // The limits hold some of these back.
    world.send_udp_times(9, 2000);
    let (code, rest, err) = running.end_with_lines(nix::sys::signal::Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<Value> = rest
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let not_shown = json!({
        "event": "not_shown", "at": "time", "interface": "nic", "lost": "number",
        "suppressed": "number",
    });
    let ended = json!({
        "event": "end", "at": "time", "interface": "nic", "shown": "number", "filtered": "number",
        "tally": [{
            "interface": "nic", "direction": "inbound|outbound", "reason": "text",
            "rule": expected["rule"], "produced": "number", "delivered": "number",
            "lost": "number", "suppressed": "number",
        }],
    });
    for line in &lines {
        match line["event"].as_str() {
            Some("packet") => assert_shape(&expected, line),
            Some("not_shown") => assert_shape(&not_shown, line),
            Some("end") => assert_shape(&ended, line),
            other => panic!("{other:?}"),
        }
    }
    let last = lines.last().unwrap();
    assert_eq!(last["event"], "end");
    // What a reader was not shown is said once, and exactly.
    let sum =
        |lines: &[Value], of: &str| -> u64 { lines.iter().filter_map(|l| l[of].as_u64()).sum() };
    let rows = last["tally"].as_array().unwrap();
    for of in ["lost", "suppressed"] {
        assert_eq!(sum(rows, of), sum(&lines, of), "{of}: {last}");
    }
    assert_eq!(sum(rows, "delivered"), last["shown"].as_u64().unwrap());
    assert_eq!(
        sum(rows, "produced"),
        sum(rows, "delivered") + sum(rows, "lost") + sum(rows, "suppressed")
    );
}

/// Proves A4: a stream has one object on each line, with the interface and the time.
#[test]
fn streams() {
    let world = World::new();
    let text = "name: p\ninbound: [{protocol: icmp, from: any, action: drop, log: true}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path, "--json", "--interval", "0.2"]);
    let event = |name: &str, mut expected: Value| {
        expected["event"] = name.into();
        expected["at"] = "time".into();
        expected["interface"] = "nic".into();
        if ["applied", "reloaded"].contains(&name) {
            expected = change(expected);
            expected["notes"] = json!(["*", "text"]);
        }
        let line = running.line(&format!(r#""event":"{name}""#));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_shape(&expected, &value);
        value
    };
    event("applied", applied());
    event("counters", counters_of_one(true));
    event("counters", counters_of_one(false));
    world.ping_node(1);
    event("packet", packet("inbound", "drop"));
    std::fs::write(&path, text.replace("name: p", "name: q")).unwrap();
    let mut reloaded = applied();
    reloaded["why"] = "text".into();
    event("reloaded", reloaded);

    let mut watching = world
        .command(&["counters", "--watch", "0.2", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(watching.stdout.take().unwrap());
    let lines: Vec<String> = std::io::BufRead::lines(out)
        .take(2)
        .map(Result::unwrap)
        .collect();
    watching.kill().unwrap();
    watching.wait().unwrap();
    for (line, is_first) in lines.iter().zip([true, false]) {
        assert_shape(
            &counters_of_one(is_first),
            &serde_json::from_str(line).unwrap(),
        );
    }
    let (code, err) = running.end(nix::sys::signal::Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

/// Proves A4: with `--log-format json` what changes has the same form as with `--json`, and is by
/// itself on standard error.
#[test]
fn the_log_of_run() {
    let world = World::new();
    let text = "name: p\ninbound: []\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let words = [&path[..], "--log-format", "json", "--interval", "60"];
    let mut running = Running::start(&world, &words);
    let lines = crate::run::lines_of(running.child.stderr.take().unwrap());
    let event = |name: &str, mut expected: Value| {
        expected["event"] = name.into();
        expected["at"] = "time".into();
        expected["interface"] = "nic".into();
        let line = lines.recv_timeout(std::time::Duration::from_secs(60));
        let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_shape(&change(expected), &value);
    };
    let mut expected = applied();
    expected["notes"] = json!(["*", "text"]);
    event("applied", expected);
    // By now the policy is kept open, so that it can be attached again.
    running.says("nic: inbound ");
    crate::world::ip(&["-n", &world.node, "link", "del", "nic"]);
    event("gone", json!({"moved_to": "text?", "renamed_to": "text?"}));
    world.add_veth();
    event(
        "reattached",
        json!({"ifindex": "number", "milliseconds": "real"}),
    );
    running.signal(nix::sys::signal::Signal::SIGTERM);
    event("detached", json!({"why": "text"}));
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}
