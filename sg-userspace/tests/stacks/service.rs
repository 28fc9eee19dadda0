//! Services that echo, and clients that want to be answered, over real sockets.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::host::Host;

/// How long an answer may take that is sure to come; the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for an answer that must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

const POLL: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Echoes on some ports of a host, over both families, until it is dropped.
pub(crate) struct Service {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    pub(crate) fn start(host: &Host, ports: &[(Transport, u16)]) -> Service {
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = ports.iter().map(|(transport, port)| {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), *port);
            let is_over = is_over.clone();
            match transport {
                Transport::Tcp => {
                    let listener = host.inside(|| TcpListener::bind(any)).expect("a free port");
                    spawn(move || echo_tcp(&listener, &is_over))
                }
                Transport::Udp => {
                    let socket = host.inside(|| UdpSocket::bind(any)).expect("a free port");
                    spawn(move || echo_udp(&socket, &is_over))
                }
            }
        });
        Service {
            threads: threads.collect(),
            is_over,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo_tcp(listener: &TcpListener, is_over: &AtomicBool) {
    listener.set_nonblocking(true).expect("a socket option");
    while !is_over.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            sleep(POLL);
            continue;
        };
        spawn(move || {
            let mut buffer = [0; 1024];
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_read_timeout(Some(PATIENCE));
            while let Ok(len @ 1..) = again(|| stream.read(&mut buffer)) {
                if stream.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
        });
    }
}

fn echo_udp(socket: &UdpSocket, is_over: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    socket
        .set_read_timeout(Some(10 * POLL))
        .expect("a socket option");
    while !is_over.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

/// Asks a service of another host from `host`. True if its answer came within `patience`.
pub(crate) fn is_answered(
    host: &Host,
    transport: Transport,
    to: SocketAddr,
    patience: Duration,
) -> bool {
    host.inside(|| match transport {
        Transport::Tcp => is_answered_over_tcp(to, patience),
        Transport::Udp => is_answered_over_udp(to, b"a datagram", patience),
    })
}

fn is_answered_over_tcp(to: SocketAddr, patience: Duration) -> bool {
    match TcpStream::connect_timeout(&to, patience) {
        Ok(mut stream) => talk(&mut stream)
            .map(|()| true)
            .unwrap_or_else(|e| panic!("{to}: {e}")),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => false,
        // Refused is an answer too, but not one that the tests ask for.
        Err(e) => panic!("connecting to {to}: {e}"),
    }
}

/// Sends a few words over a connection and waits for them to come back.
pub(crate) fn talk(stream: &mut TcpStream) -> io::Result<()> {
    let words = b"a few words over a connection";
    let mut answer = [0; 29];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(words)?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, words, "the echo is what was said");
    Ok(())
}

/// Sends a datagram, again and again until it is answered or patience ends.
pub(crate) fn is_answered_over_udp(to: SocketAddr, words: &[u8], patience: Duration) -> bool {
    let socket = UdpSocket::bind(any(to.ip())).expect("a free port");
    socket.connect(to).expect("a route");
    socket
        .set_read_timeout(Some(SILENCE))
        .expect("a socket option");
    let deadline = Instant::now() + patience;
    let mut answer = vec![0; 65_536];
    while Instant::now() < deadline {
        // What the outbound hook drops looks like an error to some, and like success to others.
        let _ = socket.send(words);
        if let Ok(len) = again(|| socket.recv(&mut answer)) {
            assert!(answer[..len] == *words, "the echo is what was said");
            return true;
        }
    }
    false
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

/// Any port of any own address, to speak with `peer`.
pub(crate) fn any(peer: IpAddr) -> SocketAddr {
    match peer {
        IpAddr::V4(_) => SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// Connects from a port of one's own choice, which may have been in use a moment ago.
pub(crate) fn connect_from(port: u16, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(any(to.ip()).ip(), port).into())?;
    socket.connect_timeout(&to.into(), patience)?;
    Ok(socket.into())
}
