//! A cluster in namespaces: a real API server and the kube-proxies of two nodes, and pods behind
//! them. Services are reached in every way, with no policy and under several: what is on the wire
//! is what docs/kubernetes.md says, and what a policy lets pass is what is said here, and what
//! `sgctl explain` says of each packet.
//!
//! The DaemonSet of `deploy/kubernetes` is rolled out by Kubernetes' own controller.
//!
//! There is no kubelet, no other controller and no pod network: what they would make of services
//! and pods is made here. `cargo xtask test --kubernetes` builds the programs and runs this.

mod access;
mod changes;
mod counts;
mod kubelet;
mod manifests;
mod network;
mod nodes;
mod page;
mod policies;
mod programs;
mod rollout;
mod servers;
mod services;
mod wire;

use std::time::Instant;

use access::{Access, Expected, HTTPS, KUBELET, SMTP, SSH};
use counts::Since;
use network::{NODES, Network, name};
use nodes::Nodes;
use policies::Policy;
use programs::ControlPlane;
use servers::{Answer, Lasting, Server, ask};
use services::{API, HOST, TARGET, UDP_TARGET};
use wire::{Direction, Opening, Wires};

/// An access, what was seen of it with no policy, and what has to be seen.
struct Seen {
    access: Access,
    expected: [String; 3],
    packets: Vec<Opening>,
}

/// K1, K11 and K12 on the nodes of a cluster: rules see the addresses on the wire, and live
/// connections go on or are judged again.
#[test]
#[ignore = "needs an API server and kube-proxy, which `cargo xtask test --kubernetes` builds"]
fn services_are_reached_as_the_page_and_the_policy_say() {
    let started = Instant::now();
    let say = |what: &str| println!("{:4} s  {what}", started.elapsed().as_secs());
    let network = Network::new();
    let _servers = servers(&network);
    let mut plane = ControlPlane::start(&network);
    say("the API server is ready");
    plane.kubectl(&["apply", "-f", "-"], &services::objects());
    plane.start_proxies();
    changes::wait_for_services(&network);
    say("both kube-proxies have the services");

    let wires = Wires::watch(&network);
    let mut all = accesses();
    let found = problems(all.iter_mut().map(|one| look(&network, &wires, one)));
    assert!(found.is_empty(), "with no policy:\n{}", found.join("\n"));
    say(&format!(
        "no policy: {} accesses are as the page says",
        all.len()
    ));

    let mut lasting = lasting(&network);
    let nodes = Nodes::new(&network);
    let mut since = None;
    for mut policy in policies::all(&network) {
        nodes.apply(&network, &policy);
        let ended = go_on(&mut lasting, &policy, since.is_none());
        if ended > 0 {
            say(&format!("{}: {ended} connections end", policy.name));
        }
        let since = since.get_or_insert_with(|| held(&lasting, || Since::now(&network, &nodes)));
        let found = held(&lasting, || {
            problems(
                all.iter()
                    .map(|one| judge(&network, &wires, one, &mut policy)),
            )
        });
        assert!(found.is_empty(), "{}:\n{}", policy.name, found.join("\n"));
        if ["tke", "example"].contains(&policy.name) {
            let client = if policy.name == "tke" { "C" } else { "B" };
            changes::create_and_remove(&network, &plane, client);
            say(&format!(
                "{}: a service was created, endpoints removed",
                policy.name
            ));
        }
        let counted = held(&lasting, || since.assert_equal(&network, &nodes));
        let dropped = all
            .iter()
            .filter(|it| it.access.dropped_by.contains(&policy.name));
        say(&format!(
            "{}: {} of {} accesses are dropped; counted since the first policy {}",
            policy.name,
            dropped.count(),
            all.len(),
            each(&counted),
        ));
        assert!(
            counted.iter().all(|(_, dropped)| *dropped > 0),
            "{counted:?}"
        );
    }
    nodes.detach(&network);
    for (one, _) in &lasting {
        one.assert_goes_on("after the end");
    }
    let found = held(&lasting, || {
        problems(all.iter_mut().map(|one| look(&network, &wires, one)))
    });
    assert!(found.is_empty(), "after the end:\n{}", found.join("\n"));
    say(&format!(
        "detached; {} connections went on all the time",
        lasting.len()
    ));
}

fn each(counted: &[(u64, u64); 2]) -> String {
    let each = NODES.iter().zip(counted).map(|(node, (packets, dropped))| {
        format!("{node} {packets} packets, {dropped} of them dropped")
    });
    each.collect::<Vec<_>>().join(", ")
}

fn problems(tried: impl Iterator<Item = Result<(), String>>) -> Vec<String> {
    tried.filter_map(Result::err).collect()
}

/// What listens in the cluster and outside.
fn servers(network: &Network) -> Vec<Server> {
    let mut servers = vec![
        Server::udp(network, "P", UDP_TARGET),
        Server::tcp(network, "N2", HOST),
        Server::tcp(network, "X", HTTPS),
        Server::tcp(network, "X", SMTP),
    ];
    for pod in ["p", "r", "P", "q"] {
        servers.push(Server::tcp(network, pod, TARGET));
    }
    for node in NODES {
        servers.push(Server::tcp(network, node, SSH));
        servers.push(Server::tcp(network, node, KUBELET));
    }
    servers
}

/// Connections that were there before the first policy, and which policies would not admit them.
fn lasting(network: &Network) -> Vec<(Lasting, &'static [&'static str])> {
    let open = |row: &'static str| {
        let all = access::of_the_page();
        let found = all
            .iter()
            .find(|one| matches!(one.expected, Expected::Page(it) if it == row));
        let access = found.unwrap_or_else(|| panic!("no access {row}"));
        let lasting = Lasting::open(network, row, access.from, access.to);
        (lasting, access.dropped_by)
    };
    [
        "NodePort of N1, `externalTrafficPolicy: Cluster`",
        "NodePort of N2, policy `Local`",
        "pod on the host's network, by the NodePort of N1",
        "address that is routed to N1, policy `Cluster`",
        "balancer that translates the source, by the NodePort of N1",
        "service from a pod p (ClusterIP)",
        "service from N1 itself (ClusterIP)",
        "NodePort of N2 from a pod p",
        "pod to pod",
        "pod to outside, masqueraded",
    ]
    .map(open)
    .into()
}

/// Under the first policy all connections go on, whatever it says (K12). A later one ends those
/// that it does not admit (K11). Returns how many it has ended.
fn go_on(
    lasting: &mut Vec<(Lasting, &'static [&'static str])>,
    policy: &Policy,
    is_first: bool,
) -> usize {
    let when = format!("under {}", policy.name);
    let ends = |dropped_by: &[&str]| !is_first && dropped_by.contains(&policy.name);
    let before = lasting.len();
    for (one, dropped_by) in lasting.iter() {
        match ends(dropped_by) {
            true => one.assert_stands_still(&when),
            false => one.assert_goes_on(&when),
        }
    }
    lasting.retain(|(_, dropped_by)| !ends(dropped_by));
    before - lasting.len()
}

/// Does something while nothing goes over the lasting connections.
fn held<T>(lasting: &[(Lasting, &'static [&'static str])], act: impl FnOnce() -> T) -> T {
    for (one, _) in lasting {
        one.hold(true);
    }
    let done = act();
    for (one, _) in lasting {
        one.hold(false);
    }
    done
}

/// All accesses with what has to be seen of them: each row of the page has one.
fn accesses() -> Vec<Seen> {
    let mut rows = page::rows();
    let of_the_page = access::of_the_page();
    let names = |rows: &[page::Row]| {
        rows.iter()
            .map(|row| row.access.clone())
            .collect::<Vec<_>>()
    };
    let tried = of_the_page.iter().filter_map(|one| match one.expected {
        Expected::Page(row) => Some(row.to_owned()),
        Expected::Here(_) => None,
    });
    assert_eq!(names(&rows), tried.collect::<Vec<_>>(), "the page's table");
    let seen = |access: Access, expected| Seen {
        access,
        expected,
        packets: Vec::new(),
    };
    let mut all = Vec::new();
    for (access, row) in of_the_page.into_iter().zip(rows.drain(..)) {
        all.push(seen(access, row.expected));
    }
    for access in access::others() {
        if let Expected::Here(expected) = access.expected {
            all.push(seen(access, expected.map(str::to_owned)));
        }
    }
    all
}

fn what(one: &Seen) -> String {
    let (to, port) = one.access.to;
    let row = match one.access.expected {
        Expected::Page(row) => row,
        Expected::Here([n1, n2, _]) => [n1, n2].into_iter().find(|it| !it.is_empty()).unwrap_or(""),
    };
    format!("{row} ({} asks {to}:{port})", one.access.from)
}

/// Asks, and returns the answer with what was on the wires.
fn try_it(
    network: &Network,
    wires: &Wires,
    access: &Access,
    must_come: bool,
) -> (Answer, Vec<Opening>) {
    wires.seen();
    let answer = ask(network, access.from, access.how, access.to, must_come);
    let mut packets = wires.seen();
    // kube-proxy may connect anew at any time.
    let is_api = |it: &Opening| it.target == (network::address("API"), 6443);
    packets.retain(|it| access.to.0 == API || !is_api(it));
    // Those of N1 first, as on the page.
    packets.sort_by_key(|it| it.node);
    (answer, packets)
}

fn shown(packets: &[Opening]) -> [String; 2] {
    NODES.map(|node| {
        let of_it = packets.iter().filter(|it| it.node == node);
        of_it.map(Opening::to_string).collect::<Vec<_>>().join(", ")
    })
}

/// With no policy: what is on the wires is what the page says.
fn look(network: &Network, wires: &Wires, one: &mut Seen) -> Result<(), String> {
    let must_come = one.expected[2] != "nobody";
    let (answer, packets) = try_it(network, wires, &one.access, must_come);
    let [n1, n2] = shown(&packets);
    let sees = match answer {
        Answer::By { sees, .. } => sees,
        // kube-proxy and the API server do not say whom they see: nobody has translated it.
        Answer::Taken(0 | 200) => packets
            .last()
            .map(|it| name(it.source.0))
            .unwrap_or_default(),
        Answer::Taken(status) => status.to_string(),
        Answer::Refused => "refused".to_owned(),
        Answer::Silence => "nobody".to_owned(),
    };
    one.packets = packets;
    let found = [n1, n2, sees];
    match found == one.expected {
        true => Ok(()),
        false => Err(format!(
            "{}\n  expected {:?}\n  seen     {found:?}",
            what(one),
            one.expected
        )),
    }
}

/// Under a policy: it passes or is dropped as the list says, which is what `explain` says of the
/// packets; and a packet that is dropped goes no further.
fn judge(network: &Network, wires: &Wires, one: &Seen, policy: &mut Policy) -> Result<(), String> {
    let first_dropped = one.packets.iter().position(|packet| !policy.passes(packet));
    let is_dropped = one.access.dropped_by.contains(&policy.name);
    if is_dropped != first_dropped.is_some() {
        let packets = shown(&one.packets);
        return Err(format!(
            "{}: dropped: {is_dropped}, but explain on {packets:?}: {first_dropped:?}",
            what(one)
        ));
    }
    let must_come = !is_dropped && one.expected[2] != "nobody";
    let (answer, packets) = try_it(network, wires, &one.access, must_come);
    let has_come = !matches!(answer, Answer::Silence | Answer::Refused);
    // What is dropped inbound was on the wire, what is dropped outbound was not.
    let until = first_dropped.map_or(one.packets.len(), |n| match one.packets[n].direction {
        Direction::In => n + 1,
        Direction::Out => n,
    });
    let (expected, found) = (shown(&one.packets[..until]), shown(&packets));
    let sees = match &answer {
        Answer::By { sees, .. } => sees.clone(),
        _ => one.expected[2].clone(),
    };
    if has_come == must_come && found == expected && (is_dropped || sees == one.expected[2]) {
        return Ok(());
    }
    Err(format!(
        "{}\n  expected {expected:?}, answered: {must_come}\n  seen     {found:?}, {answer:?}",
        what(one)
    ))
}
