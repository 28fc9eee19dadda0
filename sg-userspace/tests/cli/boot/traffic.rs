//! Traffic from the peer to the node of a machine, of which nothing may be lost: a connection that
//! needs its entry in the flow table, and echo requests, which nobody sends again.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::machine::Running;
use crate::world::{inside, ip};

pub(super) const INTERFACE: &str = "eth0";
const NODE: &str = "192.0.2.1";
const PEER: &str = "192.0.2.2";
const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets the peer open connections to the port and send echo requests. The node's side of both
/// passes by the flow table alone.
pub(super) const POLICY: &str = "\
name: node
inbound:
  - {protocol: tcp, ports: 7000, from: 192.0.2.2, action: accept, name: service}
  - {protocol: icmp, from: 192.0.2.2, action: accept, name: ping}
outbound:
  - {protocol: tcp, ports: 443, to: 198.51.100.0/24, action: accept}
";

/// Gives the interface an address at both ends. Nothing but what is sent here is on the wire.
pub(super) fn set_up_network(running: &Running<'_>) {
    for (namespace, address) in [(&running.node, NODE), (&running.peer, PEER)] {
        let quiet = format!("net.ipv6.conf.{INTERFACE}.disable_ipv6=1");
        ip(&["netns", "exec", namespace, "sysctl", "-qw", &quiet]);
        ip(&["-n", namespace, "link", "set", INTERFACE, "up"]);
        let address = format!("{address}/24");
        ip(&["-n", namespace, "addr", "add", &address, "dev", INTERFACE]);
    }
}

pub(super) struct Traffic {
    enough: Arc<AtomicBool>,
    /// Returns how many numbers it has sent and got back.
    sender: JoinHandle<u64>,
    ping: Child,
}

impl Traffic {
    /// Opens the connection. Until the end a number goes to and fro, and an echo request is sent,
    /// up to fifty times a second.
    pub(super) fn start(running: &Running<'_>) -> Traffic {
        let listener = inside(&running.node, || TcpListener::bind((NODE, PORT))).unwrap();
        spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut back = stream.try_clone()?;
            io::copy(&mut stream, &mut back)
        });
        let mut stream = inside(&running.peer, || TcpStream::connect((NODE, PORT))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let is_enough = Arc::clone(&enough);
        let sender = spawn(move || {
            for number in 0u64.. {
                if is_enough.load(Ordering::Relaxed) {
                    return number;
                }
                stream.write_all(&number.to_be_bytes()).unwrap();
                let mut back = [0; 8];
                stream.read_exact(&mut back).expect("it comes back");
                assert_eq!(u64::from_be_bytes(back), number);
                sleep(Duration::from_millis(20));
            }
            unreachable!("there are enough numbers")
        });
        let ping = Command::new("ip")
            .args(["netns", "exec", &running.peer])
            .args(["ping", "-q", "-n", "-i", "0.02", NODE])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tests need iproute2 and ping");
        Traffic {
            enough,
            sender,
            ping,
        }
    }

    /// Ends it, and fails unless everything has come back.
    pub(super) fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        let numbers = self.sender.join().expect("no number was lost");
        let pid = Pid::from_raw(i32::try_from(self.ping.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        let said = self.ping.wait_with_output().unwrap().stdout;
        let said = String::from_utf8_lossy(&said);
        let (sent, received) = sent_and_received(&said);
        assert!(sent > 100 && numbers > 100, "{said}, {numbers} numbers");
        // One may be on its way when it ends.
        assert!(
            received + 1 >= sent,
            "echo requests are not answered: {said}"
        );
        println!(
            "  {numbers} numbers of one connection, {sent} echo requests, {received} answered"
        );
    }
}

/// Of a line such as `4 packets transmitted, 4 received, 0% packet loss, time 3ms`.
fn sent_and_received(said: &str) -> (u64, u64) {
    let number_before = |words: &str| {
        let before = said.split_once(words)?.0;
        before.split_whitespace().next_back()?.parse().ok()
    };
    let both = number_before(" packets transmitted").zip(number_before(" received"));
    both.unwrap_or_else(|| panic!("ping says {said}"))
}

/// What the attachment's counters say, and what the interface has received itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Counted {
    pub(super) inbound: u64,
    pub(super) dropped: u64,
    received: u64,
}

impl Counted {
    pub(super) fn read(running: &Running<'_>) -> Counted {
        let words = ["sgctl", "counters", "--iface", INTERFACE, "--json"];
        let counters: Value = serde_json::from_str(&running.run(&words)).unwrap();
        let of = |direction: &str, what: &str| {
            let totals = counters[0]["totals"].as_array().unwrap();
            let of_it = totals.iter().find(|it| it["direction"] == direction);
            of_it.unwrap()[what].as_u64().unwrap()
        };
        let shown = Command::new("ip")
            .args(["-n", &running.node, "-s", "-j", "link", "show", INTERFACE])
            .output()
            .expect("ip starts");
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        Counted {
            inbound: of("inbound", "packets"),
            dropped: of("inbound", "dropped") + of("outbound", "dropped"),
            received: shown[0]["stats64"]["rx"]["packets"].as_u64().unwrap(),
        }
    }

    /// Frames that were received and not counted, or the other way round.
    pub(super) fn not_counted(&self) -> i128 {
        i128::from(self.received) - i128::from(self.inbound)
    }
}

/// How long ago the connection was opened, in seconds, by its entry in the flow table.
pub(super) fn age_of_the_flow(running: &Running<'_>) -> Option<u64> {
    let port = PORT.to_string();
    let words = ["sgctl", "flows", "--iface", INTERFACE, "--proto", "tcp"];
    let more = ["--port", &port, "--json"];
    let listed: Value = serde_json::from_str(&running.run(&[&words[..], &more].concat())).ok()?;
    listed[0]["flows"][0]["age_seconds"].as_u64()
}
