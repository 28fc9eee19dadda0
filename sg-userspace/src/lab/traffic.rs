//! Real traffic with real sockets: clients that wait for a reply, and the services that send it.
//! All code here runs as tasks on the thread of the namespace that it belongs to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::echo;
use super::plan::What;

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The reply came. Has the originator's port, for protocols with ports.
    Answered(Option<u16>),
    /// Nothing came back.
    Silence,
    /// Anything else: the connection was refused, or succeeded without a reply.
    Odd(String),
}

/// A request from one address to another, which must get a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) what: What,
    pub(super) number: u16,
}

/// Makes all calls at the same time. Each waits for its reply for `wait`.
pub(super) async fn call_all(calls: Vec<Call>, wait: Duration) -> Vec<(u16, Outcome)> {
    let mut running = JoinSet::new();
    for call in calls {
        running.spawn(async move { (call.number, call_one(call, wait).await) });
    }
    running.join_all().await
}

async fn call_one(call: Call, wait: Duration) -> Outcome {
    let is_connected = AtomicBool::new(false);
    let talk = async {
        match call.what {
            What::Tcp(port) => tcp(&call, port, &is_connected).await,
            What::Udp(port) => udp(&call, port, wait / 2).await,
            What::Ping => echo::ping(call.from, call.to, call.number, wait / 2).await,
        }
    };
    match timeout(wait, talk).await {
        Ok(Ok(port)) => Outcome::Answered(port),
        Ok(Err(error)) => Outcome::Odd(error.to_string()),
        Err(_) if is_connected.load(Ordering::Relaxed) => {
            Outcome::Odd("connected, but no answer came".into())
        }
        Err(_) => Outcome::Silence,
    }
}

/// The bytes that are sent and must come back.
fn token(number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    [b's', b'g', b' ', b'l', b'a', b'b', high, low]
}

async fn tcp(call: &Call, port: u16, is_connected: &AtomicBool) -> io::Result<Option<u16>> {
    let socket = match call.to {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Closing sends a reset, so that no connection stays in TIME-WAIT and no packet follows.
    socket.set_zero_linger()?;
    socket.bind(SocketAddr::new(call.from, 0))?;
    let own_port = socket.local_addr()?.port();
    let stream = socket.connect(SocketAddr::new(call.to, port)).await?;
    is_connected.store(true, Ordering::Relaxed);
    let token = token(call.number);
    write(&stream, &token).await?;
    let mut answer = [0; 8];
    let mut len = 0;
    while len < answer.len() {
        match read(&stream, &mut answer[len..]).await? {
            0 => return Err(io::Error::other("closed without an answer")),
            n => len += n,
        }
    }
    checked(answer == token, own_port)
}

async fn udp(call: &Call, port: u16, pause: Duration) -> io::Result<Option<u16>> {
    let socket = UdpSocket::bind(SocketAddr::new(call.from, 0)).await?;
    let own_port = socket.local_addr()?.port();
    socket.connect(SocketAddr::new(call.to, port)).await?;
    let token = token(call.number);
    let mut answer = [0; 16];
    let len = loop {
        socket.send(&token).await?;
        // After a timeout the datagram is sent again, as a resolver would do.
        if let Ok(received) = timeout(pause, socket.recv(&mut answer)).await {
            break received?;
        }
    };
    checked(answer[..len] == token, own_port)
}

fn checked(is_same: bool, own_port: u16) -> io::Result<Option<u16>> {
    match is_same {
        true => Ok(Some(own_port)),
        false => Err(io::Error::other("the answer is not what was sent")),
    }
}

async fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

async fn read(stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(into) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Starts the services at all of `addresses`. The kernel replies to pings.
pub(super) async fn serve(addresses: Vec<IpAddr>, services: Vec<What>) -> io::Result<()> {
    for address in addresses {
        for service in &services {
            match *service {
                What::Tcp(port) => {
                    let listener = TcpListener::bind(SocketAddr::new(address, port)).await?;
                    tokio::spawn(serve_tcp(listener));
                }
                What::Udp(port) => {
                    let socket = UdpSocket::bind(SocketAddr::new(address, port)).await?;
                    tokio::spawn(serve_udp(socket));
                }
                What::Ping => {}
            }
        }
    }
    Ok(())
}

async fn serve_tcp(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    let mut buffer = [0; 64];
                    while let Ok(len @ 1..) = read(&stream, &mut buffer).await {
                        if write(&stream, &buffer[..len]).await.is_err() {
                            break;
                        }
                    }
                });
            }
            // The connection was closed before it was accepted.
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn serve_udp(socket: UdpSocket) {
    let mut buffer = [0; 64];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                let _ = socket.send_to(&buffer[..len], from).await;
            }
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}
