//! `nmap` scans all 65,536 TCP ports from outside. It must find the ports that the policy opens,
//! and no others.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use sg_policy::policy::rules_from_lines;

use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::tools::tool;

/// Ports with a listener.
const LISTENING: [u16; 9] = [1, 22, 80, 443, 3306, 8003, 9090, 30_000, 65_535];
const RULES: &str = "in tcp 443 from any drop
    in tcp 22,80,443,0 from any accept
    in tcp 8000-8005 from any accept
    in tcp 30000-30001,65535 from any accept";
const OPEN: [u16; 5] = [22, 80, 8003, 30_000, 65_535];
/// Ports that the policy accepts, but that have no listener.
const CLOSED: [u16; 7] = [0, 8000, 8001, 8002, 8004, 8005, 30_001];

/// Proves P2, P4 and K6 for every TCP port: half-open handshakes over IPv4.
#[test]
fn a_syn_scan_finds_what_the_policy_opens() {
    scan(Family::V4, "-sS");
}

/// Proves P2, P4 and K6 for every TCP port: real connections over IPv6.
#[test]
fn a_connect_scan_finds_what_the_policy_opens() {
    scan(Family::V6, "-sT");
}

#[track_caller]
fn scan(family: Family, method: &str) {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &rules_from_lines(RULES));
        let _listeners = LISTENING.map(|port| {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            TcpListener::bind(any).expect("a free port")
        });

        let node = line.node_address(family).to_string();
        // There is no other host in between, so a port that is silent for a tenth of a second stays
        // silent.
        let options = "-n -Pn -T5 -p 0-65535 -oG - --min-rate 20000 --max-retries 2 \
                       --initial-rtt-timeout 100ms --max-rtt-timeout 100ms --host-timeout 45s";
        let mut arguments: Vec<&str> = options.split_whitespace().collect();
        arguments.push(method);
        if family == Family::V6 {
            arguments.push("-6");
        }
        arguments.push(&node);
        let said = tool(&line.remote, "nmap", &arguments);
        assert!(said.is_success, "{}", said.text);
        let found = found(&said.text);
        let ports = |state: &str| found.get(state).cloned().unwrap_or_default();
        assert_eq!(ports("open"), OPEN, "{}", said.text);
        assert_eq!(ports("closed"), CLOSED, "{}", said.text);
        let filtered = 65_536 - OPEN.len() - CLOSED.len();
        let ignored = format!("Ignored State: filtered ({filtered})");
        assert!(said.text.contains(&ignored), "{}", said.text);
        // Every other port was probed at least once, and no rule matched.
        assert!(enforced.reason("in no-match") >= filtered as u64 - 1);
        assert!(enforced.rule("in 1").packets > 0);
        enforced.assert_adds_up();
    });
}

/// The listed ports by state. nmap prints a line such as `Ports: 22/open/tcp//ssh///, …` for a
/// host.
fn found(text: &str) -> BTreeMap<&str, Vec<u16>> {
    let (_, rest) = text.split_once("Ports: ").expect(text);
    let list = rest.split('\t').next().expect("a first field");
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for port in list.split(", ") {
        let mut fields = port.split('/');
        let number = fields.next().and_then(|number| number.parse().ok());
        let state = fields.next().expect(port);
        found.entry(state).or_default().push(number.expect(port));
    }
    found
}
