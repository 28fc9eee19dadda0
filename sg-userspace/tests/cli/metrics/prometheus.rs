//! A real Prometheus scrapes a real `run --metrics`, with the alert rules and the dashboard that
//! the repository has.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::deployed::{dashboard_queries, deployed};
use super::{DATAGRAMS, PINGS, ask, serving, world};
use crate::world::{World, file};

const ADDRESS: &str = "127.0.0.1:9090";

/// A Prometheus in the node's namespace.
struct Prometheus<'a> {
    world: &'a World,
    child: Child,
}

impl Prometheus<'_> {
    /// Scrapes `target` each second.
    fn start<'a>(world: &'a World, target: &str) -> Prometheus<'a> {
        let dir = world.dir.path();
        let rules = deployed("prometheus/sgctl.rules.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: sgctl, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules.display()
        );
        let config = file(dir, "prometheus.yml", &config);
        let child = Command::new("ip")
            .args(["netns", "exec", &world.node, "prometheus"])
            .arg(format!("--config.file={config}"))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .expect("the tests need iproute2");
        Prometheus { world, child }
    }

    /// An answer of its API. `None` as long as it does not answer.
    fn api(&self, path: &str) -> Option<Value> {
        // Version 1.0 has no chunks.
        let request = format!("GET /api/v1/{path} HTTP/1.0\r\n\r\n");
        let answer = ask(self.world, ADDRESS, request.as_bytes()).ok()?;
        let json: Value = serde_json::from_str(&answer.body).ok()?;
        assert!(
            json["status"] == "success" || answer.status == 503,
            "{path}: {json}"
        );
        Some(json["data"].clone())
    }

    /// The series of an instant query, each with its value.
    fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let path = format!("query?query={}", encoded(query));
        let Some(data) = self.api(&path) else {
            return Vec::new();
        };
        let value = |value: &Value| value[1].as_str().unwrap().parse::<f64>().unwrap();
        match data["resultType"].as_str() {
            Some("scalar") => vec![(Value::Null, value(&data["result"]))],
            _ => data["result"]
                .as_array()
                .unwrap_or(&Vec::new())
                .iter()
                .map(|one| (one["metric"].clone(), value(&one["value"])))
                .collect(),
        }
    }

    /// Asks until the answer is right.
    #[track_caller]
    fn says(&self, query: &str, is_right: impl Fn(&[(Value, f64)]) -> bool) -> Vec<(Value, f64)> {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let found = self.query(query);
            if is_right(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "{query} gives {found:?}");
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Waits for one number.
    #[track_caller]
    fn counts(&self, query: &str, number: u64) {
        let is_it =
            |found: &[(Value, f64)]| matches!(found, [(_, value)] if *value == number as f64);
        self.says(query, is_it);
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn encoded(query: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    query.bytes().map(byte).collect()
}

/// Proves O5: Prometheus reads what was sent, to the packet; every query of the dashboard has data
/// then, and the alert rules hold.
#[test]
fn prometheus_counts_what_was_sent() {
    let (world, path) = world();
    let (running, address) = serving(&world, &path);
    let prometheus = Prometheus::start(&world, &address);
    prometheus.counts("up{job=\"sgctl\"}", 1);
    let traffic = || {
        world.ping_node(5);
        // Each from a socket of its own: nobody listens, and an error would end the next write.
        (0..7).for_each(|_| world.send_udp_to_node(5000));
        world.send_udp_times(9, 2);
    };
    traffic();
    let rule = |rule: &str, family: &str| {
        format!("{family}{{interface=\"nic\",direction=\"inbound\",rule=\"{rule}\"}}")
    };
    prometheus.counts(&rule(PINGS, "sgctl_rule_packets_total"), 5);
    prometheus.counts(&rule(DATAGRAMS, "sgctl_rule_packets_total"), 7);
    // Echo requests of `ping` have 56 bytes of data.
    prometheus.counts(&rule(PINGS, "sgctl_rule_bytes_total"), 5 * 98);
    let no_match =
        "sgctl_reason_packets_total{direction=\"inbound\",action=\"drop\",reason=\"no-match\"}";
    prometheus.counts(no_match, 2);
    // The rule about datagrams logs what it decides.
    prometheus.counts("sgctl_events_total{outcome=\"delivered\"}", 7);
    prometheus.counts("sum(sgctl_events_total)", 7);
    // All there is, as `counters` sums it up (A2), once the node's own packets have ended.
    let seen = "sum(sgctl_rule_packets_total{direction=\"inbound\"}) \
                + sum(sgctl_rule_replies_total{direction=\"outbound\"}) \
                + sum(sgctl_reason_packets_total{direction=\"inbound\"})";
    let counters = || {
        let json = world.run(&["counters", "--json"]).ok().json();
        json[0]["totals"][0]["packets"].as_f64().unwrap()
    };
    prometheus.says(
        seen,
        |found| matches!(found, [(_, value)] if *value == counters()),
    );
    prometheus.counts("count(sgctl_attachment_healthy == 1)", 2);
    // The time of creation came along.
    let created = prometheus.says("sgctl_rule_packets_created", |found| !found.is_empty());
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!(
        created
            .iter()
            .all(|(_, at)| (0.0..600.0).contains(&(now - at))),
        "{created:?}"
    );
    let kind = prometheus
        .api("metadata?metric=sgctl_rule_packets_total")
        .unwrap();
    let kind = match kind["sgctl_rule_packets_total"].is_null() {
        true => prometheus
            .api("metadata?metric=sgctl_rule_packets")
            .unwrap()["sgctl_rule_packets"]
            .clone(),
        false => kind["sgctl_rule_packets_total"].clone(),
    };
    assert_eq!(kind[0]["type"], "counter", "{kind}");

    // Rates need traffic between two readings.
    traffic();
    prometheus.counts(&rule(PINGS, "sgctl_rule_packets_total"), 10);
    let queries = dashboard_queries();
    assert!(queries.len() >= 12, "{queries:?}");
    for (panel, query) in &queries {
        let found = prometheus.says(query, |found| !found.is_empty());
        assert!(
            found.iter().all(|(_, value)| !value.is_nan()),
            "{panel}: {found:?}"
        );
    }
    // What the panels about rules show is what was sent.
    let (_, drops) = queries
        .iter()
        .find(|(panel, query)| panel == "Drops by rule" && query.contains("rate("))
        .expect("the dashboard shows drops by rule");
    let increase = drops.replace("rate(", "increase(").replace("[1m]", "[1h]");
    let is_more = |found: &[(Value, f64)]| {
        let mut pings = found.iter().filter(|(labels, _)| labels["rule"] == PINGS);
        // Prometheus extrapolates to the whole window.
        pings.any(|(_, packets)| (4.0..=11.0).contains(packets))
    };
    prometheus.says(&increase, is_more);

    // Rules are evaluated without errors, and none fires here but what is so.
    let rules = prometheus.api("rules").unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() >= 7, "{rules:?}");
    for rule in &rules {
        assert_eq!(rule["lastError"], Value::Null, "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
    let names: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| rule["name"].as_str())
        .collect();
    assert!(names.contains("SgctlNotEnforcing"), "{names:?}");
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
}
