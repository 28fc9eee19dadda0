//! Opens flows as a node does: by sockets of its own, out of one of its interfaces.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result};
use sg_bench_ebpf::{FLOW_REMOTE_PORT, LOCAL4, flow_address, flow_port};

use crate::rig;

/// Sends the first packet of each flow out of the interface, past whatever filters its output.
pub(crate) fn open_flows(flows: u32, interface: &str) -> Result<()> {
    let local = Ipv4Addr::from(LOCAL4);
    let router = Ipv4Addr::new(10, 10, 0, 1);
    let mac = "02:00:00:00:00:01";
    rig::run("ip", &format!("address add {local}/24 dev {interface}"))?;
    rig::run(
        "ip",
        &format!("neighbour add {router} lladdr {mac} dev {interface} nud permanent"),
    )?;
    rig::run(
        "ip",
        &format!("route add default via {router} dev {interface}"),
    )?;
    // By their local ports, each of which is opened once.
    let mut remotes: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for remote in (0..flows).map(flow_address) {
        remotes.entry(flow_port(remote)).or_default().push(remote);
    }
    for (port, remotes) in remotes {
        let socket = UdpSocket::bind((local, port)).context("opening a flow")?;
        for remote in remotes {
            let to = (Ipv4Addr::from(remote), FLOW_REMOTE_PORT);
            socket.send_to(&[0; 18], to).context("opening a flow")?;
        }
    }
    Ok(())
}

/// Takes the interface's address and routes away, so that another one can open flows.
pub(crate) fn leave(interface: &str) -> Result<()> {
    rig::run("ip", &format!("route flush dev {interface}"))?;
    rig::run("ip", &format!("address flush dev {interface}"))
}
