//! `run --metrics`: who is answered, and that nobody disturbs `run` through it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{PINGS, ask, get, samples, serving, world};
use crate::run::{Running, in_force};
use crate::world::{file, inside, ip};

/// Proves O5: OpenMetrics for who asks for it, else the older format, and nothing but metrics.
#[test]
fn run_answers_scrapers_and_nobody_else() {
    let (world, path) = world();
    let (running, address) = serving(&world, &path);
    world.ping_node(3);
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let answer = get(&world, &address, "/metrics", prometheus);
    assert_eq!(answer.status, 200, "{}", answer.head);
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(kind), "{}", answer.head);
    assert!(
        answer
            .head
            .contains(&format!("Content-Length: {}", answer.body.len()))
    );
    assert!(answer.body.ends_with("# EOF\n"));
    let found = samples(&answer.body);
    let pings = found.iter().find(|(series, _)| {
        series.starts_with("sgctl_rule_packets_total") && series.contains(PINGS)
    });
    assert_eq!(pings.map(|(_, count)| *count), Some(3.0), "{}", answer.body);
    let older = get(&world, &address, "/metrics", "*/*");
    assert!(
        older
            .head
            .contains("Content-Type: text/plain; version=0.0.4"),
        "{}",
        older.head
    );

    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 404),
        ("GET /metrics/../x HTTP/1.1\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        ("nonsense\r\n\r\n", 400),
        (&long, 431),
    ] {
        match ask(&world, &address, request.as_bytes()) {
            Ok(answer) => assert_eq!(answer.status, status, "{request:.40}: {}", answer.head),
            // What was sent beyond the bound is not read, and the kernel says so by a reset.
            Err(_) => assert_eq!(status, 431, "{request:.40}"),
        }
    }
    let head = ask(&world, &address, b"HEAD /metrics HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));

    // Many connections on which nothing is asked: a request on another is answered before their few
    // seconds are over, and `run` reloads.
    let silent: Vec<TcpStream> = (0..40)
        .map(|i| {
            let connect = || TcpStream::connect(&address);
            let mut stream = inside(&world.node, connect).unwrap();
            if i % 2 == 0 {
                let _ = stream.write_all(b"GET /metr");
            }
            stream
        })
        .collect();
    let asked = Instant::now();
    assert_eq!(get(&world, &address, "/metrics", prometheus).status, 200);
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    let changed = super::POLICY.replace("name: metered", "name: changed");
    std::fs::write(&path, changed).unwrap();
    running.says("reloaded changed on nic, generation 2");
    assert_eq!(in_force(&world), ("changed".to_owned(), 2));
    let late = get(&world, &address, "/metrics", prometheus);
    assert!(
        late.body.contains("sgctl_policy_info{name=\"changed\""),
        "{}",
        late.body
    );
    drop(silent);

    // A second one finds the port taken, before it has changed anything.
    let words = [
        "run",
        "builtin:tke",
        "--iface",
        "nic",
        "--metrics",
        &address,
    ];
    let taken = world.run(&words).fails(1, &address);
    assert!(taken.err.contains("name another port"), "{}", taken.err);
    assert_eq!(in_force(&world), ("changed".to_owned(), 2));
    let (code, err) = running.end(Signal::SIGTERM);
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

/// Other machines are served only if that is asked for, and a socket is closed to other users.
#[test]
fn others_are_served_only_if_that_is_said() {
    use std::os::unix::fs::PermissionsExt as _;
    let (world, path) = world();
    let words = [
        "run",
        &path,
        "--iface",
        "nic",
        "--metrics",
        "192.0.2.1:9750",
    ];
    world.run(&words).fails(2, "--metrics-public");
    world.assert_untouched();
    let public = Running::start(
        &world,
        &[&path, "--metrics", "192.0.2.1:0", "--metrics-public"],
    );
    public.says("metrics: http://192.0.2.1:");
    assert_eq!(public.end(Signal::SIGINT).0, Some(0));

    let socket = world.dir.path().join("metrics");
    let name = socket.to_str().unwrap();
    let running = Running::start(&world, &[&path, "--metrics", name]);
    running.says(&format!("metrics: /metrics at the socket {name}"));
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert_eq!(running.end(Signal::SIGINT).0, Some(0));
    assert!(!socket.exists(), "it goes with `run`");
}

/// A service begins before the network is set up: it listens at an address that comes later, and
/// enforces where it cannot listen at all. Typed by hand, the same is a mistake.
#[test]
fn a_service_enforces_wherever_it_is_to_listen() {
    let (world, path) = world();
    let at = "198.51.100.7:9750";
    let words = ["--metrics", at, "--metrics-public"];
    let by_hand = ["run", &path, "--iface", "nic"];
    let by_hand = [&by_hand[..], &words].concat();
    world.run(&by_hand).fails(1, at);
    world.assert_untouched();
    let as_service = [&[path.as_str(), "--wait", "--persist"][..], &words].concat();
    let running = Running::start(&world, &as_service);
    running.says(&format!("metrics: http://{at}/metrics"));
    let address = [
        "-n",
        &world.node,
        "address",
        "add",
        "198.51.100.7/24",
        "dev",
        "nic",
    ];
    ip(&address);
    assert_eq!(get(&world, at, "/metrics", "").status, 200);

    // The port is taken now.
    let other = file(world.dir.path(), "other.yaml", "name: other\n");
    world.add_pair("other", "end");
    let second = Running::of(
        world
            .command(&["run", &other, "--iface", "other", "--wait"])
            .args(words),
    );
    second.says("metrics are not served");
    let status = world
        .run(&["status", "--iface", "other", "--json"])
        .ok()
        .json();
    assert_eq!(status[0]["health"], "enforcing", "{status}");
    assert_eq!(second.end(Signal::SIGTERM).0, Some(0));
    assert_eq!(running.end(Signal::SIGTERM).0, Some(0));
}
