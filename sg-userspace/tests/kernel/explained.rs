//! `explain --iface` says what the programs in force do: of random packets under random policies,
//! and with the flows that those packets have left.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use fastrand::Rng;
use sg_common::icmp::{query, reply_type};
use sg_common::verdict::{Action, Direction};
use sg_policy::policy::{Policy, groups_from_lines, rules_from_lines};
use sg_policy::testing;
use sg_userspace::kernel::{ApplyOptions, apply};
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::counters::counters;
use sg_userspace::observe::explain::{ExplainedRule, Explanation, Question, Transport};
use sg_userspace::observe::flows::flows;
use sg_userspace::observe::inquiry::Inquiry;
use sg_userspace::observe::way::{Decision, JudgedBy};

use crate::frames::{Frame, frame, non_ip};
use crate::sandbox::{Sandbox, sandbox};
use crate::support::is_guest;
use crate::traffic::policies;
use crate::watching::only;

/// How many policies are tried, with so many packets each.
const POLICIES: u64 = 12;
const PACKETS: usize = 600;
/// The same with `SG_THOROUGH=1`: a million packets.
const ALL_POLICIES: u64 = 400;
const ALL_PACKETS: usize = 2500;

/// The programs that an interface runs.
struct Running {
    inbound: Xdp,
    outbound: SchedClassifier,
}

impl Running {
    fn open(one: &Attached) -> Running {
        let generation = one.state().expect("a record").policy.generation;
        let path = |direction| one.pins.program(direction, generation);
        let inbound = Xdp::from_pin(path(Direction::Inbound), XdpAttachType::Interface);
        let outbound = SchedClassifier::from_pin(path(Direction::Outbound));
        Running {
            inbound: inbound.expect("the program is pinned"),
            outbound: outbound.expect("the program is pinned"),
        }
    }

    fn lets_pass(&mut self, direction: Direction, frame: &Frame) -> bool {
        let mut bytes = frame.bytes().to_vec();
        // The kernel refuses shorter ones at the outbound hook.
        bytes.resize(bytes.len().max(60), 0);
        let options = TestRunOptions {
            data_in: Some(&bytes),
            ..Default::default()
        };
        let ran = match direction {
            Direction::Inbound => self.inbound.test_run(options),
            Direction::Outbound => self.outbound.test_run(options),
        };
        let value = ran.expect("a test run").return_value as i32;
        match (direction, value) {
            (Direction::Inbound, 1) | (Direction::Outbound, 2) => false,
            (Direction::Inbound, 2) | (Direction::Outbound, -1) => true,
            other => panic!("the hook returned {other:?}"),
        }
    }
}

/// What is to be counted: direction of the rule or reason, its position or name, and whether it is
/// a reply.
type Counted = BTreeMap<(Direction, String, bool), u64>;

fn who(direction: Direction, decision: &Decision) -> (Direction, String, bool) {
    let is_reply = decision.by_flow;
    match &decision.rule {
        // A reply counts for the rule that admitted the flow, which is one of the other direction.
        Some(rule) if is_reply => (
            direction.opposite(),
            format!("{} {}", rule.group, rule.summary),
            true,
        ),
        Some(rule) => (direction, format!("{} {}", rule.group, rule.summary), false),
        None => (direction, decision.reason.name().to_owned(), false),
    }
}

/// Sums of what rules and reasons have counted, replies apart.
fn counted(one: &Attached) -> Counted {
    let all = counters(one).expect("the counters can be read");
    let mut sums = Counted::new();
    for rule in &all.rules {
        let name = format!("{} {}", rule.group, rule.summary);
        for (is_reply, packets) in [(false, rule.packets), (true, rule.reply_packets)] {
            *sums
                .entry((rule.direction, name.clone(), is_reply))
                .or_default() += packets;
        }
    }
    for reason in &all.reasons {
        let name = reason.reason.name().to_owned();
        *sums.entry((reason.direction, name, false)).or_default() += reason.packets;
    }
    sums.retain(|_, packets| *packets > 0);
    sums
}

fn main_of(explanation: &Explanation) -> Decision {
    Decision {
        verdict: explanation.verdict,
        rule: explanation.rule.clone(),
        reason: explanation.reason,
        by_flow: explanation.way.as_ref().is_some_and(|way| way.by_flow),
    }
}

/// A packet and its reply as text for [`frame`]; `None` for a reply that there is not.
fn texts(question: &Question, flags: &str, id: u16) -> (String, Option<String>) {
    let ends = |ports: bool| {
        let end = |address: IpAddr, port: Option<u16>| match ports {
            true => SocketAddr::new(address, port.unwrap_or(0)).to_string(),
            false => address.to_string(),
        };
        let remote = end(question.remote, question.remote_port);
        let local = end(question.local, question.local_port);
        match question.direction {
            Direction::Inbound => (remote, local),
            Direction::Outbound => (local, remote),
        }
    };
    match question.transport {
        Transport::Protocol(number @ (6 | 17 | 132)) => {
            let (from, to) = ends(true);
            let name = match number {
                6 => "tcp",
                17 => "udp",
                _ => "sctp",
            };
            let (flags, back) = match number {
                6 => (flags, " syn ack"),
                _ => ("", ""),
            };
            let reply = format!("{name} {to} > {from}{back}");
            (format!("{name} {from} > {to} {flags}"), Some(reply))
        }
        Transport::Icmp { kind, code } => {
            let (from, to) = ends(false);
            let known = query(question.remote.is_ipv6().into(), kind);
            let reply = known.filter(|(_, is_request)| *is_request);
            let reply = reply.map(|(kind, _)| {
                let kind = reply_type(kind);
                format!("icmp {to} > {from} {kind}/0 id {id}")
            });
            (format!("icmp {from} > {to} {kind}/{code} id {id}"), reply)
        }
        Transport::Protocol(number) => {
            let (from, to) = ends(false);
            let of = |from: &str, to: &str| format!("proto {number} {from} > {to}");
            (of(&from, &to), Some(of(&to, &from)))
        }
        Transport::Arp | Transport::NonIp => (String::new(), None),
    }
}

/// A random question: most of the time at the edge of a rule, and often about the ends of an
/// earlier one, from either side.
fn question(rng: &mut Rng, policy: &Policy, before: &mut Vec<Question>) -> Question {
    if !before.is_empty() && rng.u8(..2) == 0 {
        let at = rng.usize(..before.len());
        let again = before[at];
        return match rng.bool() {
            true => again,
            false => Question {
                direction: again.direction.opposite(),
                ..again
            },
        };
    }
    if rng.u8(..32) == 0 {
        return essential(rng);
    }
    let packet = testing::packet(rng, policy);
    let local: IpAddr = match packet.remote {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, rng.u8(1..3)).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, rng.u16(1..3)).into(),
    };
    let opening = 40_000 + rng.u16(..4);
    let (remote_port, local_port) = match packet.direction {
        Direction::Inbound => (opening, packet.port),
        Direction::Outbound => (packet.port, opening),
    };
    let is_icmp = packet.protocol == if packet.remote.is_ipv4() { 1 } else { 58 };
    let has_ports = [6, 17, 132].contains(&packet.protocol);
    let question = Question {
        direction: packet.direction,
        transport: match rng.u8(..64) {
            0 => Transport::Arp,
            1 => Transport::NonIp,
            _ if is_icmp => Transport::Icmp {
                kind: packet.icmp.0,
                code: packet.icmp.1,
            },
            _ => Transport::Protocol(packet.protocol),
        },
        remote: packet.remote,
        remote_port: has_ports.then_some(remote_port),
        local,
        local_port: has_ports.then_some(local_port),
    };
    before.push(question);
    if before.len() > 200 {
        before.swap_remove(rng.usize(..200));
    }
    question
}

/// A packet that passes whatever the rules say, unless the policy has none of that.
fn essential(rng: &mut Rng) -> Question {
    let of =
        |direction, transport, remote: &str, local: &str, ports: (Option<u16>, Option<u16>)| {
            Question {
                direction,
                transport,
                remote: remote.parse().expect("an address"),
                remote_port: ports.0,
                local: local.parse().expect("an address"),
                local_port: ports.1,
            }
        };
    let none = (None, None);
    let neighbours = Transport::Icmp { kind: 135, code: 0 };
    let mld = Transport::Icmp { kind: 143, code: 0 };
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    let (igmp, udp) = (Transport::Protocol(2), Transport::Protocol(17));
    let all = [
        of(inbound, neighbours, "fe80::2", "fe80::1", none),
        of(outbound, mld, "ff02::16", "fe80::1", none),
        of(inbound, igmp, "192.0.2.254", "224.0.0.1", none),
        of(
            inbound,
            udp,
            "192.0.2.254",
            "192.0.2.1",
            (Some(67), Some(68)),
        ),
        of(inbound, udp, "fe80::2", "fe80::1", (Some(547), Some(546))),
    ];
    all[rng.usize(..all.len())]
}

/// What was seen, to show that enough was tried.
type Seen = Mutex<BTreeMap<String, u64>>;

fn round(sandbox: &Sandbox, seed: u64, packets: usize, before: &mut Vec<Question>, seen: &Seen) {
    let mut rng = Rng::with_seed(seed);
    let text = policies::policy(&mut rng, 40);
    let policy = groups_from_lines(&text.lines()).audited(text.audit);
    let options = ApplyOptions {
        // No flow is evicted between the question and the packet.
        max_flows: None,
        ..sandbox.options("sg0")
    };
    apply(&policy, &options).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let one = only(sandbox, "sg0");
    let mut inquiry = Inquiry::open(&one).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let mut running = Running::open(&one);
    let mut expected = counted(&one);
    for number in 0..packets {
        let asked = question(&mut rng, &policy, before);
        let about = |what: &str| format!("seed {seed}, packet {number}, {what}: {asked:?}");
        let answer = inquiry
            .ask(&asked)
            .unwrap_or_else(|e| panic!("{}: {e}", about("")));
        let way = answer.way.clone().expect("an interface was asked");
        if way.judged_by == JudgedBy::Tables {
            // An extension header of IPv6 is no packet that could be sent.
            *seen
                .lock()
                .expect("no panic")
                .entry("tables".into())
                .or_default() += 1;
            continue;
        }
        // A question names no identifier, so no flow of an earlier policy may have this one.
        let id = ((seed as usize * packets + number) % 60_000) as u16 + 2;
        let mut send = |direction: Direction, frame: &Frame, decision: &Decision, what: &str| {
            let passes = running.lets_pass(direction, frame);
            assert_eq!(
                passes,
                decision.verdict.passes(),
                "{}\n{answer:?}",
                about(what)
            );
            *expected.entry(who(direction, decision)).or_default() += 1;
            let name = match (&decision.rule, decision.by_flow) {
                (Some(_), true) => format!("{what} by a flow"),
                (Some(_), false) => format!("{what} {}", decision.verdict.name()),
                (None, _) => format!("{what} {}", decision.reason.name()),
            };
            *seen.lock().expect("no panic").entry(name).or_default() += 1;
        };
        let direction = asked.direction;
        if let Some(next) = way.next.as_ref().filter(|_| rng.bool()) {
            let (text, _) = texts(&asked, "ack", id);
            send(direction, &frame(&text), next, "next");
            continue;
        }
        let (text, back) = texts(&asked, "syn", id);
        let sent = match asked.transport {
            Transport::Arp => non_ip(0x0806),
            Transport::NonIp => non_ip(0x88cc),
            _ => with_hop_limit(frame(&text), &answer, &asked),
        };
        send(direction, &sent, &main_of(&answer), "packet");
        if let (Some(reply), Some(back)) = (&way.reply, back) {
            send(direction.opposite(), &frame(&back), reply, "reply");
        }
    }
    let found = counted(&one);
    assert_eq!(
        found, expected,
        "seed {seed}: other counters than were foretold"
    );
}

/// Neighbour discovery and IGMP are essential with one hop limit only, which `explain` assumes.
fn with_hop_limit(frame: Frame, answer: &Explanation, asked: &Question) -> Frame {
    if answer.reason.name() != "essential" {
        return frame;
    }
    let (at, limit) = match asked.remote {
        IpAddr::V4(_) => (8, 1),
        IpAddr::V6(_) => (7, 255),
    };
    frame.set(at, &[limit])
}

/// Proves K5, K6, K7, K11 and P2 of `explain --iface`: of every packet, its reply and the next one
/// of its flow it foretells the verdict and the counter, and counts nothing itself.
#[test]
fn what_is_explained_is_what_happens() {
    let is_thorough = std::env::var_os("SG_THOROUGH").is_some();
    let (policies, packets) = match (is_guest(), is_thorough) {
        (true, _) => (2, 100),
        (false, true) => (ALL_POLICIES, ALL_PACKETS),
        (false, false) => (POLICIES, PACKETS),
    };
    let seen = Seen::default();
    let every = |from: u64, step: usize| {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            // So that flows of one policy meet the next one.
            let mut before = Vec::new();
            for seed in (from..policies).step_by(step) {
                round(sandbox, seed, packets, &mut before, &seen);
                if (seed + 1) % 50 == 0 {
                    println!("{} of {policies} policies", seed + 1);
                }
            }
        });
    };
    match is_thorough {
        false => every(0, 1),
        // A million take one core a quarter of an hour.
        true => std::thread::scope(|scope| {
            for from in 0..2 {
                scope.spawn(move || every(from, 2));
            }
        }),
    }
    let seen = seen.into_inner().expect("all threads have ended");
    println!("{seen:#?}");
    if is_guest() {
        return;
    }
    for path in [
        "packet accept",
        "packet drop",
        "packet audit",
        "packet by a flow",
        "packet no-match",
        "packet essential",
        "packet non-ip",
        "packet revoked",
        "next by a flow",
        "next accept",
        "reply by a flow",
        "reply accept",
        "reply no-match",
    ] {
        let count = seen.get(path).copied().unwrap_or(0);
        assert!(count >= 5, "`{path}` was seen {count} times only");
    }
}

/// Asking changes nothing: no counter, no flow, not even when it was seen last.
#[test]
fn asking_changes_nothing() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let policy = rules_from_lines("in tcp 80 from any accept\nin udp 53 from any accept");
        apply(&policy, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        let one = only(sandbox, "sg0");
        let mut running = Running::open(&one);
        for (direction, text) in [
            (
                Direction::Inbound,
                "tcp 198.51.100.7:4000 > 192.0.2.1:80 syn",
            ),
            (
                Direction::Outbound,
                "tcp 192.0.2.1:80 > 198.51.100.7:4000 syn ack",
            ),
            (
                Direction::Inbound,
                "tcp 198.51.100.7:4000 > 192.0.2.1:80 ack",
            ),
            (Direction::Inbound, "udp 198.51.100.7:4000 > 192.0.2.1:53"),
        ] {
            assert!(running.lets_pass(direction, &frame(text)), "{text}");
        }
        let state = || {
            let table = sg_userspace::kernel::flow_tables::FlowTable::open(
                &one.pins,
                &sg_common::flow::Timeout::defaults(),
            );
            let mut entries = Vec::new();
            // As of one moment, so that times that stay the same look the same.
            table
                .expect("it is pinned")
                .each(1 << 60, |entry| entries.push(entry));
            (entries, counted(&one))
        };
        let before = state();
        assert_eq!(before.0.len(), 2);
        let listed = flows(&one).expect("the table can be read");
        // Longer than a busy flow's time is left as it is.
        std::thread::sleep(std::time::Duration::from_millis(600));
        let mut inquiry = Inquiry::open(&one).expect("root may load programs");
        let ask = |inquiry: &mut Inquiry<'_>, direction, protocol, ports: (u16, u16)| {
            let question = Question {
                direction,
                transport: Transport::Protocol(protocol),
                remote: "198.51.100.7".parse().expect("an address"),
                remote_port: Some(ports.0),
                local: "192.0.2.1".parse().expect("an address"),
                local_port: Some(ports.1),
            };
            let answer = inquiry.ask(&question).expect("an answer");
            (
                answer.verdict,
                answer.reason.name(),
                *answer.way.expect("a way"),
            )
        };
        let (verdict, _, way) = ask(&mut inquiry, Direction::Inbound, 6, (4000, 80));
        assert_eq!(verdict, Action::Accept);
        let tcp = listed
            .iter()
            .find(|flow| flow.protocol == 6)
            .expect("it is listed");
        let flow = way.flow.expect("a flow");
        assert_eq!((flow.state, flow.rule), (tcp.state, tcp.rule.clone()));
        assert_eq!(way.flows_between, 1);
        let next = way.next.expect("a next segment");
        assert_eq!((next.verdict, next.by_flow), (Action::Accept, false));
        // The node's side: a new connection is dropped, the flow's next segment passes.
        let (verdict, reason, way) = ask(&mut inquiry, Direction::Outbound, 6, (4000, 80));
        assert_eq!((verdict, reason), (Action::Drop, "no-match"));
        let next = way.next.expect("a next segment");
        assert_eq!((next.verdict, next.by_flow), (Action::Accept, true));
        assert!(
            next.rule
                .is_some_and(|rule: ExplainedRule| rule.position == 1)
        );
        let (verdict, reason, way) = ask(&mut inquiry, Direction::Outbound, 17, (4000, 53));
        assert_eq!(
            (verdict, reason, way.by_flow),
            (Action::Accept, "rule", true)
        );
        let (verdict, _, way) = ask(&mut inquiry, Direction::Inbound, 6, (4001, 80));
        assert_eq!(
            (verdict, way.flow.is_none(), way.flows_between),
            (Action::Accept, true, 0)
        );
        let reply = way.reply.expect("a reply");
        assert_eq!((reply.verdict, reply.by_flow), (Action::Accept, true));
        let (verdict, _, way) = ask(&mut inquiry, Direction::Inbound, 6, (4000, 81));
        assert_eq!((verdict, way.reply.is_none()), (Action::Drop, true));
        let nearest = way.nearest.expect("the policy is kept");
        assert_eq!(nearest[0].misses, [sg_policy::analysis::Miss::Port]);
        assert!(state() == before, "asking has changed something");
    });
}
