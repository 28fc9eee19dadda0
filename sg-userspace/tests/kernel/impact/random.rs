//! Random flows under one random policy after the other: those that are listed are those that the
//! programs then drop.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use fastrand::Rng;
use sg_common::flow::{FlowKind, FlowValue, Timeout};
use sg_common::flow_entry::FlowKey;
use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP, Kind};
use sg_common::verdict::Direction;
use sg_policy::policy::{AuditScope, Established, Policy, rules_from_lines};
use sg_userspace::kernel::flow_tables::{FlowTable, key_of, monotonic_now};
use sg_userspace::kernel::tables::LiveTables;
use sg_userspace::kernel::{ApplyOptions, apply};
use sg_userspace::observe::attached::{Attached, Scope, attached};

use super::{Ends, ends, impact_of, listed};
use crate::frames::frame;
use crate::hosts::{Host, address, gateway};
use crate::sandbox::{Sandbox, sandbox};
use crate::seed::{NODE4, NODE6, PEER4, PEER6};
use crate::support::is_guest;

fn attached_nic(sandbox: &Sandbox) -> Attached {
    let scope = Scope::Interface("nic".into());
    let found = attached(sandbox.bpffs(), &scope);
    found.unwrap_or_else(|e| panic!("{e}")).remove(0)
}

/// The programs that the interface runs, to be run on single packets.
struct Running {
    inbound: Xdp,
    outbound: SchedClassifier,
}

impl Running {
    fn of(one: &Attached) -> Running {
        let generation = one.state().expect("a record").policy.generation;
        let path = |direction| one.pins.program(direction, generation);
        Running {
            inbound: Xdp::from_pin(path(Direction::Inbound), XdpAttachType::Interface)
                .expect("it is pinned"),
            outbound: SchedClassifier::from_pin(path(Direction::Outbound)).expect("it is pinned"),
        }
    }

    fn accepts(&mut self, direction: Direction, bytes: &[u8]) -> bool {
        let options = TestRunOptions {
            data_in: Some(bytes),
            ..Default::default()
        };
        let (result, accept) = match direction {
            Direction::Inbound => (self.inbound.test_run(options), 2),
            Direction::Outbound => (self.outbound.test_run(options), -1),
        };
        result.expect("a test run").return_value as i32 == accept
    }
}

/// A flow that the test enters.
struct Entered {
    protocol: u8,
    local: SocketAddr,
    remote: SocketAddr,
    originator: Direction,
}

impl Entered {
    /// A packet of the side that opened it, from the middle of the flow.
    fn packet(&self) -> Vec<u8> {
        let (from, to) = match self.originator {
            Direction::Inbound => (self.remote, self.local),
            Direction::Outbound => (self.local, self.remote),
        };
        let text = match self.protocol {
            IPPROTO_TCP => format!("tcp {from} > {to} ack"),
            _ => format!("udp {from} > {to}"),
        };
        frame(&text).bytes().to_vec()
    }

    fn key(&self) -> FlowKey {
        let ports = (self.local.port(), self.remote.port());
        key_of(self.local.ip(), self.remote.ip(), ports, self.protocol)
    }

    fn ends(&self) -> Ends {
        (self.local, self.remote)
    }
}

/// Rules about the few ports and networks that the flows have.
fn random_rules(rng: &mut Rng) -> Policy {
    let mut lines = String::new();
    for _ in 0..rng.u8(2..9) {
        let direction = if rng.bool() { "in" } else { "out" };
        let word = if direction == "in" { "from" } else { "to" };
        let protocol = ["tcp", "udp", "all"][rng.usize(..3)];
        let ports = match protocol {
            "all" => String::new(),
            _ => format!(" {}", rng.u16(1..5)),
        };
        let remote = match rng.u8(..5) {
            0 => "any".to_owned(),
            1 => format!("203.0.{}.0/24", rng.u8(..4)),
            2 => "203.0.0.0/16".to_owned(),
            3 => format!("203.0.{}.{}/25", rng.u8(..4), rng.u8(..2) * 128),
            _ => format!("2001:db8:5:{}::/64", rng.u8(..4)),
        };
        let action = match rng.u8(..12) {
            0..8 => "accept",
            8..11 => "drop",
            _ => "drop audit",
        };
        lines.push_str(&format!(
            "{direction} {protocol}{ports} {word} {remote} {action}\n"
        ));
    }
    let established = [
        Established::Revalidate,
        Established::Revalidate,
        Established::Keep,
        Established::Flush,
    ];
    Policy {
        established: established[rng.usize(..established.len())],
        ..rules_from_lines(&lines)
    }
}

/// Enters a flow as the policy in force has admitted it, or as one that was there before.
fn enter(rng: &mut Rng, one: &Attached, rules: &LiveTables, table: &FlowTable, n: u32) -> Entered {
    let state = one.state().expect("a record");
    let (protocol, kind) = match rng.u8(..3) {
        0 => (IPPROTO_UDP, Kind::Udp),
        _ => (IPPROTO_TCP, Kind::Tcp),
    };
    let (local, remote): (IpAddr, IpAddr) = match rng.bool() {
        true => (
            NODE4.parse().expect("an address"),
            IpAddr::from([203, 0, rng.u8(..4), rng.u8(..)]),
        ),
        false => (
            NODE6.parse().expect("an address"),
            IpAddr::from([0x2001, 0xdb8, 5, rng.u16(..4), 0, 0, 0, rng.u16(..)]),
        ),
    };
    let originator = if rng.bool() {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    // The port of the service is one of those that rules are about; the other one is unique.
    let (service, other) = (rng.u16(1..5), 1024 + (n % 60_000) as u16);
    let (local_port, remote_port) = match originator {
        Direction::Inbound => (service, other),
        Direction::Outbound => (other, service),
    };
    let verdict = rules.decide(originator, remote, kind, service);
    let (timeout, flow_kind) = match (protocol, rng.bool()) {
        (IPPROTO_TCP, _) => (Timeout::TcpEstablished, FlowKind::Established),
        (_, true) => (Timeout::UdpStream, FlowKind::Established),
        (_, false) => (Timeout::Udp, FlowKind::HalfOpen),
    };
    let is_seeded = !verdict.is_accept() || rng.u8(..5) == 0;
    let now = monotonic_now();
    let value = FlowValue {
        created: now,
        last_seen: now,
        slot: if is_seeded { 0 } else { verdict.slot() },
        generation: state.epoch,
        state: timeout as u8,
        flags: FlowValue::SEEN_REPLY | if is_seeded { FlowValue::SEEDED } else { 0 },
        ..FlowValue::EMPTY
    };
    let value = value.admitted(originator, Some(originator));
    let key = key_of(local, remote, (local_port, remote_port), protocol);
    let written = table.enter(&key, &value, flow_kind, now);
    assert!(!written.evicted, "the table has room for all of them");
    Entered {
        protocol,
        local: SocketAddr::new(local, local_port),
        remote: SocketAddr::new(remote, remote_port),
        originator,
    }
}

/// Proves C5: of ten thousand flows, under one random policy after the other, those are listed
/// whose next packet passes before the change and does not pass after it, and no others. Whether it
/// passes is what the programs in force say of the packet itself.
#[test]
fn what_is_listed_is_what_is_cut() {
    let (rounds, each) = if is_guest() { (4, 250) } else { (20, 500) };
    sandbox(|sandbox| {
        let peer = Host::new();
        peer.connect("nic", "eth0");
        address("nic", &format!("{NODE4}/24"));
        address("nic", &format!("{NODE6}/64"));
        gateway(PEER4);
        gateway(PEER6);
        let mut rng = Rng::with_seed(17);
        let mut options = ApplyOptions {
            max_flows: Some(1 << 17),
            ..sandbox.options("nic")
        };
        let in_force = |policy: &Policy, options: &ApplyOptions| {
            apply(policy, options).unwrap_or_else(|e| panic!("{e}"));
            attached_nic(sandbox)
        };
        let mut one = in_force(&random_rules(&mut rng), &options);
        let mut flows: Vec<Entered> = Vec::new();
        let (mut cut, mut gone_on) = (0, 0);
        let mut reasons = BTreeSet::new();
        for round in 0..rounds {
            let state = one.state().expect("a record");
            let rules = LiveTables::of_running(&one.pins, state).expect("its tables");
            let table = FlowTable::open(&one.pins, &Timeout::defaults()).expect("its flows");
            for n in 0..each {
                let number = round * each + n;
                flows.push(enter(&mut rng, &one, &rules, &table, number));
            }
            let mut running = Running::of(&one);
            // A flow that the rules pass both ways needs no entry. If an earlier policy has revoked
            // it, it has none, and nobody knows of it.
            let passed: Vec<bool> = flows
                .iter()
                .map(|flow| {
                    let passes = running.accepts(flow.originator, &flow.packet());
                    passes && table.find(&flow.key()).is_some()
                })
                .collect();
            let next = random_rules(&mut rng);
            options.audit = match rng.u8(..6) {
                0 => AuditScope::Policy,
                _ => AuditScope::Rules,
            };
            let impact = impact_of(&next, &options);
            for row in &impact.cut {
                reasons.insert((row.now.reason, row.then.reason));
                assert_eq!(row.now.rule.is_some(), row.now.reason == "rule", "{row:?}");
                assert_eq!(
                    row.then.rule.is_some(),
                    row.then.reason == "rule",
                    "{row:?}"
                );
            }
            one = in_force(&next, &options);
            let mut running = Running::of(&one);
            let mut died = BTreeSet::new();
            for (flow, passed) in flows.iter().zip(passed) {
                let passes = running.accepts(flow.originator, &flow.packet());
                if passed && !passes {
                    died.insert(flow.ends());
                } else if passed {
                    gone_on += 1;
                }
            }
            cut += died.len();
            let listed = listed(&impact);
            let missed: Vec<_> = died.difference(&listed).take(5).collect();
            let wrong: Vec<_> = listed.difference(&died).take(5).collect();
            assert!(
                missed.is_empty() && wrong.is_empty(),
                "round {round}, {:?}: cut and not listed {missed:?}; listed and not cut {wrong:?}\n{:#?}",
                next.established,
                impact.cut.iter().find(|row| wrong.contains(&&ends(row))),
            );
        }
        assert_eq!(flows.len() as u32, rounds * each);
        let least = flows.len() / 20;
        assert!(
            cut > least && gone_on > least,
            "{cut} were cut, {gone_on} went on"
        );
        let expected = [
            ("rule", "flush"),
            ("rule", "no-match"),
            ("rule", "rule"),
            ("seeded", "flush"),
        ];
        for reason in expected {
            assert!(
                reasons.contains(&reason) || is_guest(),
                "{reason:?} of {reasons:?}"
            );
        }
    });
}
