//! A second opinion on several interfaces: of the same conversations over two uplinks, which leave
//! by one and are answered by either, nftables with connection tracking passes those that the
//! enforcer passes, and no others.
//!
//! The two run one after the other, each in a network of its own.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use sg_policy::policy::rules_from_lines;
use sg_testbed::Host;
use sg_userspace::kernel::{ApplyOptions, apply};

use crate::sandbox::{Sandbox, run, sandbox};
use crate::service::{PATIENCE, SILENCE, Service, Transport, again, is_answered};
use crate::tools::tool;
use crate::uplinks::{NODE, ROUTER, joined, route};

const RULES: &str = "
    out tcp 5001 to any accept
    out udp 5001 to any accept
    out tcp 7001 to any accept
    out udp 5003 to any accept
    out icmp 8 to any accept
    out icmpv6 128 to any accept
    in tcp 6001 from any accept
    in udp 6001 from any accept
    in udp 7001 from any accept";

/// The same, on the same interfaces. As in the enforcer, what is essential passes (K5).
const NFTABLES: &str = "
    table inet uplinks {
        chain inbound {
            type filter hook prerouting priority 0; policy accept;
            iifname != { up0, up1 } accept
            ct state { established, related } accept
            icmpv6 type { 133, 134, 135, 136, 137 } accept
            tcp dport 6001 accept
            udp dport { 6001, 7001 } accept
            drop
        }
        chain outbound {
            type filter hook postrouting priority 0; policy accept;
            oifname != { up0, up1 } accept
            ct state { established, related } accept
            icmpv6 type { 133, 134, 135, 136, 137 } accept
            tcp dport { 5001, 7001 } accept
            udp dport { 5001, 5003 } accept
            icmp type 8 accept
            icmpv6 type 128 accept
            drop
        }
    }";

/// On both hosts, over TCP and UDP, so that nobody refuses what the filter passes.
const SERVED: [u16; 3] = [5001, 6001, 7001];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A request and its reply.
    Ask(Transport, u16),
    Ping,
    /// Datagrams of which only the answer to one that was sent may enter.
    Unasked,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Case {
    /// The uplinks by which the node and the router send.
    uplinks: [usize; 2],
    is_ipv6: bool,
    is_inbound: bool,
    what: What,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [node, router] = self.uplinks;
        let family = if self.is_ipv6 { "IPv6" } else { "IPv4" };
        let direction = if self.is_inbound {
            "inbound"
        } else {
            "outbound"
        };
        let what = self.what;
        write!(
            f,
            "{direction} {what:?} over {family}, out by up{node}, in by up{router}"
        )
    }
}

const UPLINKS: [[usize; 2]; 4] = [[0, 0], [0, 1], [1, 0], [1, 1]];

/// The cases of one pair of uplinks, which may run at the same time.
fn cases(uplinks: [usize; 2]) -> Vec<Case> {
    let asked = [Transport::Tcp, Transport::Udp]
        .into_iter()
        .flat_map(|transport| SERVED.map(|port| What::Ask(transport, port)));
    let whats: Vec<What> = asked.chain([What::Ping, What::Unasked]).collect();
    let mut cases = Vec::new();
    for is_ipv6 in [false, true] {
        for is_inbound in [false, true] {
            for what in whats.iter().copied() {
                cases.push(Case {
                    uplinks,
                    is_ipv6,
                    is_inbound,
                    what,
                });
            }
        }
    }
    // There is one direction in which nothing was asked.
    cases.retain(|case| case.what != What::Unasked || case.is_inbound);
    cases
}

impl Case {
    /// What the rules say, by which it is known how long to wait for an answer.
    fn is_accepted(&self) -> bool {
        match (self.what, self.is_inbound) {
            (What::Ask(Transport::Tcp, port), false) => [5001, 7001].contains(&port),
            (What::Ask(Transport::Udp, port), false) => port == 5001,
            (What::Ask(Transport::Tcp, port), true) => port == 6001,
            (What::Ask(Transport::Udp, port), true) => [6001, 7001].contains(&port),
            (What::Ping, is_inbound) => !is_inbound,
            (What::Unasked, _) => true,
        }
    }

    fn patience(&self) -> Duration {
        match self.is_accepted() {
            true => PATIENCE,
            false => SILENCE,
        }
    }

    /// Which of its packets arrive.
    fn passes(&self, node: &Host, router: &Host) -> Vec<bool> {
        let family = usize::from(self.is_ipv6);
        let (from, to) = match self.is_inbound {
            true => (router, NODE[family]),
            false => (node, ROUTER[family]),
        };
        match self.what {
            What::Ask(transport, port) => {
                let to = end(to, port);
                vec![is_answered(from, transport, to, self.patience())]
            }
            What::Ping => {
                let wait = self.patience().as_secs().max(1).to_string();
                let said = tool(from, "ping", &["-c1", "-W", &wait, to]);
                vec![said.is_success]
            }
            What::Unasked => unasked(node, router, family, self.uplinks),
        }
    }
}

fn end(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Which of four datagrams arrive: one that nobody asked for, a request, its answer, and what
/// another port of the same host then sends.
fn unasked(node: &Host, router: &Host, family: usize, uplinks: [usize; 2]) -> Vec<bool> {
    // A port of the case's own, so that no earlier flow admits anything.
    let port = 41_000 + (uplinks[0] * 2 + uplinks[1]) as u16;
    let bind = |host: &Host, address: [&str; 2], port: u16| {
        let socket = host.inside(|| UdpSocket::bind(end(address[family], port)));
        socket.unwrap_or_else(|e| panic!("{}, port {port}: {e}", address[family]))
    };
    let asks = bind(node, NODE, port);
    let answers = bind(router, ROUTER, 5003);
    let other = bind(router, ROUTER, 5004);
    let send = |words: &[u8], from: &UdpSocket, to: &UdpSocket, patience: Duration| {
        // If the filter drops it on its way out, some kernels report an error.
        let _ = from.send_to(words, to.local_addr().expect("its own address"));
        to.set_read_timeout(Some(patience)).expect("a time limit");
        // An earlier one may have been late, as the first is if the hosts have to find each other.
        let mut received = [0; 64];
        loop {
            match again(|| to.recv(&mut received)) {
                Ok(len) if received[..len] == *words => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    vec![
        send(b"unasked", &answers, &asks, SILENCE),
        send(b"request", &asks, &answers, PATIENCE),
        send(b"answer", &answers, &asks, PATIENCE),
        send(b"other", &other, &asks, SILENCE),
    ]
}

/// Everything that passes, with `filter` in place on the node's uplinks.
fn tried(filter: impl FnOnce()) -> Vec<(Case, Vec<bool>)> {
    let (node, router) = joined();
    filter();
    let both = SERVED.map(|port| [(Transport::Tcp, port), (Transport::Udp, port)]);
    let _services = [&node, &router].map(|host| Service::start(host, both.as_flattened()));
    let mut tried = Vec::new();
    for uplinks in UPLINKS {
        route(&node, NODE, ROUTER, 1, &[uplinks[0]]);
        route(&router, ROUTER, NODE, 2, &[uplinks[1]]);
        let (node, router) = (&node, &router);
        thread::scope(|scope| {
            let running: Vec<_> = cases(uplinks)
                .into_iter()
                .map(|case| (case, scope.spawn(move || case.passes(node, router))))
                .collect();
            for (case, running) in running {
                let passes = running.join();
                let passes = passes.unwrap_or_else(|e| std::panic::resume_unwind(e));
                tried.push((case, passes));
            }
        });
    }
    tried
}

fn by_the_enforcer(sandbox: &Sandbox) -> Vec<(Case, Vec<bool>)> {
    tried(|| {
        let options = ApplyOptions {
            bpffs: sandbox.bpffs().to_owned(),
            max_flows: Some(4096),
            ..ApplyOptions::on(&["up0", "up1"])
        };
        apply(&rules_from_lines(RULES), &options).unwrap_or_else(|e| panic!("{e}"));
    })
}

/// Proves K1 and K6 by comparison with an independent implementation.
#[test]
fn the_same_passes_over_two_uplinks_as_in_nftables() {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    sandbox(|sandbox| ours = by_the_enforcer(sandbox));
    sandbox(|_| {
        theirs = tried(|| {
            run("nft", &[NFTABLES]);
        });
    });
    let differing = ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, theirs)| ours != theirs);
    let lines: Vec<String> = differing
        .map(|((case, ours), (_, theirs))| format!("{case:?}: nftables {theirs:?}, here {ours:?}"))
        .collect();
    assert!(
        lines.is_empty(),
        "{} differ:\n{}",
        lines.len(),
        lines.join("\n")
    );
    // The comparison means something only if it has both.
    let passed = ours.iter().filter(|(_, passes)| passes[..] == [true]);
    let dropped = ours.iter().filter(|(_, passes)| passes[..] == [false]);
    assert_eq!((passed.count(), dropped.count()), (56, 56));
    let unasked = ours.iter().filter(|(case, _)| case.what == What::Unasked);
    for (case, passes) in unasked {
        assert_eq!(passes[..], [false, true, true, false], "{case:?}");
    }
}
