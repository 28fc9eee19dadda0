//! The load of the `feel` rows: real sockets, one thread for each end, pinned to a core each.
//! Neither thread sleeps while it waits, since waking up a virtual core takes longer than all that
//! is to be measured.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sg_testbed::Namespace;

use crate::cores::{self, Cores};

/// Where the server listens.
pub(super) const PORT: u16 = 5001;

/// How long one end waits for the other before the row fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Requests of one window; a window ends when they are used up.
const MAX_REQUESTS: usize = 500_000;

/// How long a datagram may be under way before it counts as lost, and how many may be lost.
const LOST_AFTER: Duration = Duration::from_millis(500);
const MAX_LOST: u32 = 10;

/// Bytes of one call that sends or receives a part of a stream.
const CHUNK: usize = 128 << 10;

/// Microseconds that a request takes.
const LATENCY: &str = "us";

/// What the two ends do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// The client sends as much as it can over one TCP connection.
    Stream,
    /// Over one TCP connection a byte goes there and one comes back, again and again.
    Rr,
    /// A byte goes there and one comes back, with a connection of its own for each pair.
    Crr,
    /// As `Rr`, by datagrams.
    UdpRr,
}

impl Test {
    pub(super) const ALL: [Test; 4] = [Test::Stream, Test::Rr, Test::Crr, Test::UdpRr];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Test::Stream => "stream",
            Test::Rr => "rr",
            Test::Crr => "crr",
            Test::UdpRr => "udp-rr",
        }
    }

    /// Of [`Sample::figure`].
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Test::Stream => "Gbit/s",
            Test::Rr | Test::UdpRr => LATENCY,
            Test::Crr => "connections/s",
        }
    }
}

/// Who measures with whom, and where.
pub(super) struct Ends<'a> {
    pub(super) node: &'a Namespace,
    pub(super) client: &'a Namespace,
    /// The node's address, at which the server listens.
    pub(super) address: Ipv4Addr,
    pub(super) cores: Cores,
}

/// What one window measured.
#[derive(Debug)]
pub(super) struct Sample {
    /// Bytes that the server received, or requests that were answered.
    pub(super) count: u64,
    pub(super) seconds: f64,
    /// Of each request, in microseconds, in ascending order; none for a stream.
    pub(super) latencies: Vec<f32>,
}

impl Sample {
    /// In the unit of the test. Of requests it is the median latency, which says the same when
    /// something else takes a core away for a moment.
    pub(super) fn figure(&self, test: Test) -> Option<f64> {
        let a_second = self.count as f64 / self.seconds;
        match test {
            Test::Stream => Some(a_second * 8.0 / 1e9),
            Test::Crr => Some(a_second),
            Test::Rr | Test::UdpRr => self.percentile(0.5).map(f64::from),
        }
    }

    /// The more, the faster; to be compared with others of the same test.
    pub(super) fn speed(&self, test: Test) -> Option<f64> {
        let figure = self.figure(test)?;
        match test {
            Test::Stream | Test::Crr => Some(figure),
            Test::Rr | Test::UdpRr => Some(1.0 / figure),
        }
    }

    /// The latency that this share of the requests does not exceed.
    pub(super) fn percentile(&self, share: f64) -> Option<f32> {
        let last = self.latencies.len().checked_sub(1)?;
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at.min(last)).copied()
    }
}

/// Runs a load for a quarter of `window` to warm up, and measures it for `window`.
pub(super) fn run(test: Test, ends: &Ends<'_>, window: Duration) -> Result<Sample> {
    let is_over = AtomicBool::new(false);
    let (ready, is_ready) = channel();
    let (server, client) = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let served = serve(test, ends, window, &is_over, ready);
            is_over.store(true, Ordering::Relaxed);
            served.context("the server")
        });
        let client = scope.spawn(|| {
            let asked = ask(test, ends, window, &is_over, is_ready);
            is_over.store(true, Ordering::Relaxed);
            asked.context("the client")
        });
        (server.join(), client.join())
    });
    let both = [server, client].map(|end| match end {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    });
    // If one end fails, the other fails as a consequence: the error names both.
    match both {
        [Ok(server), Ok(client)] => server.or(client).context("neither end measured anything"),
        [Err(server), Err(client)] => bail!("{server:#}; {client:#}"),
        [Err(error), _] | [_, Err(error)] => Err(error),
    }
}

/// The server's part; it measures streams.
fn serve(
    test: Test,
    ends: &Ends<'_>,
    window: Duration,
    is_over: &AtomicBool,
    ready: Sender<()>,
) -> Result<Option<Sample>> {
    ends.node.enter().context("entering the node's namespace")?;
    cores::pin(0, ends.cores.receiver)?;
    let address = (ends.address, PORT);
    if test == Test::UdpRr {
        let socket = UdpSocket::bind(address).context("listening")?;
        socket.set_nonblocking(true)?;
        let _ = ready.send(());
        let mut byte = [0];
        while let Some((_, client)) = spin(is_over, || socket.recv_from(&mut byte))? {
            spin(is_over, || socket.send_to(&byte, client))?;
        }
        return Ok(None);
    }
    let listener = TcpListener::bind(address).context("listening")?;
    listener.set_nonblocking(true)?;
    let _ = ready.send(());
    while let Some((mut stream, _)) = spin(is_over, || listener.accept())? {
        stream.set_nonblocking(true)?;
        match test {
            Test::Stream => return receive(&mut stream, window, is_over),
            Test::Rr => while reply(&mut stream, is_over)? {},
            // It closes first, so that the client's port is free again at once.
            _ => drop(reply(&mut stream, is_over)?),
        }
    }
    Ok(None)
}

/// Sends back the next byte of a connection. False once there is none.
fn reply(stream: &mut TcpStream, is_over: &AtomicBool) -> Result<bool> {
    let mut byte = [0];
    match spin(is_over, || stream.read(&mut byte))? {
        None | Some(0) => Ok(false),
        Some(_) => Ok(spin(is_over, || stream.write(&byte))?.is_some()),
    }
}

/// Counts what arrives over a connection, has the client stop, and takes what is still under way:
/// to close before that would be a reset, which filters may drop.
fn receive(
    stream: &mut TcpStream,
    window: Duration,
    is_over: &AtomicBool,
) -> Result<Option<Sample>> {
    let mut buffer = vec![0; CHUNK];
    let mut until = |end: Duration| -> Result<u64> {
        let (begun, mut bytes) = (Instant::now(), 0);
        loop {
            match spin(is_over, || stream.read(&mut buffer))? {
                None | Some(0) => bail!("the stream ended too early"),
                Some(more) => bytes += more as u64,
            }
            if begun.elapsed() >= end {
                return Ok(bytes);
            }
        }
    };
    until(window / 4)?;
    let begun = Instant::now();
    let count = until(window)?;
    let seconds = begun.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    let never = AtomicBool::new(false);
    while spin(&never, || stream.read(&mut buffer))? != Some(0) {}
    Ok(Some(Sample {
        count,
        seconds,
        latencies: Vec::new(),
    }))
}

/// The client's part; it measures requests.
fn ask(
    test: Test,
    ends: &Ends<'_>,
    window: Duration,
    is_over: &AtomicBool,
    is_ready: Receiver<()>,
) -> Result<Option<Sample>> {
    ends.client
        .enter()
        .context("entering the client's namespace")?;
    cores::pin(0, ends.cores.sender)?;
    let address = (ends.address, PORT);
    is_ready
        .recv_timeout(DEADLINE)
        .context("the server does not listen")?;
    match test {
        Test::Stream => {
            send(&mut connect(address)?, is_over)?;
            Ok(None)
        }
        Test::Rr => {
            let mut stream = connect(address)?;
            requests(window, || pair(&mut stream, is_over)).map(Some)
        }
        Test::Crr => requests(window, || {
            let mut stream = connect(address)?;
            pair(&mut stream, is_over)?;
            let mut byte = [0];
            match needed(spin(is_over, || stream.read(&mut byte))?)? {
                0 => Ok(()),
                _ => bail!("the server sent more than a reply"),
            }
        })
        .map(Some),
        Test::UdpRr => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            let mut lost = 0;
            requests(window, || datagrams(&socket, is_over, &mut lost)).map(Some)
        }
    }
}

fn connect(address: (Ipv4Addr, u16)) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address.into(), DEADLINE).context("connecting")?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Sends until the server has seen enough.
fn send(stream: &mut TcpStream, is_over: &AtomicBool) -> Result<()> {
    let bytes = vec![0; CHUNK];
    loop {
        let written = spin(is_over, || stream.write(&bytes))?;
        if written.is_none() || is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

/// Repeats a request, and takes the time of each.
fn requests(window: Duration, mut request: impl FnMut() -> Result<()>) -> Result<Sample> {
    let mut latencies = Vec::with_capacity(MAX_REQUESTS);
    let mut until = |end: Duration, latencies: &mut Vec<f32>| -> Result<f64> {
        let begun = Instant::now();
        let mut last = Duration::ZERO;
        while last < end && latencies.len() < MAX_REQUESTS {
            request()?;
            let now = begun.elapsed();
            latencies.push((now - last).as_nanos() as f32 / 1e3);
            last = now;
        }
        Ok(last.as_secs_f64())
    };
    until(window / 4, &mut latencies)?;
    latencies.clear();
    let seconds = until(window, &mut latencies)?;
    latencies.sort_by(f32::total_cmp);
    Ok(Sample {
        count: latencies.len() as u64,
        seconds,
        latencies,
    })
}

/// A byte there and one back.
fn pair(stream: &mut TcpStream, is_over: &AtomicBool) -> Result<()> {
    let mut byte = [0];
    needed(spin(is_over, || stream.write(&byte))?)?;
    match needed(spin(is_over, || stream.read(&mut byte))?)? {
        0 => bail!("the server closed a connection that it had not replied to"),
        _ => Ok(()),
    }
}

/// A byte there and one back by datagrams: one that is lost is sent again.
fn datagrams(socket: &UdpSocket, is_over: &AtomicBool, lost: &mut u32) -> Result<()> {
    let mut byte = [0];
    loop {
        needed(spin(is_over, || socket.send(&byte))?)?;
        let sent = Instant::now();
        let received = spin(is_over, || match socket.recv(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && sent.elapsed() > LOST_AFTER => {
                Ok(None)
            }
            received => received.map(Some),
        })?;
        if needed(received)?.is_some() {
            return Ok(());
        }
        *lost += 1;
        if *lost > MAX_LOST {
            bail!("{lost} datagrams were lost");
        }
    }
}

fn needed<T>(done: Option<T>) -> Result<T> {
    done.context("the server ended too early")
}

/// Repeats a call that does not wait until it succeeds. `None` if the load is over before that.
fn spin<T>(is_over: &AtomicBool, mut call: impl FnMut() -> io::Result<T>) -> Result<Option<T>> {
    let mut begun = None;
    for attempt in 1u32.. {
        match call() {
            Ok(done) => return Ok(Some(done)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
        if is_over.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if attempt % 1024 == 0 {
            let begun: &mut Instant = begun.get_or_insert_with(Instant::now);
            if begun.elapsed() > DEADLINE {
                break;
            }
        }
        std::hint::spin_loop();
    }
    bail!(
        "nothing came from the other end for {} s",
        DEADLINE.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_rate_and_percentiles() {
        let sample = Sample {
            count: 1_000_000_000,
            seconds: 2.0,
            latencies: (1..=101).map(|number| number as f32).collect(),
        };
        assert_eq!(sample.figure(Test::Stream), Some(4.0));
        assert_eq!(sample.figure(Test::Crr), Some(5e8));
        assert_eq!(sample.figure(Test::Rr), Some(51.0));
        assert_eq!(sample.speed(Test::Crr), Some(5e8));
        assert_eq!(sample.speed(Test::UdpRr), Some(1.0 / 51.0));
        assert_eq!(sample.percentile(0.5), Some(51.0));
        assert_eq!(sample.percentile(0.99), Some(100.0));
        let empty = Sample {
            latencies: Vec::new(),
            ..sample
        };
        assert_eq!(empty.percentile(0.5), None);
        assert_eq!(empty.speed(Test::Rr), None);
    }

    #[test]
    fn spinning_ends_with_the_call_or_with_the_load() {
        let is_over = AtomicBool::new(false);
        let mut attempts = 0;
        let done = spin(&is_over, || {
            attempts += 1;
            match attempts {
                3 => Ok(attempts),
                _ => Err(ErrorKind::WouldBlock.into()),
            }
        });
        assert_eq!(done.unwrap(), Some(3));
        let refused = spin::<()>(&is_over, || Err(ErrorKind::ConnectionRefused.into()));
        assert!(refused.is_err());
        is_over.store(true, Ordering::Relaxed);
        let over = spin::<()>(&is_over, || Err(ErrorKind::WouldBlock.into()));
        assert_eq!(over.unwrap(), None);
    }

    #[test]
    fn requests_are_counted_up_to_a_bound() {
        let mut asked = 0;
        let window = Duration::from_secs(3600);
        let sample = requests(window, || {
            asked += 1;
            Ok(())
        });
        let sample = sample.unwrap();
        assert_eq!(sample.count as usize, MAX_REQUESTS);
        assert_eq!(sample.latencies.len(), MAX_REQUESTS);
        assert!(sample.latencies.is_sorted());
        assert_eq!(asked, 2 * MAX_REQUESTS);
        let failed = requests(window, || bail!("no"));
        assert!(failed.is_err());
    }
}
