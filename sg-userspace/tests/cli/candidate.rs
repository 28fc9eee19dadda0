//! A candidate beside the policy in force (C10), as a user sees it: put there, watched with real
//! traffic, promoted, and taken away.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::Running;
use super::screens::shown as on_terminal;
use super::world::{Ran, World, file, inside};

/// Accepts a service over TCP, with replies that only the flow table passes, and datagrams.
const WEB: &str = "\
name: web
inbound:
  - {protocol: tcp, ports: 7000, from: any, action: accept, name: service}
  - {protocol: udp, ports: 1001, from: any, action: accept}
outbound: [{protocol: udp, to: any, action: accept}]
";

/// Forgets the service, and accepts other datagrams too.
const NEXT: &str = "\
name: next
inbound:
  - {protocol: udp, ports: 1001-1002, from: any, action: accept}
outbound: [{protocol: udp, to: any, action: accept}]
";

struct Node {
    world: World,
    web: String,
    next: String,
}

impl Node {
    fn new() -> Node {
        let world = World::new();
        let web = file(world.dir.path(), "web.yaml", WEB);
        let next = file(world.dir.path(), "next.yaml", NEXT);
        Node { world, web, next }
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Ran {
        self.world.run(words).ok()
    }

    #[track_caller]
    fn apply(&self, more: &[&str]) -> String {
        self.run(&[&["apply", "--iface", "nic"], more].concat()).out
    }

    #[track_caller]
    fn candidate(&self) -> Value {
        let found = self.run(&["counters", "--candidate", "--json"]).json();
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
        found[0].clone()
    }

    /// What a pair has counted: its packets and replies.
    #[track_caller]
    fn pair(&self, verdicts: [&str; 2]) -> [u64; 2] {
        let found = self.candidate();
        let pairs = found["pairs"].as_array().expect("a list").iter();
        let of = |pair: &&Value| {
            pair["enforced"]["verdict"] == verdicts[0]
                && pair["candidate"]["verdict"] == verdicts[1]
                && pair["direction"] == "inbound"
        };
        let pair = pairs.clone().find(of);
        let pair = pair.unwrap_or_else(|| panic!("no {verdicts:?} in {found:#}"));
        ["packets", "reply_packets"].map(|key| pair[key].as_u64().expect("a number"))
    }

    /// Packets that both policies were asked about, by direction.
    fn evaluated(&self) -> [Option<u64>; 2] {
        let found = self.candidate();
        [0, 1].map(|at| found["totals"][at]["evaluated"].as_u64())
    }

    /// Packets and replies of a rule, or packets of a reason.
    #[track_caller]
    fn counted(&self, what: &str) -> [u64; 2] {
        let found = self.run(&["counters", "--json"]).json();
        let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_default();
        let rules = found[0]["rules"].as_array().expect("a list").iter();
        let reasons = found[0]["reasons"].as_array().expect("a list").iter();
        let of = rules.filter(|row| row["summary"].as_str().expect("a text").starts_with(what));
        let of = of.chain(reasons.filter(|row| {
            row["reason"] == what && row["direction"] == "inbound" && row["action"] == "drop"
        }));
        let of: Vec<&Value> = of.collect();
        let [row] = of[..] else {
            panic!("`{what}` is not one row of {found:#}");
        };
        [number(row, "packets"), number(row, "reply_packets")]
    }

    /// Counts what the peer sends to the service and gets from it, by nftables.
    fn count_at_the_peer(&self) {
        let rules = "add table inet t; \
                     add chain inet t out { type filter hook output priority 0; }; \
                     add chain inet t in { type filter hook input priority 0; }; \
                     add rule inet t out tcp dport 7000 counter; \
                     add rule inet t in tcp sport 7000 counter";
        self.nft(&[rules]);
    }

    fn nft(&self, words: &[&str]) -> String {
        let ran = Command::new("ip")
            .args(["netns", "exec", &self.world.peer, "nft"])
            .args(words)
            .output();
        let ran = Ran::of(&ran.expect("the tests need iproute2 and nftables"));
        assert_eq!(ran.code, 0, "{}", ran.all());
        ran.out
    }

    /// What the peer has sent to the service, and got from it.
    fn at_the_peer(&self) -> [u64; 2] {
        let list = self.nft(&["list", "table", "inet", "t"]);
        let after = |words: &str| {
            let rest = list.split_once(words).expect("the rule").1;
            let number = rest.split_whitespace().next().expect("a number");
            number.parse().expect("a number")
        };
        ["dport 7000 counter packets ", "sport 7000 counter packets "].map(after)
    }

    /// A connection of the peer to the service, with some bytes each way.
    fn converse(&self) {
        let listening = || TcpListener::bind("192.0.2.1:7000");
        let listener = inside(&self.world.node, listening).expect("a free port");
        let connect = || {
            let address = ([192, 0, 2, 1], 7000).into();
            TcpStream::connect_timeout(&address, Duration::from_secs(20))
        };
        let peer = inside(&self.world.peer, connect);
        let mut client = peer.expect("the service answers");
        let (mut server, _) = listener.accept().expect("a connection");
        for _ in 0..5 {
            client.write_all(b"question").expect("it is open");
            let mut bytes = [0; 8];
            server.read_exact(&mut bytes).expect("it is open");
            server.write_all(b"answered").expect("it is open");
            client.read_exact(&mut bytes).expect("it is open");
        }
    }
}

/// Waits until both sides say the same, as they do when the last packet has come.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(of: impl Fn() -> T, expected: impl Fn() -> T) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (found, wanted) = (of(), expected());
        if found == wanted || Instant::now() > deadline {
            assert_eq!(found, wanted);
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Proves C10, A2 and A3: what is counted as different is what was sent, packet by packet and with
/// the replies of flows, as nftables counts it at the other end; and the counters of rules and
/// reasons are the same as without a candidate, while it comes, goes, and is promoted.
#[test]
fn differences_are_what_was_sent_and_counters_stay_exact() {
    let node = Node::new();
    node.count_at_the_peer();
    node.apply(&[&node.web]);
    // Before the watch: counted for the rules, and not as evaluated.
    node.converse();
    node.world.send_from_one_socket(1002, 3);
    let before = same(|| node.counted("tcp 7000"), || node.at_the_peer());
    same(|| node.counted("no-match")[0], || 3);

    let said = node.apply(&["--candidate", &node.next]);
    assert!(said.contains("candidate next ("), "{said}");
    assert!(
        said.contains("2 pairs of rules can have another outcome"),
        "{said}"
    );
    // No verdict changes, the policy stays, and so do its counters.
    let history = node.run(&["history", "--json"]).json();
    assert_eq!(
        history[0]["policies"].as_array().map(Vec::len),
        Some(1),
        "{history}"
    );
    assert_eq!(node.counted("tcp 7000"), before);
    assert_eq!(node.evaluated(), [Some(0), Some(0)]);
    let shown = node.run(&["counters", "--candidate"]).out;
    assert!(
        shown.contains("inbound: no packet has been evaluated yet, which says nothing"),
        "{shown}"
    );

    node.converse();
    node.world.send_from_one_socket(1002, 7);
    node.world.send_from_one_socket(1001, 4);
    let [sent, answered] = same(|| node.counted("tcp 7000"), || node.at_the_peer());
    let since = [sent - before[0], answered - before[1]];
    assert!(since[0] > 8 && since[1] > 8, "{since:?}");
    assert_eq!(node.pair(["accept", "drop"]), since);
    assert_eq!(same(|| node.pair(["drop", "accept"]), || [7, 0]), [7, 0]);
    assert_eq!(node.counted("no-match")[0], 10);
    // Replies are not asked about, and what both accept is no difference.
    assert_eq!(node.evaluated()[0], Some(since[0] + 7 + 4));
    let shown = node.run(&["counters", "--candidate"]).out;
    let differ = format!(
        "{} packets have another outcome, of {}",
        since[0] + 7,
        since[0] + 11
    );
    assert!(shown.contains(&differ), "{shown}");
    let status = node.run(&["status"]).out;
    assert!(
        status.contains(&format!("{} packets have another outcome", since[0] + 7)),
        "{status}"
    );

    let metrics = node.run(&["metrics"]).out;
    // A rule's series has what the slots of its pairs have counted, too.
    let mut series = metrics.lines();
    let of_rule =
        series.find(|it| it.starts_with("sgctl_rule_packets_total{") && it.contains("tcp 7000"));
    assert!(
        of_rule.is_some_and(|it| it.ends_with(&format!(" {sent}"))),
        "{sent}: {metrics}"
    );
    for (direction, packets) in [("inbound", since[0] + 7), ("outbound", 0)] {
        let series = format!(
            "sgctl_candidate_differences_total{{interface=\"nic\",direction=\"{direction}\"}} {packets}\n"
        );
        assert!(metrics.contains(&series), "{series}{metrics}");
    }

    for words in [&["counters", "--candidate"][..], &["status"]] {
        let shown = on_terminal(&node.world, words, 80);
        assert!(shown.contains(" have another outcome"), "{shown}");
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        println!("{shown}");
    }

    // What the programs say of a packet with another outcome is who decides it, not the pair.
    for (port, says) in [("7000", "tcp 7000"), ("1002", "no-match")] {
        let protocol = if port == "7000" { "tcp" } else { "udp" };
        let (from, to) = ("192.0.2.2:9", format!("192.0.2.1:{port}"));
        let words = ["explain", "--iface", "nic", "inbound", protocol, from, &to];
        let said = node.run(&words).out;
        assert!(said.contains(says), "{said}");
    }

    // The rule's slots are one counter, also when the pair is gone and flows still name its slot.
    node.apply(&["--no-candidate"]);
    let metrics = node.run(&["metrics"]).out;
    assert!(!metrics.contains("sgctl_candidate"), "{metrics}");
    assert_eq!(node.counted("tcp 7000"), [sent, answered]);
    assert_eq!(node.counted("no-match")[0], 10);
    node.world
        .run(&["counters", "--candidate"])
        .fails(1, "no candidate is evaluated beside the policy on nic");
    node.apply(&["--no-candidate"]);
    let said = node.apply(&[&node.web]);
    assert!(said.starts_with("unchanged"), "{said}");
    node.converse();
    same(|| node.counted("tcp 7000"), || node.at_the_peer());

    // Another watch begins at zero.
    node.apply(&["--candidate", &node.next, "--self-check"]);
    assert_eq!(node.pair(["accept", "drop"]), [0, 0]);
    node.world.send_from_one_socket(1002, 2);
    same(|| node.pair(["drop", "accept"]), || [2, 0]);
    same(|| node.counted("no-match")[0], || 12);
    let said = node.apply(&["--candidate", &node.next]);
    assert!(said.starts_with("unchanged"), "{said}");
    assert_eq!(node.pair(["drop", "accept"]), [2, 0]);

    let mut watching = Running::of(
        node.world
            .command(&["counters", "--candidate"])
            .args(["--watch", "0.2", "--json"]),
    );
    let first = watching.line("\"pairs\"");
    node.world.send_from_one_socket(1002, 1);
    same(|| node.pair(["drop", "accept"]), || [3, 0]);
    let of_all = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        value["candidate"]["packets"].as_u64().expect("a number")
    };
    assert_eq!(of_all(&first), 2, "{first}");
    while of_all(&watching.line("\"pairs\"")) != 3 {}

    let at_the_end = node.counted("tcp 7000");
    let before = node.world.pins();
    let dry = node.run(&["promote", "--dry-run"]).out;
    assert!(
        dry.starts_with("dry run: would replace the policy of nic by next, generation "),
        "{dry}"
    );
    let dry = node.run(&["promote", "--dry-run", "--json"]).json();
    assert_eq!(
        (&dry["dry_run"], &dry["replaced"]),
        (&true.into(), &true.into()),
        "{dry}"
    );
    assert_eq!(node.world.pins(), before, "nothing has changed");
    assert_eq!(node.candidate()["candidate"]["name"], "next");
    let said = node.run(&["promote"]).out;
    assert!(said.contains("applied next on nic"), "{said}");
    // Nothing is beside it any more, which ends the watching.
    assert_eq!(watching.child.wait().expect("it ends").code(), Some(1));
    let status = node.run(&["status", "--json"]).json();
    assert_eq!(status[0]["policy"]["name"], "next");
    assert_eq!(status[0]["candidate"], Value::Null);
    assert_eq!(node.counted("no-match")[0], 13);
    // The rule that has gone has all that it and its pairs have counted.
    assert_eq!(node.counted("tcp 7000"), at_the_end);
    node.world.send_from_one_socket(1002, 5);
    same(|| node.counted("udp 1001-1002")[0], || 5);
    for words in [&["promote"][..], &["promote", "--dry-run"]] {
        node.world.run(words).fails(1, "no candidate is evaluated");
    }
    assert!(
        !node
            .world
            .pins()
            .iter()
            .any(|pin| pin.to_string_lossy().contains("candidate")),
        "{:?}",
        node.world.pins()
    );
}

/// Proves C10: what cannot be compared is refused with the reason, and nothing changes.
#[test]
fn what_cannot_be_compared_is_refused() {
    let node = Node::new();
    let (world, dir) = (&node.world, node.world.dir.path());
    let apply = |more: &[&str]| world.run(&[&["apply", "--iface", "nic"], more].concat());
    apply(&["--candidate", &node.next]).fails(1, "nothing is attached to");
    node.apply(&[&node.web]);
    let refused = |text: &str, why: &str| {
        let path = file(dir, "refused.yaml", &format!("{NEXT}{text}"));
        apply(&["--candidate", &path]).fails(1, why);
        let dry = apply(&["--candidate", &path, "--dry-run"]);
        dry.fails(1, why);
    };
    refused("essential: false\n", "`essential` is false in it");
    refused("non-ip: arp-only\n", "`non-ip` is arp-only in it");
    refused("timeouts: {udp-stream: 7s}\n", "its `timeouts` are others");
    apply(&["--candidate", &node.web]).fails(1, "it is the policy in force itself");
    for (more, why) in [
        (
            &["--candidate", &node.next, "--no-candidate"][..],
            "cannot be used with",
        ),
        (
            &["--candidate", &node.next, "--confirm-within", "9s"],
            "cannot be used with",
        ),
        (
            &["--candidate", &node.next, "--set", "a=192.0.2.1"],
            "--candidate-set is for the candidate",
        ),
        (
            &["--candidate", &node.next, "--audit"],
            "--audit is for a policy",
        ),
        (
            &["--candidate", "-", "-"],
            "standard input can be read once",
        ),
        (&["--candidate-log"], "required"),
        (&[], "required"),
    ] {
        let ran = apply(more);
        assert_eq!(ran.code, 2, "{}", ran.all());
        assert!(ran.err.contains(why), "{}", ran.all());
    }
    world
        .run(&["show", "--candidate"])
        .fails(1, "no candidate is evaluated");

    // 140 ports by 140 addresses are more pairs than are told apart.
    let rules = |of: &dyn Fn(u32) -> String, action: &str| {
        let lines = (0..140).map(|i| format!("  - {{{}, action: {action}}}\n", of(i)));
        format!("name: many\ninbound:\n{}", lines.collect::<String>())
    };
    let ports = rules(
        &|i| format!("protocol: tcp, ports: {}, from: any", 2 * i + 1),
        "accept",
    );
    let addresses = rules(&|i| format!("protocol: tcp, from: 10.0.{i}.1"), "drop");
    let (ports, addresses) = (
        file(dir, "ports.yaml", &ports),
        file(dir, "all.yaml", &addresses),
    );
    apply(&[&ports, "--candidate", &addresses]).fails(1, "more than 16384 pairs of rules");

    let status = node.run(&["status", "--json"]).json();
    assert_eq!(status[0]["policy"]["generation"], 1);
    assert_eq!(status[0].get("candidate"), None);

    // Beside a policy that waits to be confirmed nothing is put, for it would be kept for good.
    node.apply(&["--candidate", &node.next]);
    let other = file(dir, "other.yaml", &WEB.replace("7000", "[7000, 7001]"));
    node.apply(&[&other, "--confirm-within", "1h"]);
    apply(&["--no-candidate"]).fails(1, "waits to be confirmed until");
    world
        .run(&["promote"])
        .fails(1, "waits to be confirmed until");
    node.run(&["rollback"]);
    let dry = node.apply(&["--no-candidate", "--dry-run"]);
    assert!(
        dry.contains("would change what is beside web on nic, and no verdict"),
        "{dry}"
    );
    assert_eq!(node.candidate()["candidate"]["name"], "next");
}

/// Proves C10, C3 and C4: the candidate stays beside whatever policy comes, also one that is
/// undone; and where it was not evaluated for a while, what it says of that time is not said.
#[test]
fn it_stays_beside_what_is_applied_and_undone() {
    let node = Node::new();
    let dir = node.world.dir.path();
    node.apply(&[&node.web, "--candidate", &node.next]);
    node.world.send_from_one_socket(1002, 3);
    same(|| node.pair(["drop", "accept"]), || [3, 0]);
    let began = node.candidate()["candidate"]["since"].clone();

    let other = file(dir, "other.yaml", &WEB.replace("7000", "[7000, 7001]"));
    let said = node.apply(&[&other, "--confirm-within", "1h"]);
    assert!(said.contains("candidate next ("), "{said}");
    node.world.send_from_one_socket(1002, 2);
    same(|| node.pair(["drop", "accept"]), || [5, 0]);
    node.run(&["rollback"]);
    assert_eq!(node.pair(["drop", "accept"]), [5, 0]);
    assert_eq!(node.evaluated()[0], Some(5));
    assert_eq!(node.candidate()["candidate"]["since"], began);
    assert_eq!(node.counted("no-match")[0], 5);

    // It can be read back, and is the same policy.
    let text = node.run(&["show", "--candidate"]).out;
    assert!(
        text.contains("# nic in ") && text.contains("a candidate beside web"),
        "{text}"
    );
    let shown = file(dir, "shown.yaml", &text);
    let digest =
        |path: &str| node.run(&["check", path, "--json"]).json()["policy"]["digest"].clone();
    assert_eq!(digest(&shown), digest(&node.next));

    // Promoted and undone: it was not beside the policy meanwhile.
    let said = node.run(&["promote", "--confirm-within", "1h"]).out;
    assert!(said.contains("then web, generation "), "{said}");
    node.world
        .run(&["counters", "--candidate"])
        .fails(1, "no candidate is evaluated");
    node.run(&["rollback"]);
    assert_eq!(node.evaluated(), [None, None]);
    let shown = node.run(&["counters", "--candidate"]).out;
    assert!(shown.contains("of how many is not known"), "{shown}");
    node.world.send_from_one_socket(1002, 1);
    same(|| node.pair(["drop", "accept"]), || [6, 0]);
    // Put there again, it begins anew.
    node.apply(&["--candidate", &node.next]);
    assert_eq!(node.evaluated(), [Some(0), Some(0)]);
    same(|| node.counted("no-match")[0], || 6);

    // A policy that differs by what is no rule comes into force, and says what becomes of it.
    let settings = file(dir, "settings.yaml", &format!("{WEB}non-ip: arp-only\n"));
    let said = node.apply(&[&settings]);
    let ended = "candidate next is not evaluated any more: `non-ip` is accept in it";
    assert!(said.replace("\n  ", " ").contains(ended), "{said}");
    let json = node.run(&["status", "--json"]).json();
    assert_eq!(json[0].get("candidate"), None);
}

/// Proves C10 and C11: `run` keeps the candidate over reloads, knows one that is put beside its
/// policy, and returns to what was there before with its candidate.
#[test]
fn run_keeps_it() {
    let node = Node::new();
    node.apply(&[&node.web, "--candidate", &node.next]);
    node.world.send_from_one_socket(1002, 3);
    same(|| node.pair(["drop", "accept"]), || [3, 0]);
    let path = file(
        node.world.dir.path(),
        "run.yaml",
        &WEB.replace("web", "ours"),
    );
    let running = Running::start(&node.world, &[&path, "--interval", "600"]);
    running.says("applied ours on nic");
    assert_eq!(node.pair(["drop", "accept"]), [3, 0]);
    file(
        node.world.dir.path(),
        "run.yaml",
        &WEB.replace("web", "ours").replace("7000", "[7000, 7001]"),
    );
    running.says("reloaded ours on nic");
    node.world.send_from_one_socket(1002, 2);
    same(|| node.pair(["drop", "accept"]), || [5, 0]);
    node.apply(&["--no-candidate"]);
    running.says("somebody else has taken away the candidate beside ours");
    node.apply(&["--candidate", &node.next]);
    running.says("somebody else has put the candidate next beside ours");
    let (code, err) = running.end(Signal::SIGTERM);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let status = node.run(&["status", "--json"]).json();
    assert_eq!(status[0]["policy"]["name"], "web");
    assert_eq!(status[0]["candidate"]["name"], "next", "{status}");
    // The pair has counted under both policies, and then another watch was in its place.
    assert_eq!(node.pair(["drop", "accept"]), [5, 0]);
    assert_eq!(node.evaluated(), [None, None]);
    same(|| node.counted("no-match")[0], || 5);

    // It runs what is in force already: what is put beside that stays.
    node.apply(&["--candidate", &node.next]);
    let running = Running::start(&node.world, &[&node.web, "--interval", "600"]);
    running.says("unchanged web on nic, generation");
    node.apply(&["--no-candidate"]);
    running.says("somebody else has taken away the candidate beside web");
    let (code, _) = running.end(Signal::SIGTERM);
    assert_eq!(code, Some(0));
    let status = node.run(&["status", "--json"]).json();
    assert_eq!(status[0]["policy"]["name"], "web");
    assert_eq!(status[0].get("candidate"), None);
}

/// Proves C10: events of packets with another outcome name the candidate's rule.
#[test]
fn events_name_both_rules() {
    let node = Node::new();
    let running = Running::start(&node.world, &[&node.web, "--json", "--interval", "600"]);
    running.says("\"applied\"");
    node.apply(&["--candidate", &node.next, "--candidate-log"]);
    running.says("\"candidate\"");
    node.world.send_from_one_socket(1002, 1);
    let line = running.line("\"packet\"");
    let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(event["verdict"], "drop", "{event:#}");
    assert_eq!(event["reason"], "no-match", "{event:#}");
    assert_eq!(event["candidate"]["verdict"], "accept", "{event:#}");
    assert_eq!(
        event["candidate"]["rule"]["summary"],
        "udp 1001-1002 from any"
    );
    let lines = node.run(&["log"]).out;
    let both = " no-match candidate: accept rule ";
    assert!(lines.contains(both), "{lines}");
    let (code, _) = running.end(Signal::SIGTERM);
    assert_eq!(code, Some(0));
}
