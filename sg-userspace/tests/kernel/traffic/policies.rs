//! Random policies: several groups with and without trailing denies, overlapping rules of every
//! kind, and every option that affects the fate of packets.

use fastrand::Rng;
use sg_policy::policy::AuditScope;
use sg_policy::testing::{self, Shape};

use crate::world::script::{Group, PolicyText, max_flows};

/// A policy of up to `rules` random rules, and some more that make flows necessary.
pub(crate) fn policy(rng: &mut Rng, rules: usize) -> PolicyText {
    let shape = Shape {
        rules: rng.usize(..=rules),
        ipv6: 40,
        inbound_only: false,
    };
    let text = testing::rules(rng, shape);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = rng.usize(1..=4);
    let mut groups: Vec<Group> = (0..count)
        .map(|number| Group {
            name: format!("g{number}"),
            rules: Vec::new(),
        })
        .collect();
    for (position, line) in lines.into_iter().enumerate() {
        groups[position * count / shape.rules].rules.push(line);
    }
    for group in &mut groups {
        close(rng, group);
    }
    // C9: some policies only watch what some of their rules would drop, or all that they would.
    if rng.u8(..4) == 0 {
        for rule in groups.iter_mut().flat_map(|group| &mut group.rules) {
            audit(rng, rule);
        }
    }
    let audit = match rng.u8(..8) {
        0 => AuditScope::Policy,
        1 => AuditScope::All,
        _ => AuditScope::Rules,
    };
    if let Some(last) = groups.last_mut() {
        // Flows are needed if one direction accepts everything and the other one little.
        if rng.u8(..3) == 0 {
            last.rules.push("out all to any accept".to_owned());
        } else if rng.u8(..4) == 0 {
            last.rules.push("in all from any accept".to_owned());
        }
    }
    let mut options = Vec::new();
    if rng.bool() {
        options.push("essential: false".to_owned());
    }
    if rng.bool() {
        options.push("non-ip: arp-only".to_owned());
    }
    // Logging does not change a packet's fate, but the packet takes another path through the
    // programs.
    if rng.u8(..3) == 0 {
        let which = rng
            .choice(["true", "inbound", "outbound"])
            .unwrap_or("true");
        options.push(format!("log-no-match: {which}"));
    }
    match rng.u8(..4) {
        0 => options.push("trailing-deny: honour".to_owned()),
        1 => options.push("trailing-deny: defer".to_owned()),
        _ => {}
    }
    PolicyText {
        candidate: Vec::new(),
        // Nearly every packet enters a flow where all is watched, and none may be evicted.
        max_flows: match audit {
            AuditScope::Rules => max_flows(),
            AuditScope::Policy | AuditScope::All => 131_072,
        },
        options,
        groups,
        audit,
    }
}

/// Makes a rule that drops one that is only watched, mostly.
pub(crate) fn audit(rng: &mut Rng, rule: &mut String) {
    let at = match rule.strip_suffix(" log") {
        Some(rest) => rest.len(),
        None => rule.len(),
    };
    if rule[..at].ends_with(" drop") && rng.u8(..3) != 0 {
        rule.insert_str(at, " audit");
    }
}

/// Ends a group with rules that drop everything, or nearly everything.
fn close(rng: &mut Rng, group: &mut Group) {
    for _ in 0..rng.usize(..3) {
        let rule = *rng
            .choice(&[
                "in all from any drop",
                "in all from 0.0.0.0/0 drop",
                "in all from ::/0 drop",
                "in all from 0.0.0.0/0,::/0 drop",
                "out all to any drop",
                "out all to ::/0 drop",
                "in all from 128.0.0.0/1 drop",
                "in tcp from any drop",
                "in all from any accept",
            ])
            .unwrap_or(&"in all from any drop");
        let log = if rng.u8(..4) == 0 { " log" } else { "" };
        group.rules.push(format!("{rule}{log}"));
    }
}
