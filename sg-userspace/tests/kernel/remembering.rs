//! The remembering programs: they accept everything, count nothing, and enter the flows that the
//! rules admit.

use sg_common::verdict::Direction::{self, Inbound, Outbound};
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::pins::PinTree;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;

use crate::budget::stays_within_budget;
use crate::frames::{Frame, frame};
use crate::sandbox::sandbox;
use crate::support::{Enforcer, rows_of};

/// No direction accepts everything, so every reply needs a flow.
const RULES: &str = "in tcp 22 from any accept
    in udp 53 from 198.51.100.0/24,2001:db8::/32 accept
    in icmp 8 from any accept
    out udp 123 to any accept";

/// So many prefixes that the tables are in array maps instead of .bss.
fn far() -> String {
    let prefixes: Vec<String> = (0..20_000u32)
        .map(|i| format!("11.{}.{}.0/24", i / 250, i % 250))
        .collect();
    format!("{RULES}\nin udp 7 from {} accept", prefixes.join(","))
}

/// Proves K12: under the remembering programs every frame passes and no counter moves. The
/// enforcing programs then find the flows that the rules admit, and no others.
#[test]
fn what_is_admitted_is_remembered_and_everything_passes() {
    for (rules, may_be_in_bss) in [
        (RULES.to_owned(), true),
        (RULES.to_owned(), false),
        (far(), true),
    ] {
        sandbox(|sandbox| {
            let pins = PinTree::new(sandbox.bpffs())
                .interface(1, 1)
                .expect("the tree is readable");
            pins.create().unwrap_or_else(|e| panic!("{e}"));
            let shared = SharedMaps {
                pins: Some(pins),
                ..SharedMaps::default()
            };
            let policy = rules_from_lines(&rules);
            let mut generation = Generation::of(&policy, 1);
            generation.may_be_in_bss = may_be_in_bss;
            let mut enforcing =
                Enforcer::loaded_by(policy.clone(), &generation, &shared, Programs::load);
            let mut early = Enforcer::loaded_by(policy.clone(), &generation, &shared, |c, g, s| {
                enforcing.programs.load_remembering(c, g, s)
            });
            stays_within_budget("remembering", &early.programs);

            let admitted: &[(Direction, &str)] = &[
                (Inbound, "tcp 198.51.100.7:5000 > 192.0.2.1:22 syn"),
                (Inbound, "tcp [2001:db8::7]:5000 > [2001:db8::1]:22 syn"),
                (Inbound, "udp 198.51.100.7:5000 > 192.0.2.1:53"),
                (Inbound, "icmp 198.51.100.7 > 192.0.2.1 8/0 id 77"),
                (Outbound, "udp 192.0.2.1:5000 > 198.51.100.7:123"),
            ];
            let strange: &[(Direction, &str)] = &[
                (Inbound, "tcp 198.51.100.7:5000 > 192.0.2.1:23 syn"),
                (Inbound, "udp 203.0.113.7:5000 > 192.0.2.1:53"),
                (Inbound, "udp [2001:db8::7]:5000 > [2001:db8::1]:54"),
                (Inbound, "proto 47 198.51.100.7 > 192.0.2.1"),
                (Outbound, "tcp 192.0.2.1:5000 > 198.51.100.7:443 syn"),
                (Outbound, "udp 192.0.2.1:6000 > 198.51.100.7:124"),
                (Outbound, "icmp 192.0.2.1 > 198.51.100.7 3/1"),
            ];
            let mut all: Vec<(Direction, Frame)> = admitted
                .iter()
                .chain(strange)
                .map(|(direction, text)| (*direction, frame(text)))
                .collect();
            // A malformed frame, a later fragment without its first, and a frame that is not IP.
            all.push((Inbound, frame(admitted[0].1).cut(40)));
            all.push((Inbound, frame(admitted[2].1).fragment4(5, 9, false)));
            all.push((Inbound, frame(admitted[2].1).ethertype(0x806)));
            for (direction, frame) in &all {
                assert!(early.run(*direction, frame.bytes()), "{frame:?}");
            }
            // The flow's state changes, too.
            assert!(early.run(
                Outbound,
                frame("tcp 192.0.2.1:22 > 198.51.100.7:5000 syn ack").bytes()
            ));
            early.assert_counted_nothing();

            rows_of(
                &mut enforcing,
                &[
                    (
                        "a handshake goes on",
                        "out",
                        frame("tcp 192.0.2.1:22 > 198.51.100.7:5000 syn ack"),
                        "accept in 1 reply",
                    ),
                    (
                        "of IPv6, too",
                        "out",
                        frame("tcp [2001:db8::1]:22 > [2001:db8::7]:5000 syn ack"),
                        "accept in 1 reply",
                    ),
                    (
                        "a reply",
                        "out",
                        frame("udp 192.0.2.1:53 > 198.51.100.7:5000"),
                        "accept in 2 reply",
                    ),
                    (
                        "an echo",
                        "out",
                        frame("icmp 192.0.2.1 > 198.51.100.7 0/0 id 77"),
                        "accept in 3 reply",
                    ),
                    (
                        "a reply to the node",
                        "in",
                        frame("udp 198.51.100.7:123 > 192.0.2.1:5000"),
                        "accept out 1 reply",
                    ),
                    (
                        "what no rule admits was passed and not remembered",
                        "out",
                        frame("tcp 192.0.2.1:23 > 198.51.100.7:5000 syn ack"),
                        "drop no-match",
                    ),
                    (
                        "nor a reply to it",
                        "in",
                        frame("udp 198.51.100.7:124 > 192.0.2.1:6000"),
                        "drop no-match",
                    ),
                ],
            );
        });
    }
}
