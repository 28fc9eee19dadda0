//! The labels of series: escaped once, unique, bounded, and the same after a reload.

use std::collections::HashSet;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use sg_common::verdict::Direction;
use sg_policy::policy::titled;
use sha2::{Digest, Sha256};

use crate::kernel::state::SlotOwner;

/// How many rules of an interface have series of their own. What the others count is in series
/// whose rule is [`OTHER`], one for each direction and action.
pub(super) const RULES: usize = 10_000;

/// What stands for the rules beyond [`RULES`]. Their group is empty, which no group of a policy is.
pub(super) const OTHER: &str = "other";

/// A longer title of a rule is cut, and told apart by its checksum.
const LONGEST: usize = 160;

/// The labels of one series, as the text that stands between the braces at every reading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels(Arc<str>);

impl Labels {
    /// Of at least one label: a series without labels is encoded without them.
    pub(super) fn new(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        Labels(pairs.collect::<Vec<_>>().join(",").into())
    }
}

/// The encoder writes the name of a label as it is, so all labels are written as one name, to which
/// no value is added.
impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::fmt::Write as _;
        encoder
            .encode_label()
            .encode_label_key()?
            .write_str(&self.0)
    }
}

/// The labels of a series about one direction of an interface.
pub(super) fn of_direction(interface: &str, direction: Direction, more: &[(&str, &str)]) -> Labels {
    let first = [("interface", interface), ("direction", direction.name())];
    Labels::new(&[&first, more].concat())
}

/// Backslash, quotation mark and line feed are escaped, in both formats.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

/// The label `rule`: its title, by which it is shown everywhere. It depends on the rule alone, and
/// not on what else is in the policy or where it stands, so that a reload leaves it as it is.
fn rule_label(owner: &SlotOwner) -> String {
    let mut title = titled(owner.name.as_deref(), &owner.summary);
    // A summary leaves out most of a long list, and two lists may begin alike.
    let is_short = title.len() <= LONGEST && !has_more(&owner.summary);
    if !is_short {
        let end = (0..=LONGEST).rev().find(|at| title.is_char_boundary(*at));
        title.truncate(end.unwrap_or_default());
        title.push(' ');
        title.push_str(&checksum(owner));
    }
    // The same rule again in the same group.
    if let Some((_, number)) = owner.identity.rsplit_once('#')
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && !number.is_empty()
        && is_short
    {
        title.push_str(&format!(" #{number}"));
    }
    title
}

/// Whether a summary ends a list with `+7 more`.
fn has_more(summary: &str) -> bool {
    summary.contains(" more")
}

/// Eight digits that tell rules apart.
fn checksum(owner: &SlotOwner) -> String {
    let digest = Sha256::digest(owner.identity.as_bytes());
    digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The labels of the rules of one interface, in the order of `owners`. `None` for those beyond the
/// first [`RULES`]; they have to come in an order that a reload leaves as it is.
pub(super) fn of_rules(
    interface: &str,
    owners: &[&SlotOwner],
    rules: usize,
) -> Vec<Option<Labels>> {
    let mut taken: HashSet<Labels> = HashSet::new();
    let labels = |owner: &SlotOwner, rule: &str| {
        Labels::new(&[
            ("interface", interface),
            ("direction", owner.direction.name()),
            ("group", &owner.group),
            ("rule", rule),
            ("action", owner.action.name()),
        ])
    };
    let of = |(i, owner): (usize, &&SlotOwner)| {
        if i >= rules {
            return None;
        }
        let mut rule = rule_label(owner);
        let mut found = labels(owner, &rule);
        // Two rules may have the same title. A checksum of their identities tells them apart.
        if taken.contains(&found) {
            rule.push(' ');
            rule.push_str(&checksum(owner));
            found = labels(owner, &rule);
        }
        taken.insert(found.clone());
        Some(found)
    };
    owners.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sg_common::verdict::Action;

    fn owner(name: Option<&str>, summary: &str, identity: &str) -> SlotOwner {
        SlotOwner {
            slot: 40,
            direction: Direction::Inbound,
            position: 1,
            group: "web".into(),
            action: Action::Accept,
            name: name.map(str::to_owned),
            summary: summary.into(),
            description: None,
            location: None,
            identity: identity.into(),
            base: Default::default(),
            more: Default::default(),
            beside: None,
        }
    }

    #[test]
    fn values_are_escaped() {
        let labels = Labels::new(&[("a", "x\"y\\z\nw"), ("b", "é\"")]);
        assert_eq!(&*labels.0, r#"a="x\"y\\z\nw",b="é\"""#);
    }

    #[test]
    fn a_rule_is_named_by_itself_alone() {
        for (name, summary, identity, expected) in [
            (None, "tcp 22 from any", "a|b", "tcp 22 from any"),
            (
                Some("ssh"),
                "tcp 22 from any",
                "a|b",
                "[ssh] tcp 22 from any",
            ),
            (
                None,
                "tcp 22 from any",
                "a|b|accept#2",
                "tcp 22 from any #2",
            ),
            (
                None,
                "tcp 22 from @ops#1",
                "g|tcp @ops#1|accept",
                "tcp 22 from @ops#1",
            ),
        ] {
            assert_eq!(rule_label(&owner(name, summary, identity)), expected);
        }
        let more = |identity| rule_label(&owner(None, "tcp 1,2,3,4+7 more from any", identity));
        assert_ne!(more("a"), more("b"));
        assert!(more("a").starts_with("tcp 1,2,3,4+7 more from any "));
        let long = rule_label(&owner(None, &"ü".repeat(300), "a"));
        assert!(long.len() < LONGEST + 12, "{long}");
    }

    /// Position, description and other rules do not change a label, two rules never share one, and
    /// what is beyond the bound has none.
    #[test]
    fn labels_are_unique_bounded_and_stay() {
        let all = [
            owner(None, "tcp 1 from any", "1"),
            owner(None, "tcp 1 from any", "1#2"),
            owner(Some("x"), "tcp 1 from any", "2"),
            owner(Some("x"), "tcp 1 from any", "3"),
            owner(None, "tcp 2 from any", "4"),
        ];
        let refs: Vec<&SlotOwner> = all.iter().collect();
        let labels = of_rules("eth0", &refs, 4);
        assert_eq!(labels[4], None);
        let found: HashSet<&Labels> = labels.iter().flatten().collect();
        assert_eq!(found.len(), 4);
        let moved = SlotOwner {
            position: 9,
            description: Some("new words".into()),
            ..all[0].clone()
        };
        assert_eq!(of_rules("eth0", &[&moved], 4)[0], labels[0]);
    }
}
