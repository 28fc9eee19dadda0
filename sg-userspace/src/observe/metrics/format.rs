//! The two formats: OpenMetrics 1.0, and the older text format of Prometheus, which the textfile
//! collector of node_exporter and `promtool check metrics` read. Both are made of what
//! prometheus-client writes.

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
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sample));
    let mut encoded = String::new();
    encode(&mut encoded, &registry)
        .map_err(|error| KernelError::io("writing metrics", std::io::Error::other(error)))?;
    Ok(written(&encoded, format))
}

/// What kind the family is that is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Now {
    Counter,
    Info,
    Other,
}

fn written(encoded: &str, format: Format) -> String {
    let mut out = String::with_capacity(encoded.len() + encoded.len() / 16);
    let (mut name, mut now, mut help) = ("", Now::Other, "");
    let mut push = |parts: &[&str]| {
        parts.iter().for_each(|part| out.push_str(part));
        out.push('\n');
    };
    for line in encoded.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (of, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            name = of;
            now = match kind {
                "counter" => Now::Counter,
                "info" => Now::Info,
                _ => Now::Other,
            };
            let (end, kind) = match (format, now) {
                (Format::Text, Now::Counter) => ("_total", kind),
                (Format::Text, Now::Info) => ("_info", "gauge"),
                _ => ("", kind),
            };
            push(&["# HELP ", name, end, " ", help]);
            push(&["# TYPE ", name, end, " ", kind]);
        } else if line.starts_with('#') {
            if format == Format::OpenMetrics {
                push(&[line]);
            }
        } else {
            let rest = line.strip_prefix(name).unwrap_or(line);
            // See `Encoder::counters`.
            let is_created = now == Now::Counter && !rest.starts_with('_');
            match (is_created, format) {
                (true, Format::OpenMetrics) => push(&[name, "_created", rest]),
                (true, Format::Text) => {}
                (false, _) => push(&[line]),
            }
        }
    }
    out
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
            created: 1.5e9,
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
sgctl_rule_packets_created{interface=\"eth0\",rule=\"a\"} 1500000000.0
sgctl_rule_packets_total{interface=\"eth0\",rule=\"b \\\"c\\\"\"} 2
sgctl_rule_packets_created{interface=\"eth0\",rule=\"b \\\"c\\\"\"} 1500000000.0
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
