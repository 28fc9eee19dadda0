//! How long a silent flow lives: UDP flows with pauses, and TCP connections that are idle or half
//! closed, with short timeouts and with the default ones.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{scope, sleep};
use std::time::Duration;

use crate::enforced::policy;
use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, SILENCE, again, talk};
use sg_testbed::Host;

const PORT: u16 = 7000;

/// The node may open any flow, and every reply needs one.
fn rules(timeouts: &str) -> String {
    format!(
        "{{timeouts: {{{timeouts}}}, inbound: [],
        outbound: [{{protocol: all, to: any, action: accept}}]}}"
    )
}

const SECOND: Duration = Duration::from_secs(1);

/// Proves K6 and K9 for UDP: replies pass while the flow lives, and not after that. It lives longer
/// if it still gets replies after two seconds, and a new request opens it again.
#[test]
fn udp_replies_pass_until_their_flow_has_timed_out() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &policy(&rules("udp: 1s, udp-stream: 4s")));
        scope(|scope| {
            for family in Family::BOTH {
                let line = &line;
                scope.spawn(move || {
                    let talk = UdpTalk::new(line, family);
                    talk.ask();
                    sleep(SECOND * 2);
                    assert!(
                        talk.is_unheard(),
                        "{family:?}: a reply after the timeout `udp`"
                    );

                    talk.ask();
                    assert!(talk.is_heard(), "{family:?}: an immediate reply");
                    sleep(SECOND * 2);
                    assert!(
                        talk.is_unheard(),
                        "{family:?}: a reply after the timeout `udp`, to a flow with immediate replies only"
                    );

                    // The flow still gets replies after two seconds.
                    for _ in 0..6 {
                        talk.ask();
                        assert!(talk.is_heard(), "{family:?}: an immediate reply");
                        sleep(SECOND / 2);
                    }
                    sleep(SECOND * 2);
                    assert!(
                        talk.is_heard(),
                        "{family:?}: a reply between the timeouts `udp` and `udp-stream`"
                    );
                    sleep(SECOND * 5);
                    assert!(
                        talk.is_unheard(),
                        "{family:?}: a reply after the timeout `udp-stream`"
                    );

                    talk.ask();
                    assert!(talk.is_heard(), "{family:?}: a reply to a new request");
                });
            }
        });
        assert_eq!(enforced.rule("out 1").reply_packets, 2 * 9);
        assert_eq!(enforced.reason("in no-match"), 2 * 3);
        enforced.assert_adds_up();
    });
}

/// A socket of the node and one of the remote, connected to each other.
struct UdpTalk {
    node: UdpSocket,
    remote: UdpSocket,
}

impl UdpTalk {
    fn new(line: &Line, family: Family) -> UdpTalk {
        let node = SocketAddr::new(line.node_address(family), PORT);
        let remote = SocketAddr::new(line.remote_address(family), PORT);
        let socket = |host: &Host, own: SocketAddr, peer: SocketAddr| {
            let socket = host.inside(|| UdpSocket::bind(own)).expect("a free port");
            socket.connect(peer).expect("a route");
            socket
        };
        UdpTalk {
            node: socket(&line.node, node, remote),
            remote: socket(&line.remote, remote, node),
        }
    }

    fn ask(&self) {
        let remote = &self.remote;
        remote.set_read_timeout(Some(PATIENCE)).expect("an option");
        self.node.send(b"?").expect("the request is sent");
        again(|| remote.recv(&mut [0])).expect("the request arrives");
    }

    /// Sends a reply that the node must receive. Returns whether it did.
    fn is_heard(&self) -> bool {
        self.answer(PATIENCE)
    }

    /// Sends a reply that the node must not receive. Returns whether it did not.
    fn is_unheard(&self) -> bool {
        !self.answer(SILENCE)
    }

    fn answer(&self, patience: Duration) -> bool {
        let node = &self.node;
        node.set_read_timeout(Some(patience)).expect("an option");
        self.remote.send(b"!").expect("the reply is sent");
        again(|| node.recv(&mut [0])).is_ok()
    }
}

/// What the ends of a connection do before the pause.
#[derive(Clone, Copy, Debug)]
enum Pause {
    /// Nothing.
    Idle,
    /// The node closes its side, and the remote acknowledges that.
    HalfClosed,
}

/// Proves K9: a TCP flow lives for the timeout of its state, whatever the other timeouts are. With
/// the default timeouts a connection outlives a pause, idle or half closed.
#[test]
fn tcp_flows_live_as_long_as_their_state() {
    let cases = [
        ("", Pause::Idle, true),
        ("", Pause::HalfClosed, true),
        ("tcp-established: 1s", Pause::Idle, false),
        (
            "tcp-fin-wait: 1s, tcp-close-wait: 1s",
            Pause::HalfClosed,
            false,
        ),
        // The timeouts of other states make no difference.
        ("tcp-established: 1s", Pause::HalfClosed, true),
        (
            "tcp-syn-sent: 1s, tcp-syn-recv: 1s, tcp-fin-wait: 1s, tcp-close-wait: 1s, \
             tcp-last-ack: 1s, tcp-time-wait: 1s, tcp-close: 1s, udp: 1s, udp-stream: 1s",
            Pause::Idle,
            true,
        ),
    ];
    scope(|scope| {
        for (timeouts, pause, is_heard) in cases {
            scope.spawn(move || {
                sandbox(|sandbox| {
                    let line = Line::new(0);
                    let enforced = line.enforce(sandbox, &policy(&rules(timeouts)));
                    let heard = scope_both(&line, pause, is_heard);
                    assert_eq!(heard, [is_heard; 2], "{timeouts}: {pause:?}");
                    // Data that did not arrive was dropped by the enforcer, not lost elsewhere.
                    assert!(is_heard || enforced.reason("in no-match") > 0);
                    enforced.assert_adds_up();
                });
            });
        }
    });
}

/// Whether data that the remote sends after a pause arrives, in each family. `is_heard` is the
/// expected result.
fn scope_both(line: &Line, pause: Pause, is_heard: bool) -> [bool; 2] {
    scope(|scope| {
        let ask = |family| scope.spawn(move || outlives(line, family, pause, is_heard));
        let asked = Family::BOTH.map(ask);
        asked.map(|thread| thread.join().expect("the connection is made"))
    })
}

fn outlives(line: &Line, family: Family, pause: Pause, is_heard: bool) -> bool {
    let at = SocketAddr::new(line.remote_address(family), PORT);
    let (mut node, mut remote) = connection(&line.node, &line.remote, at);
    if let Pause::HalfClosed = pause {
        node.shutdown(Shutdown::Write)
            .expect("the connection is open");
        assert_eq!(
            again(|| remote.read(&mut [0])).expect("the end of the stream arrives"),
            0
        );
    }
    sleep(SECOND * 3);
    remote
        .write_all(b"are you there?")
        .expect("the connection is open");
    let patience = if is_heard { PATIENCE } else { SECOND };
    node.set_read_timeout(Some(patience)).expect("an option");
    again(|| node.read(&mut [0; 14])).is_ok_and(|len| len > 0)
}

/// Both ends of a connection that has carried data in both directions.
fn connection(client: &Host, server: &Host, at: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = server.inside(|| TcpListener::bind(at));
    let listener = listener.expect("a free port");
    let opened = client.inside(|| TcpStream::connect_timeout(&at, PATIENCE));
    let mut opened = opened.unwrap_or_else(|e| panic!("connecting to {at}: {e}"));
    let (mut accepted, _) = listener.accept().expect("a connection that is open");
    scope(|scope| {
        let echo = scope.spawn(|| {
            let mut words = [0; 64];
            let len = again(|| accepted.read(&mut words))?;
            accepted.write_all(&words[..len])
        });
        talk(&mut opened).expect("an echo");
        echo.join()
            .expect("the echoing thread ends")
            .expect("the echo is sent");
    });
    (opened, accepted)
}
