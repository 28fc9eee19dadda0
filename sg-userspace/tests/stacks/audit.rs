//! What is only watched, between real network stacks: connections work whole, and what is logged of
//! them says so in both directions.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use sg_common::verdict::{Action, Direction};
use sg_policy::policy::{AuditScope, Policy, rules_from_lines};
use sg_testbed::wait_for;
use sg_userspace::kernel::apply;
use sg_userspace::observe::events::{Events, LoggedPacket};
use sg_userspace::observe::status::Health;

use crate::line::{Family, Line, NIC};
use crate::sandbox::{Sandbox, run, sandbox};
use crate::service::{PATIENCE, SILENCE, Service, Transport, again, is_answered};

/// What was logged since the last time. No packet may be missing.
fn logged(events: &mut Events) -> Vec<LoggedPacket> {
    let logged = events.drain().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((logged.lost, logged.suppressed), (0, 0));
    logged.packets
}

fn directions(packets: &[LoggedPacket]) -> BTreeSet<(&'static str, bool)> {
    let of = |packet: &LoggedPacket| (packet.direction.name(), packet.reply);
    packets.iter().map(of).collect()
}

fn replace(sandbox: &Sandbox, policy: &Policy) {
    apply(policy, &sandbox.options(NIC)).unwrap_or_else(|e| panic!("apply: {e}"));
}

/// A connection on which a byte was echoed.
fn connect(line: &Line, to: SocketAddr) -> TcpStream {
    let stream = line
        .remote
        .inside(|| TcpStream::connect_timeout(&to, PATIENCE));
    let mut stream = stream.expect("what is only watched passes");
    assert!(is_echoed(&mut stream, PATIENCE));
    stream
}

fn is_echoed(stream: &mut TcpStream, within: std::time::Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("an option");
    stream.write_all(b"x").is_ok() && again(|| stream.read(&mut [0; 1])).is_ok_and(|n| n == 1)
}

/// Proves C9, A1, A2 and K11: a TCP connection that an audited rule would drop works whole, in both
/// families, with every packet of it counted for the rule and logged as `audit`. When the audit
/// ends it is cut.
#[test]
fn a_connection_that_an_audited_rule_would_drop_passes() {
    for outbound in ["", "\nout all to any accept"] {
        sandbox(|sandbox| {
            let line = Line::new(1);
            let rules = |audit: &str| {
                format!("in tcp 80 from any drop{audit}\nin tcp 22 from any accept{outbound}")
            };
            let enforced = line.enforce(sandbox, &rules_from_lines(&rules(" audit")));
            let status = enforced.status();
            assert_eq!((status.health, status.audited_rules), (Health::Auditing, 1));
            let mut events = Events::open(&enforced.attached()).unwrap_or_else(|e| panic!("{e}"));
            let _service =
                Service::start(&line.node, &[(Transport::Tcp, 80), (Transport::Tcp, 22)]);
            let mut streams = Vec::new();
            for family in Family::BOTH {
                let before = enforced.rule("in 1");
                let to = |port| SocketAddr::new(line.node_address(family), port);
                streams.push(connect(&line, to(80)));
                let packets = logged(&mut events);
                let counted = enforced.rule("in 1");
                let tcp = packets
                    .iter()
                    .filter(|packet| packet.local_port == Some(80));
                let of_rule: Vec<LoggedPacket> = tcp.cloned().collect();
                assert!(
                    of_rule.iter().all(|packet| packet.verdict == Action::Audit),
                    "{of_rule:?}"
                );
                let rule = of_rule[0].rule.as_ref().expect("the rule is there");
                assert_eq!((rule.position, of_rule[0].tcp_flags), (Some(1), Some(2)));
                assert_eq!(
                    directions(&of_rule),
                    [("inbound", false), ("outbound", true)].into(),
                    "{of_rule:?}"
                );
                let of_reply = of_rule
                    .iter()
                    .find(|packet| packet.reply)
                    .expect("there are some");
                // SYN and ACK.
                assert_eq!(of_reply.tcp_flags, Some(0x12), "{of_reply:?}");
                let sums =
                    counted.packets + counted.reply_packets - before.packets - before.reply_packets;
                assert!(
                    sums >= of_rule.len() as u64 && sums >= 6,
                    "{sums} {of_rule:?}"
                );
                assert_eq!(counted.action, Action::Audit);
                // What is accepted is not watched.
                assert!(is_answered(&line.remote, Transport::Tcp, to(22), PATIENCE));
                let of_22 = logged(&mut events)
                    .into_iter()
                    .filter(|packet| packet.local_port == Some(22));
                assert_eq!(of_22.count(), 0);
            }
            enforced.assert_adds_up();
            let totals = &enforced.counters().totals[Direction::Inbound as usize];
            assert!(
                totals.audited > 0 && totals.audited <= totals.accepted,
                "{totals:?}"
            );

            replace(sandbox, &rules_from_lines(&rules("")));
            assert_eq!(enforced.status().health, Health::Enforcing);
            for stream in &mut streams {
                assert!(!is_echoed(stream, SILENCE), "it is cut");
            }
            wait_for("packets of the cut connections", PATIENCE, || {
                enforced.reason("in revoked") > 0
            });
            let former = enforced.counters().rules;
            let kept = former.iter().find(|rule| rule.action == Action::Audit);
            assert!(kept.is_some_and(|rule| rule.packets > 0), "{former:?}");
            enforced.assert_adds_up();
        });
    }
}

/// Proves C9 and A2: under `--audit` a policy that denies everything cuts nothing: connections in
/// both directions, datagrams and fragments pass, all of it counted as what no rule matches.
#[test]
fn a_policy_that_denies_everything_can_be_tried() {
    sandbox(|sandbox| {
        let line = Line::new(1);
        let denies = rules_from_lines("in tcp 22 from any drop");
        let enforced = line.enforce(sandbox, &denies.clone().audited(AuditScope::Policy));
        assert_eq!(enforced.status().policy.audit, Some(AuditScope::Policy));
        let ports = [(Transport::Tcp, 7), (Transport::Udp, 7)];
        let _services = [
            Service::start(&line.node, &ports),
            Service::start(&line.remote, &ports),
        ];
        let mut events = Events::open(&enforced.attached()).unwrap_or_else(|e| panic!("{e}"));
        for family in Family::BOTH {
            let ends = [
                (&line.remote, line.node_address(family)),
                (&line.node, line.remote_address(family)),
            ];
            for (from, to) in ends {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let to = SocketAddr::new(to, 7);
                    assert!(
                        is_answered(from, transport, to, PATIENCE),
                        "{to} {transport:?}"
                    );
                }
                let to = to.to_string();
                let ping = ["-c", "1", "-s", "4000", "-W", "10", family.option(), &to];
                from.inside(|| run("ping", &ping));
            }
        }
        let packets = logged(&mut events);
        assert!(
            packets.iter().all(|packet| packet.verdict == Action::Audit),
            "{packets:?}"
        );
        let seen = directions(&packets);
        assert_eq!(
            seen.len(),
            4,
            "both directions, and replies in both: {seen:?}"
        );
        for direction in ["in", "out"] {
            assert!(enforced.reason(&format!("{direction} no-match")) > 0);
        }
        let totals = enforced.counters().totals;
        assert!(totals.iter().all(|total| total.dropped == 0), "{totals:?}");
        enforced.assert_adds_up();

        replace(sandbox, &denies);
        for transport in [Transport::Tcp, Transport::Udp] {
            let to = SocketAddr::new(line.remote_address(Family::V4), 7);
            assert!(
                !is_answered(&line.node, transport, to, SILENCE),
                "it is enforced now"
            );
        }
        enforced.assert_adds_up();
    });
}
