//! Groups of all files → one list of rules: options reconciled, trailing denies deferred or
//! honoured, positions and identities given.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::flow::{TIMEOUTS, Timeout};

use super::cover::{self, Cover};
use super::digest;
use super::document::{Document, Given, Group};
use super::errors::Problem;
use super::fields::{DESCRIPTION, NAME};
use super::finding::{Finding, Lint, Location};
use super::loading::Loading;
use super::model::{
    self, Action, AuditScope, Direction, Guard, Policy, Prefix, Protocol, Remote, Rule,
    TrailingDeny, Written, identity_of,
};
use super::rules::Draft;
use super::set_name::is_set_name;
use super::source::Source;
use super::spelling::{self, Spelling};

/// A policy, and what joining its groups has shown.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) policy: Policy,
    pub(crate) findings: Vec<Finding>,
}

/// Joins the documents in binding order.
pub(crate) fn join(loading: &mut Loading, documents: Vec<(Source, Document)>) -> Joined {
    distinct_groups(loading, &documents);
    let trailing_deny = agree(loading, &documents, "trailing-deny", |d| {
        d.options.trailing_deny.as_ref()
    });
    let essential = agree(loading, &documents, "essential", |d| {
        d.options.essential.as_ref()
    });
    let non_ip = agree(loading, &documents, "non-ip", |d| d.options.non_ip.as_ref());
    let established = agree(loading, &documents, "established", |d| {
        d.options.established.as_ref()
    });
    let log_no_match = agree(loading, &documents, "log-no-match", |d| {
        d.options.log_no_match.as_ref()
    });
    let timeouts = timeouts(loading, &documents);
    let name = joined(documents.iter().map(|(_, d)| d.name.as_str()), "+", NAME);
    let mut parts = Parts::of(documents);
    let trailing_deny = trailing_deny.unwrap_or_default();
    trailing(&mut parts.groups, trailing_deny, &mut parts.findings);
    let mut policy = Policy {
        name,
        digest: String::new(),
        description: parts.description(),
        groups: parts.described_groups(),
        trailing_deny,
        rules: number(parts.groups),
        essential: essential.unwrap_or(true),
        non_ip: non_ip.unwrap_or_default(),
        established: established.unwrap_or_default(),
        log_no_match: log_no_match.unwrap_or_default(),
        audit: AuditScope::Rules,
        timeouts,
        guard: parts.guard,
        sources: loading.take_files(),
    };
    policy.digest = digest::of(&policy);
    Joined {
        policy,
        findings: parts.findings,
    }
}

/// The timeouts that the files agree on, and the defaults of the others.
fn timeouts(loading: &mut Loading, documents: &[(Source, Document)]) -> [u32; TIMEOUTS] {
    let mut timeouts = Timeout::defaults();
    for (index, (timeout, slot)) in Timeout::ALL.into_iter().zip(&mut timeouts).enumerate() {
        let key = format!("timeouts: {}", timeout.name());
        let given = agree(loading, documents, &key, |d| {
            d.options.timeouts.get(index).and_then(Option::as_ref)
        });
        *slot = given.unwrap_or(*slot);
    }
    timeouts
}

/// What the files have, one behind the other.
#[derive(Default)]
struct Parts {
    groups: Vec<Group>,
    /// For each group those of its file.
    sets: Vec<Arc<model::Sets>>,
    descriptions: Vec<String>,
    guard: Vec<Guard>,
    findings: Vec<Finding>,
}

impl Parts {
    fn of(documents: Vec<(Source, Document)>) -> Parts {
        let is_alone = documents.len() == 1;
        let mut parts = Parts::default();
        for (_, mut document) in documents {
            parts.guard.append(&mut document.guard);
            parts.findings.append(&mut document.findings);
            let sets = document.groups.iter().map(|_| Arc::clone(&document.sets));
            parts.sets.extend(sets);
            match document.groups.as_mut_slice() {
                // What a file says of its only group stays with the group where files are joined.
                [one] if !is_alone && one.description.is_none() => {
                    one.description = document.description;
                }
                _ => parts.descriptions.extend(document.description),
            }
            parts.groups.append(&mut document.groups);
        }
        parts
    }

    fn description(&self) -> Option<String> {
        let texts = self.descriptions.iter().map(String::as_str);
        let is_given = !self.descriptions.is_empty();
        is_given.then(|| joined(texts, "; ", DESCRIPTION))
    }

    /// The groups without their rules.
    fn described_groups(&self) -> Vec<model::Group> {
        let groups = self.groups.iter().zip(&self.sets);
        let groups = groups.map(|(group, sets)| model::Group {
            name: group.name.clone(),
            is_named: group.is_named,
            description: group.description.clone(),
            sets: Arc::clone(sets),
        });
        groups.collect()
    }
}

/// The texts behind each other, no longer than a text that a policy may have there.
fn joined<'t>(texts: impl Iterator<Item = &'t str>, between: &str, longest: usize) -> String {
    let whole = texts.collect::<Vec<_>>().join(between);
    let cut: String = whole.chars().take(longest).collect();
    cut.trim_end().to_owned()
}

/// The value of an option that several files may give, if they agree.
fn agree<T: Copy + PartialEq>(
    loading: &mut Loading,
    documents: &[(Source, Document)],
    key: &str,
    option: impl Fn(&Document) -> Option<&Given<T>>,
) -> Option<T> {
    let mut first: Option<&Given<T>> = None;
    for (source, document) in documents {
        match (first, option(document)) {
            (Some(first), Some(other)) if first.value != other.value => {
                let problem = Problem::new(
                    "conflict",
                    format!(
                        "`{key}` is given differently here and at {}",
                        first.location
                    ),
                )
                .expected("one value, since both files make one policy")
                .help("make them equal");
                loading.report.push(source, other.at, problem);
            }
            (None, given) => first = given,
            _ => {}
        }
    }
    first.map(|given| given.value)
}

/// Reports groups of the same name in different files.
fn distinct_groups(loading: &mut Loading, documents: &[(Source, Document)]) {
    let mut seen: HashMap<&str, (usize, &Location)> = HashMap::new();
    for (index, (source, document)) in documents.iter().enumerate() {
        for group in &document.groups {
            match seen.get(group.name.as_str()) {
                Some((first, location)) if *first != index => {
                    let problem = Problem::new(
                        "duplicate-name",
                        format!(
                            "a second group `{}`; the first is at {location}",
                            group.name
                        ),
                    )
                    .expected("each group's name once, over all files")
                    .help("give this one another `name`, or bind the file once");
                    loading.report.push(source, group.at, problem);
                }
                Some(_) => {}
                None => {
                    seen.insert(&group.name, (index, &group.location));
                }
            }
        }
    }
}

/// Leaves the trailing denies of all groups but the last out, or keeps them, and says so.
fn trailing(groups: &mut [Group], mode: TrailingDeny, findings: &mut Vec<Finding>) {
    let Some((last, others)) = groups.split_last_mut() else {
        return;
    };
    let mut deferred: [Vec<Draft>; 2] = Default::default();
    for group in others {
        for direction in Direction::BOTH {
            let rules = match direction {
                Direction::Inbound => &mut group.inbound,
                Direction::Outbound => &mut group.outbound,
            };
            let kept = rules.len() - trailing_denies(rules);
            let Some(first) = rules.get(kept) else {
                continue;
            };
            let what = format!(
                "group `{}` ends its {} rules with `{}` drop and is not the last group",
                group.name,
                direction.name(),
                first.spelling.summary
            );
            let location = first.location.clone();
            let finding = match mode {
                TrailingDeny::Defer => {
                    let left_out = rules.split_off(kept).into_iter();
                    let keeps = |rule: &Draft| rule.log || rule.action == Action::Audit;
                    deferred[direction as usize].extend(left_out.filter(keeps));
                    Finding::warning(
                        Lint::TrailingDenyDeferred,
                        format!("{what}: it takes effect only in the last group and is left out here"),
                    )
                    .help("`trailing-deny: honour` takes it literally")
                }
                TrailingDeny::Honour => Finding::warning(
                    Lint::TrailingDenyHonoured,
                    format!("{what}: it is taken literally, and the groups after it are dead for what it covers"),
                )
                .help("what the later groups say counts only for what it does not cover"),
            };
            findings.push(finding.at(&location));
        }
    }
    for (direction, deferred) in Direction::BOTH.into_iter().zip(deferred) {
        keep_logs(last.rules_mut(direction), deferred);
    }
}

/// How many rules at the end of a list drop everything, of one family or both.
fn trailing_denies(rules: &[Draft]) -> usize {
    let denies = |rule: &&Draft| {
        rule.protocol == Protocol::All
            && rule.action != Action::Accept
            && cover::is_whole_family(&rule.remote)
    };
    rules.iter().rev().take_while(denies).count()
}

/// Lets deferred denies log and audit in the last group what they would have (SPEC P9 and C9): by
/// the rule there that drops the same, or else as rules in front of those that drop everything.
/// Where the last group's own rule drops the same, it drops it.
fn keep_logs(last: &mut Vec<Draft>, deferred: Vec<Draft>) {
    let denies = last.len() - trailing_denies(last);
    let mut at = denies;
    for rule in deferred {
        let mut rest = last.iter_mut().skip(denies);
        match rest.find(|other| other.remote == rule.remote) {
            Some(same) => same.log |= rule.log,
            None => {
                last.insert(at, without_sets(rule));
                at += 1;
            }
        }
    }
}

/// The rule without names of sets, which the file of another group may not have.
fn without_sets(rule: Draft) -> Draft {
    if !rule.written.remote.split(',').any(is_set_name) {
        return rule;
    }
    let mut remote = Remote::default();
    let cover = Cover::of(&rule.remote);
    let text = match (cover.whole_v4(), cover.whole_v6()) {
        (true, true) => "any",
        (true, false) => "0.0.0.0/0",
        _ => "::/0",
    };
    if cover.whole_v4() {
        remote.v4.push(Prefix { bits: 0, len: 0 });
    }
    if cover.whole_v6() {
        remote.v6.push(Prefix { bits: 0, len: 0 });
    }
    let spelled = spelling::Written::new(&[text], vec![text.to_owned()]);
    Draft {
        spelling: Spelling::new(rule.protocol, None, None, rule.direction, &spelled),
        written: Written {
            ports: None,
            remote: text.into(),
        },
        remote: Arc::new(remote),
        ..rule
    }
}

/// Gives every rule its position and identity.
fn number(groups: Vec<Group>) -> Vec<Rule> {
    let mut occurrences: HashMap<String, u32> = HashMap::new();
    let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
    for group in groups {
        let name = group.name;
        inbound.extend(group.inbound.into_iter().map(|draft| (name.clone(), draft)));
        outbound.extend(
            group
                .outbound
                .into_iter()
                .map(|draft| (name.clone(), draft)),
        );
    }
    let mut rules = Vec::new();
    for drafts in [inbound, outbound] {
        for (position, (group, draft)) in (1..).zip(drafts) {
            let canonical = &draft.spelling.canonical;
            let mut identity = identity_of(&group, draft.direction, canonical, draft.action);
            let count = occurrences.entry(identity.clone()).or_default();
            *count += 1;
            if *count > 1 {
                identity.push_str(&format!("#{count}"));
            }
            rules.push(Rule {
                direction: draft.direction,
                position,
                group,
                name: draft.name,
                description: draft.description,
                protocol: draft.protocol,
                ports: draft.ports,
                icmp: draft.icmp,
                remote: draft.remote,
                written: draft.written,
                action: draft.action,
                audit: draft.action == Action::Audit,
                log: draft.log,
                summary: draft.spelling.summary,
                identity,
                source: draft.location,
            });
        }
    }
    rules
}
