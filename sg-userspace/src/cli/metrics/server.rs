//! Serves metrics beside `run`, in a thread of its own, so that a slow scraper delays nothing else.
//! How many connections there are and what is read of them is bounded, and each has a few seconds.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sg_userspace::observe::attached::Scope;
use sg_userspace::observe::metrics::{EventCounts, Format, Reader};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::http::{self, Request, Status};
use crate::cli::context::Context;
use crate::cli::files::{self, IoAt};

/// How many connections there are at the same time. Others wait.
const CONNECTIONS: usize = 128;
/// How many of them are answered at the same time, once they have asked: each answer may be long.
const ANSWERS: usize = 8;
/// How long a request, and then its answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who asks more often gets the same answer again, so that nobody keeps the machine busy.
const FRESH: Duration = Duration::from_millis(100);

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Address {
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Address::Unix(path.into()));
        }
        text.parse().map(Address::Tcp).map_err(|_| {
            "expected an address with a port, such as 127.0.0.1:9750 or [::1]:9750, or the whole \
             path of a socket, such as /run/sgctl.metrics"
                .to_owned()
        })
    }
}

impl Address {
    /// Whether only this machine can connect.
    pub(in crate::cli) fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().is_loopback(),
            Address::Unix(_) => true,
        }
    }

    /// The failure to listen there.
    pub(in crate::cli) fn failed(&self, reason: io::Error) -> IoAt {
        let what = "listening for who reads metrics";
        let address = match self {
            Address::Tcp(address) => address,
            Address::Unix(path) => return files::not_written(what, path, reason),
        };
        let help = match reason.kind() {
            ErrorKind::AddrInUse => {
                let port = address.port();
                format!("`ss -ltnp sport = :{port}` names who listens there: name another port")
            }
            ErrorKind::AddrNotAvailable => {
                "no interface has this address; with --wait one may get it later".to_owned()
            }
            _ => "name another address and port, or the path of a socket".to_owned(),
        };
        IoAt {
            what,
            place: self.to_string(),
            help,
            reason,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "http://{address}/metrics"),
            Address::Unix(path) => write!(f, "/metrics at the socket {}", path.display()),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listener that the runtime polls.
enum Polled {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A socket that listens, and its name as long as this exists.
pub(in crate::cli) struct Server {
    pub(in crate::cli) address: Address,
    listener: Option<Listener>,
}

impl Server {
    /// Listens. Whoever connects waits until `serve` is called. With `waits` the address need not
    /// be there yet.
    pub(in crate::cli) fn bind(address: &Address, waits: bool) -> io::Result<Server> {
        let (listener, address) = match address {
            Address::Tcp(at) => {
                let listener = match TcpListener::bind(at) {
                    Err(error) if waits && error.kind() == ErrorKind::AddrNotAvailable => {
                        bind_early(*at)?
                    }
                    bound => bound?,
                };
                listener.set_nonblocking(true)?;
                // The port may have been left to the kernel.
                let at = listener.local_addr()?;
                (Listener::Tcp(listener), Address::Tcp(at))
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                // As everything of the enforcer: root's, and its group's.
                fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
                (Listener::Unix(listener), address.clone())
            }
        };
        Ok(Server {
            address,
            listener: Some(listener),
        })
    }

    /// Begins to answer, with what these interfaces count.
    pub(in crate::cli) fn serve(
        &mut self,
        context: &Context,
        names: &[String],
        events: Arc<EventCounts>,
    ) -> io::Result<()> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let scope = Scope::Interfaces(names.to_vec());
        let reader = super::reader(context, scope).with_events(events);
        let source = Arc::new(Mutex::new(Source { reader, last: None }));
        // The thread ends with the process.
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || runtime.block_on(accept(listener, source)))
            .map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            let _ = fs::remove_file(path);
        }
    }
}

/// Listens at an address that no interface has yet, as at boot before the network is set up.
fn bind_early(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    // As the standard library does it.
    socket.set_reuse_address(true)?;
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&at.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Removes a socket that a killed process has left. One at which somebody answers stays, and so
/// does what is no socket; then the name is taken.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && let Err(error) = UnixStream::connect(path)
        && error.kind() == ErrorKind::ConnectionRefused
    {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// What is answered.
struct Source {
    reader: Reader,
    /// The last answer, when it was made, and in which format.
    last: Option<(Instant, Format, Arc<String>)>,
}

impl Source {
    fn text(&mut self, format: Format) -> Result<Arc<String>, String> {
        if let Some((at, of, text)) = &self.last
            && *of == format
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(text));
        }
        let last = self.last.take();
        // Unless it is still being sent.
        let memory = last.and_then(|(.., text)| Arc::into_inner(text));
        let text = super::text_into(memory.unwrap_or_default(), &mut self.reader, format);
        let text = Arc::new(text.map_err(|error| error.to_string())?);
        self.last = Some((Instant::now(), format, Arc::clone(&text)));
        Ok(text)
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn accept(listener: Listener, source: Arc<Mutex<Source>>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let answers = Arc::new(Semaphore::new(ANSWERS));
    let listener = match listener {
        Listener::Tcp(tcp) => tokio::net::TcpListener::from_std(tcp).map(Polled::Tcp),
        Listener::Unix(unix) => tokio::net::UnixListener::from_std(unix).map(Polled::Unix),
    };
    // Only if the runtime cannot watch another descriptor. Enforcement goes on.
    let Ok(listener) = listener else {
        return;
    };
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let accepted: io::Result<Box<dyn Stream>> = match &listener {
            Polled::Tcp(tcp) => tcp.accept().await.map(|(one, _)| Box::new(one) as _),
            Polled::Unix(unix) => unix.accept().await.map(|(one, _)| Box::new(one) as _),
        };
        let Ok(stream) = accepted else {
            // No more descriptors, say. It passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (source, answers) = (Arc::clone(&source), Arc::clone(&answers));
        tokio::spawn(async move {
            answer(stream, &source, &answers).await;
            drop(permit);
        });
    }
}

/// Answers one request. If the other side is gone or too slow, nobody is left to tell.
async fn answer(mut stream: Box<dyn Stream>, source: &Mutex<Source>, answers: &Semaphore) {
    let request = match timeout(PATIENCE, head(&mut stream)).await {
        Ok(Ok(request)) => request,
        Ok(Err(_)) => return,
        Err(_) => Request::Refused(Status::Timeout),
    };
    // Never closed.
    let Ok(_turn) = answers.acquire().await else {
        return;
    };
    let plain = "text/plain; charset=utf-8";
    let (head, body): (String, Arc<String>) = match request {
        Request::Refused(status) => {
            let words = status.words();
            let body = Arc::new(words.to_owned());
            (http::answer(status, plain, words.len()), body)
        }
        Request::Metrics { format, head } => {
            let found = source
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .text(format);
            match found {
                Ok(text) => {
                    let answer = http::answer(Status::Ok, format.content_type(), text.len());
                    (answer, if head { Arc::default() } else { text })
                }
                Err(error) => {
                    let words = format!("{error}\n");
                    let answer = http::answer(Status::Failed, plain, words.len());
                    (answer, Arc::new(words))
                }
            }
        }
    };
    let written = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = timeout(PATIENCE, written).await;
}

/// Reads the head of a request. An error if the connection ends before it.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Request> {
    let mut head = Vec::with_capacity(1024);
    let mut part = [0; 1024];
    while !http::is_whole(&head) {
        if head.len() > http::LONGEST {
            return Ok(Request::Refused(Status::TooLong));
        }
        match stream.read(&mut part).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&part[..n]),
        }
    }
    Ok(http::request(&head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_it_is_known_who_can_connect() {
        for (text, is_local) in [
            ("127.0.0.1:9750", true),
            ("[::1]:9750", true),
            ("/run/sgctl.metrics", true),
            ("unix:/run/sgctl.metrics", true),
            ("0.0.0.0:9750", false),
            ("192.0.2.1:0", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.is_local(), is_local, "{text}");
        }
        for wrong in ["9750", "127.0.0.1", "localhost:9750", "relative/path", ""] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_socket_that_nobody_answers_is_replaced_and_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let address = Address::Unix(path.clone());
        let first = Server::bind(&address, false).unwrap();
        assert!(Server::bind(&address, false).is_err(), "it is in use");
        drop(first);
        assert!(!path.exists(), "it goes with its server");
        // As a process that is killed leaves it.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Server::bind(&address, false).expect("the stale one is removed"));
        fs::write(&path, "a file").unwrap();
        assert!(Server::bind(&address, false).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}
