//! Connections that were cut stay cut, with real sockets: neither end can revive them, even under
//! policies whose rules accept both directions and so would need no flow table.

use sg_common::flow::{FlowKind, FlowValue, Timeout};
use sg_common::flow_entry::TICK_SHIFT;
use sg_common::verdict::Direction;
use sg_policy::compile::Placement;
use sg_policy::policy::{Established, Policy, rules_from_lines};
use sg_userspace::kernel::flow_tables::{FlowTable, key_of, monotonic_now};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::held::InForce;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::{Applied, ApplyOptions};

use crate::frames::frame;
use crate::hosts::{Pair, address};
use crate::sandbox::{Sandbox, ip, sandbox};
use crate::seed::{NODE4, NODE6, Node, PEER4, PEER6, at};
use crate::support::{Enforcer, pinned_maps};

/// Under this policy, connections to port 22 need no entry for their replies.
const SSH: &str = "in tcp 22 from any accept\nout all to any accept";
const WEB: &str = "in tcp 80 from any accept\nout all to any accept";
const OPEN: &str = "in all from any accept\nout all to any accept";
const NOTHING: &str = "";

/// The address of the node and the end that sends first (0 for the client), in all combinations.
const ALL: [(&str, usize); 4] = [(NODE4, 0), (NODE4, 1), (NODE6, 0), (NODE6, 1)];

/// A policy with the same meaning and another digest, because applying the same policy again
/// changes nothing.
fn like(rules: &str, port: u16) -> Policy {
    rules_from_lines(&format!("{rules}\nin udp {port} from any drop"))
}

fn flushing(policy: Policy) -> Policy {
    Policy {
        established: Established::Flush,
        ..policy
    }
}

/// Checks that data of neither end arrives, whichever sends first.
#[track_caller]
fn stay_cut(pairs: &[Pair]) {
    for (pair, (_, first)) in pairs.iter().zip(ALL.iter().cycle()) {
        for end in [*first, 1 - first] {
            assert!(!pair.carries_from(end, false), "data of end {end} arrives");
        }
    }
}

fn inbound(node: &Node) -> Vec<Pair> {
    ALL.iter().map(|(to, _)| node.inbound(to)).collect()
}

/// Moves the times of all flows back by more than the longest timeout.
fn make_older(table: &FlowTable) {
    let ticks = ((6 * 24 * 3600 * 1_000_000_000u64) >> TICK_SHIFT) as u32;
    table.rewrite(|mut flow| {
        flow.head = flow.head.seen_at(flow.head.last_seen().wrapping_sub(ticks));
        flow
    });
}

fn wait_for_days(node: &Node) {
    let pins = node.attached().pins;
    let table = FlowTable::open(&pins, &Timeout::defaults()).unwrap_or_else(|e| panic!("{e}"));
    make_older(&table);
}

/// Proves K11: connections that one policy has cut stay cut when the policy before it comes back,
/// which accepts both directions. New connections and datagrams pass. When the cut flows have
/// expired, the programs do not look them up any more.
#[test]
fn a_cut_connection_stays_so_when_the_policy_before_comes_back() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        assert!(!node.apply(&rules_from_lines(SSH)).first.state.may_have_cut);
        let pairs = inbound(&node);
        assert!(!node.apply(&rules_from_lines(WEB)).first.state.may_have_cut);
        stay_cut(&pairs);
        for port in 1..3 {
            let state = node.apply(&like(SSH, port)).first.state;
            assert!(state.may_have_cut && state.has_flows);
            stay_cut(&pairs);
        }
        let new = [NODE4, NODE6].map(|to| node.inbound(to));
        new.iter().for_each(Pair::goes_on);
        let state = node.apply(&like(OPEN, 1)).first.state;
        assert!(state.may_have_cut && state.has_flows);
        stay_cut(&pairs);
        new.iter().for_each(Pair::goes_on);
        [PEER4, PEER6]
            .map(|to| node.udp(to))
            .iter()
            .for_each(Pair::goes_on);
        let [inbound, outbound] = node.counted("revoked");
        assert!(inbound >= 12 && outbound >= 12, "{inbound} and {outbound}");
        let cut = node
            .flows()
            .into_iter()
            .filter(|f| f.state.name() == "tcp-cut");
        assert_eq!(cut.count(), 4, "and no other flow needs an entry");

        wait_for_days(&node);
        let state = node.apply(&like(OPEN, 2)).first.state;
        assert!(!state.may_have_cut && !state.has_flows);
        new.iter().for_each(Pair::goes_on);
    });
}

/// Proves K11: the same for connections that the node has opened, with a policy without rules in
/// between.
#[test]
fn outbound_connections_stay_cut_too() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines(OPEN));
        let mut pairs = inbound(&node);
        pairs.extend([PEER4, PEER4, PEER6, PEER6].map(|to| node.outbound(to)));
        let silent = node.inbound(NODE4);
        let datagrams = [PEER4, PEER6].map(|to| node.udp(to));
        node.apply(&rules_from_lines(NOTHING));
        stay_cut(&pairs);
        node.apply(&like(OPEN, 1));
        stay_cut(&pairs);
        // This connection sent nothing under the policy that would have cut it, so it was not cut.
        silent.goes_on();
        datagrams.iter().for_each(Pair::goes_on);
    });
}

/// Proves K11: a SYN that the rules accept opens a new connection on the same ports, which needs no
/// entry.
#[test]
fn a_new_connection_on_the_same_ports_passes() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines(SSH));
        let connect = |from: &str, to: &str| {
            let (from, to) = (from.parse().expect("an address"), at(to, 22));
            node.peer
                .inside(|| Pair::tcp_from(from, &node.listeners[0], &to))
        };
        const FROM: [(&str, &str); 2] = [("0.0.0.0:40022", NODE4), ("[::]:40022", NODE6)];
        let first = FROM.map(|(from, to)| connect(from, to));
        node.apply(&rules_from_lines(WEB));
        stay_cut(&first);
        node.apply(&like(SSH, 1));
        stay_cut(&first);
        first.into_iter().for_each(Pair::forget);
        let second = FROM.map(|(from, to)| connect(from, to));
        second.iter().for_each(Pair::goes_on);
        assert_eq!(node.flows().len(), 0);
    });
}

/// Proves K11: a policy with `flush` cuts the connections in the flow table even if its own rules
/// accept both directions, before userspace has swept the table as well as after. They stay cut
/// under the next policy. Datagrams and connections without an entry pass.
#[test]
fn what_was_flushed_stays_cut_where_the_rules_pass_it() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines(
            "in tcp 22 from any accept\nout udp to any accept",
        ));
        let pairs = inbound(&node);
        let datagrams = [PEER4, PEER6].map(|to| node.udp(to));
        assert!(
            node.apply(&flushing(like(OPEN, 1)))
                .first
                .state
                .may_have_cut
        );
        stay_cut(&pairs);
        datagrams.iter().for_each(Pair::goes_on);
        let new = [node.inbound(NODE4), node.outbound(PEER6)];
        assert!(node.apply(&like(OPEN, 2)).first.state.may_have_cut);
        stay_cut(&pairs);
        datagrams.iter().chain(&new).for_each(Pair::goes_on);
    });
}

/// Proves K11: connections that the first attachment has cut, under a policy that opens no flows,
/// stay cut under one that accepts everything.
#[test]
fn what_was_cut_at_the_first_attachment_stays_so_under_an_open_policy() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let mut pairs = inbound(&node);
        pairs.extend([PEER4, PEER4, PEER6, PEER6].map(|to| node.outbound(to)));
        let options = ApplyOptions {
            cut_existing: true,
            ..sandbox.options("nic")
        };
        let first = sg_userspace::kernel::apply(&rules_from_lines(NOTHING), &options)
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(!first.first.state.has_flows, "its rules accept nothing");
        let state = node.apply(&like(OPEN, 1)).first.state;
        assert!(state.may_have_cut && state.has_flows);
        stay_cut(&pairs);
        node.inbound(NODE4).goes_on();
    });
}

/// The policy in force, with its maps and programs kept open.
fn held(sandbox: &Sandbox, node: &Node) -> Box<sg_userspace::kernel::held::Held> {
    match InForce::find(sandbox.bpffs(), &node.attached().pins) {
        Ok(InForce::Policy(held)) => held,
        Ok(_) => panic!("no complete policy is in force"),
        Err(e) => panic!("{e}"),
    }
}

fn programs(applied: &Applied) -> [u32; 2] {
    let state = &applied.first.state;
    [state.inbound_program, state.outbound_program]
}

/// Proves K11 and C11: a policy that is put back looks up the connections that were cut meanwhile,
/// although it did not when it was loaded, with tables in .bss as well as in array maps. Its
/// counters go on, and the connections stay cut under the next policy.
#[test]
fn what_is_put_back_leaves_connections_cut() {
    // Too many rules for tables in .bss.
    let many: String = (0..45_000u32)
        .map(|i| {
            let (port, host) = (1000 + i, i % 250 + 1);
            format!("in tcp {port} from 10.0.{}.{host} drop\n", i / 250)
        })
        .collect();
    for (rules, placement) in [
        (SSH.to_owned(), Placement::Bss),
        (format!("{many}{SSH}"), Placement::ArrayMap),
    ] {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            assert_eq!(
                node.apply(&rules_from_lines(&rules)).sizes.placement,
                placement
            );
            let before = held(sandbox, &node);
            let pairs = inbound(&node);
            let counted = node.counters().rules.last().map(|rule| rule.packets);
            let applied = node.apply(&rules_from_lines(WEB));
            stay_cut(&pairs);
            let put_back = |ours| {
                let pins = node.attached().pins;
                before
                    .put_back(sandbox.bpffs(), &pins, &[ours])
                    .unwrap_or_else(|e| panic!("{e}"))
            };
            assert!(put_back(programs(&applied)));
            let attached = node.attached();
            let state = attached.state().unwrap_or_else(|e| panic!("{e}"));
            assert!(state.may_have_cut && state.has_flows);
            assert_eq!(state.policy.generation, before.state().policy.generation);
            assert_eq!(
                attached
                    .status()
                    .unwrap_or_else(|e| panic!("{e}"))
                    .faults
                    .len(),
                0
            );
            stay_cut(&pairs);
            node.inbound(NODE4).goes_on();
            let now = node.counters().rules.last().map(|rule| rule.packets);
            assert!(now > counted, "{counted:?} before, {now:?} now");
            node.apply(&like(OPEN, 1));
            stay_cut(&pairs);
        });
    }
}

/// Proves K11: if nothing was cut, putting a policy back uses the same programs as before.
#[test]
fn what_is_put_back_is_what_it_was_unless_something_is_cut() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let first = programs(&node.apply(&rules_from_lines(SSH)));
        let before = held(sandbox, &node);
        let pair = node.inbound(NODE4);
        let ours = programs(&node.apply(&rules_from_lines(OPEN)));
        pair.goes_on();
        let pins = node.attached().pins;
        let is_back = before.put_back(sandbox.bpffs(), &pins, &[ours]);
        assert!(is_back.unwrap_or_else(|e| panic!("{e}")));
        let attached = node.attached();
        let state = attached.state().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!([state.inbound_program, state.outbound_program], first);
        assert!(!state.may_have_cut);
        pair.goes_on();
    });
}

/// Creates the interface of the node again, with its addresses, and calls `attach`. Until then the
/// peer has no address and so sends no segment of an old connection.
fn make_anew(node: &Node, attach: impl FnOnce()) {
    ip(&["link", "delete", "nic"]);
    node.peer.connect("nic", "eth0");
    address("nic", &format!("{NODE4}/24"));
    address("nic", &format!("{NODE6}/64"));
    attach();
    node.peer.inside(|| {
        address("eth0", &format!("{PEER4}/24"));
        address("eth0", &format!("{PEER6}/64"));
    });
}

/// Proves K11: connections stay cut on a new interface of the same name, whether the policy in
/// force is attached to it again or another one replaces it.
#[test]
fn connections_stay_cut_on_an_interface_that_is_made_anew() {
    for is_attached_again in [true, false] {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            node.apply(&rules_from_lines(SSH));
            let pairs = inbound(&node);
            node.apply(&rules_from_lines(WEB));
            stay_cut(&pairs);
            if is_attached_again {
                node.apply(&like(SSH, 1));
                let current = held(sandbox, &node);
                let from = node.attached().pins;
                make_anew(&node, || {
                    current
                        .attach_again(sandbox.bpffs(), &from, "nic")
                        .unwrap_or_else(|e| panic!("{e}"));
                });
            } else {
                make_anew(&node, || {
                    assert!(node.apply(&like(SSH, 1)).first.state.may_have_cut);
                });
            }
            stay_cut(&pairs);
            node.inbound(NODE6).goes_on();
        });
    }
}

/// Proves K11: flows that have yet to be judged again may be cut at any moment, also between
/// reading the table and the swap, so the next policy has to look them up. Seeded flows and those
/// under `keep` are never judged again.
#[test]
fn what_may_still_be_cut_is_looked_for_too() {
    let judged = |established, is_seeded: bool| {
        let mut found = None;
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            let seeded = is_seeded.then(|| node.inbound(NODE4));
            node.apply(&rules_from_lines("in tcp 22 from 192.0.2.77 accept"));
            if !is_seeded {
                node.apply(&rules_from_lines("in tcp 22 from any accept"));
            }
            let pair = seeded.unwrap_or_else(|| node.inbound(NODE4));
            let next = Policy {
                established,
                ..rules_from_lines(WEB)
            };
            node.apply(&next);
            // No packet has passed under this policy.
            let states: Vec<_> = node.flows().iter().map(|flow| flow.state.name()).collect();
            assert_eq!(states, ["tcp-established"]);
            found = Some(node.apply(&like(OPEN, 1)).first.state.may_have_cut);
            pair.goes_on();
        });
        found.expect("the test has run")
    };
    assert!(judged(Established::Revalidate, false));
    assert!(!judged(Established::Keep, false));
    assert!(!judged(Established::Revalidate, true));
}

/// Proves K11, packet by packet: a policy that accepts both directions drops segments of a cut
/// connection until its flow has expired. The same goes for flows that the policy flushes itself
/// and that userspace has not swept yet.
#[test]
fn segments_are_dropped_until_the_cut_flow_expires() {
    const ENDS: [(&str, &str); 2] = [
        ("192.0.2.1", "198.51.100.7"),
        ("2001:db8::1", "2001:db8:51::7"),
    ];
    for established in [Established::Revalidate, Established::Flush] {
        sandbox(|sandbox| {
            let policy = Policy {
                established,
                ..rules_from_lines(OPEN)
            };
            let (shared, pins) = pinned_maps(sandbox, 64);
            let options = Generation {
                may_have_cut: true,
                ..Generation::of(&policy, 2)
            };
            let mut enforcer = Enforcer::loaded_by(policy, &options, &shared, Programs::load);
            let table =
                FlowTable::open(&pins, &Timeout::defaults()).unwrap_or_else(|e| panic!("{e}"));
            let now = monotonic_now();
            let value = match established {
                Established::Flush => FlowValue {
                    state: Timeout::TcpEstablished as u8,
                    generation: 1,
                    ..FlowValue::cut(now, None)
                },
                _ => FlowValue::cut(now, None),
            };
            for (local, remote) in ENDS {
                let [local, remote] = [local, remote].map(|a| a.parse().expect("an address"));
                let key = key_of(local, remote, (22, 5000), 6);
                assert!(table.enter(&key, &value, FlowKind::Established, now).is_new);
            }
            let expect = |enforcer: &mut Enforcer, [inbound, outbound]: [&str; 2]| {
                for (local, remote) in ENDS {
                    let (local, remote) = (at(local, 22), at(remote, 5000));
                    let inwards = frame(&format!("tcp {remote} > {local} ack"));
                    let outwards = frame(&format!("tcp {local} > {remote} ack"));
                    let decided = enforcer.send(Direction::Inbound, inwards.bytes());
                    assert_eq!(decided.counter, inbound, "{established:?}");
                    let decided = enforcer.send(Direction::Outbound, outwards.bytes());
                    assert_eq!(decided.counter, outbound, "{established:?}");
                }
            };
            expect(&mut enforcer, ["revoked"; 2]);
            make_older(&table);
            expect(&mut enforcer, ["in 1", "out 1"]);
        });
    }
}
