//! The list of flows, on terminals of several widths and without one.

use std::sync::Arc;

use sg_common::flow::{FlowKind, Timeout};
use sg_userspace::kernel::flow_tables::FlowTableUse;
use sg_userspace::kernel::{Fault, FaultCode};
use sg_userspace::observe::flows::FlowRule;
use sg_userspace::observe::status::{Health, Standing};

use super::*;
use crate::cli::screen::ColorChoice;
use crate::fixtures::standing;

fn flow(local: &str, remote: &str, state: Timeout, seconds: [u64; 3]) -> Flow {
    let end = |text: &str| {
        let (address, port) = text.rsplit_once(':').expect("an address and a port");
        let address = address
            .trim_matches(['[', ']'])
            .parse()
            .expect("an address");
        (address, port.parse().expect("a port"))
    };
    let ((local, local_port), (remote, remote_port)) = (end(local), end(remote));
    let [age_seconds, idle_seconds, seconds_left] = seconds;
    Flow {
        protocol: 6,
        local,
        local_port: Some(local_port),
        remote,
        remote_port: Some(remote_port),
        icmp_id: None,
        opened: Opened::Inbound,
        kind: FlowKind::Established,
        state: FlowState::Lives(state),
        is_seeded: false,
        is_audited: false,
        age_seconds,
        idle_seconds,
        seconds_left,
        generation: 1,
        rule: Some(Arc::new(FlowRule {
            direction: Direction::Inbound,
            group: "db".into(),
            position: Some(1),
            name: Some("ssh".into()),
            summary: "tcp 22 from 192.0.2.0/24".into(),
        })),
        numbers: (local_port, remote_port),
        created: 0,
    }
}

fn drawn(flows: Vec<Flow>, others: Vec<Standing>, width: Option<usize>) -> String {
    let mut screen = Screen::stdout(ColorChoice::Never);
    (screen.width, screen.unicode) = (width, true);
    let own = standing("eth0", Health::Enforcing, Vec::new());
    let listed = Listed {
        standing: own.clone(),
        shared_with: others.iter().map(|one| one.interface.clone()).collect(),
        interfaces: [vec![own], others].concat(),
        total: flows.len(),
        matching: flows.len(),
        tables: Tables {
            half_open: FlowTableUse::default(),
            established: FlowTableUse::default(),
        },
        flows,
    };
    screen.for_people(&text(&screen, &[listed]))
}

/// Everything known of a flow is shown at any width: in long words, in short ones, or on several
/// lines where the terminal is too narrow for a row.
#[test]
fn everything_about_a_flow_is_shown_at_any_width() {
    let ordinary = || {
        vec![
            flow(
                "192.0.2.10:22",
                "192.0.2.99:53326",
                Timeout::TcpEstablished,
                [71, 1, 431_999],
            ),
            flow(
                "192.0.2.10:22",
                "192.0.2.99:9",
                Timeout::TcpTimeWait,
                [5, 3, 117],
            ),
        ]
    };
    assert_eq!(
        drawn(ordinary(), Vec::new(), None),
        "eth0  2 flows\n\
         PROTO  LOCAL          REMOTE            OPENED   STATE             AGE  IDLE   LEFT  RULE\n\
         tcp    192.0.2.10:22  192.0.2.99:53326  inbound  tcp-established  71 s   1 s    5 d  \
         1  [ssh] tcp 22 from 192.0.2.0/24\n\
         tcp    192.0.2.10:22  192.0.2.99:9      inbound  tcp-time-wait     5 s   3 s  117 s  \
         1  [ssh] tcp 22 from 192.0.2.0/24\n"
    );
    assert_eq!(
        drawn(ordinary(), Vec::new(), Some(80)),
        "eth0  2 flows\n\
         PROTO LOCAL         REMOTE           DIR STATE        AGE IDLE  LEFT RULE\n\
         tcp   192.0.2.10:22 192.0.2.99:53326 in  established 71 s  1 s   5 d 1 ssh\n\
         tcp   192.0.2.10:22 192.0.2.99:9     in  time-wait    5 s  3 s 117 s 1 ssh\n"
    );
    let long = vec![flow(
        "198.51.100.110:30080",
        "203.0.113.129:53326",
        Timeout::TcpEstablished,
        [7100, 119, 431_881],
    )];
    assert_eq!(
        drawn(long, Vec::new(), Some(80)),
        "eth0  1 flow\n\
         tcp 198.51.100.110:30080 with 203.0.113.129:53326\n\
         \x20 opened inbound, tcp-established, age 118 min, idle 119 s, 5 d left\n\
         \x20 rule 1  [ssh] tcp 22 from 192.0.2.0/24\n"
    );
    for width in 40..200 {
        let text = drawn(ordinary(), Vec::new(), Some(width));
        assert!(!text.contains("no room"), "{width}:\n{text}");
        assert!(
            text.contains("5 d") && text.contains("ssh"),
            "{width}:\n{text}"
        );
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(width), "{width}:\n{text}");
    }
}

/// Flows of an interface that is not enforced are no flows that somebody watches over.
#[test]
fn every_interface_of_the_table_that_is_not_enforced_is_named() {
    let fault = Fault::new(
        FaultCode::InterfaceGone,
        "the interface was deleted",
        "`sgctl detach --iface eth1` removes what is left of it",
    );
    let gone = standing("eth1", Health::InterfaceGone, vec![fault]);
    assert_eq!(
        drawn(Vec::new(), vec![gone], None),
        "eth0, eth1  0 flows\n\
         warning: eth1 is not enforcing (interface gone): the interface was deleted; `sgctl \
         detach --iface eth1` removes what is left of it\n"
    );
}
