//! Which connections succeed and which do not: TCP and UDP, both families, both directions, with
//! real sockets.

use std::net::SocketAddr;
use std::thread::scope;

use sg_policy::policy::rules_from_lines;

use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, SILENCE, Service, Transport, is_answered};
use sg_testbed::Host;

use Transport::{Tcp, Udp};

const PORTS: [(Transport, u16); 5] = [(Tcp, 80), (Tcp, 443), (Tcp, 22), (Udp, 53), (Udp, 123)];

const RULES: &str = "
    in tcp 80 from any accept
    in tcp 443 from any drop
    in udp 53 from 10.0.0.0/24 accept
    in udp 123 from 2001:db8::/64 accept
    out tcp 443 to any accept
    out tcp 22 to 2001:db8:0::2 accept
    out udp 53 to any drop
    out udp 123 to any accept";

/// The client, the family, the transport, the port, and the rule of the policy that decides.
const VERDICTS: [(&str, Family, Transport, u16, &str); 20] = [
    ("remote", Family::V4, Tcp, 80, "accept in 1"),
    ("remote", Family::V6, Tcp, 80, "accept in 1"),
    ("remote", Family::V4, Tcp, 443, "drop in 2"),
    ("remote", Family::V6, Tcp, 443, "drop in 2"),
    ("remote", Family::V4, Tcp, 22, "drop"),
    ("remote", Family::V6, Tcp, 22, "drop"),
    ("remote", Family::V4, Udp, 53, "accept in 3"),
    ("remote", Family::V6, Udp, 53, "drop"),
    ("remote", Family::V4, Udp, 123, "drop"),
    ("remote", Family::V6, Udp, 123, "accept in 4"),
    ("node", Family::V4, Tcp, 443, "accept out 1"),
    ("node", Family::V6, Tcp, 443, "accept out 1"),
    ("node", Family::V4, Tcp, 22, "drop"),
    ("node", Family::V6, Tcp, 22, "accept out 2"),
    ("node", Family::V4, Tcp, 80, "drop"),
    ("node", Family::V6, Tcp, 80, "drop"),
    ("node", Family::V4, Udp, 53, "drop out 3"),
    ("node", Family::V6, Udp, 53, "drop out 3"),
    ("node", Family::V4, Udp, 123, "accept out 4"),
    ("node", Family::V6, Udp, 123, "accept out 4"),
];

/// Proves K1, K6, P2, P5 and A2: what the policy accepts gets a reply, although the rules of the
/// other direction do not accept it. What the policy drops gets none, in either direction. Without
/// the policy everything gets a reply.
#[test]
fn what_the_policy_accepts_connects_and_nothing_else() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &rules_from_lines(RULES));
        let _services = [
            Service::start(&line.node, &PORTS),
            Service::start(&line.remote, &PORTS),
        ];

        let answers = ask_all(&line, |verdict| verdict.starts_with("accept"));
        for ((who, family, transport, port, verdict), is_answered) in VERDICTS.iter().zip(answers) {
            let question = format!("{who} {family:?} {transport:?} {port}: {verdict}");
            assert_eq!(is_answered, verdict.starts_with("accept"), "{question}");
            let Some((action, rule)) = verdict.split_once(' ') else {
                continue;
            };
            let counted = enforced.rule(rule);
            assert_eq!(counted.action.name(), action, "{question}");
            assert!(counted.packets > 0, "{question}: {counted:?}");
            let has_replies = counted.reply_packets > 0;
            assert_eq!(has_replies, action == "accept", "{question}: {counted:?}");
        }
        for (who, reason) in [("remote", "in no-match"), ("node", "out no-match")] {
            let nobodys = VERDICTS.iter().filter(|it| it.0 == who && it.4 == "drop");
            assert!(enforced.reason(reason) >= nobodys.count() as u64, "{who}");
        }
        enforced.assert_adds_up();

        enforced.detach();
        let answers = ask_all(&line, |_| true);
        assert!(answers.iter().all(|answered| *answered), "{answers:?}");
    });
}

/// Sends all requests at once. Waits long for a reply where `is_sure`.
fn ask_all(line: &Line, is_sure: impl Fn(&str) -> bool) -> Vec<bool> {
    scope(|scope| {
        let asked = VERDICTS.map(|(who, family, transport, port, verdict)| {
            let (host, to): (&Host, _) = match who {
                "node" => (&line.node, line.remote_address(family)),
                _ => (&line.remote, line.node_address(family)),
            };
            let patience = if is_sure(verdict) { PATIENCE } else { SILENCE };
            scope.spawn(move || is_answered(host, transport, SocketAddr::new(to, port), patience))
        });
        let answers = asked.into_iter().map(|thread| thread.join());
        answers
            .map(|answer| answer.expect("asking works"))
            .collect()
    })
}
