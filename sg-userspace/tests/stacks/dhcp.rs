//! A DHCP client on the node and a server beside it, both from Debian, under a policy that accepts
//! only the client's requests.

use std::path::Path;
use std::thread::scope;

use nix::mount::{MsFlags, mount};

use crate::enforced::{Enforced, policy};
use crate::line::{Family, Line, NIC};
use crate::sandbox::{Sandbox, sandbox};
use crate::service::PATIENCE;
use crate::tools::Daemon;
use sg_testbed::wait_for;

/// The node, a DHCP server beside it, and a client that keeps asking until it is dropped.
struct Asking {
    line: Line,
    server: Daemon,
    client: Daemon,
    enforced: Enforced,
}

impl Asking {
    /// Whether the node has an address from the server's range.
    fn has_address(&self) -> bool {
        let addresses = self.line.node.ip(&format!("address show dev {NIC}"));
        addresses.contains("inet 10.0.0.1") || addresses.contains("inet6 2001:db8::1")
    }

    /// How often the server's output contains a word.
    fn times_printed(&mut self, word: &str) -> usize {
        self.server.said().matches(word).count()
    }
}

fn ask(sandbox: &Sandbox, rules: &str, family: Family) -> Asking {
    // The client writes to these directories, so each test mounts its own.
    for place in ["/run", "/var/lib"] {
        let none: Option<&str> = None;
        let mounted = mount(none, place, Some("tmpfs"), MsFlags::empty(), none);
        mounted.expect("a file system of our own");
    }
    std::fs::create_dir("/var/lib/dhcpcd").expect("a fresh file system");
    let configuration = Path::new("/run/configuration");
    let text = match family {
        Family::V4 => "ipv4only\nnoipv4ll\nnoarp\nnodelay\nscript /bin/true\n",
        Family::V6 => "ipv6only\nnoipv6rs\nia_na 1\nnodelay\nscript /bin/true\n",
    };
    std::fs::write(configuration, text).expect("a fresh file system");

    let line = Line::new(0);
    let enforced = line.enforce_bare(sandbox, &policy(rules));
    let arguments = [
        "--log-dhcp",
        "--dhcp-leasefile=/run/leases",
        "--dhcp-authoritative",
        "--dhcp-range=10.0.0.100,10.0.0.199,1h",
        "--dhcp-range=2001:db8::100,2001:db8::199,64,1h",
    ];
    let mut server = Daemon::dnsmasq(&line.remote, &arguments);
    wait_for("the server", PATIENCE, || server.said().contains("DHCPv6"));
    line.node.ip(&format!("link set {NIC} up"));
    line.wait_for_carriers();

    let configuration = configuration.to_str().expect("the path is valid UTF-8");
    let arguments = ["-f", configuration, "-B", "-d", NIC];
    Asking {
        client: Daemon::start(&line.node, "dhcpcd", &arguments),
        line,
        server,
        enforced,
    }
}

const REQUESTS_ONLY: &str = "
    inbound: []
    outbound: [{protocol: udp, ports: [67, 547], to: any, action: accept}]";

/// Proves K5: the server's replies pass although no rule accepts them. No flow admits them either,
/// since the request was a broadcast from the unspecified address.
#[test]
fn a_dhcp_client_gets_an_address() {
    sandbox(|sandbox| assert_gets_address(sandbox, Family::V4));
}

/// Proves K5 for DHCPv6, whose requests are sent to a multicast group.
#[test]
fn a_dhcpv6_client_gets_an_address() {
    sandbox(|sandbox| assert_gets_address(sandbox, Family::V6));
}

#[track_caller]
fn assert_gets_address(sandbox: &Sandbox, family: Family) {
    let asking = ask(sandbox, REQUESTS_ONLY, family);
    wait_for("an address", 2 * PATIENCE, || asking.has_address());
    // The server has sent an offer and an acknowledgement.
    assert!(asking.enforced.reason("in essential") >= 2);
    assert_eq!(asking.enforced.rule("out 1").reply_packets, 0);
    asking.enforced.assert_adds_up();
}

/// Proves K5: without essential traffic the server's replies are dropped, however often it sends
/// them.
#[test]
fn a_dhcp_client_gets_no_address_without_essential_traffic() {
    let offers = [(Family::V4, "DHCPOFFER"), (Family::V6, "DHCPADVERTISE")];
    scope(|scope| {
        for (family, offer) in offers {
            scope.spawn(move || sandbox(|sandbox| assert_gets_none(sandbox, family, offer)));
        }
    });
}

#[track_caller]
fn assert_gets_none(sandbox: &Sandbox, family: Family, offer: &str) {
    let rules = format!("essential: false{REQUESTS_ONLY}").replace("\n    ", "\n");
    let mut asking = ask(sandbox, &rules, family);
    wait_for("a second offer", 3 * PATIENCE, || {
        asking.times_printed(offer) >= 2
    });
    assert!(!asking.has_address());
    assert!(asking.enforced.reason("in no-match") > 0);
}

/// Proves K5 and P2: only DHCP replies are essential. A policy that denies everything drops the
/// request.
#[test]
fn a_dhcp_request_needs_a_rule() {
    sandbox(|sandbox| {
        let mut asking = ask(sandbox, "{inbound: [], outbound: []}", Family::V4);
        let asks = "sending DISCOVER";
        wait_for("a second request", 3 * PATIENCE, || {
            asking.client.said().matches(asks).count() >= 2
        });
        assert!(!asking.has_address());
        assert_eq!(asking.times_printed("DHCPDISCOVER"), 0);
        assert!(asking.enforced.reason("out no-match") > 0);
    });
}
