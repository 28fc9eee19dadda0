//! All that `check` says of a valid policy.

use super::idle::{Idle, Why, idle};
use super::lint;
use crate::policy::{
    Action, Decider, Finding, Lint, Loaded, Location, Policy, Rule, Severity, Witness,
};

/// The most rules that a message names; the others are counted.
const NAMED: usize = 4;
/// The most findings of one code that [`listed`] keeps.
const LISTED: usize = 20;

/// What reading the policy has shown, what it leaves open, rules that never match or change
/// nothing, and what it never lets through.
pub fn findings(loaded: &Loaded) -> Vec<Finding> {
    let policy = &loaded.policy;
    let found = idle(policy);
    let mut never = vec![false; policy.rules.len()];
    for one in &found {
        if let Some(flag) = never.get_mut(one.rule as usize) {
            *flag = matches!(one.why, Why::NeverMatches { .. });
        }
    }
    let mut findings = loaded.findings.clone();
    findings.extend(lint::opens(policy, |rule| {
        !never.get(rule).unwrap_or(&false)
    }));
    findings.extend(found.iter().filter_map(|one| finding(policy, one)));
    findings.extend(lint::closes(policy, loaded.is_cluster));
    findings
}

/// Findings for a person: the first of each code, and how many there are of it besides.
pub fn listed(findings: &[Finding]) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    let mut left_out: Vec<(&'static str, usize, Severity)> = Vec::new();
    for finding in findings {
        if kept.iter().filter(|k| k.code == finding.code).count() < LISTED {
            kept.push(finding.clone());
            continue;
        }
        match left_out.iter_mut().find(|(code, ..)| *code == finding.code) {
            Some((_, count, worst)) => {
                *count += 1;
                *worst = finding.severity.min(*worst);
            }
            None => left_out.push((finding.code, 1, finding.severity)),
        }
    }
    for (code, count, severity) in left_out {
        let message = match count {
            1 => "and 1 more like these".to_owned(),
            n => format!("and {n} more like these"),
        };
        let after = kept.iter().rposition(|finding| finding.code == code);
        let finding = Finding {
            severity,
            ..Finding::error(code, message)
        };
        kept.insert(
            after.map_or(kept.len(), |place| place + 1),
            finding.help("`--json` lists all"),
        );
    }
    kept
}

fn finding(policy: &Policy, one: &Idle) -> Option<Finding> {
    let rule = policy.rules.get(one.rule as usize)?;
    let (finding, others) = match &one.why {
        Why::NeverMatches { covered_by } => {
            let others = covered_by.iter().copied().map(Some).collect();
            (never_matches(policy, rule, covered_by), others)
        }
        Why::ChangesNothing { instead } => {
            let finding = changes_nothing(policy, rule, instead);
            (finding, instead.clone())
        }
    };
    let deciders = others.iter().flatten().filter_map(|other| {
        let rule = policy.rules.get(*other as usize)?;
        Some(decider(rule))
    });
    Some(Finding {
        rules: deciders.collect(),
        witness: Some(Witness::from(&one.witness)),
        ..finding.at(&rule.source)
    })
}

/// The rule, and what it does.
fn this(rule: &Rule) -> String {
    format!("`{}` {}", rule.title(), rule.action.name())
}

fn never_matches(policy: &Policy, rule: &Rule, covered_by: &[u32]) -> Finding {
    let others: Vec<Option<u32>> = covered_by.iter().copied().map(Some).collect();
    let rules = names(policy, &others);
    let covers = match covered_by.len() {
        1 => "covers it",
        _ => "together cover it",
    };
    let that = match covered_by.len() {
        1 => "that rule",
        _ => "those rules",
    };
    let stands = match covered_by.len() {
        1 => "that rule stands",
        _ => "those rules stand",
    };
    let this = this(rule);
    let message = format!("{this} can never match: {rules} {covers}");
    let is_like = |by: &u32| {
        let by = policy.rules.get(*by as usize);
        by.is_some_and(|by| by.action == rule.action)
    };
    let does_the_same = covered_by.iter().all(is_like);
    let help = match (rule.action, does_the_same) {
        (Action::Accept, true) => "it can be removed".to_owned(),
        (Action::Drop | Action::Audit, true) => {
            format!("it changes nothing as long as {stands}")
        }
        (Action::Drop, false) => {
            format!("move it before {that}, so that it drops what it says")
        }
        (Action::Audit, false) => {
            "it watches nothing; the first rule that matches decides".to_owned()
        }
        (Action::Accept, false) => {
            "it lets nothing through; the first rule that matches decides".to_owned()
        }
    };
    let severity = match does_the_same {
        true => Severity::Note,
        false => Severity::Warning,
    };
    Finding {
        severity,
        ..Finding::note(Lint::ShadowedRule, message).help(help)
    }
}

fn changes_nothing(policy: &Policy, rule: &Rule, instead: &[Option<u32>]) -> Finding {
    let this = this(rule);
    let message = match instead {
        [None] => format!(
            "{this} changes nothing: what it drops would match no rule without it, and be dropped"
        ),
        [None, others @ ..] => {
            let rules = names(policy, others);
            format!(
                "{this} changes nothing: without it {rules} would drop the same, or no rule would \
                 match, which drops too"
            )
        }
        others => {
            let rules = names(policy, others);
            let action = rule.action.name();
            format!("{this} changes nothing: without it {rules} would {action} the same")
        }
    };
    let help = match instead {
        [None] => "it can stay: it has a counter of its own, and says what is meant",
        _ => "each such finding is about one rule alone: after removing it, check again",
    };
    Finding::note(Lint::RedundantRule, message).help(help)
}

/// A rule as findings name it.
pub(super) fn decider(rule: &Rule) -> Decider {
    Decider {
        direction: rule.direction,
        position: rule.position,
        group: rule.group.clone(),
        name: rule.name.clone(),
        action: rule.action,
        summary: rule.summary.clone(),
        location: rule.source.clone(),
    }
}

/// Rules of one direction in words: ``inbound rule 3 (`tcp 22 from any` accept, p.yaml:7)``.
fn names(policy: &Policy, rules: &[Option<u32>]) -> String {
    let rules = || {
        let known = |rule: &Option<u32>| policy.rules.get((*rule)? as usize);
        rules.iter().filter_map(known)
    };
    let count = rules().count();
    let Some(first) = rules().next() else {
        return "no rule".to_owned();
    };
    let direction = first.direction.name();
    let place = |Location { file, line, .. }: &Location| format!("{file}:{line}");
    if count == 1 {
        return format!(
            "{direction} rule {} (`{}` {}, {})",
            first.position,
            first.title(),
            first.action.name(),
            place(&first.source),
        );
    }
    let mut texts: Vec<String> = rules()
        .take(NAMED)
        .map(|rule| format!("{} ({})", rule.position, place(&rule.source)))
        .collect();
    let last = match count.checked_sub(NAMED) {
        Some(more @ 1..) => format!("{more} more"),
        _ => texts.pop().unwrap_or_default(),
    };
    format!("{direction} rules {} and {last}", texts.join(", "))
}
