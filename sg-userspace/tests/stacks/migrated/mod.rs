//! docs/migrating.md: the rules of another tool and the policy that takes their place, both as the
//! page has them, decide the same packets in the same way. Each is loaded on the node of a network
//! of its own, and the same packets are sent through both.
//!
//! Where the two differ, the page says so: [`Difference`] names the packets and the sentence. A
//! difference that the page does not name fails the test, and so does one that is not there.
//!
//! The rules of ingress-node-firewall and of a cloud's console are not loaded anywhere: models of
//! what their documents say are compared with the policies in `sg-policy/tests/policy/migrated.rs`.

mod network;
mod packets;
mod page;

use std::fs;
use std::path::Path;

use sg_policy::policy::Policy;
use sg_userspace::kernel::apply;

use crate::enforced::policy;
use crate::sandbox::{Sandbox, run, sandbox};
use network::{Fates, Network};
use packets::{Kind, Packet, Way};
use page::Section;

/// The interface under both.
const NIC: &str = "eth0";

/// Packets of which the other tool decides otherwise than the policy that takes its place.
struct Difference {
    /// How the page tells it, with spaces in the place of line ends.
    sentence: &'static str,
    passes_there: bool,
    are_these: fn(&Packet) -> bool,
}

const FORWARDED: &str = "A policy judges everything that passes its interface, also what the node \
                         forwards";

/// The chains `INPUT` and `OUTPUT` see what is for the node and from it.
const OF_FORWARDED: Difference = Difference {
    sentence: FORWARDED,
    passes_there: true,
    are_these: |packet| packet.way == Way::Forwarded,
};

/// What a node has to receive in order to have a network.
const OF_ESSENTIAL: Difference = Difference {
    sentence: "What a node needs to have a network passes without a rule",
    passes_there: false,
    are_these: |packet| {
        matches!(
            packet.kind,
            Kind::DhcpAnswer | Kind::GroupQuery | Kind::ListenerQuery
        )
    },
};

/// Puts the rules of a section in force on the calling thread's network.
type Load = fn(&Section);

fn by_shell(script: &str) {
    run("bash", &["-ec", script]);
}

/// `iptables` and `nft` change the network namespace and nothing else.
fn iptables(section: &Section) {
    by_shell(&section.theirs);
}

fn nftables(section: &Section) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&file, &section.theirs).expect("our own file");
    run("nft", &["-f", &file.path().display().to_string()]);
}

/// ufw keeps what it is told in files: here in copies, which only this thread's mounts show.
fn ufw(section: &Section) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, place) in [("ufw", "/etc/ufw"), ("default", "/etc/default/ufw")] {
        assert!(
            Path::new(place).exists(),
            "no {place}: `cargo xtask setup` installs ufw"
        );
        let copy = folder.path().join(name).display().to_string();
        run("cp", &["--archive", place, &copy]);
        run("mount", &["--bind", &copy, place]);
    }
    // Its lock, and that of iptables.
    run("mount", &["-t", "tmpfs", "run", "/run"]);
    by_shell(&format!("{}\nufw --force enable", section.theirs));
}

/// The verdicts under the rules of the other tool.
fn theirs(section: &Section, packets: &[Packet], load: Load) -> Fates {
    let mut fates = None;
    sandbox(|_| {
        let network = Network::new();
        load(section);
        fates = Some(network.send_all(packets));
    });
    fates.expect("the test has ended well")
}

/// The verdicts under the policy.
fn ours(policy: &Policy, packets: &[Packet]) -> Fates {
    let mut fates = None;
    sandbox(|sandbox: &Sandbox| {
        let network = Network::new();
        let applied = apply(policy, &sandbox.options(NIC));
        applied.unwrap_or_else(|e| panic!("apply: {e}"));
        fates = Some(network.send_all(packets));
    });
    fates.expect("the test has ended well")
}

/// Sends the same packets through both, and compares.
fn compare(heading: &str, load: Load, differences: &[Difference]) {
    let text = page::text();
    let section = page::section(&text, heading);
    let packets = packets::about(&section);
    let policy = policy(&section.ours);
    let (theirs, ours) = (theirs(&section, &packets, load), ours(&policy, &packets));
    // The comparison means something only if enough passes and enough does not, of both families.
    for is_ipv6 in [false, true] {
        for way in [Way::Inbound, Way::Outbound] {
            let of_these =
                |packet: &Packet| packet.way == way && packet.remote.is_ipv6() == is_ipv6;
            let fates = packets.iter().zip(&theirs.passed);
            let passed = fates.filter(|(packet, passed)| of_these(packet) && **passed);
            assert!(passed.count() > 2, "{way:?}, IPv6 {is_ipv6}");
        }
    }
    let dropped = theirs.passed.iter().filter(|passed| !**passed).count();
    assert!(dropped > 50, "{dropped} of {}", packets.len());
    let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut met = vec![0; differences.len()];
    let mut unknown = Vec::new();
    for (number, packet) in packets.iter().enumerate() {
        let (there, here) = (theirs.passed[number], ours.passed[number]);
        if there == here {
            continue;
        }
        let is_it = |one: &Difference| one.passes_there == there && (one.are_these)(packet);
        match differences.iter().position(is_it) {
            Some(which) => met[which] += 1,
            None => unknown.push(format!("{packet:?}: {there} there, {here} here")),
        }
    }
    println!("{heading}: {} packets, different {met:?}", packets.len());
    assert!(
        unknown.is_empty(),
        "{heading}: {} packets differ:\n{}",
        unknown.len(),
        unknown.join("\n")
    );
    for (difference, count) in differences.iter().zip(met) {
        let sentence = difference.sentence;
        assert!(count > 0, "{heading}: nothing differs so: {sentence}");
        assert!(said.contains(sentence), "the page does not say: {sentence}");
    }
    // A program that sends what is dropped: there it is told, and here it is not.
    assert!(ours.refused.is_empty(), "{:?}", ours.refused);
    for packet in theirs.refused {
        assert!(
            said.contains("the program that sends it is not told"),
            "{packet:?}"
        );
    }
}

/// ICMP errors about traffic that the rules accept and that was never sent (K8).
const OF_ERRORS: Difference = Difference {
    sentence: "if they are about traffic that the rules accept, also where nothing was sent",
    passes_there: false,
    are_these: |packet| packet.kind == Kind::Unreachable,
};

#[test]
fn iptables_decides_as_the_policy_that_takes_its_place() {
    let all_ipv6 = Difference {
        sentence: "where no ip6tables rules were loaded, all of IPv6 passed",
        passes_there: true,
        are_these: |packet| packet.remote.is_ipv6() && packet.way == Way::Inbound,
    };
    let known = [OF_FORWARDED, OF_ESSENTIAL, OF_ERRORS, all_ipv6];
    compare("iptables", iptables, &known);
}

#[test]
fn nftables_decides_as_the_policy_that_takes_its_place() {
    compare("nftables", nftables, &[OF_FORWARDED, OF_ESSENTIAL]);
}

#[test]
fn ufw_decides_as_the_policy_that_takes_its_place() {
    let forwarded = Difference {
        sentence: "Here the rules decide about what is forwarded, too",
        passes_there: false,
        are_these: |packet| packet.way == Way::Forwarded,
    };
    let invalid = Difference {
        sentence: "ufw drops what connection tracking calls invalid",
        passes_there: false,
        are_these: |packet| matches!(packet.kind, Kind::NoFlags(_)),
    };
    let of_its_files = Difference {
        sentence: "multicast DNS and UPnP, and IPv6 answers to pings that nobody sent",
        passes_there: true,
        are_these: |packet| match packet.kind {
            Kind::MulticastDns => true,
            Kind::Pong => packet.remote.is_ipv6(),
            _ => false,
        },
    };
    let known = [forwarded, invalid, of_its_files, OF_ESSENTIAL, OF_ERRORS];
    compare("ufw", ufw, &known);
}
