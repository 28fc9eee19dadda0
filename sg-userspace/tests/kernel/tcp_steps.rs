//! Every step of TCP's table on purpose: a flow is brought to each state, and there gets each
//! segment from each side. After every step the kernel's table holds what the reference holds.

use std::collections::BTreeSet;

use sg_common::verdict::Direction;
use sg_policy::policy::AuditScope;

use crate::frames::frame;
use crate::reference::states::{Segment, State};
use crate::sandbox::sandbox;
use crate::world::hunt::{self, Manner};
use crate::world::script::{Group, PolicyText, Sent, Step};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Every combination of flags with a meaning of its own, including those that no stack sends.
const FLAGS: [u8; 12] = [
    SYN,
    SYN | FIN,
    SYN | ACK,
    SYN | ACK | FIN,
    SYN | RST,
    FIN | ACK,
    FIN,
    ACK,
    RST,
    RST | ACK,
    RST | FIN,
    0,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The side that sends outbound.
    Originator,
    Other,
}

use Side::{Originator, Other};

const SIDES: [Side; 2] = [Originator, Other];

/// The segments that bring a connection to each state.
const PATHS: [(State, &[(Side, u8)]); 9] = [
    (State::SynSent, &[(Originator, SYN)]),
    (State::BothSyn, &[(Originator, SYN), (Other, SYN)]),
    (State::SynReceived, &[(Originator, SYN), (Other, SYN | ACK)]),
    (
        State::Established,
        &[(Originator, SYN), (Other, SYN | ACK), (Originator, ACK)],
    ),
    (
        State::FinWait,
        &[
            (Originator, SYN),
            (Other, SYN | ACK),
            (Originator, ACK),
            (Originator, FIN | ACK),
        ],
    ),
    (
        State::CloseWait,
        &[
            (Originator, SYN),
            (Other, SYN | ACK),
            (Originator, ACK),
            (Originator, FIN | ACK),
            (Other, ACK),
        ],
    ),
    (
        State::LastAck,
        &[
            (Originator, SYN),
            (Other, SYN | ACK),
            (Originator, ACK),
            (Other, FIN | ACK),
            (Originator, FIN | ACK),
        ],
    ),
    (
        State::TimeWait,
        &[
            (Originator, SYN),
            (Other, SYN | ACK),
            (Originator, ACK),
            (Other, FIN | ACK),
            (Originator, FIN | ACK),
            (Other, ACK),
        ],
    ),
    (State::Closed, &[(Originator, SYN), (Other, RST | ACK)]),
];

/// A connection with its sequence numbers, so that each segment has the numbers that the other side
/// expects.
struct Connection {
    port: u16,
    /// The next sequence number of the originator and of the other side.
    next: [u32; 2],
}

/// Bytes after the headers of each frame.
const PAYLOAD: u32 = 24;

impl Connection {
    fn send(&mut self, side: Side, flags: u8) -> Step {
        let port = self.port;
        let (text, direction, own) = match side {
            Originator => (
                format!("tcp 192.0.2.1:{port} > 198.51.100.7:443"),
                Direction::Outbound,
                0,
            ),
            Other => (
                format!("tcp 198.51.100.7:443 > 192.0.2.1:{port}"),
                Direction::Inbound,
                1,
            ),
        };
        let acknowledges = match flags & ACK {
            0 => 0,
            _ => self.next[1 - own],
        };
        let frame = frame(&text)
            .set(24, &self.next[own].to_be_bytes())
            .set(28, &acknowledges.to_be_bytes())
            .set(33, &[flags]);
        let flags = u32::from(flags);
        self.next[own] += PAYLOAD + (flags & 1) + (flags >> 1 & 1);
        Step::Frame(Sent {
            direction,
            segments: 1,
            bytes: frame.bytes().to_vec(),
            expected: None,
        })
    }
}

fn policy(rules: [&str; 2]) -> Step {
    Step::Policy(PolicyText {
        candidate: Vec::new(),
        max_flows: 8192,
        audit: AuditScope::Rules,
        // No flow ends by itself before its next step, however busy the machine is.
        options: vec![
            "established: keep".to_owned(),
            "timeouts: {tcp-syn-sent: 1h, tcp-syn-recv: 1h, tcp-fin-wait: 1h, tcp-close-wait: 1h, \
             tcp-last-ack: 1h, tcp-time-wait: 1h, tcp-close: 1h}"
                .to_owned(),
        ],
        groups: vec![Group {
            name: "steps".to_owned(),
            rules: rules.map(str::to_owned).into(),
        }],
    })
}

/// All steps of the script. A flow is updated either when the rules accept the packet or when they
/// do not and it is looked up, and a SYN is only ever decided by rules. So each segment is sent
/// once while the rules accept the originator's packets, and once while they accept the other
/// side's and the flow is kept.
fn steps(rules_at_last_for: Side) -> Vec<Step> {
    let for_originator = || policy(["out tcp to any accept", "in all from any drop"]);
    let for_other = || policy(["in tcp from any accept", "out all to any drop"]);
    let (mut paths, mut other_syns, mut last) =
        (vec![for_originator()], vec![for_other()], Vec::new());
    let mut port = 1024;
    let mut connection = || {
        port += 1;
        Connection {
            port,
            next: [1000, 7000],
        }
    };
    let each_segment = || SIDES.into_iter().flat_map(|s| FLAGS.map(|f| (s, f)));
    for (_, path) in PATHS {
        for (side, flags) in each_segment() {
            let mut connection = connection();
            for &(side, flags) in path {
                let step = connection.send(side, flags);
                match (side, flags) {
                    (Other, SYN) => other_syns.push(step),
                    _ => paths.push(step),
                }
            }
            last.push(connection.send(side, flags));
        }
    }
    for first in FLAGS {
        for (side, flags) in each_segment() {
            let mut connection = connection();
            paths.push(connection.send(Originator, first));
            last.push(connection.send(side, flags));
        }
    }
    if rules_at_last_for == Originator {
        other_syns.push(for_originator());
    }
    [paths, other_syns, last].concat()
}

/// Proves K9: in each state each segment of each side leads to the state that connection tracking's
/// table has, in the kernel and after a change of policy. Each segment that opens a flow begins it
/// in the right state.
#[test]
fn every_step_is_taken() {
    let manner = Manner {
        exact: true,
        ..Manner::default()
    };
    let mut taken = BTreeSet::new();
    sandbox(|sandbox| {
        for (seed, side) in (0..).zip(SIDES) {
            let world = hunt::check(sandbox, &manner, "tcp-steps", seed, &steps(side));
            let reference = world.reference().expect("a policy is in force");
            taken.extend(reference.flows.taken.keys().copied());
        }
    });
    let segments = [
        Segment::Syn,
        Segment::SynAck,
        Segment::Fin,
        Segment::Ack,
        Segment::Rst,
        Segment::Nothing,
    ];
    for segment in segments {
        let begins = taken.contains(&(None, true, segment));
        assert_eq!(begins, segment != Segment::Rst, "{segment:?} begins a flow");
        for (state, _) in PATHS {
            for from_originator in [true, false] {
                assert!(
                    taken.contains(&(Some(state), from_originator, segment)),
                    "{segment:?} in {state:?}, from the originator: {from_originator}"
                );
            }
        }
    }
}
