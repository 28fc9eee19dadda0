//! The moment of the first attachment: connections and requests that the rules admit are made in
//! both directions all the time, and none may be lost.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::{ApplyOptions, EgressHook, XdpMode, apply, detach};

use crate::hosts::{Host, address, again, listen};
use crate::sandbox::{Sandbox, run, sandbox, silent_and_up};
use crate::seed::{NODE4, PEER4, at};
use crate::support::{egress_hooks, is_guest};
use crate::watching::{only, read};

/// No direction accepts everything, so every reply needs a flow.
const RULES: &str = "in tcp 22 from any accept
    in udp 22 from any accept
    out tcp 443 to any accept
    out udp 443 to any accept";

const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two connections in one direction.
const PAUSE: Duration = Duration::from_millis(2);

/// Bytes of a frame with a segment of TCP that has a time stamp and no data.
const WITHOUT_DATA: u64 = 14 + 20 + 32;

/// How often the first policy is attached. All combinations of hooks are used equally often.
const ATTACHMENTS: usize = 20;

/// What the threads that connect and those that serve share.
#[derive(Default)]
struct Shared {
    /// Tells the clients to stop.
    is_over: AtomicBool,
    /// Tells the servers to stop.
    is_silent: AtomicBool,
    made: AtomicUsize,
    /// Clients hold it for reading during an exchange. Who holds it for writing knows that no
    /// exchange is under way.
    gate: RwLock<()>,
}

/// Ends all threads, also if the test fails.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
        self.0.is_silent.store(true, Ordering::Relaxed);
    }
}

/// A server that echoes on one port, TCP and UDP.
struct Server {
    listener: TcpListener,
    socket: UdpSocket,
}

impl Server {
    fn new(at: &str) -> Server {
        let listener = listen(at);
        listener.set_nonblocking(true).expect("a listener");
        let socket = UdpSocket::bind(at).expect("a free port");
        let soon = Some(Duration::from_millis(50));
        socket.set_read_timeout(soon).expect("a timeout");
        Server { listener, socket }
    }

    fn answer_connections(&self, shared: &Shared) {
        while !shared.is_silent.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = self.listener.accept() else {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            };
            stream.set_nonblocking(false).expect("a socket");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut byte = [0];
            // The client notices if the byte does not arrive.
            if again(|| stream.read(&mut byte)).is_ok() {
                let _ = stream.write_all(&byte);
            }
        }
    }

    fn answer_datagrams(&self, shared: &Shared) {
        while !shared.is_silent.load(Ordering::Relaxed) {
            if let Ok((_, from)) = self.socket.recv_from(&mut [0; 8]) {
                let _ = self.socket.send_to(b"!", from);
            }
        }
    }
}

/// How many SYNs of this connection were retransmitted. It has sent nothing else so far.
fn sent_again(stream: &TcpStream) -> u32 {
    // SAFETY: the structure has integers only, for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer has the length that is passed.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}

/// Connects and sends a datagram every few milliseconds, each time from a new socket. Returns what
/// was lost.
fn connect_on(to: &str, shared: &Shared) -> Vec<String> {
    let to: SocketAddr = to.parse().expect("an address");
    let mut lost = Vec::new();
    while !shared.is_over.load(Ordering::Relaxed) {
        let under_way = shared.gate.read();
        let number = shared.made.fetch_add(1, Ordering::Relaxed);
        if let Err(what) = connect(to) {
            lost.push(format!("connection {number} to {to}: {what}"));
        }
        if let Err(what) = ask(to) {
            lost.push(format!("request {number} to {to}: {what}"));
        }
        drop(under_way);
        std::thread::sleep(PAUSE);
    }
    lost
}

fn connect(to: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| e.to_string())?;
    let again_sent = sent_again(&stream);
    if again_sent > 0 {
        return Err(format!("its SYN was sent {again_sent} times more"));
    }
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"?").map_err(|e| e.to_string())?;
    match again(|| stream.read(&mut [0])) {
        Ok(1) => Ok(()),
        Ok(_) => Err("it ended".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn ask(to: SocketAddr) -> Result<(), String> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // A datagram that is lost is not sent again, so this waits for it as long as for anything else.
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.send_to(b"?", to).map_err(|e| e.to_string())?;
    again(|| socket.recv_from(&mut [0; 8]))
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Attaches the first policy while connections are made, checks that nothing was dropped, and
/// detaches.
fn attach_once(sandbox: &Sandbox, shared: &Shared, options: &ApplyOptions) {
    let wait_for = |more: usize| {
        let enough = shared.made.load(Ordering::Relaxed) + more;
        let deadline = std::time::Instant::now() + PATIENCE;
        while shared.made.load(Ordering::Relaxed) < enough {
            assert!(
                std::time::Instant::now() < deadline,
                "no connections are made any more"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_for(4);
    let applied = apply(&rules_from_lines(RULES), options).unwrap_or_else(|e| panic!("{e}"));
    wait_for(4);
    // No exchange may be under way while the policy is detached, since that is not the subject
    // here.
    let _closed = shared.gate.write();
    let counted = read(sandbox, "nic");
    let dropped: Vec<_> = counted
        .reasons
        .iter()
        .filter(|r| r.action.name() == "drop" && r.packets > 0)
        // On an emulated processor a segment without data has been dropped now and then, of a
        // connection that was closing. That no exchange is lost is checked there as well.
        .filter(|r| !is_guest() || r.bytes != r.packets * WITHOUT_DATA)
        .collect();
    let about = format!(
        "{} and {}",
        applied.first.state.xdp_mode.name(),
        applied.first.state.egress_hook.name()
    );
    assert!(dropped.is_empty(), "{about}: {dropped:?}");
    let pins = only(sandbox, "nic").pins;
    detach(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
}

/// Proves K12: at the moment of attaching, nothing that the rules admit is lost, whichever side
/// opens the connection.
#[test]
fn nothing_is_lost_while_the_first_policy_is_attached() {
    sandbox(|sandbox| {
        let peer = Host::new();
        peer.connect("nic", "eth0");
        silent_and_up("nic");
        peer.inside(|| silent_and_up("eth0"));
        address("nic", &format!("{NODE4}/24"));
        let there = peer.inside(|| {
            address("eth0", &format!("{PEER4}/24"));
            Server::new(&at(PEER4, 443))
        });
        let here = Server::new(&at(NODE4, 22));
        // When a qdisc is added to an interface, the kernel stops it for a moment and drops packets
        // (`dev_deactivate` in net/sched/sch_api.c). So the qdisc is added before.
        run("tc", &["qdisc", "add", "dev", "nic", "clsact"]);
        let shared = Shared::default();
        let lost = std::thread::scope(|scope| {
            let over = Over(&shared);
            for server in [&here, &there] {
                scope.spawn(|| server.answer_connections(&shared));
                scope.spawn(|| server.answer_datagrams(&shared));
            }
            let inbound = scope.spawn(|| peer.inside(|| connect_on(&at(NODE4, 22), &shared)));
            let outbound = scope.spawn(|| connect_on(&at(PEER4, 443), &shared));
            let mut ways = [XdpMode::Native, XdpMode::Generic]
                .into_iter()
                .flat_map(|mode| egress_hooks().iter().map(move |hook| (mode, *hook)))
                .cycle();
            for _ in 0..ATTACHMENTS {
                let (xdp_mode, egress_hook): (XdpMode, EgressHook) =
                    ways.next().expect("a pair of hooks");
                let options = ApplyOptions {
                    xdp_mode,
                    egress_hook,
                    ..sandbox.options("nic")
                };
                attach_once(sandbox, &shared, &options);
            }
            shared.is_over.store(true, Ordering::Relaxed);
            let lost = [inbound, outbound].map(|side| side.join().expect("the connecting thread"));
            drop(over);
            lost.concat()
        });
        let made = shared.made.load(Ordering::Relaxed);
        assert!(made >= 8 * ATTACHMENTS, "{made}");
        assert_eq!(lost, Vec::<String>::new(), "of {made}");
    });
}
