//! What an apply says that it will do to connections, compared with what then happens to them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use fastrand::Rng;
use sg_common::flow::{FlowKind, FlowValue, Timeout};
use sg_common::flow_entry::FlowKey;
use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP, Kind};
use sg_common::verdict::Direction;
use sg_policy::policy::{AuditScope, Established, Policy, rules_from_lines};
use sg_userspace::kernel::flow_tables::{FlowTable, key_of, monotonic_now};
use sg_userspace::kernel::impact::{CutConnection, Impact};
use sg_userspace::kernel::tables::LiveTables;
use sg_userspace::kernel::{ApplyOptions, Preview, apply, apply_reviewed, preview};
use sg_userspace::observe::attached::{Attached, Scope, attached};

use crate::frames::frame;
use crate::hosts::{Host, Pair, address, gateway, listen, nft, sysctl};
use crate::sandbox::{Sandbox, ip, sandbox};
use crate::seed::{NO_RULES, NODE4, NODE6, Node, PEER4, PEER6, at};
use crate::support::is_guest;

/// What an apply would do.
fn impact_of(policy: &Policy, options: &ApplyOptions) -> Impact {
    let mut impact = None;
    let seen = preview(policy, options, &mut |change| {
        impact = Some(change.impact()?);
        Ok(())
    });
    match seen {
        Ok(Preview::Change { .. }) => impact.expect("a change is reviewed"),
        Ok(Preview::Unchanged(_)) => panic!("the policy is in force already"),
        Err(error) => panic!("{error}"),
    }
}

/// The local end and the remote end.
type Ends = (SocketAddr, SocketAddr);

fn ends(one: &CutConnection) -> Ends {
    let end = |address: IpAddr, port: Option<u16>| SocketAddr::new(address, port.unwrap_or(0));
    (
        end(one.local, one.local_port),
        end(one.remote, one.remote_port),
    )
}

fn listed(impact: &Impact) -> BTreeSet<Ends> {
    let listed: BTreeSet<Ends> = impact.cut.iter().map(ends).collect();
    assert_eq!(listed.len(), impact.cut.len(), "each is listed once");
    listed
}

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

/// The ends of a pair as the node sees it, whose client is the node where `is_ours`.
fn of_pair(pair: &Pair, is_ours: bool) -> Ends {
    let [client, server] = pair.addresses();
    match is_ours {
        true => (client, server),
        false => (server, client),
    }
}

/// Proves C5: connections that needed no entry, of the node's own sockets, with the processes.
#[test]
fn sockets_that_are_cut_are_listed_with_their_process() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines(
            "in tcp 22 from any accept\nout all to any accept",
        ));
        let theirs = [NODE4, NODE6].map(|address| node.inbound(address));
        let ours = [PEER4, PEER6].map(|address| node.outbound(address));
        let next = rules_from_lines(&format!(
            "in tcp 22 from {PEER6} accept\nout tcp 443 to {PEER4} accept\nout tcp 443 to any drop",
        ));
        let impact = impact_of(&next, &sandbox.options("nic"));
        let expected = BTreeSet::from([of_pair(&theirs[0], false), of_pair(&ours[1], true)]);
        assert_eq!(listed(&impact), expected);
        let own = std::process::id();
        for row in &impact.cut {
            assert!(row.processes.iter().any(|it| it.pid == own), "{row:?}");
            assert_eq!(row.interface.as_deref(), Some("nic"));
            assert_eq!(row.state, "tcp-established");
            let summary = row.now.rule.as_ref().map(|rule| rule.summary.as_str());
            let (now, then) = match row.remote.is_ipv4() {
                true => (Some("tcp 22 from any"), "no-match"),
                false => (Some("all to any"), "rule"),
            };
            assert_eq!((summary, row.then.reason), (now, then), "{row:?}");
        }
        // Nothing has changed by that.
        theirs.iter().chain(&ours).for_each(Pair::goes_on);
        node.apply(&next);
        theirs[0].is_cut();
        ours[1].is_cut();
        theirs[1].goes_on();
        ours[0].goes_on();
    });
}

/// Proves C5 and K12: at a first attachment nobody is cut unless that is asked for.
#[test]
fn a_first_attachment_lists_what_it_cuts() {
    for cut_existing in [false, true] {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            let pairs = [node.inbound(NODE4), node.inbound(NODE6)];
            let [ours, datagrams] = [node.outbound(PEER4), node.udp(PEER6)];
            let policy =
                rules_from_lines("in tcp 22 from 192.0.2.0/24 accept\nout tcp to any accept");
            let options = ApplyOptions {
                cut_existing,
                ..sandbox.options("nic")
            };
            let impact = impact_of(&policy, &options);
            let found = listed(&impact);
            if !cut_existing {
                assert_eq!(found, BTreeSet::new());
                // The datagrams; what the rules let out is admitted by them, whoever opened it.
                assert_eq!(impact.kept, 1, "{impact:?}");
                apply(&policy, &options).unwrap_or_else(|e| panic!("{e}"));
                pairs
                    .iter()
                    .chain([&ours, &datagrams])
                    .for_each(Pair::goes_on);
                return;
            }
            // IPv4 passes both ways by the rules, so that it goes on.
            let expected = BTreeSet::from([
                of_pair(&pairs[1], false),
                of_pair(&ours, true),
                of_pair(&datagrams, true),
            ]);
            let reasons: BTreeSet<_> = impact
                .cut
                .iter()
                .map(|row| (row.protocol, row.now.reason, row.then.reason))
                .collect();
            assert_eq!(found, expected);
            assert_eq!(
                reasons,
                BTreeSet::from([
                    (IPPROTO_TCP, "no-policy", "cut-existing"),
                    (IPPROTO_UDP, "no-policy", "no-match"),
                ])
            );
            apply(&policy, &options).unwrap_or_else(|e| panic!("{e}"));
            pairs[0].goes_on();
            pairs[1].is_cut();
            ours.is_cut();
            datagrams.is_cut();
        });
    }
}

/// Proves C5: forwarded and translated connections are listed once, by what they are on the wire.
#[test]
fn forwarded_connections_that_are_cut_are_listed() {
    sandbox(|sandbox| {
        let (inner, outer) = (Host::new(), Host::new());
        inner.connect("lan", "eth0");
        outer.connect("nic", "eth0");
        address("lan", "10.0.0.1/24");
        address("nic", "198.51.100.1/24");
        sysctl("ipv4/ip_forward", "1");
        nft(
            "table inet nat { chain post { type nat hook postrouting priority 100; \
             oifname \"nic\" masquerade; }; }",
        );
        let to = "198.51.100.7";
        let (listener, server) = outer.inside(|| {
            address("eth0", &format!("{to}/24"));
            let server = UdpSocket::bind(at(to, 53)).expect("port 53");
            (listen("[::]:443"), server)
        });
        let pairs = inner.inside(|| {
            address("eth0", "10.0.0.2/24");
            gateway("10.0.0.1");
            [
                Pair::tcp(&listener, &at(to, 443)),
                Pair::udp(server, &at(to, 53)),
            ]
        });
        let options = sandbox.options("nic");
        let deny = rules_from_lines(NO_RULES);
        let first = impact_of(&deny, &options);
        assert_eq!((listed(&first), first.kept), (BTreeSet::new(), 2));
        apply(&deny, &options).unwrap_or_else(|e| panic!("{e}"));
        pairs.iter().for_each(Pair::goes_on);
        // Seeded flows end by themselves or by `flush`.
        let judge = rules_from_lines("in tcp 9 from any accept");
        assert_eq!(listed(&impact_of(&judge, &options)), BTreeSet::new());
        let flush = Policy {
            established: Established::Flush,
            ..judge
        };
        let impact = impact_of(&flush, &options);
        // The source is that of the node: its port is the client's unless that was taken.
        let expected = pairs.iter().map(|pair| {
            let [client, server] = pair.addresses();
            let local = SocketAddr::new([198, 51, 100, 1].into(), client.port());
            (local, server)
        });
        assert_eq!(listed(&impact), expected.collect());
        assert!(impact.cut.iter().all(|row| row.processes.is_empty()));
        let reasons: BTreeSet<_> = impact.cut.iter().map(|row| row.now.reason).collect();
        assert_eq!(reasons, BTreeSet::from(["seeded"]));
        apply(&flush, &options).unwrap_or_else(|e| panic!("{e}"));
        pairs.iter().for_each(Pair::is_cut);
    });
}

/// Proves C5: listening sockets that a new policy lets others reach, with the rule and from where.
#[test]
fn sockets_that_become_reachable_are_listed() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        ip(&["link", "set", "lo", "up"]);
        let _other = [listen("0.0.0.0:8080"), listen("127.0.0.1:9090")];
        let options = sandbox.options("nic");
        let first = rules_from_lines("in tcp 22 from 192.0.2.0/24 accept");
        assert!(
            impact_of(&first, &options).opened.is_empty(),
            "all are reachable without a policy"
        );
        node.apply(&first);
        let next = rules_from_lines(
            "in tcp 22 from 192.0.2.0/23 accept\nin tcp 8000-9999 from 10.0.0.0/8 accept",
        );
        let impact = impact_of(&next, &options);
        let mut rows: Vec<String> = impact
            .opened
            .iter()
            .map(|row| {
                let from: Vec<String> = row
                    .from
                    .iter()
                    .map(|from| format!("{} by {}", from.prefixes.join(","), from.rule.summary))
                    .collect();
                assert!(row.processes.iter().any(|it| it.pid == std::process::id()));
                format!("{}:{} {}", row.local, row.port, from.join("; "))
            })
            .collect();
        rows.sort();
        let ssh = match impact.opened_is_complete {
            true => "192.0.3.0/24",
            // Only the tables can be asked, and they do not accept the whole range.
            false => "192.0.2.0/23",
        };
        assert_eq!(
            rows,
            [
                "0.0.0.0:8080 10.0.0.0/8 by tcp 8000-9999 from 10.0.0.0/8".to_owned(),
                format!(":::22 {ssh} by tcp 22 from 192.0.2.0/23"),
            ]
        );
    });
}

/// Proves C5: a review comes before anything is changed, and may refuse.
#[test]
fn a_review_may_refuse() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let refuse = || sg_userspace::kernel::KernelError::Guarded {
            code: "lock-out",
            message: "no".into(),
            help: "none".into(),
        };
        let options = sandbox.options("nic");
        let deny = rules_from_lines(NO_RULES);
        let mut calls = 0;
        let refused = apply_reviewed(&deny, &options, &mut |_| {
            calls += 1;
            Err(refuse())
        });
        assert_eq!(refused.expect_err("it was refused").code_name(), "lock-out");
        assert!(!sandbox.pins().exists(), "nothing is left");
        node.apply(&deny);
        // It is in force, so there is nothing to be said of it.
        apply_reviewed(&deny, &options, &mut |_| Err(refuse())).unwrap_or_else(|e| panic!("{e}"));
        let next = rules_from_lines("in tcp 22 from any accept");
        let refused = apply_reviewed(&next, &options, &mut |_| {
            calls += 1;
            Err(refuse())
        });
        assert!(refused.is_err());
        let state = node.attached().state().expect("a record").clone();
        assert_eq!((state.policy.generation, calls), (1, 2));
    });
}
