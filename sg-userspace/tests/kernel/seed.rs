//! Connections that exist before the first attachment, with real sockets, forwarding and NAT.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use sg_common::flow::{FlowKind, Timeout};
use sg_policy::policy::{Established, Policy, rules_from_lines};
use sg_userspace::kernel::flow_tables::{monotonic_now, sweep, table_use};
use sg_userspace::kernel::{Applied, ApplyOptions, Seeded, apply};
use sg_userspace::observe::attached::{Attached, Scope, attached};
use sg_userspace::observe::counters::{Counters, counters};
use sg_userspace::observe::flows::{Flow, flows};

use crate::hosts::{Host, Pair, address, gateway, is_kept_out, listen, nft, sysctl};
use crate::sandbox::{Sandbox, sandbox};
use crate::watching::under;

pub(crate) const NO_RULES: &str = "";

/// The node is the sandbox itself. A peer is at the other end of its interface `nic`.
pub(crate) struct Node<'a> {
    sandbox: &'a Sandbox,
    pub(crate) peer: Host,
    /// The listeners at port 22 of the node and at port 443 of the peer.
    pub(crate) listeners: [TcpListener; 2],
}

pub(crate) const NODE4: &str = "192.0.2.1";
pub(crate) const NODE6: &str = "2001:db8::1";
pub(crate) const PEER4: &str = "192.0.2.2";
pub(crate) const PEER6: &str = "2001:db8::2";

pub(crate) fn at(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

impl<'a> Node<'a> {
    pub(crate) fn new(sandbox: &'a Sandbox) -> Self {
        let peer = Host::new();
        peer.connect("nic", "eth0");
        address("nic", &format!("{NODE4}/24"));
        address("nic", &format!("{NODE6}/64"));
        let there = peer.inside(|| {
            address("eth0", &format!("{PEER4}/24"));
            address("eth0", &format!("{PEER6}/64"));
            listen("[::]:443")
        });
        // One socket accepts both families: a client of IPv4 has a mapped address.
        let here = listen("[::]:22");
        Node {
            sandbox,
            peer,
            listeners: [here, there],
        }
    }

    pub(crate) fn inbound(&self, node: &str) -> Pair {
        let to = at(node, 22);
        self.peer.inside(|| Pair::tcp(&self.listeners[0], &to))
    }

    pub(crate) fn outbound(&self, peer: &str) -> Pair {
        Pair::tcp(&self.listeners[1], &at(peer, 443))
    }

    pub(crate) fn udp(&self, peer: &str) -> Pair {
        let to = at(peer, 53);
        let server = self.peer.inside(|| UdpSocket::bind(&to)).expect("port 53");
        Pair::udp(server, &to)
    }

    fn options(&self) -> ApplyOptions {
        self.sandbox.options("nic")
    }

    pub(crate) fn apply(&self, policy: &Policy) -> Applied {
        apply(policy, &self.options()).unwrap_or_else(|e| panic!("apply: {e}"))
    }

    pub(crate) fn attached(&self) -> Attached {
        let scope = Scope::Interface("nic".into());
        let found = attached(self.sandbox.bpffs(), &scope);
        found.unwrap_or_else(|e| panic!("{e}")).remove(0)
    }

    pub(crate) fn flows(&self) -> Vec<Flow> {
        flows(&self.attached()).unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) fn counters(&self) -> Counters {
        counters(&self.attached()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// How many inbound and outbound packets were counted for a reason.
    pub(crate) fn counted(&self, reason: &str) -> [u64; 2] {
        under(&self.counters(), reason)
    }
}

/// How many flows were entered, how many of them no rule admits, and how many did not fit.
pub(crate) fn kept(seeded: &Option<Seeded>) -> Option<[usize; 3]> {
    let seeded = seeded.as_ref()?;
    Some([seeded.entered, seeded.without_rule, seeded.left_out])
}

pub(crate) fn seeded(entered: usize, without_rule: usize) -> Option<[usize; 3]> {
    Some([entered, without_rule, 0])
}

/// Proves K12 and A1: existing connections go on under a policy that denies everything.
#[test]
fn connections_that_exist_go_on_and_no_new_ones_are_made() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let pairs = [
            node.inbound(NODE4),
            node.inbound(NODE6),
            node.outbound(PEER4),
            node.outbound(PEER6),
            node.udp(PEER4),
            node.udp(PEER6),
        ];
        let applied = node.apply(&rules_from_lines(NO_RULES));
        assert_eq!(kept(&applied.seeded), seeded(6, 6));

        let mut listed: Vec<String> = node.flows().iter().map(line).collect();
        listed.sort();
        let expected = [
            "6 192.0.2.1 22 opened inbound tcp-established established seeded true",
            "6 192.0.2.1 opened unknown tcp-established established seeded true",
            "6 2001:db8::1 22 opened inbound tcp-established established seeded true",
            "6 2001:db8::1 opened unknown tcp-established established seeded true",
            "17 192.0.2.1 opened unknown udp-stream established seeded true",
            "17 2001:db8::1 opened unknown udp-stream established seeded true",
        ];
        let mut expected: Vec<_> = expected.map(String::from).into();
        expected.sort();
        assert_eq!(listed, expected);

        let [before_in, before_out] = node.counted("seeded");
        for (done, pair) in (1..).zip(&pairs) {
            pair.goes_on();
            // Each exchange has at least one packet in each direction.
            let [inbound, outbound] = node.counted("seeded");
            assert!(inbound >= before_in + done, "{inbound} inbound");
            assert!(outbound >= before_out + done, "{outbound} outbound");
        }
        let one = node.attached();
        let timeouts = one.state().expect("it has a record").timeouts;
        let use_ = table_use(&one.pins, &timeouts).unwrap_or_else(|e| panic!("{e}"));
        let established = use_[FlowKind::Established as usize];
        assert_eq!(
            (established.live, established.entered, established.evicted),
            (6, 6, 0)
        );

        assert!(is_kept_out(&at(PEER4, 443)));
        assert!(is_kept_out(&at(PEER6, 443)));
        assert!(node.peer.inside(|| is_kept_out(&at(NODE4, 22))));
        assert!(node.peer.inside(|| is_kept_out(&at(NODE6, 22))));
        let [inbound, outbound] = node.counted("no-match");
        assert!(inbound >= 2 && outbound >= 2, "{inbound} and {outbound}");
        pairs.iter().for_each(Pair::goes_on);
    });
}

/// A flow as text, without its remote end. The local port is left out unless it is the listener's,
/// since all others are random.
fn line(flow: &Flow) -> String {
    let port = match flow.local_port {
        Some(22) => " 22",
        _ => "",
    };
    format!(
        "{} {}{port} opened {} {} {} seeded {}",
        flow.protocol,
        flow.local,
        flow.opened.name(),
        flow.state.name(),
        flow.kind.name(),
        flow.is_seeded
    )
}

/// When an interface joins, connections that have an entry already need none, and did not lack
/// room.
#[test]
fn connections_with_an_entry_are_left_alone_when_an_interface_joins() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        sandbox.veth("other", "far");
        let pairs = [node.inbound(NODE4), node.outbound(PEER6)];
        let rules = rules_from_lines("in tcp 22 from any accept");
        assert_eq!(kept(&node.apply(&rules).seeded), seeded(2, 1));
        let options = ApplyOptions {
            interfaces: vec!["nic".into(), "other".into()],
            ..node.options()
        };
        let joined = apply(&rules, &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(kept(&joined.seeded), seeded(0, 0));
        pairs.iter().for_each(Pair::goes_on);
    });
}

/// Proves K12: with `cut_existing` existing connections are cut.
#[test]
fn connections_are_cut_where_that_is_asked_for() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let pairs = [node.inbound(NODE4), node.outbound(PEER6), node.udp(PEER4)];
        let options = ApplyOptions {
            cut_existing: true,
            ..node.options()
        };
        let applied =
            apply(&rules_from_lines(NO_RULES), &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(applied.seeded, None);
        pairs.iter().for_each(Pair::is_cut);
        assert_eq!(node.counted("seeded"), [0, 0]);
        let states: Vec<&str> = node.flows().iter().map(|flow| flow.state.name()).collect();
        assert_eq!(states, ["tcp-cut"; 2], "of the datagrams nothing is known");
    });
}

/// Proves K12: `flows` shows which side opened an existing or a cut connection, if that is known. A
/// listener shows it for connections to its port, connection tracking for all. Which rule admits
/// the flow says nothing about it.
#[test]
fn the_originator_is_shown_where_it_is_known() {
    for is_tracked in [false, true] {
        let unless_tracked = |known: &'static str| match is_tracked {
            true => known,
            false => "unknown",
        };
        for (rules, is_cut) in [
            ("in tcp from any accept", false),
            ("out tcp to any accept", false),
            (NO_RULES, false),
            (NO_RULES, true),
        ] {
            sandbox(|sandbox| {
                let node = Node::new(sandbox);
                if is_tracked {
                    nft(
                        "table inet tracked { chain input { type filter hook input priority 0; \
                         ct state established accept; }; }",
                    );
                }
                let pairs = [node.inbound(NODE4), node.outbound(PEER6)];
                let options = ApplyOptions {
                    cut_existing: is_cut,
                    ..node.options()
                };
                apply(&rules_from_lines(rules), &options).unwrap_or_else(|e| panic!("{e}"));
                let opened = |node: &Node| {
                    let mut found: Vec<_> = node
                        .flows()
                        .into_iter()
                        .map(|f| {
                            (
                                f.local_port == Some(22),
                                f.opened.name(),
                                f.rule.map(|r| r.summary.clone()),
                            )
                        })
                        .collect();
                    found.sort();
                    found
                };
                let rule = rules
                    .split_once(' ')
                    .map(|(_, rest)| rest.replace(" accept", ""));
                let expected = [
                    (false, unless_tracked("outbound"), rule.clone()),
                    (true, "inbound", rule),
                ];
                assert_eq!(opened(&node), expected, "{rules:?}, cut: {is_cut}");
                if !is_cut {
                    pairs.iter().for_each(Pair::goes_on);
                    assert_eq!(opened(&node), expected, "{rules:?}, later");
                    // Another policy cuts the connections. Who opened each of them is still known.
                    let mut next = rules_from_lines(&format!("{rules}\nin udp 9 from any drop"));
                    next.established = Established::Flush;
                    node.apply(&next);
                    let opened: Vec<_> = opened(&node).into_iter().map(|f| (f.0, f.1)).collect();
                    let expected = expected.map(|f| (f.0, f.1));
                    assert_eq!(opened, expected, "{rules:?}, flushed");
                }
            });
        }
    }
}

/// Proves K12: a flow that a rule admits is entered for that rule. If the rules accept both
/// directions, it is not entered at all.
#[test]
fn what_a_rule_admits_is_not_seeded() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let ours = node.outbound(PEER4);
        let theirs = node.inbound(NODE6);
        let stranger = node.udp(PEER4);
        let applied = node.apply(&rules_from_lines(
            "in tcp 22 from any accept
             out tcp 443 to any accept",
        ));
        assert_eq!(kept(&applied.seeded), seeded(3, 1));
        ours.goes_on();
        theirs.goes_on();
        let c = node.counters();
        let counts: Vec<_> = c
            .rules
            .iter()
            .map(|r| (r.packets, r.reply_packets))
            .collect();
        let [(inbound, its_replies), (outbound, replies)] = counts[..] else {
            panic!("two rules, not {counts:?}");
        };
        assert!(inbound > 0 && its_replies > 0, "{counts:?}");
        assert!(outbound > 0 && replies > 0, "{counts:?}");
        assert_eq!(node.counted("seeded"), [0, 0]);
        let of_rules = node.flows().iter().filter(|f| f.rule.is_some()).count();
        assert_eq!(of_rules, 2);
        stranger.goes_on();
        let [inbound, outbound] = node.counted("seeded");
        assert!(inbound > 0 && outbound > 0);
    });
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let pair = node.inbound(NODE4);
        let applied = node.apply(&rules_from_lines(
            "in all from any accept
             out all to any accept",
        ));
        assert_eq!(kept(&applied.seeded), seeded(0, 0));
        pair.goes_on();
        assert_eq!(node.flows().len(), 0);
    });
}

/// Proves K11: of all new policies only one with `flush` ends seeded flows.
#[test]
fn a_new_policy_ends_seeded_flows_only_by_flush() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let pairs = [node.inbound(NODE4), node.outbound(PEER6), node.udp(PEER4)];
        let mut policy = rules_from_lines(NO_RULES);
        // The first policy flushes nothing, because there was none before it.
        policy.established = Established::Flush;
        assert_eq!(kept(&node.apply(&policy).seeded), seeded(3, 3));
        pairs.iter().for_each(Pair::goes_on);
        // Each policy has another rule, because applying the same policy again changes nothing.
        let next = |port: u16| rules_from_lines(&format!("in tcp {port} from any accept"));
        for (port, established) in [(9, Established::Revalidate), (10, Established::Keep)] {
            let mut next = next(port);
            next.established = established;
            assert_eq!(node.apply(&next).seeded, None);
            pairs.iter().for_each(Pair::goes_on);
            assert_eq!(node.counted("revoked"), [0, 0]);
        }
        let mut next = next(11);
        next.established = Established::Flush;
        node.apply(&next);
        let states: Vec<&str> = node.flows().iter().map(|flow| flow.state.name()).collect();
        assert_eq!(
            states, ["tcp-cut"; 2],
            "a connection stays cut, a datagram's flow is gone"
        );
        pairs.iter().for_each(Pair::is_cut);
    });
}

/// Proves K11 and K12: a seeded flow ends like any other.
#[test]
fn a_seeded_flow_is_gone_after_its_end_and_its_timeout() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let closing = node.inbound(NODE4);
        let staying = node.outbound(PEER4);
        let silent = node.udp(PEER4);
        let mut policy = rules_from_lines(NO_RULES);
        for state in Timeout::ALL {
            let is_closing = !matches!(state, Timeout::TcpEstablished);
            // Long enough for a busy machine to see that they go on.
            policy.timeouts[state as usize] = if is_closing { 8 } else { 600 };
        }
        assert_eq!(kept(&node.apply(&policy).seeded), seeded(3, 3));
        closing.goes_on();
        staying.goes_on();
        silent.goes_on();
        drop(closing);
        let pins = node.attached().pins;
        let deadline = Instant::now() + Duration::from_secs(60);
        let live = |kind: FlowKind| {
            sweep(&pins, &policy.timeouts, monotonic_now()).unwrap_or_else(|e| panic!("{e}"));
            let found = table_use(&pins, &policy.timeouts);
            found.unwrap_or_else(|e| panic!("{e}"))[kind as usize].live
        };
        while live(FlowKind::Established) > 1 {
            assert!(Instant::now() < deadline, "{:#?}", node.flows());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(live(FlowKind::HalfOpen), 0);
        silent.is_cut();
        staying.goes_on();
    });
}

/// Proves K12: if there are too many flows, those seen last are kept, and the number of the others
/// is reported.
#[test]
fn no_more_flows_are_seeded_than_the_table_holds() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        // After this the node knows the peer's link-layer address, so no packet has to wait for it.
        drop(node.udp(PEER4));
        let to = at(PEER4, 53);
        let sockets: Vec<UdpSocket> = (0..300)
            .map(|_| {
                let socket = UdpSocket::bind((NODE4, 0)).expect("a socket");
                socket.connect(&to).expect("a connected socket");
                socket
            })
            .collect();
        let options = ApplyOptions {
            max_flows: Some(256),
            ..node.options()
        };
        let applied =
            apply(&rules_from_lines(NO_RULES), &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(kept(&applied.seeded), Some([256, 256, 44]));
        assert_eq!(node.flows().len(), 256);
        for socket in &sockets {
            socket
                .send(b"x")
                .expect("the hook drops it without an error");
        }
        assert_eq!(node.counted("seeded")[1], 256);
        // Some time after it is set up, the interface reports its multicast groups. While its
        // address is still being checked, the report has no source address, and then it is not
        // essential traffic (K5).
        let others = node.counted("no-match")[1];
        assert!((44..=46).contains(&others), "{others} of 44");
    });
}

/// Proves K12: forwarded and translated connections go on, whichever side of the translation is
/// enforced.
#[test]
fn forwarded_connections_go_on() {
    sandbox(|sandbox| {
        let (inner, outer) = (Host::new(), Host::new());
        inner.connect("lan", "eth0");
        outer.connect("nic", "eth0");
        address("lan", "10.0.0.1/24");
        address("lan", "fd00:a::1/64");
        address("nic", "198.51.100.1/24");
        address("nic", "2001:db8::1/64");
        sysctl("ipv4/ip_forward", "1");
        sysctl("ipv6/conf/all/forwarding", "1");
        nft(
            "table inet nat { chain post { type nat hook postrouting priority 100; \
             oifname \"nic\" masquerade; }; }",
        );
        let to = ["198.51.100.7", "2001:db8::7"];
        let (listener, server) = outer.inside(|| {
            address("eth0", "198.51.100.7/24");
            address("eth0", "2001:db8::7/64");
            (
                listen("[::]:443"),
                UdpSocket::bind(at(to[0], 53)).expect("port 53"),
            )
        });
        let pairs = inner.inside(|| {
            address("eth0", "10.0.0.2/24");
            address("eth0", "fd00:a::2/64");
            gateway("10.0.0.1");
            gateway("fd00:a::1");
            [
                Pair::tcp(&listener, &at(to[0], 443)),
                Pair::tcp(&listener, &at(to[1], 443)),
                Pair::udp(server, &at(to[0], 53)),
            ]
        });
        for interface in ["nic", "lan"] {
            let options = sandbox.options(interface);
            let applied = apply(&rules_from_lines(NO_RULES), &options);
            let applied = applied.unwrap_or_else(|e| panic!("{interface}: {e}"));
            // Each connection has two flows: one with the inner and one with the outer address.
            assert_eq!(kept(&applied.seeded), seeded(6, 6));
            pairs.iter().for_each(Pair::goes_on);
            let scope = Scope::Interface(interface.into());
            let one = attached(sandbox.bpffs(), &scope).unwrap().remove(0);
            let read = counters(&one).unwrap_or_else(|e| panic!("{e}"));
            let packets = under(&read, "seeded");
            assert!(packets.iter().all(|p| *p >= 3), "{interface}: {packets:?}");
        }
        inner.inside(|| {
            assert!(is_kept_out(&at(to[0], 443)));
            assert!(is_kept_out(&at(to[1], 443)));
        });
    });
}
