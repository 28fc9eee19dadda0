//! The tail-call targets: they exist for as long as a packet may need them, and if another process
//! removes them, that is reported and packets are dropped.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use aya::maps::{Map, MapData, ProgramArray};
use sg_common::program::Target;
use sg_common::verdict::Direction;
use sg_userspace::observe::status::Health;

use crate::frames::{Frame, frame, non_ip};
use crate::sandbox::{RawSender, lost_on_the_way, sandbox};
use crate::support::rounds;
use crate::watching::{NODE, apply_rules, assert_adds_up, only, read, read_when, under};

/// Another policy that gives the packets of these tests the same verdicts.
const OTHER: &str = "in tcp 22 from any accept\nout all to any accept";

/// Proves K2 and A2: packets that need a tail call are decided as usual while the policy is
/// replaced, in both directions. None meets a program whose targets have been removed.
#[test]
fn packets_under_way_keep_their_programs() {
    const REPLACEMENTS: usize = 20;
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, NODE, &options);
        let frame = non_ip(0x88cc);
        let is_over = AtomicBool::new(false);
        let sender = |interface: &str| {
            let socket = RawSender::new(interface);
            || {
                let socket = socket;
                let mut sent = 0u64;
                while !is_over.load(Relaxed) {
                    // Some kernels report a full queue as a drop, so the counters tell what became
                    // of it.
                    socket.send(frame.bytes());
                    sent += 1;
                }
                sent
            }
        };
        let (from_peer, from_node) = (sender("sg1"), sender("sg0"));
        let sent = std::thread::scope(|scope| {
            let senders = [scope.spawn(from_peer), scope.spawn(from_node)];
            for round in 0..rounds(REPLACEMENTS) {
                apply_rules(sandbox, [OTHER, NODE][round % 2], &options);
            }
            is_over.store(true, Relaxed);
            senders.map(|sender| sender.join().unwrap())
        });
        // Where the senders are faster than the receiver, its queue is full at times.
        let sent = [sent[0] - lost_on_the_way("sg1"), sent[1]];
        let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets >= sent[0]);
        assert_adds_up(&counted, sent[0], sent[1]);
        assert!(
            sent.iter().all(|sent| *sent > 1000),
            "{sent:?} are too few to tell"
        );
        assert_eq!(under(&counted, "non-ip"), sent);
    });
}

/// Only the targets in use are pinned. Those of replaced programs are removed.
#[test]
fn a_replaced_policy_leaves_no_target_behind() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        for generation in 1..4 {
            let rules = [OTHER, NODE][generation as usize % 2];
            apply_rules(sandbox, rules, &sandbox.options("sg0"));
            let pins = only(sandbox, "sg0").pins;
            let names = fs::read_dir(&pins.dir).unwrap();
            let names = names.map(|entry| entry.unwrap().path());
            let mut targets: Vec<_> = names
                .filter(|p| p.to_str().unwrap().contains("targets"))
                .collect();
            targets.sort();
            let expected = Direction::BOTH.map(|d| pins.targets(d, generation));
            assert_eq!(targets, expected);
        }
    });
}

/// Proves A1 and A2 for each tail call: a packet whose target is missing is dropped and counted as
/// `incomplete`. That holds also if a rule would accept it, because its flow would not be entered.
#[test]
fn a_packet_whose_tail_call_finds_nothing_is_dropped_as_incomplete() {
    sandbox(|sandbox| {
        let tagged = |frame: Frame| frame.vlan(0x8100, 7);
        let opens = || frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 syn");
        let answers = || frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn ack");
        let error = || opens().error("203.0.113.9", "192.0.2.1", (3, 4), 28);
        let rows = [
            (Target::Slow, Direction::Inbound, non_ip(0x88cc)),
            (Target::Slow, Direction::Outbound, non_ip(0x88cc)),
            (Target::Track, Direction::Outbound, opens()),
            (Target::Track, Direction::Outbound, tagged(opens())),
            // The frame is tagged, because the fast path would drop it by its rule: no flow uses
            // its port.
            (Target::Track, Direction::Inbound, tagged(answers())),
            (Target::Related, Direction::Inbound, error()),
        ];
        for (number, (target, direction, frame)) in rows.into_iter().enumerate() {
            let (ours, theirs) = (format!("sg{number}"), format!("pg{number}"));
            sandbox.veth(&ours, &theirs);
            apply_rules(sandbox, NODE, &sandbox.options(&ours));
            let pin = only(sandbox, &ours).pins.targets(direction, 1);
            let map = Map::ProgramArray(MapData::from_pin(pin).unwrap());
            let mut array = ProgramArray::try_from(map).unwrap();
            array.clear_index(&(target as u32)).unwrap();
            let outbound = direction == Direction::Outbound;
            let sender = RawSender::new(if outbound { &ours } else { &theirs });
            let left = sender.send(frame.bytes());
            assert!(!(outbound && left), "{target:?} {direction:?} passes");
            let (inbound, outbound) = (u64::from(!outbound), u64::from(outbound));
            let counted = read_when(sandbox, &ours, |c| c.totals[direction as usize].packets > 0);
            assert_adds_up(&counted, inbound, outbound);
            assert_eq!(
                under(&counted, "incomplete"),
                [inbound, outbound],
                "{target:?} {direction:?}"
            );
        }
    });
}

/// Proves C12: the target that writes events is the only one without which packets are decided as
/// before; it is reported all the same.
#[test]
fn without_the_target_of_events_packets_are_decided_as_before() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let rules = "in tcp 22 from any accept log\nin all from any drop log";
        apply_rules(sandbox, rules, &sandbox.options("sg0"));
        let attached = only(sandbox, "sg0");
        let map = Map::ProgramArray(
            MapData::from_pin(attached.pins.targets(Direction::Inbound, 1)).unwrap(),
        );
        let mut array = ProgramArray::try_from(map).unwrap();
        array.clear_index(&(Target::Event as u32)).unwrap();
        let peer = RawSender::new("sg1");
        peer.send(frame("tcp 198.51.100.1:1 > 192.0.2.1:22 syn").bytes());
        peer.send(frame("tcp 198.51.100.1:1 > 192.0.2.1:23 syn").bytes());
        let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets == 2);
        assert_adds_up(&counted, 2, 0);
        assert_eq!((counted.rules[0].packets, counted.rules[1].packets), (1, 1));
        assert_eq!(under(&counted, "incomplete"), [0, 0]);
        let health = only(sandbox, "sg0").status().unwrap().health;
        assert_eq!(health, Health::Incomplete);
    });
}

/// Proves K1: if all targets are missing, a packet that needs one is dropped and counted.
#[test]
fn without_its_targets_an_interface_is_incomplete_and_passes_nothing_unknown() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let options = sandbox.options("sg0");
        apply_rules(sandbox, NODE, &options);
        let attached = only(sandbox, "sg0");
        let health = || only(sandbox, "sg0").status().unwrap().health;
        assert_eq!(health(), Health::Enforcing);
        for direction in Direction::BOTH {
            fs::remove_file(attached.pins.targets(direction, 1)).unwrap();
        }
        assert_eq!(health(), Health::Incomplete);
        // The kernel clears the program arrays some time after the last reference is gone.
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        let (lldp, ssh) = (
            non_ip(0x88cc),
            frame("tcp 198.51.100.1:1 > 192.0.2.1:22 syn"),
        );
        let mut sent = [0, 0];
        let is_gone = |sent: [u64; 2]| {
            let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets >= sent[0]);
            under(&counted, "incomplete")
                .iter()
                .all(|packets| *packets > 0)
        };
        while !is_gone(sent) {
            assert!(sent[0] < 10_000, "the targets are still there");
            peer.send(lldp.bytes());
            node.send(lldp.bytes());
            sent = sent.map(|sent| sent + 1);
        }
        assert!(!node.send(lldp.bytes()), "an unknown packet passes");
        peer.send(ssh.bytes());
        let counted = read_when(sandbox, "sg0", |c| c.rules[0].packets == 1);
        assert_adds_up(&counted, sent[0] + 1, sent[1] + 1);
        assert_eq!(under(&counted, "malformed"), [0, 0]);

        apply_rules(sandbox, NODE, &options);
        assert_eq!(health(), Health::Enforcing);
        assert!(node.send(lldp.bytes()));
        assert_adds_up(&read(sandbox, "sg0"), sent[0] + 1, sent[1] + 2);
    });
}
