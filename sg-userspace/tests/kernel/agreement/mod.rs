//! The agreement tests: for random policies, the kernel's programs, the compiled tables, the oracle
//! and the reference agree on the verdict, the rule and the reason of every random packet. nftables
//! agrees on the counters of every rule.

mod nftables;

use std::collections::BTreeMap;
use std::sync::Mutex;

use fastrand::Rng;
use sg_policy::policy::groups_from_lines;

use crate::sandbox::{Sandbox, sandbox};
use crate::support::is_guest;
use crate::traffic::{Traffic, policies};
use crate::world::hunt::{self, Manner};
use crate::world::script::{self, Step};

/// How many frames are sent for each policy.
const FRAMES: usize = 5000;
/// How many policies each of the two threads tries in the normal test run.
const POLICIES: u64 = 110;
const THREADS: u64 = 2;
/// The same in a guest, where processors are emulated and slow.
const POLICIES_OF_A_GUEST: u64 = 4;

/// Sums over all policies, to show that enough was tried.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) policies: u64,
    pub(crate) frames: u64,
    pub(crate) refused: u64,
    pub(crate) evicted: u64,
    /// How many frames took each path through the reference.
    pub(crate) paths: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, world: &crate::world::World) {
        self.policies += 1;
        self.frames += world.frames;
        self.refused += world.refused;
        self.evicted += world.evicted;
        if let Some(reference) = world.reference() {
            for (path, count) in &reference.paths {
                *self.paths.entry(path).or_default() += count;
            }
        }
    }
}

/// A random policy and random frames for it.
pub(crate) fn script(seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let policy = policies::policy(&mut rng, 40);
    let edges = groups_from_lines(&policy.lines());
    let mut traffic = Traffic::new(rng, edges);
    let mut steps = vec![Step::Policy(policy)];
    steps.extend(std::iter::repeat_with(|| Step::Frame(traffic.next())).take(FRAMES));
    steps
}

/// One policy with its frames.
pub(crate) fn round(sandbox: &Sandbox, seed: u64, tally: &Mutex<Tally>) {
    let world = hunt::check(
        sandbox,
        &Manner::default(),
        "agreement",
        seed,
        &script(seed),
    );
    tally
        .lock()
        .expect("no other thread has failed")
        .add(&world);
}

/// Every path that a frame can take in the first generation of a policy.
const PATHS: &[&str] = &[
    "non-ip",
    "non-ip, dropped",
    "ARP",
    "ARP and nothing else",
    "essential",
    "related",
    "no-match",
    "malformed",
    "fragment",
    "drop",
    "reply",
    "accept, of no flow",
    "accept, replies by the rules",
    "accept, in a flow",
    "accept, opens a flow",
    "accept, opens nothing",
    "first fragment",
    "audit, of no flow",
    "audit, in a flow",
    "audit, opens a flow",
    "audit, opens nothing",
    "accept, as a reply in a watched flow",
    "reply, audited",
    "related to what is audited",
    "fragment follows an audited one",
    "fragment, audited",
    "non-ip, audited",
    "malformed, audited",
    "fragment follows an accept",
    "fragment follows a drop",
    "fragment follows a reply",
    "related to what the rules accept",
    "related to a flow",
    "an error about nothing that is admitted",
    "an error about another host's packet",
    "an error from behind the node",
    "an error with an unreadable quotation",
    "three tags",
    "a tag is cut off",
    "IPv4 header",
    "IPv4 length below the header's",
    "IPv4 length beyond the frame",
    "IPv6 header",
    "IPv6 length beyond the frame",
    "an extension header is cut off",
    "nine extension headers",
    "a fragment of a fragment",
    "a fragment overlaps the transport header",
    "a fragment ends beyond the longest datagram",
    "TCP header",
    "UDP header",
    "UDP length below the header's",
    "UDP length beyond the packet",
    "a short authentication header",
    "SCTP header",
    "ICMP header",
];

/// Proves K2, K3, K4, K5, K6, K7, K8, P2, P3, P4, P5, A1 and A2: a million random frames, damaged
/// ones among them, for random policies of several groups. Kernel, compiled tables, oracle and
/// reference agree on verdict, counter and bytes of each, and no other counter moves.
#[test]
fn a_million_frames_have_the_fate_that_the_reference_gives_them() {
    let tally = Mutex::new(Tally::default());
    let policies = match is_guest() {
        true => POLICIES_OF_A_GUEST,
        false => POLICIES,
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let tally = &tally;
            scope.spawn(move || {
                sandbox(|sandbox| {
                    for round in 0..policies {
                        self::round(sandbox, thread * policies + round, tally);
                    }
                });
            });
        }
    });
    let tally = tally.into_inner().expect("all threads have ended");
    println!("{tally:#?}");
    let wanted = policies * THREADS * FRAMES as u64;
    // The kernel refuses test runs with some of the shortest frames.
    assert_eq!(tally.frames + tally.refused, wanted);
    assert!(is_guest() || tally.frames >= 1_000_000, "{}", tally.frames);
    assert!(
        tally.refused < tally.frames / 100,
        "{} refused",
        tally.refused
    );
    let least = if is_guest() { 1 } else { 100 };
    for path in PATHS {
        let count = tally.paths.get(path).copied().unwrap_or(0);
        assert!(count >= least, "`{path}` was tried {count} times only");
    }
}

/// Proves P3, K4, K8, K9, K11 and A2 by the cases in `tests/cases`, which random tests once failed
/// on: kernel and reference agree, and decide as the case says.
#[test]
fn cases_found_before_stay_solved() {
    let mut files: Vec<_> = std::fs::read_dir(hunt::cases())
        .expect("the folder of cases is part of the repository")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "there are cases to replay");
    sandbox(|sandbox| {
        for file in &files {
            let text = std::fs::read_to_string(file).expect("the case can be read");
            let steps = script::read(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let manner = Manner {
                exact: true,
                ..Manner::default()
            };
            if let Err(failure) = hunt::run(sandbox, &manner, &steps) {
                panic!(
                    "{}, step {}: {}",
                    file.display(),
                    failure.steps,
                    failure.why
                );
            }
        }
    });
}

/// Shows that the machinery works: it finds a mistake made on purpose, shrinks the script, and
/// writes a case that can be replayed.
#[test]
fn a_mistake_is_found_shrunk_and_written_down() {
    let folder = tempfile::tempdir().expect("a folder for the case");
    let manner = Manner {
        sabotaged_port: Some(4242),
        cases: Some(folder.path().to_owned()),
        ..Manner::default()
    };
    let mut steps = script(1);
    steps.truncate(300);
    let frame = crate::frames::frame("udp 198.51.100.1:5 > 192.0.2.1:4242").vlan(0x8100, 7);
    steps.push(Step::Frame(script::Sent {
        direction: sg_common::verdict::Direction::Inbound,
        segments: 1,
        bytes: frame.bytes().to_vec(),
        expected: None,
    }));
    sandbox(|sandbox| {
        let checked = std::panic::catch_unwind(|| {
            hunt::check(sandbox, &manner, "sabotage", 1, &steps);
        });
        let panic = checked.expect_err("the mistake is found");
        let said = panic.downcast_ref::<String>().expect("a message");
        let file = folder.path().join("sabotage-1.txt");
        assert!(said.contains("commit it"), "{said}");
        assert!(said.contains(&file.display().to_string()), "{said}");

        let text = std::fs::read_to_string(&file).expect("the case was written");
        let case = script::read(&text).expect("the case can be read");
        let [Step::Policy(policy), Step::Frame(sent)] = &case[..] else {
            panic!("one policy and one frame are enough:\n{text}");
        };
        assert!(policy.groups.iter().all(|g| g.rules.is_empty()), "{text}");
        assert_eq!(sent.bytes[..12], [0; 12], "{text}");
        assert_eq!(sent.expected.as_deref(), Some("accept non-ip"), "{text}");
        // The kernel does not have the mistake, so the written case, which has, does not agree with
        // it.
        let Err(failure) = hunt::run(sandbox, &Manner::default(), &case) else {
            panic!("the case is replayed:\n{text}");
        };
        assert!(failure.why.starts_with("the case says"), "{}", failure.why);
    });
}
