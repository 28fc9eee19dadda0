//! What an apply says that it will do to connections, compared with what then happens to them.

mod random;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use sg_policy::policy::{Established, Policy, rules_from_lines};
use sg_userspace::kernel::impact::{CutConnection, Impact};
use sg_userspace::kernel::{ApplyOptions, Preview, apply, apply_reviewed, preview};

use crate::hosts::{Host, Pair, address, gateway, listen, nft, sysctl};
use crate::sandbox::{ip, sandbox};
use crate::seed::{NO_RULES, NODE4, NODE6, Node, PEER4, PEER6, at};

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
