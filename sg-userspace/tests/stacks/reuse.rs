//! Connections that end in all the ways of real ones, and are opened again from the same port at
//! once.

use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, ConnectionRefused};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use socket2::SockRef;

use crate::enforced::policy;
use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, again, connect_from, talk};
use sg_testbed::Host;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client closes first, and so keeps TIME-WAIT.
    ClientCloses,
    /// The server closes first, and so keeps TIME-WAIT.
    ServerCloses,
    ClientResets,
    ServerResets,
    /// The client loses the connection without sending anything, as when its machine loses power.
    ClientForgets,
    /// There is no connection, because the server has no listener.
    Refused,
}

impl End {
    const ALL: [End; 6] = [
        End::ClientCloses,
        End::ServerCloses,
        End::ClientResets,
        End::ServerResets,
        End::ClientForgets,
        End::Refused,
    ];
}

/// Short timeouts: only an established flow outlives the pause of the last round.
const OVER_SOON: &str = "timeouts: {tcp-syn-sent: 1s, tcp-syn-recv: 1s, tcp-fin-wait: 1s, \
                         tcp-close-wait: 1s, tcp-last-ack: 1s, tcp-time-wait: 1s, tcp-close: 1s}";
const PAUSE: Duration = Duration::from_secs(2);
const ROUNDS: u32 = 4;

/// Proves K6 and K9 for flows that the node opens: only replies come in.
#[test]
fn outbound_connections_begin_again_from_the_same_port() {
    assert_reused(
        "outbound: [{protocol: tcp, to: any, action: accept}]\ninbound: []",
        true,
    );
}

/// Proves K6 and K9 for flows opened from outside: only replies leave.
#[test]
fn inbound_connections_begin_again_from_the_same_port() {
    assert_reused(
        "inbound: [{protocol: tcp, from: any, action: accept}]\noutbound: []",
        false,
    );
}

/// Tries each kind of end in each family, all at the same time and on their own ports.
#[track_caller]
fn assert_reused(rules: &str, is_node_client: bool) {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &policy(&format!("{OVER_SOON}\n{rules}")));
        let (client, server) = match is_node_client {
            true => (&line.node, &line.remote),
            false => (&line.remote, &line.node),
        };
        // The client may reuse a connection in TIME-WAIT after a millisecond.
        client.set("net/ipv4/tcp_tw_reuse", "1");
        client.set("net/ipv4/tcp_tw_reuse_delay", "1");
        let address = |family| match is_node_client {
            true => line.remote_address(family),
            false => line.node_address(family),
        };
        scope(|scope| {
            let pairs = Family::BOTH.map(|family| End::ALL.map(|end| (family, end)));
            for (port, (family, end)) in (6001..).zip(pairs.into_iter().flatten()) {
                let at = SocketAddr::new(address(family), port);
                scope.spawn(move || again_and_again(client, server, at, end));
            }
        });
        enforced.assert_adds_up();
    });
}

fn again_and_again(client: &Host, server: &Host, at: SocketAddr, end: End) {
    let own_port = at.port() + 1000;
    let connect = || client.inside(|| connect_when_free(own_port, at));
    let mut forgotten = Vec::new();
    for round in 1..=ROUNDS {
        if end == End::Refused {
            let error = connect().expect_err("there is no listener");
            let kind = error.kind();
            assert_eq!(kind, ConnectionRefused, "{at}, round {round}: {error}");
        }
        let listener = server
            .inside(|| TcpListener::bind(at))
            .expect("a free port");
        let serving = spawn(move || serve(&listener, end, round == ROUNDS));
        let connected = connect();
        let mut stream =
            connected.unwrap_or_else(|e| panic!("{at} {end:?}, round {round}: connecting: {e}"));
        talk(&mut stream).unwrap_or_else(|e| panic!("{at} {end:?}, round {round}: {e}"));
        if round == ROUNDS {
            let heard = again(|| stream.read(&mut [0; 64]));
            assert!(
                heard.is_ok_and(|len| len > 0),
                "{at} {end:?}, after a pause"
            );
        }
        finish(stream, end);
        forgotten.extend(serving.join().expect("the server has served"));
    }
}

/// Connects as soon as the client's own port is free. It may be in use for a moment: the last
/// acknowledgement may be on its way, and a child that another test starts has copies of all
/// sockets until it executes its program.
fn connect_when_free(own_port: u16, at: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect_from(own_port, at, PATIENCE) {
            Err(e)
                if [AddrInUse, AddrNotAvailable].contains(&e.kind())
                    && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// What the client does for this kind of end.
fn finish(mut stream: TcpStream, end: End) {
    match end {
        End::ServerCloses | End::ServerResets => {
            let _ = again(|| stream.read(&mut [0]));
        }
        End::ClientResets | End::Refused => reset(&stream),
        End::ClientForgets => setsockopt(&stream, TcpRepair, &1).expect("root may repair"),
        End::ClientCloses => {}
    }
}

/// Echoes once over one connection, and then does what the server does for this kind of end. In the
/// last round it waits first and then sends something more. Returns the connection if the client
/// has lost it and the server still has it.
fn serve(listener: &TcpListener, end: End, is_last: bool) -> Option<TcpStream> {
    let (mut stream, _) = listener.accept().expect("a client");
    // Closing alone may not be enough, see `connect_when_free`.
    let closed = SockRef::from(listener).shutdown(Shutdown::Both);
    closed.expect("the listener can be shut down");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut words = [0; 64];
    let len = again(|| stream.read(&mut words)).expect("words");
    stream.write_all(&words[..len]).expect("a connection");
    if is_last {
        sleep(PAUSE);
        stream.write_all(b"are you there?").expect("a connection");
    }
    match end {
        End::ServerCloses => {}
        End::ServerResets => reset(&stream),
        End::ClientForgets => return Some(stream),
        _ => {
            let _ = again(|| stream.read(&mut [0]));
        }
    }
    None
}

/// Makes the next close send a reset.
fn reset(stream: &TcpStream) {
    let linger = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    linger.expect("an option");
}
