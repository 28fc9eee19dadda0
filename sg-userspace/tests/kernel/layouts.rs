//! Upgrades: builds of one layout version take over from each other, the newer from the older and
//! back. What they have in common, the pins and the record, is written down in `layouts/`, made by
//! the build that has introduced the version: whoever changes it raises `LAYOUT_VERSION`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use sg_common::LAYOUT_VERSION;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::state::State;
use sg_userspace::kernel::{ApplyOptions, EgressHook, Outcome, apply};
use sg_userspace::observe::flows::flows;

use crate::frames::frame;
use crate::reload::mixed;
use crate::sandbox::{RawSender, sandbox};
use crate::support::egress_hooks;
use crate::watching::{NODE, assert_adds_up, only, read, read_when};

/// Where the layouts are written down.
fn written(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/layouts");
    folder.join(format!("v{LAYOUT_VERSION}.{name}"))
}

/// Proves C13: each build puts its own programs in force with one swap: every packet is counted
/// once, rules go on counting, and replies of a flow that only its opener admits pass under every
/// build.
#[test]
fn builds_of_one_layout_take_over_from_each_other() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let of = |build: &str| ApplyOptions {
            as_object: (!build.is_empty()).then(|| build.to_owned()),
            ..sandbox.options("sg0")
        };
        let policy = rules_from_lines(NODE);
        let applied = apply(&policy, &of("older")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(applied.outcome, Outcome::Attached);
        let epoch = applied.first.state.epoch;
        let (from_peer, from_node) = (RawSender::new("sg1"), RawSender::new("sg0"));
        let mut rng = Rng::with_seed(7);
        let mut sent = [0, 0];
        assert!(from_node.send(frame("udp 192.0.2.1:5000 > 198.51.100.77:5001").bytes()));
        sent[1] += 1;
        let mut programs = BTreeSet::new();
        for (generation, build) in (1..).zip(["older", "", "older", "later", ""]) {
            let applied = apply(&policy, &of(build)).unwrap_or_else(|e| panic!("{e}"));
            let expected = match generation {
                1 => Outcome::Unchanged,
                _ => Outcome::Replaced,
            };
            assert_eq!(applied.outcome, expected, "{build}");
            let state = &applied.first.state;
            assert_eq!((state.policy.generation, state.epoch), (generation, epoch));
            assert!(programs.insert(state.inbound_program), "{build}");
            let again = apply(&policy, &of(build)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(again.outcome, Outcome::Unchanged, "{build}");
            let replies = |found: u64| {
                let rules = read_when(sandbox, "sg0", |c| {
                    c.rules.iter().map(|rule| rule.reply_packets).sum::<u64>() > found
                });
                rules
                    .rules
                    .iter()
                    .map(|rule| rule.reply_packets)
                    .sum::<u64>()
            };
            let before = read(sandbox, "sg0").rules;
            let before = before.iter().map(|rule| rule.reply_packets).sum();
            from_peer.send(frame("udp 198.51.100.77:5001 > 192.0.2.1:5000").bytes());
            sent[0] += 1;
            assert_eq!(replies(before), before + 1, "{build}");
            for _ in 0..200 {
                from_peer.send(mixed(&mut rng).bytes());
                from_node.send(mixed(&mut rng).bytes());
                sent = sent.map(|count| count + 1);
            }
        }
        let counted = read_when(sandbox, "sg0", |c| c.totals[0].packets >= sent[0]);
        assert_adds_up(&counted, sent[0], sent[1]);
        let is_it = |port: Option<u16>| port == Some(5001);
        let flows = flows(&only(sandbox, "sg0")).unwrap_or_else(|e| panic!("{e}"));
        assert!(
            flows.iter().any(|flow| is_it(flow.remote_port)),
            "{flows:?}"
        );
    });
}

/// Proves C13: the pins and the record have the layout that is written down. Where they differ from
/// it on purpose, `LAYOUT_VERSION` goes up, and with it the names of the files that
/// `SG_WRITE_DOC=1` writes.
#[test]
fn the_layout_is_the_one_that_was_introduced() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let policy = rules_from_lines(NODE);
        let applied = apply(&policy, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("{e}"));
        let pins = only(sandbox, "sg0").pins;
        let mut lines = BTreeSet::new();
        let shared = pins.dir.parent().unwrap();
        for dir in [shared, &pins.dir] {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if !entry.path().is_dir() {
                    lines.insert(described(&entry.path(), dir == shared));
                }
            }
        }
        let text: String = lines.into_iter().collect();
        let mut record = serde_json::to_value(&applied.first.state).unwrap();
        record["object"] = "of the build that introduced this layout".into();
        let record = serde_json::to_string_pretty(&record).unwrap() + "\n";
        if std::env::var_os("SG_WRITE_DOC").is_some() && !written("pins").exists() {
            std::fs::write(written("pins"), &text).unwrap();
            std::fs::write(written("record.json"), &record).unwrap();
        }
        let expected = std::fs::read_to_string(written("pins")).unwrap_or_default();
        // A clsact filter has no link.
        let has_link = egress_hooks().contains(&EgressHook::Tcx);
        let expected: String = expected
            .split_inclusive('\n')
            .filter(|line| has_link || !line.contains("outbound_link"))
            .collect();
        assert_eq!(text, expected, "what is pinned has another layout");
    });
}

/// A pin by its name without the generation, and what a map is made of. How many entries one has
/// depends on the machine and the policy.
fn described(path: &Path, is_shared: bool) -> String {
    let name = path.file_name().unwrap().to_string_lossy();
    let without = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = if without.ends_with('_') {
        without
    } else {
        &name
    };
    let mut line = match is_shared {
        true => format!("attachment {name}"),
        false => format!("interface {name}"),
    };
    let is_map = !name.contains("_program_") && !name.contains("_link");
    if is_map {
        let map = aya::maps::MapData::from_pin(path).unwrap();
        let info = map.info().unwrap();
        let kind = info.map_type().unwrap();
        let _ = write!(line, " {kind:?} key {}", info.key_size());
        // The tables are as large as the policy needs.
        if !name.contains("tables") {
            let _ = write!(line, " value {}", info.value_size());
        }
        let _ = write!(line, " flags {:#x}", info.map_flags());
    }
    line + "\n"
}

/// Proves C13: the record that was written when the layout was introduced is read by this build,
/// and so is one with a key that only a later build knows.
#[test]
fn records_of_other_builds_are_read() {
    let text = std::fs::read_to_string(written("record.json")).unwrap();
    let state: State = serde_json::from_str(&text).unwrap();
    assert_eq!((&*state.interface, state.policy.generation), ("sg0", 1));
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["of_a_later_build"] = serde_json::json!({"a": [1]});
    assert_eq!(
        serde_json::from_value::<State>(value.clone()).unwrap(),
        state
    );
    // As it was before this key was there.
    value.as_object_mut().unwrap().remove("object");
    let older: State = serde_json::from_value(value).unwrap();
    assert_eq!(older.object, "");
    assert_eq!(older.rules, state.rules);
}
