//! Datagrams and pings in several fragments: all fragments of a packet pass or none does, in both
//! directions and families.

use std::net::{SocketAddr, UdpSocket};
use std::thread::scope;

use sg_policy::policy::rules_from_lines;

use crate::enforced::Enforced;
use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, SILENCE, Service, Transport, again, any, is_answered_over_udp};
use crate::tools::tool;
use sg_testbed::Host;

const SIZE: usize = 9000;
/// How many fragments a ping with this much data has at an MTU of 1,500, in each family.
const FRAGMENTS: u64 = 7;
const PINGS: u64 = 2;

/// How many large pings got a reply.
#[track_caller]
fn ping(host: &Host, line: &Line, family: Family) -> u64 {
    let is_node = std::ptr::eq(host, &raw const line.node);
    let to = match is_node {
        true => line.remote_address(family),
        false => line.node_address(family),
    };
    let (size, pings, to) = (SIZE.to_string(), PINGS.to_string(), to.to_string());
    let arguments = [
        "-n", "-q", "-i", "0.2", "-W", "1", "-s", &size, "-c", &pings, &to,
    ];
    let said = tool(host, "ping", &arguments).text;
    let (before, _) = said.split_once(" received").expect(&said);
    let (_, received) = before.rsplit_once(' ').expect(&said);
    received.parse().expect(&said)
}

/// How many packets the rules, flows and related errors accepted, in both directions.
fn passed(enforced: &Enforced) -> u64 {
    let counters = enforced.counters();
    let accepted: u64 = counters.totals.iter().map(|total| total.accepted).sum();
    let passing = counters.reasons.iter().filter(|row| {
        // Left out: the hosts resolve each other's link-layer addresses.
        ["non-ip", "essential"].contains(&row.reason.name())
    });
    accepted - passing.map(|row| row.packets).sum::<u64>()
}

/// Proves K4 and K6: all fragments of a ping are accepted by the rule, and all fragments of its
/// reply by the flow.
#[test]
fn pings_in_fragments_pass_with_their_replies() {
    let outbound = "out icmp 8 to any accept\nout icmpv6 128 to any accept";
    let inbound = "in icmp 8 from any accept\nin icmpv6 128 from any accept";
    for (rules, direction) in [(outbound, "out"), (inbound, "in")] {
        sandbox(|sandbox| {
            let line = Line::new(0);
            let enforced = line.enforce(sandbox, &rules_from_lines(rules));
            let asking = if direction == "out" {
                &line.node
            } else {
                &line.remote
            };
            for (position, family) in (1..).zip(Family::BOTH) {
                assert_eq!(ping(asking, &line, family), PINGS, "{direction} {family:?}");
                let rule = enforced.rule(&format!("{direction} {position}"));
                let fragments = PINGS * FRAGMENTS;
                let counted = (rule.packets, rule.reply_packets);
                assert_eq!(counted, (fragments, fragments), "{direction} {family:?}");
            }
            enforced.assert_adds_up();
        });
    }
}

/// Proves K4 and P2: if no rule accepts a packet, none of its fragments passes, inbound or
/// outbound.
#[test]
fn pings_in_fragments_that_no_rule_accepts_do_not_pass() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let rules = "in udp from any accept\nout udp to any accept";
        let enforced = line.enforce(sandbox, &rules_from_lines(rules));
        let line = &line;
        let answered = scope(|scope| {
            let pinging = Family::BOTH.map(|family| {
                [&line.remote, &line.node].map(|host| scope.spawn(move || ping(host, line, family)))
            });
            pinging.map(|both| both.map(|thread| thread.join().expect("ping runs")))
        });
        assert_eq!(answered, [[0; 2]; 2]);
        assert_eq!(passed(&enforced), 0);

        let first = enforced.reason("in no-match");
        let dropped = first + enforced.reason("in fragment");
        assert_eq!(dropped, 2 * PINGS * FRAGMENTS);
        assert!(first >= 2 * PINGS, "{first} first fragments");
        // The stack stops sending a packet's fragments when the hook drops one, so only first
        // fragments are certain.
        assert!(enforced.reason("out no-match") >= 2 * PINGS);
        enforced.assert_adds_up();
    });
}

/// Proves K4: of many datagrams at a time, each is judged by the port, which only its first
/// fragment has.
#[test]
fn datagrams_in_fragments_are_judged_by_their_port() {
    const OPEN: u16 = 5001;
    const CLOSED: u16 = 5002;
    sandbox(|sandbox| {
        let line = Line::new(0);
        let rules = format!("in udp {OPEN} from any accept\nout udp {OPEN} to any accept");
        let enforced = line.enforce(sandbox, &rules_from_lines(&rules));
        let ports = [OPEN, CLOSED].map(|port| (Transport::Udp, port));
        let _services = [&line.node, &line.remote].map(|host| Service::start(host, &ports));
        for family in Family::BOTH {
            let (node, remote) = (line.node_address(family), line.remote_address(family));
            for (from, to) in [(&line.node, remote), (&line.remote, node)] {
                let closed = SocketAddr::new(to, CLOSED);
                let before = passed(&enforced);
                let words = vec![0x5a; SIZE];
                assert!(
                    !from.inside(|| is_answered_over_udp(closed, &words, SILENCE)),
                    "{closed}"
                );
                assert_eq!(passed(&enforced), before, "{closed}");
                from.inside(|| echo_many(SocketAddr::new(to, OPEN)));
            }
        }
        enforced.assert_adds_up();
    });
}

/// Sends large datagrams to an echo server, a few at a time so that no socket buffer overflows. All
/// must come back.
fn echo_many(to: SocketAddr) {
    const AT_A_TIME: usize = 4;
    let socket = UdpSocket::bind(any(to.ip())).expect("a free port");
    socket.connect(to).expect("a route");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut answer = vec![0; 2 * SIZE];
    for round in 0..25 {
        let words = vec![round; SIZE];
        for _ in 0..AT_A_TIME {
            socket.send(&words).expect("the datagram is sent");
        }
        for n in 0..AT_A_TIME {
            let len = again(|| socket.recv(&mut answer));
            let len = len.unwrap_or_else(|e| panic!("reply {n} of round {round} of {to}: {e}"));
            assert!(answer[..len] == words, "the echo is what was sent");
        }
    }
}
