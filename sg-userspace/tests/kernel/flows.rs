//! The flow tables on a real interface: who lives where, who is evicted, who is swept.

use std::time::Duration;

use sg_common::flow::Timeout;
use sg_userspace::kernel::apply;
use sg_userspace::kernel::flow_tables::{FlowTableUse, sweep, table_use};
use sg_userspace::observe::flows::{flows, monotonic_now};
use sg_userspace::policy::{Policy, rules_from_lines};

use crate::frames::{Frame, frame};
use crate::sandbox::{RawSender, Sandbox, sandbox};
use crate::watching::{assert_adds_up, only, read_when};

/// Nothing goes out by a rule, so that every answer needs the flow table.
const WEB: &str = "in tcp 80 from any accept\nin udp 53 from any accept";

/// A veth pair with a policy on one end, and the packets sent so far.
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
        if self.inbound.is_multiple_of(256) {
            // The receiver shares our cores; do not outrun its queue.
            self.wait();
        }
    }

    /// True if the node may send it.
    fn send(&mut self, frame: &Frame) -> bool {
        self.outbound += 1;
        self.node.send(frame.bytes())
    }

    fn wait(&self) {
        let c = read_when(self.sandbox, "sg0", |c| c.totals[0].packets == self.inbound);
        assert_adds_up(&c, self.inbound, self.outbound);
    }

    /// Half-open, established.
    fn table_use(&self) -> [FlowTableUse; 2] {
        let pins = only(self.sandbox, "sg0").pins;
        table_use(&pins).unwrap_or_else(|e| panic!("{e}"))
    }
}

fn client(n: usize) -> String {
    format!("198.51.{}.{}:40000", n >> 8, n & 255)
}

/// Proves K9 and K10: 20,000 SYNs that a rule accepts evict their like, and are counted; every
/// connection that was there goes on.
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
        // Of `--max-flows 4096` the table has 171 groups with 16 half-open ways each.
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

/// Proves K9 for datagrams: what nobody has answered is half-open, the answer makes it established.
#[test]
fn an_answer_establishes_a_flow() {
    sandbox(|sandbox| {
        let mut link = Link::new(sandbox, &rules_from_lines(WEB));
        link.receive(&frame("udp 198.51.100.1:5000 > 192.0.2.1:53"));
        link.wait();
        let kinds = || -> Vec<(&str, &str)> {
            let flows = flows(&only(sandbox, "sg0")).unwrap();
            flows.iter().map(|f| (f.kind, f.state)).collect()
        };
        assert_eq!(kinds(), [("half-open", "udp")]);
        assert!(link.send(&frame("udp 192.0.2.1:53 > 198.51.100.1:5000")));
        assert_eq!(kinds(), [("established", "udp-stream")]);
    });
}

/// Proves K9: a flow leaves when its timeout has passed, at its next packet or by being swept, and
/// neither is an eviction.
#[test]
fn expired_flows_leave() {
    sandbox(|sandbox| {
        let mut policy = rules_from_lines(WEB);
        policy.timeouts[Timeout::Udp as usize] = 1;
        policy.timeouts[Timeout::TcpSynSent as usize] = 1;
        let mut link = Link::new(sandbox, &policy);
        for port in 0..100 {
            link.receive(&frame(&format!("udp 198.51.100.1:{port} > 192.0.2.1:53")));
            link.receive(&frame(&format!(
                "tcp [2001:db8::9]:{port} > [2001:db8::1]:80 syn"
            )));
        }
        link.receive(&frame("udp 198.51.100.2:1 > 192.0.2.1:53"));
        link.wait();
        assert!(link.send(&frame("udp 192.0.2.1:53 > 198.51.100.2:1")));
        std::thread::sleep(Duration::from_millis(1300));
        assert!(!link.send(&frame("udp 192.0.2.1:53 > 198.51.100.1:7")));
        let [half_open, _] = link.table_use();
        assert_eq!((half_open.live, half_open.evicted), (199, 0));

        let pins = only(sandbox, "sg0").pins;
        let sweep = || sweep(&pins, &policy.timeouts, monotonic_now()).unwrap();
        std::thread::sleep(Duration::from_millis(1000));
        assert_eq!(sweep(), 199);
        assert_eq!(sweep(), 0);
        let [half_open, established] = link.table_use();
        assert_eq!(
            (half_open.live, half_open.entered, half_open.evicted),
            (0, 201, 0)
        );
        assert_eq!((established.live, established.evicted), (1, 0));
        assert!(link.send(&frame("udp 192.0.2.1:53 > 198.51.100.2:1")));
    });
}
