//! Parts that a policy does not need are left out of its programs: fewer instructions and the same
//! verdicts. They are back when another policy needs them.

use sg_policy::compile::Budget;
use sg_policy::compile_policy;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::flows::flows;

use crate::frames::frame;
use crate::sandbox::{RawSender, Sandbox, require_root, sandbox};
use crate::watching::{apply_rules, assert_adds_up, only, read_when};

/// Accepts the replies to all packets that it accepts, so no flow is needed.
const SYMMETRIC: &str = "in all from 203.0.113.0/24 drop
     in all from any accept
     out all to 203.0.113.0/24 drop
     out all to any accept";
const ASYMMETRIC: &str = "in tcp 22 from any accept
     out udp 53 to any accept";

/// The size of all programs at both hooks, in bytes, without what the kernel has found to be
/// unreachable. (How many instructions the verifier explores is another question: fewer paths can
/// take it longer.)
fn size(rules: &str, change: impl FnOnce(&mut Generation)) -> u32 {
    let policy = rules_from_lines(rules);
    let slots: Vec<u32> = (32..32 + policy.rules.len() as u32).collect();
    let compiled =
        compile_policy(&policy, &slots, Budget::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut generation = Generation::of(&policy, 1);
    change(&mut generation);
    let shared = SharedMaps {
        counter_slots: 64,
        max_flows: 64,
        ..SharedMaps::default()
    };
    let programs =
        Programs::load(&compiled, &generation, &shared).unwrap_or_else(|e| panic!("{e}"));
    let infos = programs.infos().unwrap_or_else(|e| panic!("{e}"));
    let sizes = infos.values().map(|info| info.size_translated());
    sizes.map(|size| size.expect("we are root")).sum()
}

/// `--nocapture` prints the figures.
#[test]
fn what_a_policy_does_not_use_is_not_in_its_programs() {
    require_root();
    const V6: &str = "in all from 2001:db8::/32 accept\nout all to any accept";
    // Whether rules log is not among the parts: somebody may watch what is dropped under any
    // policy.
    let everything = size(V6, |g| g.has_logging_rules = true);
    println!("everything       {everything}");
    // Prefixes of 16 bits, which the first level of the IPv4 tables decides.
    let v4 = "in all from 198.51.0.0/16 accept\nout all to any accept";
    for (what, size_of_it) in [
        ("no IPv6 prefixes", size(v4, |g| g.has_logging_rules = true)),
        (
            "no flows",
            size(V6, |g| (g.has_logging_rules, g.has_flows) = (true, false)),
        ),
        ("none of them", size(v4, |g| g.has_flows = false)),
    ] {
        println!("{what:<16} {size_of_it}");
        assert!(
            size_of_it < everything,
            "{what}: {size_of_it} of {everything} bytes"
        );
    }
    let (plain, with_cut) = (size(v4, |_| ()), size(v4, |g| g.may_have_cut = true));
    println!("cut flows        {with_cut}, without {plain}");
    assert!(
        plain < with_cut,
        "they are looked for where there may be some"
    );
}

fn has_flows(attached: &Attached) -> bool {
    attached.state().unwrap_or_else(|e| panic!("{e}")).has_flows
}

fn applied(sandbox: &Sandbox, rules: &str, cut_existing: bool) -> Attached {
    let mut options = sandbox.options("sg0");
    options.cut_existing = cut_existing;
    apply_rules(sandbox, rules, &options);
    only(sandbox, "sg0")
}

/// Proves K6 and K7 if one policy opens flows and the next one does not.
#[test]
fn flows_are_looked_for_only_where_there_may_be_some() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        let query = frame("udp 192.0.2.1:5000 > 198.51.100.7:53");
        let answer = frame("udp 198.51.100.7:53 > 192.0.2.1:5000");
        let blocked = frame("udp 203.0.113.9:53 > 192.0.2.1:5000");

        let attached = applied(sandbox, SYMMETRIC, true);
        assert!(!has_flows(&attached));
        for frame in [&answer, &blocked] {
            peer.send(frame.bytes());
        }
        assert!(node.send(query.bytes()));
        let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets == 2);
        assert_adds_up(&counted, 2, 1);
        let packets: Vec<u64> = counted.rules.iter().map(|r| r.packets).collect();
        assert_eq!(packets, [1, 1, 0, 1]);
        assert_eq!(flows(&attached).unwrap().len(), 0);

        let attached = applied(sandbox, ASYMMETRIC, false);
        assert!(has_flows(&attached));
        assert!(node.send(query.bytes()));
        peer.send(answer.bytes());
        let counted = read_when(sandbox, "sg0", |c| c.rules[1].reply_packets == 1);
        assert_eq!(counted.rules[1].reply_packets, 1);
        assert_eq!(flows(&attached).unwrap().len(), 1);

        // The flow still exists, so this policy has to look it up.
        let attached = applied(sandbox, SYMMETRIC, false);
        assert!(has_flows(&attached));
        peer.send(answer.bytes());
        let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets == 4);
        assert_adds_up(&counted, 4, 2);
    });
}

/// Proves K12: flows that seeding may have entered are looked up, for as long as there are any.
#[test]
fn the_second_symmetric_policy_in_a_row_finds_no_flow() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let attached = applied(sandbox, SYMMETRIC, false);
        assert!(has_flows(&attached), "existing flows may have been entered");
        assert_eq!(flows(&attached).unwrap().len(), 0);
        // Another policy with the same meaning, because applying the same one again changes
        // nothing.
        let again = format!("{SYMMETRIC}\nin all from any drop");
        assert!(!has_flows(&applied(sandbox, &again, false)));
        assert!(has_flows(&applied(sandbox, ASYMMETRIC, false)));
        assert!(
            has_flows(&applied(sandbox, SYMMETRIC, false)),
            "the policy before may open a flow at any time until it is replaced"
        );
    });
}
