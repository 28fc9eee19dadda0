//! The screen and the model without a terminal and without a kernel.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use sg_common::verdict::{Action, Direction, Reason};
use sg_userspace::kernel::flow_tables::FlowTableUse;
use sg_userspace::observe::candidate::CandidateStatus;
use sg_userspace::observe::counters::{Counters, ReasonCounters, RuleCounters, Totals};
use sg_userspace::observe::history::Past;
use sg_userspace::observe::sampler::Sample;
use sg_userspace::observe::status::{Health, PolicyStatus, Unconfirmed};

use super::drops::Dropped;
use super::look::Look;
use super::model::Model;
use super::reading::{InterfaceReading, Reading, Seen};
use super::view::{self, Now};
use crate::fixtures;

mod behaviour;
mod screens;

const APPLIED: &str = "2026-11-01T11:20:00Z";
const WALL: &str = "2026-11-01T12:00:00Z";

/// With colours and Unicode.
const FULL: Look = Look {
    color: true,
    unicode: true,
};

fn rule(direction: Direction, position: u32, action: Action, summary: &str) -> RuleCounters {
    RuleCounters {
        direction,
        position: Some(position),
        group: "web".into(),
        action,
        name: None,
        summary: summary.into(),
        description: None,
        packets: 0,
        bytes: 0,
        reply_packets: 0,
        reply_bytes: 0,
    }
}

/// A rule that has decided so many packets of so many bytes.
fn counted(rule: RuleCounters, packets: u64, size: u64) -> RuleCounters {
    RuleCounters {
        packets,
        bytes: packets * size,
        ..rule
    }
}

/// The rules of a small policy after so many seconds.
fn small(second: u64) -> Vec<RuleCounters> {
    use Direction::{Inbound, Outbound};
    let described = |rule: RuleCounters, name: Option<&str>, text: &str| RuleCounters {
        name: name.map(str::to_owned),
        description: Some(text.to_owned()),
        ..rule
    };
    let wave = (0..second).map(|s| [900, 1400, 2600, 1800, 700][s as usize % 5]);
    let web: u64 = wave.sum();
    vec![
        described(
            counted(
                rule(Inbound, 1, Action::Accept, "tcp 443 from any"),
                1_200_000 + web,
                900,
            ),
            Some("https"),
            "the shop – the only door",
        ),
        described(
            counted(
                rule(
                    Inbound,
                    2,
                    Action::Accept,
                    "tcp 22 from 198.51.100.0/24, 2001:db8:77::/48",
                ),
                5200 + second,
                120,
            ),
            Some("ssh"),
            "administrators from the office",
        ),
        rule(Inbound, 3, Action::Accept, "tcp 9100 from @monitoring"),
        described(
            counted(
                rule(Inbound, 4, Action::Drop, "all from @blocklist"),
                90_000 + second * second * 3,
                60,
            ),
            None,
            "addresses that attack others",
        ),
        counted(
            rule(Inbound, 5, Action::Accept, "icmp echo-request from any"),
            300,
            84,
        ),
        counted(
            rule(Outbound, 1, Action::Accept, "udp 53 to 192.0.2.53"),
            8000 + 12 * second,
            70,
        ),
        RuleCounters {
            reply_packets: 500,
            reply_bytes: 50_000,
            ..counted(
                rule(Outbound, 2, Action::Accept, "tcp 443 to any"),
                700,
                300,
            )
        },
        RuleCounters {
            position: None,
            ..counted(rule(Outbound, 3, Action::Accept, "tcp 25 to any"), 17, 90)
        },
    ]
}

fn reasons(second: u64) -> Vec<ReasonCounters> {
    let mut all = Vec::new();
    for direction in Direction::BOTH {
        for reason in Reason::ALL {
            let packets = match (direction, reason) {
                (Direction::Inbound, Reason::NoMatch) => 40_000 + 150 * second,
                (Direction::Inbound, Reason::Malformed) => 12,
                (Direction::Inbound, Reason::NonIp) => 800 + second,
                (Direction::Outbound, Reason::NonIp) => 790 + second,
                (Direction::Outbound, Reason::NoMatch) => 3,
                _ => 0,
            };
            all.push(ReasonCounters {
                direction,
                reason,
                action: reason.action(),
                packets,
                bytes: packets * 60,
            });
        }
    }
    all
}

fn sample(
    interface: &str,
    rules: Vec<RuleCounters>,
    reasons: Vec<ReasonCounters>,
    second: u64,
) -> Sample {
    let policy = PolicyStatus {
        digest: "sha256:0123456789abcdef".into(),
        generation: 8,
        applied_at: APPLIED.into(),
        ..fixtures::policy("shop")
    };
    let totals = Direction::BOTH
        .map(|it| Totals::of(it, &rules, &reasons))
        .to_vec();
    let live = |live, entered, evicted| FlowTableUse {
        live,
        entered,
        evicted,
    };
    let past = |generation: u32, name: &str, ended: serde_json::Value| {
        let policy =
            serde_json::json!({"login": null, "sudo_user": null, "user": "root", "uid": 0});
        let ended: Option<sg_userspace::kernel::history::Ended> =
            serde_json::from_value(ended).unwrap();
        Past {
            name: name.into(),
            digest: "sha256:0123456789abcdef".into(),
            generation,
            applied_at: APPLIED.into(),
            by: serde_json::from_value(policy).unwrap(),
            ended,
            is_kept: true,
            audit: None,
        }
    };
    let replaced = serde_json::json!({"at": APPLIED, "how": "replaced"});
    Sample {
        counters: Counters {
            sampled_at: WALL.into(),
            since: APPLIED.into(),
            policy,
            rules,
            reasons,
            totals,
            ..fixtures::counters(interface)
        },
        flows: [
            live(12, 9000, 0),
            live(12_345 + second, 20_000 + 9 * second, 0),
        ],
        max_flows: 262_144,
        unconfirmed: None,
        candidate: None,
        past: vec![
            past(8, "shop", serde_json::Value::Null),
            past(7, "shop", replaced.clone()),
            past(6, "shop before the sale", replaced),
        ],
    }
}

fn of(samples: Vec<Sample>) -> Reading {
    Reading {
        interfaces: samples
            .into_iter()
            .enumerate()
            .map(|(attachment, sample)| InterfaceReading { sample, attachment })
            .collect(),
        troubles: Vec::new(),
    }
}

/// A model that has read what `at` gives for every second up to `last`.
fn read_until(last: u64, at: impl Fn(u64) -> Reading) -> Model {
    let mut model = Model::default();
    for second in 0..=last {
        model.read(at(second), Duration::from_secs(second));
        model.see(seen(second), Duration::from_secs(second));
    }
    model
}

fn normal() -> Model {
    read_until(12, |second| {
        of(vec![sample("eth0", small(second), reasons(second), second)])
    })
}

/// Events of what was dropped: one source sends most of it.
fn seen(second: u64) -> Seen {
    let packet = |source: &str, port: u16| Dropped {
        direction: Direction::Inbound,
        source: Some(source.parse().unwrap()),
        port: Some((6, port)),
        packets: 1,
    };
    let mut packets = vec![
        packet("203.0.113.77", 3306),
        packet("203.0.113.77", 22),
        packet("2001:db8:dead:beef:1234:5678:9abc:def0", 23),
    ];
    if second.is_multiple_of(4) {
        packets.push(packet("198.51.100.4", 3306));
    }
    let of_eth0 = |packet| ("eth0".to_owned(), packet);
    Seen {
        packets: packets.into_iter().map(of_eth0).collect(),
        trouble: None,
    }
}

fn on_trial(second: u64) -> Sample {
    let mut sample = sample("eth0", small(second), reasons(second), second);
    sample.unconfirmed = Some(Unconfirmed {
        until: "2026-11-01T12:04:12Z".into(),
        seconds_left: 252.0,
        returns_to: Some(PolicyStatus {
            generation: 7,
            ..sample.counters.policy.clone()
        }),
    });
    sample
}

/// A candidate beside the policy, of which so much is known.
fn beside(packets: u64, evaluated: Option<u64>) -> CandidateStatus {
    CandidateStatus {
        name: "summer".into(),
        digest: "sha256:fedcba9876543210".into(),
        rules: 9,
        since: APPLIED.into(),
        logs: false,
        packets,
        evaluated,
    }
}

/// What a terminal of that size shows.
fn shown(model: &mut Model, width: u16, height: u16, look: Look) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = Now {
        clock: Duration::from_secs(12),
        wall: WALL.parse::<Timestamp>().unwrap(),
        interval: Duration::from_secs(1),
    };
    let size = terminal.size().unwrap();
    model.set_page(view::page(size, model, &now));
    terminal
        .draw(|frame| view::draw(frame, model, &look, &now))
        .unwrap();
    terminal
}

/// What a terminal of that size shows, as text.
fn screen(model: &mut Model, width: u16, height: u16, look: Look) -> String {
    let terminal = shown(model, width, height, look);
    let lines = terminal.backend().to_string();
    let lines = lines.lines().map(|line| line.trim_matches('"').trim_end());
    lines.collect::<Vec<_>>().join("\n")
}
