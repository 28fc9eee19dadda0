//! The flow table on a real interface: which entry serves which flow, what is evicted, what is
//! swept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sg_common::flow::{FlowKind, Timeout};
use sg_common::flow_entry::{Contents, TICK_SHIFT, begun_word, created_of, number_of};
use sg_policy::policy::{Policy, rules_from_lines};
use sg_userspace::kernel::apply;
use sg_userspace::kernel::flow_tables::{FlowTable, FlowTableUse, key_of, sweep, table_use};
use sg_userspace::observe::flows::{flows, monotonic_now};

use crate::frames::{Frame, frame};
use crate::sandbox::{FIT, RawSender, Sandbox, sandbox};
use crate::watching::{assert_adds_up, only, read_when};

/// No outbound rule accepts anything, so every reply needs the flow table.
const WEB: &str = "in tcp 80 from any accept\nin udp 53 from any accept";

/// A veth pair with a policy on one end. Counts the packets sent so far.
struct Link<'a> {
    sandbox: &'a Sandbox,
    peer: RawSender,
    node: RawSender,
    inbound: u64,
    outbound: u64,
}

impl<'a> Link<'a> {
    fn new(sandbox: &'a Sandbox, policy: &Policy) -> Self {
        sandbox.veth("sg0", "sg1");
        apply(policy, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("apply: {e}"));
        Link {
            sandbox,
            peer: RawSender::new("sg1"),
            node: RawSender::new("sg0"),
            inbound: 0,
            outbound: 0,
        }
    }

    fn receive(&mut self, frame: &Frame) {
        self.peer.send(frame.bytes());
        self.inbound += 1;
        if self.inbound.is_multiple_of(FIT) {
            self.wait();
        }
    }

    /// Sends from the node. Returns whether the packet was accepted.
    fn send(&mut self, frame: &Frame) -> bool {
        self.outbound += 1;
        self.node.send(frame.bytes())
    }

    fn wait(&self) {
        let c = read_when(self.sandbox, "sg0", |c| c.totals[0].packets == self.inbound);
        assert_adds_up(&c, self.inbound, self.outbound);
    }

    /// The use of the table by half-open and by established flows.
    fn table_use(&self) -> [FlowTableUse; 2] {
        let one = only(self.sandbox, "sg0");
        let timeouts = one.state().expect("it has a record").timeouts;
        table_use(&one.pins, &timeouts).unwrap_or_else(|e| panic!("{e}"))
    }
}

fn client(n: usize) -> String {
    format!("198.51.{}.{}:40000", n >> 8, n & 255)
}

/// Proves K9: an entry serves its own flow only. Every part of the key is compared, also if another
/// flow has the same word and the same tag, as one in some hundred has.
#[test]
fn another_flow_of_the_same_tag_is_another_flow() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let mut options = sandbox.options("sg0");
        options.max_flows = Some(1);
        let policy = rules_from_lines("out udp 53 to any accept");
        apply(&policy, &options).unwrap_or_else(|e| panic!("apply: {e}"));
        let pins = only(sandbox, "sg0").pins;
        let table = FlowTable::open(&pins, &Timeout::defaults()).unwrap_or_else(|e| panic!("{e}"));
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        let mut inbound = 0;
        for (answers, ends) in [
            (1, ["192.0.2.1", "198.51.100.7"]),
            (2, ["2001:db8::1", "2001:db8:5::7"]),
        ] {
            let ends = ends.map(|end| end.parse::<IpAddr>().unwrap());
            let key = |[local, remote]: [IpAddr; 2], ports| key_of(local, remote, ports, 17);
            let answer = |[local, remote]: [IpAddr; 2], (to, from): (u16, u16)| {
                let [local, remote] = [(local, to), (remote, from)].map(SocketAddr::from);
                frame(&format!("udp {remote} > {local}"))
            };
            let ports = (5000, 53);
            let [local, remote] = [(ends[0], 5000), (ends[1], 53)].map(SocketAddr::from);
            assert!(node.send(frame(&format!("udp {local} > {remote}")).bytes()));
            age(&table, 3 * SECOND);
            peer.send(answer(ends, ports).bytes());
            inbound += 1;
            read_when(sandbox, "sg0", |c| c.rules[0].reply_packets == answers);
            let found = table
                .find(&key(ends, ports))
                .expect("the entry of the opened flow");
            assert_eq!(found.kind(), FlowKind::Established);
            let tag = table.spot(&key(ends, ports)).tag;
            let looks_alike = |ends, ports| {
                let spot = table.spot(&key(ends, ports));
                spot.tag == tag && [spot.first, spot.second].contains(&found.word())
            };
            let with = |end: usize, bits: u128| {
                let mut ends = ends;
                ends[end] = match ends[end] {
                    IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() ^ bits as u32).into(),
                    IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() ^ bits).into(),
                };
                ends
            };
            // By how many bits the difference is shifted, so that it lies in one 64-bit half of an
            // IPv6 address.
            let halves: &[u32] = if ends[0].is_ipv4() { &[0] } else { &[0, 64] };
            let mut others = Vec::new();
            for (end, half) in [0, 1]
                .into_iter()
                .flat_map(|end| halves.iter().map(move |h| (end, *h)))
            {
                let mut all = (1..1 << 20).map(|n| with(end, n << half));
                let other = all.find(|ends| looks_alike(*ends, ports));
                others.push(answer(other.expect("one in hundreds"), ports));
            }
            let mut all = (1..u16::MAX).map(|n| (5000 ^ n, 53));
            let other = all.find(|ports| looks_alike(ends, *ports));
            others.push(answer(ends, other.expect("one in hundreds")));
            let mut all = (1..u16::MAX).map(|n| (5000, 53 ^ n));
            let other = all.find(|ports| looks_alike(ends, *ports));
            others.push(answer(ends, other.expect("one in hundreds")));

            for other in &others {
                peer.send(other.bytes());
            }
            inbound += others.len() as u64;
            let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets == inbound);
            assert_eq!(counted.rules[0].reply_packets, answers, "{ends:?}");
            assert_adds_up(&counted, inbound, answers);
        }
    });
}

/// Proves K9 and K10: 20,000 SYNs that a rule accepts evict only each other, evictions are counted,
/// and every existing connection goes on.
#[test]
fn a_syn_flood_evicts_no_established_flow() {
    sandbox(|sandbox| {
        let mut link = Link::new(sandbox, &rules_from_lines(WEB));
        const CONNECTIONS: usize = 50;
        for n in 0..CONNECTIONS {
            let client = client(n);
            link.receive(&frame(&format!("tcp {client} > 192.0.2.1:80 syn")));
            link.wait();
            assert!(link.send(&frame(&format!("tcp 192.0.2.1:80 > {client} syn ack"))));
            link.receive(&frame(&format!("tcp {client} > 192.0.2.1:80 ack")));
        }
        link.wait();
        let [half_open, established] = link.table_use();
        assert_eq!((half_open.live, half_open.evicted), (0, 0));
        assert_eq!((established.live, established.entered), (50, 50));

        const FLOOD: usize = 20_000;
        for n in 0..FLOOD {
            let attacker = format!("203.0.{}.{}:9", n >> 8, n & 255);
            link.receive(&frame(&format!("tcp {attacker} > 192.0.2.1:80 syn")));
        }
        link.wait();
        let [half_open, established] = link.table_use();
        assert_eq!(half_open.entered, (CONNECTIONS + FLOOD) as u64);
        // With `--max-flows 4096` the table has 171 groups with 16 half-open ways each.
        assert!(half_open.live <= 171 * 16, "{}", half_open.live);
        assert_eq!(half_open.evicted, FLOOD as u64 - half_open.live);
        assert_eq!((established.live, established.evicted), (50, 0));
        for n in 0..CONNECTIONS {
            assert!(
                link.send(&frame(&format!("tcp 192.0.2.1:80 > {} ack", client(n)))),
                "connection {n} was cut off"
            );
        }
        let last = FLOOD - 1;
        assert!(
            link.send(&frame(&format!(
                "tcp 192.0.2.1:80 > 203.0.{}.{}:9 syn ack",
                last >> 8,
                last & 255
            ))),
            "the last of the flood has its entry: a full table still takes new flows"
        );
    });
}

/// Moves the times of every flow back. Nothing else may use the table meanwhile.
fn age(table: &FlowTable, nanoseconds: u64) {
    let ticks = (nanoseconds >> TICK_SHIFT) as u32;
    table.rewrite(|flow| Contents {
        head: flow.head.seen_at(flow.head.last_seen().wrapping_sub(ticks)),
        begun: begun_word(
            created_of(flow.begun).wrapping_sub(ticks),
            number_of(flow.begun),
        ),
        ..flow
    });
}

const SECOND: u64 = 1_000_000_000;

/// Proves K9 for datagrams: a flow is half-open without a reply and also with one at once. A reply
/// two seconds after its beginning makes it established.
#[test]
fn a_flow_that_still_gets_replies_is_established() {
    sandbox(|sandbox| {
        let mut link = Link::new(sandbox, &rules_from_lines(WEB));
        let pins = only(sandbox, "sg0").pins;
        let table = FlowTable::open(&pins, &Timeout::defaults()).unwrap_or_else(|e| panic!("{e}"));
        let question = frame("udp 198.51.100.1:5000 > 192.0.2.1:53");
        let answer = frame("udp 192.0.2.1:53 > 198.51.100.1:5000");
        link.receive(&question);
        link.wait();
        let kinds = || -> Vec<(&str, &str)> {
            let flows = flows(&only(sandbox, "sg0")).unwrap();
            flows
                .iter()
                .map(|f| (f.kind.name(), f.state.name()))
                .collect()
        };
        assert_eq!(kinds(), [("half-open", "udp")]);
        assert!(link.send(&answer));
        assert_eq!(kinds(), [("half-open", "udp")]);
        age(&table, 3 * SECOND);
        link.receive(&question);
        link.wait();
        assert_eq!(
            kinds(),
            [("half-open", "udp")],
            "only a reply makes it established"
        );
        assert!(link.send(&answer));
        assert_eq!(kinds(), [("established", "udp-stream")]);
        assert!(link.send(&answer));
    });
}

/// Proves K9: a flow whose timeout has passed is removed by its next packet or by a sweep. Neither
/// is counted as an eviction.
#[test]
fn expired_flows_leave() {
    sandbox(|sandbox| {
        let mut policy = rules_from_lines(WEB);
        policy.timeouts[Timeout::Udp as usize] = 1;
        let mut link = Link::new(sandbox, &policy);
        for port in 0..100 {
            link.receive(&frame(&format!("udp 198.51.100.1:{port} > 192.0.2.1:53")));
            link.receive(&frame(&format!(
                "tcp [2001:db8::9]:{port} > [2001:db8::1]:80 syn"
            )));
        }
        link.receive(&frame("tcp 198.51.100.2:1 > 192.0.2.1:80 syn"));
        link.wait();
        assert!(link.send(&frame("tcp 192.0.2.1:80 > 198.51.100.2:1 syn ack")));
        link.receive(&frame("tcp 198.51.100.2:1 > 192.0.2.1:80 ack"));
        link.wait();
        std::thread::sleep(Duration::from_millis(1300));
        assert!(!link.send(&frame("udp 192.0.2.1:53 > 198.51.100.1:7")));
        // Of those of UDP one was removed by its packet, and the others are there and not alive.
        let [half_open, _] = link.table_use();
        assert_eq!((half_open.live, half_open.evicted), (100, 0));

        let pins = only(sandbox, "sg0").pins;
        // At this time all half-open flows have expired and no established one has.
        let later = monotonic_now() + 600 * 1_000_000_000;
        let sweep = || sweep(&pins, &policy.timeouts, later).unwrap();
        assert_eq!(sweep(), 199);
        assert_eq!(sweep(), 0);
        let [half_open, established] = link.table_use();
        assert_eq!(
            (half_open.live, half_open.entered, half_open.evicted),
            (0, 201, 0)
        );
        assert_eq!((established.live, established.evicted), (1, 0));
        assert!(link.send(&frame("tcp 192.0.2.1:80 > 198.51.100.2:1 ack")));
    });
}
