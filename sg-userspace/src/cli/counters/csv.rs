//! Counters as CSV (RFC 4180, with a line feed at the end of a line): a row for each rule, reason
//! and total, with exact numbers, and with rates where there is a reading before.

use sg_userspace::observe::counters::Counters;

use crate::cli::rates::{Rate, Rates};

pub(super) const HEADER: &str = "sampled_at,since,interface,netns,direction,kind,position,group,\
                                 name,action,match,description,packets,bytes,reply_packets,\
                                 reply_bytes,accepted,dropped,audited,packets_per_second,\
                                 bits_per_second\n";

/// The rows of one interface. What a row does not have is empty: a total has no action, only a rule
/// has replies, and a first reading has no rates.
pub(super) fn rows(one: &Counters, rates: Option<&Rates>) -> String {
    let mut out = String::new();
    let rates = rates.filter(|rates| rates.are_known());
    let rate = |of: &dyn Fn(&Rates) -> Rate| match rates.map(of) {
        None => [String::new(), String::new()],
        Some(rate) => [
            format!("{:.1}", rate.packets),
            format!("{:.1}", rate.bits()),
        ],
    };
    let mut row = |fields: [&str; 15], rate: [String; 2]| {
        let netns = one.standing.netns.as_deref().unwrap_or_default();
        let head = [
            one.sampled_at.as_str(),
            one.since.as_str(),
            one.standing.interface.as_str(),
            netns,
        ];
        let rate = rate.iter().map(String::as_str);
        let fields = head.into_iter().chain(fields).chain(rate);
        let fields: Vec<String> = fields.map(field).collect();
        out.push_str(&fields.join(","));
        out.push('\n');
    };
    for rule in &one.rules {
        let fields: [&str; 15] = [
            rule.direction.name(),
            "rule",
            &rule.position.map(|it| it.to_string()).unwrap_or_default(),
            &rule.group,
            rule.name.as_deref().unwrap_or_default(),
            rule.action.name(),
            &rule.summary,
            rule.description.as_deref().unwrap_or_default(),
            &rule.packets.to_string(),
            &rule.bytes.to_string(),
            &rule.reply_packets.to_string(),
            &rule.reply_bytes.to_string(),
            "",
            "",
            "",
        ];
        row(fields, rate(&|rates| rates.of_rule(one, rule)));
    }
    for reason in &one.reasons {
        let fields: [&str; 15] = [
            reason.direction.name(),
            "reason",
            "",
            "",
            "",
            reason.action.name(),
            &reason.reason.to_string(),
            "",
            &reason.packets.to_string(),
            &reason.bytes.to_string(),
            "",
            "",
            "",
            "",
            "",
        ];
        row(fields, rate(&|rates| rates.of_reason(one, reason)));
    }
    for total in &one.totals {
        let fields: [&str; 15] = [
            total.direction.name(),
            "total",
            "",
            "",
            "",
            "",
            "",
            "",
            &total.packets.to_string(),
            &total.bytes.to_string(),
            "",
            "",
            &total.accepted.to_string(),
            &total.dropped.to_string(),
            &total.audited.to_string(),
        ];
        row(fields, rate(&|rates| rates.of_total(one, total)));
    }
    out
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
