//! Servers that say whom they see, clients that ask them, and connections that stay.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::network::{Network, Who, name};

/// How long to wait for an answer that must come: the machine may be busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for one that must not come.
const SILENCE: Duration = Duration::from_millis(700);

/// Answers at a port of a host until it is dropped: with its name and the client's address, and
/// then with what it is sent.
pub(super) struct Server {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn tcp(network: &Network, who: Who, port: u16) -> Server {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        let listener = network.inside(who, bind).expect("a free port");
        let moment = TimeVal::new(0, 200_000);
        setsockopt(&listener, sockopt::ReceiveTimeout, &moment).expect("a socket option");
        Server::of(move || {
            if let Ok((stream, from)) = listener.accept() {
                spawn(move || answer(&stream, who, from));
            }
        })
    }

    pub(super) fn udp(network: &Network, who: Who, port: u16) -> Server {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
        let socket = network.inside(who, bind).expect("a free port");
        let moment = Duration::from_millis(200);
        socket.set_read_timeout(Some(moment)).expect("an option");
        Server::of(move || {
            let mut buffer = [0; 64];
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(line(who, from).as_bytes(), from);
            }
        })
    }

    fn of(mut turn: impl FnMut() + Send + 'static) -> Server {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = spawn(move || {
            while !over.load(Ordering::Relaxed) {
                turn();
            }
        });
        Server {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn line(who: &str, from: SocketAddr) -> String {
    let from = match from.ip() {
        std::net::IpAddr::V4(from) => name(from),
        from => from.to_string(),
    };
    format!("{who} {from}\n")
}

fn answer(mut stream: &TcpStream, who: &str, from: SocketAddr) -> io::Result<()> {
    // A socket has inherited the listener's time-out.
    stream.set_read_timeout(None)?;
    stream.write_all(line(who, from).as_bytes())?;
    let mut buffer = [0; 2048];
    while let len @ 1.. = stream.read(&mut buffer)? {
        stream.write_all(&buffer[..len])?;
    }
    Ok(())
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Who has answered, and whom that one sees as the client.
    By {
        server: String,
        sees: String,
    },
    /// A server that is not one of the tests' has taken the connection, or answered with a status.
    Taken(u16),
    Refused,
    Silence,
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Tcp,
    Udp,
    /// A GET, whose status is the answer.
    Http,
    /// Whether the connection comes about; the server says nothing by itself.
    Connect,
}

/// Asks from a host, for as long as an answer that must come may take, or one that must not.
pub(super) fn ask(
    network: &Network,
    from: &str,
    how: How,
    to: (Ipv4Addr, u16),
    must_come: bool,
) -> Answer {
    let patience = if must_come { PATIENCE } else { SILENCE };
    let asked = network.inside(from, || match how {
        How::Udp => over_udp(to.into(), patience),
        how => over_tcp(how, to.into(), patience),
    });
    match asked {
        Ok(answer) => answer,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Answer::Refused,
        Err(e) if [ErrorKind::TimedOut, ErrorKind::WouldBlock].contains(&e.kind()) => {
            Answer::Silence
        }
        Err(e) => panic!("{from} asks {to:?}: {e}"),
    }
}

fn over_tcp(how: How, to: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    // kube-proxy listens at a NodePort before it forwards it, and never answers there.
    stream.set_read_timeout(Some(patience))?;
    match how {
        How::Connect => Ok(Answer::Taken(0)),
        How::Http => {
            stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: node\r\n\r\n")?;
            let status = read_line(&stream)?;
            let status = status.split(' ').nth(1).and_then(|it| it.parse().ok());
            Ok(Answer::Taken(status.unwrap_or_default()))
        }
        How::Tcp | How::Udp => Ok(parse(&read_line(&stream)?)),
    }
}

fn read_line(stream: &TcpStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

fn over_udp(to: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 64];
    loop {
        // Some kernels tell the sender what the outbound hook has dropped.
        let sent = socket.send(b"?");
        match sent.and_then(|_| socket.recv(&mut buffer)) {
            Ok(len) => return Ok(parse(&String::from_utf8_lossy(&buffer[..len]))),
            Err(e) if Instant::now() >= deadline => return Err(e),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

fn parse(line: &str) -> Answer {
    let (server, sees) = line.trim().split_once(' ').unwrap_or_default();
    Answer::By {
        server: server.to_owned(),
        sees: sees.to_owned(),
    }
}

/// A connection over which words go to and fro all the time, until it is dropped.
pub(super) struct Lasting {
    pub(super) what: &'static str,
    /// Who is at its other end.
    pub(super) answer: Answer,
    turns: Arc<AtomicU64>,
    is_held: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    broken: Arc<Mutex<Option<String>>>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Lasting {
    pub(super) fn open(
        network: &Network,
        what: &'static str,
        from: &str,
        to: (Ipv4Addr, u16),
    ) -> Lasting {
        let to = SocketAddr::from(to);
        let connected = network.inside(from, || TcpStream::connect_timeout(&to, PATIENCE));
        let mut stream = connected.unwrap_or_else(|e| panic!("{what}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        let answer = parse(&read_line(&stream).unwrap_or_else(|e| panic!("{what}: {e}")));
        let copy = stream.try_clone().expect("a descriptor");
        let turns = Arc::new(AtomicU64::new(0));
        let is_held = Arc::new(AtomicBool::new(false));
        let is_over = Arc::new(AtomicBool::new(false));
        let broken = Arc::new(Mutex::new(None));
        let its = (
            turns.clone(),
            is_held.clone(),
            is_over.clone(),
            broken.clone(),
        );
        let thread = spawn(move || {
            let (turns, is_held, is_over, broken) = its;
            // Several segments each way.
            let (words, mut echo) = ([7; 2000], [0; 2000]);
            while !is_over.load(Ordering::Relaxed) {
                if !is_held.load(Ordering::Relaxed) {
                    let turn = stream.write_all(&words);
                    if let Err(e) = turn.and_then(|()| stream.read_exact(&mut echo)) {
                        *broken.lock().expect("nobody panics with it") = Some(e.to_string());
                        return;
                    }
                    turns.fetch_add(1, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(5));
            }
        });
        Lasting {
            what,
            answer,
            turns,
            is_held,
            is_over,
            broken,
            stream: copy,
            thread: Some(thread),
        }
    }

    /// Sends nothing for the time being, or goes on.
    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Fails unless words still go to and fro.
    #[track_caller]
    pub(super) fn assert_goes_on(&self, when: &str) {
        let before = self.turns.load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        // Two more: the first may have been under way.
        while self.turns.load(Ordering::Relaxed) < before + 2 {
            let broken = self.broken.lock().expect("nobody panics with it").clone();
            let what = self.what;
            assert_eq!(broken, None, "{what} has ended {when}");
            assert!(Instant::now() < deadline, "{what} stands still {when}");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Lasting {
    /// Fails if anything still goes to and fro.
    #[track_caller]
    pub(super) fn assert_stands_still(&self, when: &str) {
        // What was under way has come by then.
        sleep(SILENCE);
        let before = self.turns.load(Ordering::Relaxed);
        sleep(2 * SILENCE);
        let after = self.turns.load(Ordering::Relaxed);
        assert_eq!(before, after, "{} goes on {when}", self.what);
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Its thread may wait for what never comes.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
