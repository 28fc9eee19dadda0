//! What is only watched passes, and is counted as what would be dropped and as nothing else (C9).

use sg_common::verdict::Direction::{Inbound, Outbound};
use sg_policy::policy::{AuditScope, groups_from_lines, rules_from_lines};

use crate::frames::{Frame, frame};
use crate::sandbox::sandbox;
use crate::support::{Enforcer, pinned_maps, rows_of, table};

/// Proves C9 and K6: a connection that an audited rule would drop passes in both directions, and
/// counts for that rule, whether or not the rules accept its replies.
#[test]
fn a_watched_connection_counts_for_the_rule_in_both_directions() {
    let rows = |reply: &str| {
        [
            (
                "in",
                "tcp 198.51.100.1:4000 > 192.0.2.1:80 syn",
                "accept in 1",
            ),
            (
                "out",
                "tcp 192.0.2.1:80 > 198.51.100.1:4000 syn ack",
                "accept in 1 reply",
            ),
            (
                "in",
                "tcp 198.51.100.1:4000 > 192.0.2.1:80 ack",
                "accept in 1",
            ),
            (
                "out",
                "tcp 192.0.2.1:80 > 198.51.100.1:4000 ack",
                "accept in 1 reply",
            ),
            (
                "out",
                "tcp 192.0.2.1:80 > 198.51.100.1:4000 fin ack",
                "accept in 1 reply",
            ),
            ("in", "udp 198.51.100.1:4000 > 192.0.2.1:53", "accept in 2"),
            (
                "out",
                "udp 192.0.2.1:53 > 198.51.100.1:4000",
                "accept in 2 reply",
            ),
            // Of no flow: the rules of the other direction decide.
            ("out", "udp 192.0.2.1:53 > 198.51.100.1:4001", reply),
        ]
        .map(|(direction, text, expected)| {
            (text.to_owned(), direction, frame(text), expected.to_owned())
        })
    };
    for (more, reply) in [
        ("", "drop no-match"),
        ("out all to any accept", "accept out 1"),
        ("out all to any drop", "drop out 1"),
        ("out all to any drop audit", "accept out 1"),
    ] {
        let rules = format!(
            "in tcp 80 from any drop audit\nin udp 53 from any drop audit\nin tcp from any accept\n{more}"
        );
        let mut enforcer = Enforcer::new(&rules);
        for (sentence, direction, frame, expected) in rows(reply) {
            let row = (sentence.as_str(), direction, frame, expected.as_str());
            rows_of(&mut enforcer, &[row]);
        }
    }
}

/// Proves C9, P2 and K6: what would not be dropped is not counted as if it were, and rules behind
/// the audited one are not asked.
#[test]
fn what_would_pass_anyway_is_not_watched() {
    table(
        "in all from any drop audit\nin tcp 80 from any accept\nout tcp 443 to any accept",
        &[
            (
                "the first rule decides",
                "in",
                frame("tcp 198.51.100.1:4000 > 192.0.2.1:80 syn"),
                "accept in 1",
            ),
            (
                "the node opens a connection, as the rules let it",
                "out",
                frame("tcp 192.0.2.1:5000 > 198.51.100.1:443 syn"),
                "accept out 1",
            ),
            (
                "its answer would pass whatever rule 1 says",
                "in",
                frame("tcp 198.51.100.1:443 > 192.0.2.1:5000 syn ack"),
                "accept out 1 reply",
            ),
            (
                "a SYN on its ports belongs to no flow",
                "in",
                frame("tcp 198.51.100.1:443 > 192.0.2.1:5000 syn"),
                "accept in 1",
            ),
            (
                "and its answers go on",
                "in",
                frame("tcp 198.51.100.1:443 > 192.0.2.1:5000 ack"),
                "accept out 1 reply",
            ),
            (
                "an error about that connection is related",
                "in",
                frame("tcp 192.0.2.1:5000 > 198.51.100.1:443 ack").error(
                    "203.0.113.9",
                    "192.0.2.1",
                    (3, 4),
                    40,
                ),
                "accept related",
            ),
            (
                "an error about nothing is what rule 1 would drop",
                "in",
                frame("udp 192.0.2.1:5000 > 198.51.100.1:53").error(
                    "203.0.113.9",
                    "192.0.2.1",
                    (3, 4),
                    40,
                ),
                "accept in 1",
            ),
        ],
    );
}

/// Proves C9 and K8: errors about a connection that is only watched pass, in both directions, as
/// the connection does.
#[test]
fn errors_about_a_watched_connection_pass() {
    table(
        "in tcp 80 from any drop audit",
        &[
            (
                "the connection",
                "in",
                frame("tcp 198.51.100.1:4000 > 192.0.2.1:80 syn"),
                "accept in 1",
            ),
            (
                "a router on the way back",
                "in",
                frame("tcp 192.0.2.1:80 > 198.51.100.1:4000 syn ack").error(
                    "203.0.113.9",
                    "192.0.2.1",
                    (3, 4),
                    40,
                ),
                "accept related audited",
            ),
            (
                "the node's own",
                "out",
                frame("tcp 198.51.100.1:4000 > 192.0.2.1:80 syn").error(
                    "192.0.2.1",
                    "198.51.100.1",
                    (3, 1),
                    40,
                ),
                "accept related audited",
            ),
            (
                "about another connection that the rule would drop",
                "out",
                frame("tcp 198.51.100.7:4000 > 192.0.2.1:80 syn").error(
                    "192.0.2.1",
                    "198.51.100.7",
                    (3, 1),
                    40,
                ),
                "accept related audited",
            ),
            (
                "about what nothing lets pass",
                "out",
                frame("tcp 198.51.100.1:4000 > 192.0.2.1:81 syn").error(
                    "192.0.2.1",
                    "198.51.100.1",
                    (3, 1),
                    40,
                ),
                "drop no-match",
            ),
        ],
    );
}

fn first(id: u16) -> Frame {
    frame("udp 198.51.100.1:4000 > 192.0.2.1:53").fragment4(id, 0, true)
}

fn later(id: u16) -> Frame {
    frame("udp 198.51.100.1:4000 > 192.0.2.1:53").fragment4(id, 4, false)
}

/// Proves C9, K3, K4 and P10: what each scope lets pass. Malformed packets are dropped, unless all
/// is watched.
#[test]
fn each_scope_lets_pass_what_it_says_and_no_more() {
    let rules =
        "option non-ip: arp-only\ngroup g\nin udp 53 from any drop\nin tcp 22 from any accept";
    let malformed = || {
        let mut bytes = frame("tcp 198.51.100.1:4000 > 192.0.2.1:22 syn")
            .bytes()
            .to_vec();
        // A header length of 16 bytes.
        bytes[14] = 0x44;
        bytes
    };
    let lldp = || {
        let mut bytes = vec![0u8; 60];
        bytes[12..14].copy_from_slice(&[0x88, 0xcc]);
        bytes
    };
    for (scope, expected) in [
        (
            AuditScope::Rules,
            [
                "drop in 1",
                "drop in 1",
                "drop fragment",
                "drop no-match",
                "drop non-ip",
                "drop malformed",
                "accept in 2",
            ],
        ),
        (
            AuditScope::Policy,
            [
                "accept in 1",
                "accept in 1",
                "accept fragment audited",
                "accept no-match audited",
                "accept non-ip audited",
                "drop malformed",
                "accept in 2",
            ],
        ),
        (
            AuditScope::All,
            [
                "accept in 1",
                "accept in 1",
                "accept fragment audited",
                "accept no-match audited",
                "accept non-ip audited",
                "accept malformed audited",
                "accept in 2",
            ],
        ),
    ] {
        let mut enforcer = Enforcer::of(groups_from_lines(rules).audited(scope));
        let frames = [
            first(7).bytes().to_vec(),
            later(7).bytes().to_vec(),
            later(8).bytes().to_vec(),
            frame("sctp 198.51.100.1:4000 > 192.0.2.1:22")
                .bytes()
                .to_vec(),
            lldp(),
            malformed(),
            frame("tcp 198.51.100.1:4000 > 192.0.2.1:22 syn")
                .bytes()
                .to_vec(),
        ];
        for (bytes, expected) in frames.iter().zip(expected) {
            let found = enforcer.send(Inbound, bytes);
            let verdict = if found.accept { "accept" } else { "drop" };
            assert_eq!(
                format!("{verdict} {}", found.counter),
                expected,
                "{scope:?}"
            );
        }
    }
}

/// Proves C9 and K11: when the audit ends, what it let pass is judged again: TCP is cut, and stays
/// so for all that another audit of the rules says, but not where all is watched.
#[test]
fn what_was_watched_is_judged_again_when_the_audit_ends() {
    sandbox(|sandbox| {
        let (maps, _) = pinned_maps(sandbox, 4096);
        let (watching, dropping) = ("in tcp 80 from any drop audit", "in tcp 80 from any drop");
        let mut number = 0;
        let mut next = |rules: &str, scope| {
            number += 1;
            let policy = rules_from_lines(rules).audited(scope);
            let generation = sg_userspace::kernel::generation::Generation {
                may_have_cut: true,
                ..sg_userspace::kernel::generation::Generation::of(&policy, number)
            };
            let load = sg_userspace::kernel::programs::Programs::load;
            Enforcer::loaded_by(policy, &generation, &maps, load)
        };
        let syn = "tcp 198.51.100.1:4000 > 192.0.2.1:80 syn";
        let ack = "tcp 198.51.100.1:4000 > 192.0.2.1:80 ack";
        let answer = "tcp 192.0.2.1:80 > 198.51.100.1:4000 ack";
        let sent = |enforcer: &mut Enforcer, text: &str| {
            let direction = if text == answer { Outbound } else { Inbound };
            let found = enforcer.send(direction, frame(text).bytes());
            let verdict = if found.accept { "accept" } else { "drop" };
            format!("{verdict} {}", found.counter)
        };
        let rules = AuditScope::Rules;
        let mut audit = next(watching, rules);
        assert_eq!(sent(&mut audit, syn), "accept in 1");
        assert_eq!(sent(&mut audit, answer), "accept in 1 reply");

        let mut enforced = next(dropping, rules);
        assert_eq!(sent(&mut enforced, answer), "drop revoked");
        assert_eq!(sent(&mut enforced, ack), "drop revoked");

        let mut audit = next(watching, rules);
        assert_eq!(sent(&mut audit, ack), "drop revoked", "cut is cut");
        let mut everything = next(dropping, AuditScope::Policy);
        assert_eq!(sent(&mut everything, ack), "accept revoked audited");
        assert_eq!(sent(&mut everything, answer), "accept revoked audited");
        assert_eq!(sent(&mut everything, syn), "accept in 1", "a new one");
        assert_eq!(sent(&mut everything, answer), "accept in 1 reply");

        // A rule that admits it makes a flow of it as any other.
        let mut admits = next("in tcp 80 from any accept", rules);
        assert_eq!(sent(&mut admits, answer), "accept in 1 reply");
        let mut audit = next(watching, rules);
        assert_eq!(
            sent(&mut audit, ack),
            "accept in 1",
            "what was admitted is watched from now on"
        );
        assert_eq!(sent(&mut audit, answer), "accept in 1 reply");
    });
}
