//! Counters as CSV (RFC 4180, with a line feed at the end of a line): a row for each rule, reason
//! and total, with exact numbers.

use sg_userspace::observe::counters::Counters;

pub(super) const HEADER: &str = "sampled_at,since,interface,netns,direction,kind,position,group,\
                                 name,action,match,description,packets,bytes,reply_packets,\
                                 reply_bytes,accepted,dropped,audited\n";

/// The rows of one interface. What a row does not have is empty: a total has no action, and only a
/// rule has replies.
pub(super) fn rows(one: &Counters) -> String {
    let mut out = String::new();
    let mut row = |fields: [&str; 15]| {
        let netns = one.netns.as_deref().unwrap_or_default();
        let head = [
            one.sampled_at.as_str(),
            one.since.as_str(),
            one.interface.as_str(),
            netns,
        ];
        let fields: Vec<String> = head.iter().chain(&fields).map(|text| field(text)).collect();
        out.push_str(&fields.join(","));
        out.push('\n');
    };
    for rule in &one.rules {
        row([
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
        ]);
    }
    for reason in &one.reasons {
        row([
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
        ]);
    }
    for total in &one.totals {
        row([
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
        ]);
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
    use super::*;

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
