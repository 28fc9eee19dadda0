//! Counters as CSV (RFC 4180, with a line feed at the end of a line): a row for each rule, reason
//! and total, with exact numbers, and with rates where there is a reading before.

use sg_userspace::observe::counters::Counters;

use crate::cli::rates::{Rate, Rates};

pub(super) const HEADER: &str = "sampled_at,since,interface,netns,direction,kind,position,group,\
                                 name,action,match,description,packets,bytes,reply_packets,\
                                 reply_bytes,accepted,dropped,audited,packets_per_second,\
                                 bits_per_second\n";

/// A row. What it does not have is empty: a total has no action, only a rule has replies.
#[derive(Default)]
struct Row<'a> {
    direction: &'a str,
    kind: &'a str,
    position: Option<u32>,
    group: &'a str,
    name: &'a str,
    action: &'a str,
    what: &'a str,
    description: &'a str,
    packets: u64,
    bytes: u64,
    /// Packets and bytes.
    replies: Option<[u64; 2]>,
    /// Packets that were accepted, dropped and audited.
    outcomes: Option<[u64; 3]>,
    /// `None` of a first reading.
    rate: Option<Rate>,
}

/// The rows of one interface.
pub(super) fn rows(one: &Counters, rates: Option<&Rates>) -> String {
    let rates = rates.filter(|rates| rates.are_known());
    let rules = one.rules.iter().map(|rule| Row {
        direction: rule.direction.name(),
        kind: "rule",
        position: rule.position,
        group: &rule.group,
        name: rule.name.as_deref().unwrap_or_default(),
        action: rule.action.name(),
        what: &rule.summary,
        description: rule.description.as_deref().unwrap_or_default(),
        packets: rule.packets,
        bytes: rule.bytes,
        replies: Some([rule.reply_packets, rule.reply_bytes]),
        rate: rates.map(|rates| rates.of_rule(one, rule)),
        ..Row::default()
    });
    let reasons = one.reasons.iter().map(|reason| Row {
        direction: reason.direction.name(),
        kind: "reason",
        action: reason.action.name(),
        what: reason.reason.name(),
        packets: reason.packets,
        bytes: reason.bytes,
        rate: rates.map(|rates| rates.of_reason(one, reason)),
        ..Row::default()
    });
    let totals = one.totals.iter().map(|total| Row {
        direction: total.direction.name(),
        kind: "total",
        packets: total.packets,
        bytes: total.bytes,
        outcomes: Some([total.accepted, total.dropped, total.audited]),
        rate: rates.map(|rates| rates.of_total(one, total)),
        ..Row::default()
    });
    let rows = rules.chain(reasons).chain(totals);
    rows.map(|row| row.line(one)).collect()
}

impl Row<'_> {
    /// The fields, in the order of [`HEADER`].
    fn line(&self, one: &Counters) -> String {
        let number = |number: Option<u64>| number.map(|it| it.to_string()).unwrap_or_default();
        let rate = |rate: Option<f64>| rate.map(|it| format!("{it:.1}")).unwrap_or_default();
        let text = |text: &str| text.to_owned();
        let fields = [
            text(&one.sampled_at),
            text(&one.since),
            text(&one.standing.interface),
            text(one.standing.netns.as_deref().unwrap_or_default()),
            text(self.direction),
            text(self.kind),
            number(self.position.map(u64::from)),
            text(self.group),
            text(self.name),
            text(self.action),
            text(self.what),
            text(self.description),
            number(Some(self.packets)),
            number(Some(self.bytes)),
            number(self.replies.map(|[packets, _]| packets)),
            number(self.replies.map(|[_, bytes]| bytes)),
            number(self.outcomes.map(|[accepted, ..]| accepted)),
            number(self.outcomes.map(|[_, dropped, _]| dropped)),
            number(self.outcomes.map(|[.., audited]| audited)),
            rate(self.rate.map(|rate| rate.packets)),
            rate(self.rate.map(Rate::bits)),
        ];
        fields.map(|it| field(&it)).join(",") + "\n"
    }
}

/// A field, in quotes if it has to be.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use sg_common::verdict::Direction;

    use super::*;
    use crate::cli::rates::Reading;
    use crate::fixtures;

    /// A reading that has none before it does not say that nothing comes.
    #[test]
    fn rates_are_there_where_they_are_known() {
        let total = |accepted| Counters {
            totals: vec![fixtures::totals(Direction::Inbound, accepted, 0)],
            ..fixtures::counters("eth0")
        };
        let fields = HEADER.split(',').count();
        let last_two = |rates: Option<&Rates>| {
            let rows = rows(&total(9000), rates);
            let row: Vec<String> = rows.trim_end().split(',').map(str::to_owned).collect();
            assert_eq!(row.len(), fields, "{rows}");
            row[fields - 2..].to_vec()
        };
        assert_eq!(last_two(None), ["", ""]);
        assert_eq!(last_two(Some(&Rates::since(None))), ["", ""]);
        let before = Reading::of(&[total(0)]);
        std::thread::sleep(std::time::Duration::from_millis(10));
        let known = last_two(Some(&Rates::since(Some(before))));
        assert!(known[0].parse::<f64>().unwrap() > 1000.0, "{known:?}");
        // No bytes were counted.
        assert_eq!(known[1], "0.0");
    }

    #[test]
    fn fields_are_quoted_where_they_have_to_be() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("", ""),
        ] {
            assert_eq!(field(text), expected);
        }
    }
}
