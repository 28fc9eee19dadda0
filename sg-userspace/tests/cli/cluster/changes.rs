//! Waiting for services, and services that change while a policy is in force.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sg_testbed::wait_for;

use super::network::{NODES, Network, address};
use super::programs::ControlPlane;
use super::servers::{Answer, How, Lasting, ask};
use super::services::{self, API, CLUSTER, LATE, LOCAL, ON_HOST, UDP};

/// How long kube-proxy may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(90);

/// Until kube-proxy has begun its work on both nodes, nobody answers.
pub(super) fn wait_for_services(network: &Network) {
    let (n1, n2) = (address("N1"), address("N2"));
    for (how, to) in [
        (How::Tcp, (n1, CLUSTER)),
        (How::Tcp, (n2, CLUSTER)),
        (How::Tcp, (n1, ON_HOST)),
        (How::Tcp, (n2, LOCAL)),
        (How::Udp, (n1, UDP)),
    ] {
        wait_for("kube-proxy", PATIENCE, || {
            matches!(ask(network, "C", how, to, false), Answer::By { .. })
        });
    }
}

/// Until both nodes reach the API server as pods on the host's network do, by its service. Before
/// kube-proxy has begun its address leads nowhere.
pub(super) fn wait_for_the_api(network: &Network) {
    let service = SocketAddr::from((API, 443));
    for node in NODES {
        let connect = || TcpStream::connect_timeout(&service, Duration::from_secs(1)).is_ok();
        wait_for("the API server's service", PATIENCE, || {
            network.inside(node, connect)
        });
    }
}

/// A service is created with two endpoints and loses one after the other. A connection to the one
/// that goes stays.
pub(super) fn create_and_remove(network: &Network, plane: &ControlPlane, client: &'static str) {
    let to = (address("N1"), LATE);
    let once = || ask(network, client, How::Tcp, to, false);
    let apply = |endpoints: &[(&'static str, &'static str)]| {
        plane.kubectl(&["apply", "-f", "-"], &services::late(endpoints));
    };
    assert_eq!(once(), Answer::Refused, "there is no such service yet");

    apply(&[("P", "n2"), ("r", "n1")]);
    let mut servers = BTreeSet::new();
    wait_for("both endpoints of a new service", PATIENCE, || {
        if let Answer::By { server, .. } = once() {
            servers.insert(server);
        }
        servers.len() == 2
    });

    let deadline = Instant::now() + PATIENCE;
    let lasting = loop {
        let lasting = Lasting::open(
            network,
            "a connection to the endpoint that goes",
            client,
            to,
        );
        match &lasting.answer {
            Answer::By { server, .. } if server == "P" => break lasting,
            _ => assert!(Instant::now() < deadline, "P never answers"),
        }
    };
    apply(&[("r", "n1")]);
    // With both endpoints, so many answers in a row from one of them are one chance in a million.
    let mut in_a_row = 0;
    wait_for("one endpoint alone", PATIENCE, || {
        let is_other = matches!(once(), Answer::By { server, .. } if server == "r");
        in_a_row = if is_other { in_a_row + 1 } else { 0 };
        in_a_row == 20
    });
    lasting.assert_goes_on("when its endpoint was removed");

    // kube-proxy refuses what has no endpoint, with an ICMP error.
    apply(&[]);
    wait_for("no endpoint", PATIENCE, || once() == Answer::Refused);
    lasting.assert_goes_on("when no endpoint was left");
    drop(lasting);
    for kind in ["service", "endpointslice"] {
        plane.kubectl(&["delete", kind, "late"], "");
    }
}
