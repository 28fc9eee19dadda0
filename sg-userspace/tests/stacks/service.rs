//! Echo services and their clients, with real sockets.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use sg_testbed::Host;

/// How long to wait for a reply that must come. Generous, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for a reply that must not come.
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

/// Sends a request to a service of another host. Returns whether the reply came within `patience`.
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
        // A refused connection is a reply too, but no test expects one.
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
    assert_eq!(&answer, words, "the echo is what was sent");
    Ok(())
}

/// Sends a datagram repeatedly. Returns whether a reply came within `patience`.
pub(crate) fn is_answered_over_udp(to: SocketAddr, words: &[u8], patience: Duration) -> bool {
    let socket = UdpSocket::bind(any(to.ip())).expect("a free port");
    socket.connect(to).expect("a route");
    socket
        .set_read_timeout(Some(SILENCE))
        .expect("a socket option");
    let deadline = Instant::now() + patience;
    let mut answer = vec![0; 65_536];
    while Instant::now() < deadline {
        // If the outbound hook drops the packet, some kernels report an error and others do not.
        let _ = socket.send(words);
        if let Ok(len) = again(|| socket.recv(&mut answer)) {
            assert!(answer[..len] == *words, "the echo is what was sent");
            return true;
        }
    }
    false
}

/// Repeats a read that was interrupted by a signal. When a child of another test ends, SIGCHLD can
/// interrupt any thread, and a read with a timeout does not restart by itself.
pub(crate) fn again<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Any port of any own address in the family of `peer`.
pub(crate) fn any(peer: IpAddr) -> SocketAddr {
    match peer {
        IpAddr::V4(_) => SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// Connects from the given port, which may have been in use a moment ago.
pub(crate) fn connect_from(port: u16, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(any(to.ip()).ip(), port).into())?;
    socket.connect_timeout(&to.into(), patience)?;
    Ok(socket.into())
}
