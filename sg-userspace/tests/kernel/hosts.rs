//! What tests do on the hosts of their network: settings, and connections between hosts.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub(crate) use sg_testbed::Host;
use socket2::{Domain, SockRef, Socket, Type};

use crate::sandbox::{ip, run};

/// How long something that must arrive may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// After how long silence counts as dropped.
const SILENCE: Duration = Duration::from_millis(300);

/// Gives an interface of the calling thread's namespace an address that can be used at once.
pub(crate) fn address(interface: &str, address: &str) {
    let mut arguments = vec!["address", "add", address, "dev", interface];
    if address.contains(':') {
        arguments.push("nodad");
    }
    ip(&arguments);
}

pub(crate) fn gateway(address: &str) {
    let family = if address.contains(':') { "-6" } else { "-4" };
    ip(&[family, "route", "add", "default", "via", address]);
}

/// Sets a sysctl of the calling thread's network namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Loads a ruleset into the calling thread's network namespace.
pub(crate) fn nft(ruleset: &str) {
    run("nft", &[ruleset]);
}

/// A listener in the calling thread's namespace.
pub(crate) fn listen(at: &str) -> TcpListener {
    TcpListener::bind(at).unwrap_or_else(|e| panic!("listening at {at}: {e}"))
}

fn parse(address: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|e| panic!("{address}: {e}"))
}

/// Whether the calling thread can connect to this address, which should let it in.
pub(crate) fn reaches(to: &str) -> bool {
    connects(to, PATIENCE)
}

/// Whether the calling thread cannot connect to this address, which should not let it in.
pub(crate) fn is_kept_out(to: &str) -> bool {
    !connects(to, SILENCE)
}

fn connects(to: &str, patience: Duration) -> bool {
    match TcpStream::connect_timeout(&parse(to), patience) {
        Ok(_) => true,
        Err(e) if e.kind() == io::ErrorKind::TimedOut => false,
        Err(e) => panic!("connecting to {to}: {e}"),
    }
}

/// Reads again when a signal came in between: a child of another test that ends can wake any
/// thread, and a read that has a timeout is not taken up again by itself.
pub(crate) fn again<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether the kernel has ended a connection because nothing was acknowledged for too long: after
/// some nine seconds where the machine's own hook drops what is sent.
fn has_given_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, TimedOut};
    matches!(error.kind(), BrokenPipe | TimedOut)
}

/// Both ends of a connection.
pub(crate) struct Pair {
    what: String,
    ends: Ends,
}

enum Ends {
    Tcp([TcpStream; 2]),
    Udp([UdpSocket; 2]),
}

impl Pair {
    /// From the calling thread's namespace to `listener`, which is at `to`.
    pub(crate) fn tcp(listener: &TcpListener, to: &str) -> Pair {
        let what = format!("tcp to {to}");
        let client = TcpStream::connect_timeout(&parse(to), PATIENCE)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let (server, _) = again(|| listener.accept()).unwrap_or_else(|e| panic!("{what}: {e}"));
        Pair {
            what,
            ends: Ends::Tcp([client, server]),
        }
    }

    /// Of sockets that are connected with each other: the one that has connected first.
    pub(crate) fn of(what: &str, ends: [TcpStream; 2]) -> Pair {
        Pair {
            what: what.to_owned(),
            ends: Ends::Tcp(ends),
        }
    }

    /// As [`Pair::tcp`], from an address and port of one's own choice, which may have been in use
    /// a moment ago.
    pub(crate) fn tcp_from(from: SocketAddr, listener: &TcpListener, to: &str) -> Pair {
        let what = format!("tcp from {from} to {to}");
        let failed = |e: io::Error| -> ! { panic!("{what}: {e}") };
        let domain = Domain::for_address(from);
        let client = Socket::new(domain, Type::STREAM, None).unwrap_or_else(|e| failed(e));
        client.set_reuse_address(true).unwrap_or_else(|e| failed(e));
        client.bind(&from.into()).unwrap_or_else(|e| failed(e));
        let connected = client.connect_timeout(&parse(to).into(), PATIENCE);
        connected.unwrap_or_else(|e| failed(e));
        let (server, _) = listener.accept().unwrap_or_else(|e| failed(e));
        Pair {
            ends: Ends::Tcp([client.into(), server]),
            what,
        }
    }

    /// Ends a connection without a word that either end would wait for.
    pub(crate) fn forget(self) {
        if let Ends::Tcp(ends) = &self.ends {
            for end in ends {
                let at_once = Some(Duration::ZERO);
                SockRef::from(end).set_linger(at_once).expect("an option");
            }
        }
    }

    /// From the calling thread's namespace to `server`, which is at `to` and answers only us.
    pub(crate) fn udp(server: UdpSocket, to: &str) -> Pair {
        let what = format!("udp to {to}");
        let any: IpAddr = match parse(to) {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0; 16].into(),
        };
        let failed = |e: io::Error| -> UdpSocket { panic!("{what}: {e}") };
        let client = UdpSocket::bind((any, 0)).unwrap_or_else(failed);
        client.connect(to).unwrap_or_else(|e| panic!("{what}: {e}"));
        client.send(b"!").unwrap_or_else(|e| panic!("{what}: {e}"));
        server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (_, from) =
            again(|| server.recv_from(&mut [0; 8])).unwrap_or_else(|e| panic!("{what}: {e}"));
        server
            .connect(from)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let pair = Pair {
            what: what.clone(),
            ends: Ends::Udp([client, server]),
        };
        pair.goes_on();
        pair
    }

    /// The addresses of both ends, as their sockets know them.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        let of = |address: io::Result<SocketAddr>| {
            let address = address.unwrap_or_else(|e| panic!("{}: {e}", self.what));
            SocketAddr::new(address.ip().to_canonical(), address.port())
        };
        match &self.ends {
            Ends::Tcp(ends) => [of(ends[0].local_addr()), of(ends[1].local_addr())],
            Ends::Udp(ends) => [of(ends[0].local_addr()), of(ends[1].local_addr())],
        }
    }

    /// Sends a byte each way; fails the test unless both arrive.
    pub(crate) fn goes_on(&self) {
        for from in 0..2 {
            let arrived = self.send(from, PATIENCE);
            assert!(arrived, "{}: nothing from end {from} arrives", self.what);
        }
    }

    /// Whether a byte that one end sends arrives at the other. End 0 is the one that has connected.
    /// A byte that is expected to arrive is waited for longer.
    pub(crate) fn carries_from(&self, end: usize, is_expected: bool) -> bool {
        self.send(end, if is_expected { PATIENCE } else { SILENCE })
    }

    /// Sends a byte each way; fails the test if one arrives.
    pub(crate) fn is_cut(&self) {
        for from in 0..2 {
            let arrived = self.send(from, SILENCE);
            assert!(!arrived, "{}: a byte from end {from} arrives", self.what);
        }
    }

    fn send(&self, from: usize, patience: Duration) -> bool {
        let failed = |e: io::Error| -> usize { panic!("{}: {e}", self.what) };
        let mut byte = [0];
        let got = match &self.ends {
            Ends::Tcp(ends) => {
                let (mut from, mut to) = (&ends[from], &ends[1 - from]);
                if let Err(e) = from.write_all(b"x") {
                    if has_given_up(&e) {
                        return false;
                    }
                    failed(e);
                }
                to.set_read_timeout(Some(patience)).expect("a timeout");
                again(|| to.read(&mut byte))
            }
            Ends::Udp(ends) => {
                let (from, to) = (&ends[from], &ends[1 - from]);
                from.send(b"x").unwrap_or_else(failed);
                to.set_read_timeout(Some(patience)).expect("a timeout");
                again(|| to.recv(&mut byte))
            }
        };
        match got {
            Ok(count) => count == 1,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || has_given_up(&e) => false,
            Err(e) => panic!("{}: {e}", self.what),
        }
    }
}
