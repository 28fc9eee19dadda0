//! The two formats: OpenMetrics 1.0, and the older text format of Prometheus, which the textfile
//! collector of node_exporter and `promtool check metrics` read. Both are made of what
//! prometheus-client writes.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::sample::Sample;
use crate::kernel::KernelError;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4: counters have no time of creation, and an info
    /// is a gauge.
    Text,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a sample has, as text.
///
/// # Errors
/// None that is known: it is written to memory.
pub fn expose(sample: Sample, format: Format) -> Result<String, KernelError> {
    expose_into(sample, format, String::new())
}

/// The same in the memory of an earlier text. Ten thousand rules take megabytes, and it costs more
/// to get them from the kernel than to write them.
///
/// # Errors
/// As [`expose`].
pub fn expose_into(
    sample: Sample,
    format: Format,
    mut memory: String,
) -> Result<String, KernelError> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sample));
    memory.clear();
    let mut written = Written {
        out: memory,
        comment: String::new(),
        help: String::new(),
        format,
        now: Now::Other,
        at: At::Start,
    };
    encode(&mut written, &registry)
        .map_err(|error| KernelError::io("writing metrics", std::io::Error::other(error)))?;
    Ok(written.out)
}

/// What kind the family is that is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Now {
    Counter,
    Info,
    Other,
}

/// Where in a line the writer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Nothing of it has come.
    Start,
    /// It begins with `#`.
    Comment,
    /// The name of a series has come, without what its kind adds. The line begins there.
    Name(usize),
    Rest,
    /// It is left out.
    Skipped,
}

/// Takes what the library writes, and changes it on the way. The library writes the name of a
/// family in one piece, and so is what its kind adds, and the end of a line.
struct Written {
    out: String,
    /// As much of a comment as has come.
    comment: String,
    /// What the family means, with the end of the line.
    help: String,
    format: Format,
    now: Now,
    at: At,
}

impl fmt::Write for Written {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Bytes, since a comparison with a character is a call, and there are millions.
        let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().next_back()) else {
            return Ok(());
        };
        match self.at {
            At::Start if first == b'#' => {
                self.comment.clear();
                self.at = At::Comment;
            }
            At::Start => self.at = At::Name(self.out.len()),
            // See `Encoder::counters`.
            At::Name(begin) if self.now == Now::Counter && first != b'_' => match self.format {
                Format::OpenMetrics => {
                    self.out.push_str("_created");
                    self.at = At::Rest;
                }
                Format::Text => {
                    self.out.truncate(begin);
                    self.at = At::Skipped;
                }
            },
            At::Name(_) => self.at = At::Rest,
            At::Comment | At::Rest | At::Skipped => {}
        }
        match self.at {
            At::Comment => self.comment.push_str(text),
            At::Skipped => {}
            _ => self.out.push_str(text),
        }
        if last == b'\n' {
            if self.at == At::Comment {
                self.end_comment();
            }
            self.at = At::Start;
        }
        Ok(())
    }
}

impl Written {
    fn end_comment(&mut self) {
        let line = self.comment.as_str();
        let mut push = |parts: &[&str]| parts.iter().for_each(|part| self.out.push_str(part));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            self.help.clear();
            self.help
                .push_str(rest.split_once(' ').map_or("\n", |(_, help)| help));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.trim_end().split_once(' ').unwrap_or((rest, ""));
            self.now = match kind {
                "counter" => Now::Counter,
                "info" => Now::Info,
                _ => Now::Other,
            };
            let (end, kind) = match (self.format, self.now) {
                (Format::Text, Now::Counter) => ("_total", kind),
                (Format::Text, Now::Info) => ("_info", "gauge"),
                _ => ("", kind),
            };
            push(&["# HELP ", name, end, " ", &self.help]);
            push(&["# TYPE ", name, end, " ", kind, "\n"]);
        } else if self.format == Format::OpenMetrics {
            push(&[line]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::Labels;
    use super::super::sample::Series;
    use super::*;

    fn sample() -> Sample {
        let series = |rule: &str, packets| Series {
            labels: Labels::new(&[("interface", "eth0"), ("rule", rule)]),
            counts: [packets, 10 * packets, 1],
            created: 1_500_000_000,
        };
        Sample {
            rules: vec![series("a", 1), series("b \"c\"", 2)],
            capacity: Some(9),
            ..Sample::default()
        }
    }

    #[test]
    fn openmetrics_has_times_of_creation_and_an_end() {
        let text = expose(sample(), Format::OpenMetrics).unwrap();
        let family = "\
# HELP sgctl_rule_packets Packets that a rule decided
# TYPE sgctl_rule_packets counter
sgctl_rule_packets_total{interface=\"eth0\",rule=\"a\"} 1
sgctl_rule_packets_created{interface=\"eth0\",rule=\"a\"} 1500000000
sgctl_rule_packets_total{interface=\"eth0\",rule=\"b \\\"c\\\"\"} 2
sgctl_rule_packets_created{interface=\"eth0\",rule=\"b \\\"c\\\"\"} 1500000000
";
        assert!(text.contains(family), "{text}");
        assert!(
            text.contains("# TYPE sgctl_build info\nsgctl_build_info{version="),
            "{text}"
        );
        assert!(text.ends_with("sgctl_flow_capacity 9\n# EOF\n"), "{text}");
        // What was not read is not there.
        assert!(!text.contains("sgctl_flows"), "{text}");
    }

    #[test]
    fn memory_of_an_earlier_text_is_used_again() {
        for format in [Format::OpenMetrics, Format::Text] {
            let text = expose(sample(), format).unwrap();
            let again = expose_into(sample(), format, "of before".repeat(1000)).unwrap();
            assert_eq!(again, text);
            assert!(again.capacity() >= 9000, "{}", again.capacity());
        }
    }

    #[test]
    fn the_older_format_has_the_same_series_by_their_whole_names() {
        let text = expose(sample(), Format::Text).unwrap();
        let family = "\
# HELP sgctl_rule_packets_total Packets that a rule decided
# TYPE sgctl_rule_packets_total counter
sgctl_rule_packets_total{interface=\"eth0\",rule=\"a\"} 1
sgctl_rule_packets_total{interface=\"eth0\",rule=\"b \\\"c\\\"\"} 2
";
        assert!(text.contains(family), "{text}");
        assert!(text.contains("# TYPE sgctl_build_info gauge\n"), "{text}");
        assert!(
            !text.contains("EOF") && !text.contains("_created"),
            "{text}"
        );
    }
}
