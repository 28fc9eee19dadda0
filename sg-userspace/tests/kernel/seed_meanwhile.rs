//! Connections that are made during the first attachment.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sg_common::flow::FlowKind;
use sg_policy::compile::Budget;
use sg_policy::compile_policy;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::flow_tables::{FlowEntry, each_flow};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::seed::Seeding;
use socket2::{Domain, Socket, Type};

use crate::hosts::nft;
use crate::sandbox::sandbox;
use crate::seed::{NO_RULES, NODE4, Node, PEER4, PEER6, at, kept, seeded};
use crate::support::pinned_maps;

/// Proves K12: connections that are made during the attachment go on.
#[test]
fn connections_made_meanwhile_go_on() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let listener = &node.listeners[0];
        listener.set_nonblocking(true).expect("a listener");
        let (begun, has_begun) = std::sync::mpsc::channel();
        let is_attached = AtomicBool::new(false);
        let connecting = || {
            let to: SocketAddr = at(NODE4, 22).parse().expect("an address");
            let mut made = Vec::new();
            // Connects until the hook drops a connection.
            loop {
                match TcpStream::connect_timeout(&to, Duration::from_millis(300)) {
                    Ok(stream) => made.push(stream),
                    Err(_) if is_attached.load(Ordering::Relaxed) => return made,
                    // Before the attachment the attempt may have timed out because the machine is
                    // busy.
                    Err(_) => continue,
                }
                let _ = begun.send(());
                // The pause limits the number of open sockets: in many environments a process may
                // have only a thousand open files, and all tests run in one process.
                std::thread::sleep(Duration::from_millis(3));
                assert!(made.len() < 20_000, "nothing ends it");
            }
        };
        let is_over = AtomicBool::new(false);
        let (clients, servers) = std::thread::scope(|scope| {
            let over = Over(&is_over);
            let clients = scope.spawn(|| node.peer.inside(connecting));
            let accepting = scope.spawn(|| {
                let mut accepted = Vec::new();
                loop {
                    match listener.accept() {
                        Ok((stream, _)) => accepted.push(stream),
                        Err(_) if is_over.load(Ordering::Relaxed) => return accepted,
                        Err(_) => std::thread::sleep(Duration::from_micros(50)),
                    }
                }
            });
            for _ in 0..20 {
                has_begun.recv().expect("connections are being made");
            }
            node.apply(&rules_from_lines(NO_RULES));
            is_attached.store(true, Ordering::Relaxed);
            let clients = clients.join().expect("the connecting side");
            drop(over);
            (clients, accepting.join().expect("the accepting side"))
        });
        assert!(clients.len() >= 20);
        // If the last segment of a handshake was dropped, the server accepts the connection when
        // data is sent.
        let mut clients: Vec<_> = clients.iter().collect();
        for client in &mut clients {
            client.write_all(b"x").expect("a connected socket");
        }
        let mut waiting = servers;
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut heard = 0;
        while heard < clients.len() {
            assert!(
                Instant::now() < deadline,
                "data of {heard} of {} has arrived",
                clients.len()
            );
            waiting.extend(std::iter::from_fn(|| Some(listener.accept().ok()?.0)));
            waiting.retain_mut(|stream| {
                stream.set_nonblocking(true).expect("a socket");
                let is_silent = stream.read(&mut [0]).is_err();
                heard += usize::from(!is_silent);
                is_silent
            });
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

/// Ends the threads of the test, also if it fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Begins to connect without waiting.
fn attempt(to: &str) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    let to: SocketAddr = to.parse().expect("an address");
    socket.connect(&to.into()).expect_err("no connection yet");
    socket
}

/// Proves K12: the second reading of the sockets finds what was opened after the first one and
/// before the attachment. It overwrites no entry, and leaves out flows that may have begun after
/// the attachment.
#[test]
fn a_second_look_adds_what_is_new() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let policy = rules_from_lines(NO_RULES);
        let tables = compile_policy(&policy, &[], Budget::default()).expect("tables of no rules");
        let (shared, pins) = pinned_maps(sandbox, 256);
        let _programs = Programs::load(&tables, &Generation::of(&policy, 1), &shared)
            .unwrap_or_else(|e| panic!("{e}"));
        let entries = |kind: FlowKind| {
            let mut found: Vec<FlowEntry> = Vec::new();
            each_flow(&pins, |flow| found.push(flow)).unwrap_or_else(|e| panic!("{e}"));
            found.retain(|flow| flow.kind == kind);
            found.sort_by_key(|f| f.value.created);
            found
        };

        let known = node.outbound(PEER4);
        node.peer.inside(|| {
            nft(
                "table inet late { chain in { type filter hook input priority 0; \
                 tcp dport 443 drop; }; }",
            )
        });
        let late = attempt(&at(PEER4, 443));
        let mut seeding = Seeding::new(&tables, 1, &pins, 256, &policy.timeouts)
            .unwrap_or_else(|e| panic!("{e}"));
        seeding.before().unwrap_or_else(|e| panic!("{e}"));
        let established = entries(FlowKind::Established);
        assert_eq!(established.len(), 1);
        assert!(established[0].value.has_seen_reply());
        let half_open = entries(FlowKind::HalfOpen);
        assert_eq!(half_open.len(), 1);
        assert!(!half_open[0].value.has_seen_reply());

        // The peer replies when the SYN is sent again, a second later.
        node.peer.inside(|| nft("delete table inet late"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while late.peer_addr().is_err() {
            assert!(Instant::now() < deadline, "the peer never replies");
            std::thread::sleep(Duration::from_millis(20));
        }
        let meanwhile = [node.inbound(NODE4), node.outbound(PEER6)];
        let _socket = node.udp(PEER4);
        // No host has this address.
        let _attempt = attempt("192.0.2.99:443");
        let found = seeding.after().unwrap_or_else(|e| panic!("{e}"));
        // The late connection counts twice: half-open in the first reading, established in the
        // second.
        assert_eq!(kept(&Some(found)), seeded(5, 5));
        let now = entries(FlowKind::Established);
        assert_eq!((now.len(), now[0]), (4, established[0]));
        assert!(
            now.iter()
                .all(|f| f.protocol == 6 && f.value.has_seen_reply())
        );
        let is_late = |f: &&FlowEntry| f.local_port == half_open[0].local_port;
        assert_eq!(now.iter().filter(is_late).count(), 1);
        assert_eq!(
            entries(FlowKind::HalfOpen),
            [],
            "the late flow is not half-open any more"
        );
        drop((known, meanwhile));
    });
}
