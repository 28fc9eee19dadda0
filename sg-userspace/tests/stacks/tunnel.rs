//! A tunnel between two nodes, as in container networks. The policy sees its outer packets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sg_policy::policy::rules_from_lines;

use crate::line::{Family, Line, NIC};
use crate::sandbox::sandbox;
use crate::transfer::{Sender, transfer};
use sg_testbed::Host;

const SIZE: usize = 10_000_000;
const PORT: u16 = 4789;

const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// Adds one end of a VXLAN tunnel from `local` to `remote`.
fn end(host: &Host, own: Ipv4Addr, local: IpAddr, remote: IpAddr) {
    host.ip(&format!(
        "link add tunnel type vxlan id 7 dstport {PORT} local {local} remote {remote} dev {NIC}"
    ));
    host.ip("link set tunnel up");
    host.ip(&format!("address add {own}/24 dev tunnel"));
}

/// Proves K1 and A2 for tunnelled packets, including offloaded ones: all arrive, each is counted,
/// and only the tunnel's own port has to be open.
#[test]
fn a_tunnel_needs_its_own_port_only() {
    for family in Family::BOTH {
        sandbox(|sandbox| {
            let line = Line::new(0);
            let rules = format!("in udp {PORT} from any accept\nout udp {PORT} to any accept");
            let enforced = line.enforce(sandbox, &rules_from_lines(&rules));
            let (node, remote) = (line.node_address(family), line.remote_address(family));
            end(&line.node, NODE, node, remote);
            end(&line.remote, REMOTE, remote, node);
            let inbound = SocketAddr::new(NODE.into(), 5001);
            transfer(&line.remote, &line.node, inbound, Sender::Client, SIZE);
            let outbound = SocketAddr::new(REMOTE.into(), 5002);
            transfer(&line.node, &line.remote, outbound, Sender::Client, SIZE);
            let (left, whole) = enforced.left();
            assert!(left > 2 * whole, "{left} packets left in {whole}");
            enforced.assert_adds_up();
        });
    }
}
