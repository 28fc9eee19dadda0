//! `sgctl flows`: what it chooses, in which order, and what `--kill` does to real connections.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::{World, file, inside};

/// No outbound rule accepts anything, so that every reply needs the flow table.
const POLICY: &str = "\
name: p
inbound:
  - {name: service, protocol: tcp, ports: 7000, from: 192.0.2.0/24, action: accept}
  - {protocol: tcp, ports: 7001, from: any, action: accept}
  - {name: answers, protocol: udp, ports: 7000-7001, from: any, action: accept}
  - {protocol: icmp, from: any, action: accept}
";

/// How long what is to arrive may take.
const SOON: Duration = Duration::from_secs(20);
/// How long what is not to arrive is waited for.
const NEVER: Duration = Duration::from_millis(300);

/// A connection from the peer to a port of the node: the peer's end and the node's.
fn connect(world: &World, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let port = listener.local_addr().expect("it is bound").port();
    let peer = inside(&world.peer, || {
        TcpStream::connect(("192.0.2.1", port)).expect("the policy accepts it")
    });
    let (node, _) = listener.accept().expect("a connection has come");
    (peer, node)
}

fn listen(world: &World, port: u16) -> TcpListener {
    inside(&world.node, || {
        TcpListener::bind(("192.0.2.1", port)).expect("the port is free")
    })
}

/// Whether a byte gets from one end to the other.
fn passes(from: &mut TcpStream, to: &mut TcpStream, within: Duration) -> bool {
    from.write_all(b"x").expect("the socket takes it");
    to.set_read_timeout(Some(within)).expect("not zero");
    to.read_exact(&mut [0]).is_ok()
}

fn flows(world: &World, words: &[&str]) -> Vec<Value> {
    let listed = world.run(&[&["flows", "--json"], words].concat()).ok();
    let listed = listed.json();
    let flows = listed[0]["flows"].as_array().expect("a list").clone();
    assert_eq!(listed[0]["matching"], flows.len(), "{listed}");
    flows
}

/// Proves A4 and K9: filters and orders choose what they say, of flows of all kinds, and a name
/// that no rule has is an error.
#[test]
fn filters_and_orders() {
    let (world, _) = World::enforcing("p.yaml", POLICY);
    let listeners = [7000, 7001].map(|port| listen(&world, port));
    let mut streams: Vec<(TcpStream, TcpStream)> = Vec::new();
    for listener in [&listeners[0], &listeners[0], &listeners[1]] {
        let (mut peer, mut node) = connect(&world, listener);
        assert!(passes(&mut peer, &mut node, SOON) && passes(&mut node, &mut peer, SOON));
        streams.push((peer, node));
    }
    world.send_udp_to_node(7000);
    world.ping_node(1);
    let count = |words: &[&str]| flows(&world, words).len();
    let own = streams[0]
        .0
        .local_addr()
        .expect("it is bound")
        .port()
        .to_string();
    for (words, expected) in [
        (&[][..], 5),
        (&["--proto", "tcp"], 3),
        (&["--proto", "6"], 3),
        (&["--proto", "udp,icmp"], 2),
        (&["--port", "7000"], 3),
        (&["--port", "7000", "--proto", "tcp"], 2),
        (&["--port", &own], 1),
        (&["--port", "1-6999"], 0),
        (&["--from", "192.0.2.2"], 5),
        (&["--from", "192.0.2.1"], 0),
        (&["--to", "192.0.2.0/24"], 5),
        (&["--to", "any", "--from", "198.51.100.0/24"], 0),
        (&["--rule", "service"], 2),
        (&["--rule", "2"], 1),
        (&["--rule", "in:2", "--rule", "answers"], 2),
        (&["--state", "tcp-established"], 3),
        (&["--state", "half-open"], 2),
        (&["--state", "udp,icmp"], 2),
        (&["--state", "established", "--rule", "service"], 2),
        (&["--iface", "nic"], 5),
    ] {
        assert_eq!(count(words), expected, "{words:?}");
    }
    // As every view of an interface begins.
    let heading = world.run(&["flows"]).ok().out;
    let place = format!("nic in {}  5 flows", world.node);
    assert!(heading.starts_with(&place), "{heading}");
    let ports = |words: &[&str], what: &str| -> Vec<u64> {
        let all = flows(&world, &[&["--proto", "tcp"], words].concat());
        all.iter()
            .map(|flow| flow[what].as_u64().expect("a number"))
            .collect()
    };
    let by_age = ports(&["--sort", "age"], "age_seconds");
    assert!(by_age.is_sorted_by(|a, b| a >= b), "{by_age:?}");
    assert_eq!(ports(&["--sort", "port"], "local_port"), [7000, 7000, 7001]);
    let reversed = ports(&["--sort", "port", "--reverse"], "local_port");
    assert_eq!(reversed, [7001, 7000, 7000]);
    let remote = ports(&["--sort", "remote"], "remote_port");
    assert!(remote.is_sorted(), "{remote:?}");
    let listed = world
        .run(&["flows", "--sort", "rule", "--top", "2"])
        .ok()
        .out;
    assert!(listed.contains("and 3 more"), "{listed}");
    assert_eq!(listed.matches(":7000").count(), 2, "{listed}");
    let listed = world.run(&["flows", "--rule", "service"]).ok().out;
    let heading = format!("nic in {}  2 of 5 flows\n", world.node);
    assert!(listed.starts_with(&heading), "{listed}");
    for flow in flows(&world, &["--state", "tcp-established"]) {
        let left = flow["seconds_left"].as_u64().expect("a number");
        assert!((431_000..=432_000).contains(&left), "{flow}");
        assert_eq!(flow["rule"]["direction"], "inbound", "{flow}");
    }
    for (words, says) in [
        (
            &["--rule", "servce"][..],
            "no rule of the policy in force has the name",
        ),
        (
            &["--rule", "out:1"],
            "no rule of the policy in force has the name",
        ),
        (&["--sort", "packets"], "are counted by rule"),
        (&["--state", "tcp"], "expected one of half-open"),
        (&["--port", "ssh"], "is not a port"),
        (&["--from", "10.1.2.3/8"], "10.1.2.3/8"),
    ] {
        let words = [&["flows"], words].concat();
        let refused = world.run(&words);
        assert_eq!(refused.code, 2, "{}", refused.all());
        assert!(refused.err.contains(says), "{}", refused.all());
    }
}

/// Proves K11: a connection that is killed is dead in both directions and cannot be gone on with,
/// others live, and a new one opens at once. Of UDP the next packet is judged as a new one.
#[test]
fn a_killed_connection_stays_cut_and_a_new_one_opens() {
    let (world, _) = World::enforcing("p.yaml", POLICY);
    let listener = listen(&world, 7000);
    let (mut peer, mut node) = connect(&world, &listener);
    let (mut other_peer, mut other_node) = connect(&world, &listener);
    assert!(passes(&mut peer, &mut node, SOON) && passes(&mut node, &mut peer, SOON));
    let port = peer.local_addr().expect("it is bound").port().to_string();

    // No flow is ended where none is chosen, where nobody can be asked, and where none fits.
    for (words, says) in [
        (&["--kill", "--yes"][..], "every flow is --all"),
        (&["--kill", "--port", &port], "there is nobody to ask"),
        (&["--yes"], "--kill"),
    ] {
        let refused = world.run(&[&["flows"], words].concat());
        assert_eq!(refused.code, 2, "{}", refused.all());
        assert!(refused.err.contains(says), "{}", refused.all());
    }
    let nothing = world
        .run(&["flows", "--kill", "--yes", "--from", "203.0.113.9"])
        .ok()
        .out;
    assert!(nothing.contains("no flow was ended"), "{nothing}");
    assert!(passes(&mut peer, &mut node, SOON));

    let killed = world
        .run(&["flows", "--kill", "--yes", "--port", &port])
        .ok()
        .out;
    assert!(killed.contains("1 connection cut"), "{killed}");
    assert!(killed.contains(&format!("192.0.2.2:{port}")), "{killed}");
    assert!(
        !passes(&mut peer, &mut node, NEVER),
        "the originator goes on"
    );
    assert!(
        !passes(&mut node, &mut peer, NEVER),
        "the other end goes on"
    );
    let cut = flows(&world, &["--port", &port]);
    assert_eq!(cut[0]["state"], "tcp-cut", "{cut:?}");
    assert!(
        passes(&mut other_peer, &mut other_node, SOON),
        "another one is cut too"
    );
    assert!(passes(&mut other_node, &mut other_peer, SOON));
    // What is cut is not ended a second time: it would come back from its middle.
    let again = world
        .run(&["flows", "--kill", "--yes", "--json", "--port", &port])
        .ok()
        .json();
    assert_eq!(again[0]["killed"]["cut"], 0, "{again}");
    assert_eq!(flows(&world, &["--port", &port])[0]["state"], "tcp-cut");
    let (mut peer, mut node) = connect(&world, &listener);
    assert!(passes(&mut peer, &mut node, SOON) && passes(&mut node, &mut peer, SOON));

    let socket = |name: &str, address: &'static str| {
        let socket = inside(name, || UdpSocket::bind(address).expect("it is free"));
        socket.set_read_timeout(Some(NEVER)).expect("not zero");
        socket
    };
    let (to, from) = (
        socket(&world.node, "192.0.2.1:7001"),
        socket(&world.peer, "192.0.2.2:5000"),
    );
    let send = |from: &UdpSocket, to: &UdpSocket| {
        let address = to.local_addr().expect("it is bound");
        // A dropped datagram is an error of the sender, on the way out.
        let _ = from.send_to(b"x", address);
        let deadline = Instant::now() + NEVER;
        while Instant::now() < deadline {
            if to.recv(&mut [0]).is_ok() {
                return true;
            }
        }
        false
    };
    assert!(send(&from, &to) && send(&to, &from), "a reply in its flow");
    let killed = world
        .run(&["flows", "--kill", "--yes", "--proto", "udp"])
        .ok()
        .out;
    assert!(killed.contains("1 flow forgotten"), "{killed}");
    assert!(
        !send(&to, &from),
        "the rules do not accept it, and its flow is gone"
    );
    assert!(
        send(&from, &to) && send(&to, &from),
        "it has opened another one"
    );

    let ended = |words: &[&str]| {
        let all = ["flows", "--kill", "--all", "--yes", "--json"];
        let ended = world.run(&[&all, words].concat()).ok().json();
        ["cut", "forgotten"].map(|how| ended[0]["killed"][how].as_u64().expect("a number"))
    };
    // As many as --limit says, and without it all that are left.
    let (first, rest) = (ended(&["--limit", "1"]), ended(&[]));
    assert_eq!(first.iter().sum::<u64>(), 1, "{first:?}");
    assert_eq!([first[0] + rest[0], first[1] + rest[1]], [2, 1]);
    assert!(!passes(&mut other_peer, &mut other_node, NEVER));
}

/// Proves K7: a connection for which no flow is asked any more, since both directions accept it,
/// cannot be ended by its flow, and that is said.
#[test]
fn what_the_rules_let_pass_goes_on() {
    let (world, _) = World::enforcing("p.yaml", POLICY);
    let listener = listen(&world, 7000);
    let (mut peer, mut node) = connect(&world, &listener);
    assert!(passes(&mut peer, &mut node, SOON) && passes(&mut node, &mut peer, SOON));
    let open = format!("{POLICY}outbound: [{{protocol: all, to: any, action: accept}}]\n");
    let open = file(world.dir.path(), "open.yaml", &open);
    world.run(&["apply", &open, "--iface", "nic"]).ok();
    let killed = world
        .run(&["flows", "--kill", "--yes", "--port", "7000"])
        .ok()
        .out;
    assert!(killed.contains("1 connection goes on"), "{killed}");
    assert!(passes(&mut peer, &mut node, SOON) && passes(&mut node, &mut peer, SOON));
    assert!(flows(&world, &["--port", "7000"]).is_empty());
}

/// Proves A4: `--watch --json` is a stream with an object for each reading.
#[test]
fn watching_is_a_stream() {
    let (world, _) = World::enforcing("p.yaml", POLICY);
    world.ping_node(1);
    let mut watching = world
        .command(&["flows", "--watch", "0.2", "--json", "--proto", "icmp"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sgctl starts");
    let out = std::io::BufReader::new(watching.stdout.take().expect("it is piped"));
    let lines: Vec<String> = std::io::BufRead::lines(out)
        .take(2)
        .map(|line| line.expect("a line"))
        .collect();
    watching.kill().expect("it runs");
    watching.wait().expect("it ends");
    for line in lines {
        let one: Value = serde_json::from_str(&line).expect("an object");
        assert_eq!(one["flows"][0]["protocol"], 1, "{one}");
        assert_eq!(one["interface"], "nic", "{one}");
    }
}
