//! Connections that a change of policy has cut, with real sockets: neither end can revive them.

use std::time::Duration;

use sg_common::flow::Timeout;
use sg_policy::policy::{Established, Policy, rules_from_lines};
use sg_userspace::kernel::ApplyOptions;
use sg_userspace::kernel::flow_tables::{monotonic_now, sweep};
use sg_userspace::observe::flows::Flow;

use crate::hosts::{Pair, is_kept_out, reaches};
use crate::sandbox::sandbox;
use crate::seed::{NODE4, NODE6, Node, PEER4, PEER6, at};

const SSH: &str = "in tcp 22 from any accept\nout all to any accept";
const WEB: &str = "in tcp 80 from any accept\nout all to any accept";
const NOTHING: &str = "";

/// The index of each end in a pair: the client has connected to the server.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Checks that data of neither end arrives, whichever sends first.
#[track_caller]
fn stays_cut(pair: &Pair, first: usize) {
    for end in [first, 1 - first] {
        assert!(!pair.carries_from(end, false), "data of end {end} arrives");
    }
}

fn with(rules: &str, established: Established) -> Policy {
    Policy {
        established,
        ..rules_from_lines(rules)
    }
}

/// Proves K11: the first policy admits clients of port 22 and all outbound packets, so connections
/// need no entry. The next one admits port 80 instead. The client's next segment is revoked, and
/// after that the server cannot revive the connection, although the rules accept all outbound
/// packets.
#[test]
fn a_revoked_connection_is_not_brought_back_by_the_other_end() {
    for established in [Established::Revalidate, Established::Flush] {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            node.apply(&rules_from_lines(SSH));
            let pairs = [NODE4, NODE6, NODE4, NODE6].map(|address| node.inbound(address));
            let staying = [PEER4, PEER6].map(|address| node.outbound(address));
            let of_ssh = |node: &Node| -> Vec<Flow> {
                let all = node.flows().into_iter();
                all.filter(|flow| flow.local_port == Some(22)).collect()
            };
            assert_eq!(of_ssh(&node).len(), 0, "none needs an entry");
            node.apply(&with(WEB, established));
            let (early, late) = pairs.split_at(2);
            early.iter().for_each(|pair| stays_cut(pair, CLIENT));
            late.iter().for_each(|pair| stays_cut(pair, SERVER));
            let cut = of_ssh(&node);
            assert_eq!(cut.len(), 4, "{established:?}");
            for flow in cut {
                assert_eq!(
                    (flow.state.name(), flow.kind.name()),
                    ("tcp-cut", "established")
                );
                assert!(flow.rule.is_none());
            }
            let [inbound, outbound] = node.counted("revoked");
            assert!(inbound >= 4 && outbound >= 4, "{inbound} and {outbound}");
            for pair in &staying {
                match established {
                    Established::Flush => stays_cut(pair, CLIENT),
                    _ => pair.goes_on(),
                }
            }

            // A new connection passes if the rules accept it.
            assert!(node.peer.inside(|| is_kept_out(&at(NODE4, 22))));
            assert!(reaches(&at(PEER4, 443)) && reaches(&at(PEER6, 443)));
            early.iter().for_each(|pair| stays_cut(pair, SERVER));
        });
    }
}

/// Proves K11: a policy that accepts nothing has cut a connection. It stays cut under the next
/// policy, which would keep or revalidate flows.
#[test]
fn a_connection_stays_cut_under_later_policies() {
    for established in [Established::Revalidate, Established::Keep] {
        sandbox(|sandbox| {
            let node = Node::new(sandbox);
            // Replies need an entry under this policy.
            node.apply(&rules_from_lines("in tcp 22 from any accept"));
            let pairs = [NODE4, NODE6].map(|address| node.inbound(address));
            node.apply(&rules_from_lines(NOTHING));
            pairs.iter().for_each(|pair| stays_cut(pair, CLIENT));
            let applied = node.apply(&rules_from_lines("out icmp to any drop"));
            assert!(
                applied.first.state.has_flows,
                "there are cut ones to look for"
            );
            pairs.iter().for_each(|pair| stays_cut(pair, CLIENT));
            node.apply(&with("out all to any accept", established));
            pairs.iter().for_each(|pair| stays_cut(pair, SERVER));
            // The connection also stays cut if the rules accept the client's packets again but not
            // the server's.
            node.apply(&with("in tcp 22 from any accept", established));
            pairs.iter().for_each(|pair| stays_cut(pair, CLIENT));
            // New connections pass.
            let new = [NODE4, NODE6].map(|address| node.inbound(address));
            new.iter().for_each(Pair::goes_on);
            pairs.iter().for_each(|pair| stays_cut(pair, SERVER));
            // A sweep must not remove a cut flow before its timeout, which is longer than that of
            // an established one.
            let mut timeouts = Timeout::defaults();
            timeouts[Timeout::TcpEstablished as usize] = 1;
            std::thread::sleep(Duration::from_secs(2));
            sweep(&node.attached().pins, &timeouts, monotonic_now())
                .unwrap_or_else(|e| panic!("{e}"));
            let states: Vec<&str> = node.flows().iter().map(|flow| flow.state.name()).collect();
            assert_eq!(states, ["tcp-cut"; 2]);
        });
    }
}

/// Proves K11: a SYN that the rules accept begins a new connection on the same ports.
#[test]
fn a_new_connection_takes_the_place_of_a_cut_one() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines("in tcp 22 from any accept"));
        let from = "0.0.0.0:40022".parse().expect("an address");
        let to = at(NODE4, 22);
        let first = node
            .peer
            .inside(|| Pair::tcp_from(from, &node.listeners[0], &to));
        node.apply(&rules_from_lines(NOTHING));
        stays_cut(&first, CLIENT);
        node.apply(&rules_from_lines("in tcp 22 from any accept"));
        stays_cut(&first, SERVER);
        first.forget();
        let second = node
            .peer
            .inside(|| Pair::tcp_from(from, &node.listeners[0], &to));
        second.goes_on();
        let flows = node.flows();
        let states: Vec<_> = flows
            .iter()
            .map(|flow| (flow.remote_port, flow.state.name()))
            .collect();
        assert_eq!(states, [(Some(40022), "tcp-established")]);
    });
}

/// Proves K12 and K11: if the first attachment cuts existing connections, neither end can revive
/// them.
#[test]
fn what_is_cut_at_the_first_attachment_stays_cut() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let cut = [NODE4, NODE6].map(|address| node.inbound(address));
        let own = [PEER4, PEER6].map(|address| node.outbound(address));
        let options = ApplyOptions {
            cut_existing: true,
            ..sandbox.options("nic")
        };
        sg_userspace::kernel::apply(&rules_from_lines("out all to any accept"), &options)
            .unwrap_or_else(|e| panic!("{e}"));
        cut.iter().for_each(|pair| stays_cut(pair, SERVER));
        own.iter().for_each(|pair| stays_cut(pair, CLIENT));
        let states: Vec<&str> = node.flows().iter().map(|flow| flow.state.name()).collect();
        assert_eq!(states, ["tcp-cut"; 4]);
        assert!(reaches(&at(PEER4, 443)), "new connections are made");
        cut.iter().for_each(|pair| stays_cut(pair, CLIENT));
    });
}
