//! `sgctl metrics` and `run --metrics`, with the tools that read them: promtool and a Prometheus.

mod cost;
pub(crate) mod deployed;
mod exposition;
mod prometheus;
mod served;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use sg_testbed::interfaces;

use super::run::Running;
use super::world::{Ran, World, file, inside};

/// Every packet to the node has one rule or reason of its own.
const POLICY: &str = "\
name: metered
inbound:
  - {protocol: icmp, from: any, action: drop, description: no pings}
  - {name: dns, protocol: udp, ports: 5000, from: 192.0.2.0/24, action: accept, log: true}
  - {protocol: tcp, ports: 22, from: any, action: accept}
outbound: [{protocol: all, to: any, action: accept}]
";

const PINGS: &str = "icmp from any";
const DATAGRAMS: &str = "[dns] udp 5000 from 192.0.2.0/24";

/// A world whose node has a loopback.
fn world() -> (World, String) {
    let world = World::new();
    inside(&world.node, || interfaces::set_up("lo")).expect("a loopback");
    let policy = file(world.dir.path(), "p.yaml", POLICY);
    (world, policy)
}

/// An answer to a request.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Writes a request to an address in the node's namespace, and reads the answer to its end.
fn ask(world: &World, address: &str, request: &[u8]) -> std::io::Result<Answer> {
    let mut stream = inside(&world.node, || TcpStream::connect(address))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok(Answer {
        status: status.unwrap_or_default(),
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

#[track_caller]
fn get(world: &World, address: &str, target: &str, accept: &str) -> Answer {
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    ask(world, address, request.as_bytes()).unwrap_or_else(|e| panic!("{target} at {address}: {e}"))
}

/// Starts `run` with metrics at a port that the kernel chooses, and returns the address.
fn serving(world: &World, policy: &str) -> (Running, String) {
    let running = Running::start(world, &[policy, "--metrics", "127.0.0.1:0", "--persist"]);
    let line = running.line("metrics: http://");
    let address = line.trim().trim_start_matches("metrics: http://");
    let address = address.trim_end_matches("/metrics").to_owned();
    (running, address)
}

/// The samples of an exposition, by name and labels, as they are written.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut all = BTreeMap::new();
    for line in lines {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let before = all.insert(series.to_owned(), value);
        assert_eq!(before, None, "{series} is there twice");
    }
    all
}

/// Runs promtool with something on its standard input.
fn promtool(words: &[&str], input: &str) -> Ran {
    let mut child = Command::new("promtool")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tests need promtool: `cargo xtask setup` installs it");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output: Output = child.wait_with_output().expect("promtool ends");
    let _ = writer.join();
    Ran::of(&output)
}
