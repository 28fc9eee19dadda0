//! The families of metrics: their names, what they mean, and which part of a sample they show. The
//! table in docs/metrics.md is compared with this one.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder};
use prometheus_client::metrics::MetricType;
use sg_common::LAYOUT_VERSION;

use super::labels::Labels;
use super::sample::{Sample, Series};

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Never goes back as long as its attachment exists.
    Counter,
    Gauge,
    /// Always one; the labels say it.
    Info,
}

/// A family of metrics.
#[derive(Clone, Copy, Debug)]
pub struct FamilyInfo {
    /// As series are called, with `_total` or `_info`.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const RULE: &[&str] = &["interface", "direction", "group", "rule", "action"];

/// All families, in the order in which they are written.
pub const FAMILIES: [FamilyInfo; 15] = [
    FamilyInfo {
        name: "sgctl_build_info",
        kind: Kind::Info,
        labels: &["version", "layout"],
        help: "The version of sgctl, and of the layout of what it pins",
    },
    FamilyInfo {
        name: "sgctl_policy_info",
        kind: Kind::Info,
        labels: &["name", "digest", "generation"],
        help: "A policy that is in force",
    },
    FamilyInfo {
        name: "sgctl_attachment_healthy",
        kind: Kind::Gauge,
        labels: &["interface", "direction"],
        help: "Whether what is attached is what the policy in force needs, without a fault",
    },
    FamilyInfo {
        name: "sgctl_confirm_deadline_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the policy in force is undone unless it is confirmed",
    },
    FamilyInfo {
        name: "sgctl_packets_total",
        kind: Kind::Counter,
        labels: &["interface", "direction"],
        help: "Packets that reached an interface in a direction, whatever decided them",
    },
    FamilyInfo {
        name: "sgctl_bytes_total",
        kind: Kind::Counter,
        labels: &["interface", "direction"],
        help: "Bytes of the packets that reached an interface in a direction",
    },
    FamilyInfo {
        name: "sgctl_rule_packets_total",
        kind: Kind::Counter,
        labels: RULE,
        help: "Packets that a rule decided",
    },
    FamilyInfo {
        name: "sgctl_rule_bytes_total",
        kind: Kind::Counter,
        labels: RULE,
        help: "Bytes of the packets that a rule decided",
    },
    FamilyInfo {
        name: "sgctl_rule_replies_total",
        kind: Kind::Counter,
        labels: RULE,
        help: "Packets of the other direction that passed as replies in flows that a rule admitted",
    },
    FamilyInfo {
        name: "sgctl_reason_packets_total",
        kind: Kind::Counter,
        labels: &["interface", "direction", "action", "reason"],
        help: "Packets that no rule decided, by reason",
    },
    FamilyInfo {
        name: "sgctl_flows",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Flows in the flow table that have not expired",
    },
    FamilyInfo {
        name: "sgctl_flow_evictions_total",
        kind: Kind::Counter,
        labels: &["kind"],
        help: "Flows that were removed to make room for new ones, expired ones first",
    },
    FamilyInfo {
        name: "sgctl_flow_capacity",
        kind: Kind::Gauge,
        labels: &[],
        help: "Established flows that the flow table has room for",
    },
    FamilyInfo {
        name: "sgctl_events_total",
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "Events of packets that the policy logs, by what became of them in this run",
    },
    FamilyInfo {
        name: "sgctl_candidate_differences_total",
        kind: Kind::Counter,
        labels: &["interface", "direction"],
        help: "Packets with another outcome under the candidate beside the policy",
    },
];

// Each by its place in the table.
const BUILD: &FamilyInfo = &FAMILIES[0];
const POLICY: &FamilyInfo = &FAMILIES[1];
const HEALTHY: &FamilyInfo = &FAMILIES[2];
const DEADLINE: &FamilyInfo = &FAMILIES[3];
const PACKETS: &FamilyInfo = &FAMILIES[4];
const BYTES: &FamilyInfo = &FAMILIES[5];
const RULE_PACKETS: &FamilyInfo = &FAMILIES[6];
const RULE_BYTES: &FamilyInfo = &FAMILIES[7];
const RULE_REPLIES: &FamilyInfo = &FAMILIES[8];
const REASON_PACKETS: &FamilyInfo = &FAMILIES[9];
const FLOWS: &FamilyInfo = &FAMILIES[10];
const EVICTIONS: &FamilyInfo = &FAMILIES[11];
const CAPACITY: &FamilyInfo = &FAMILIES[12];
const EVENTS: &FamilyInfo = &FAMILIES[13];
const DIFFERENCES: &FamilyInfo = &FAMILIES[14];

impl FamilyInfo {
    /// The name of the family in OpenMetrics, where its kind adds the rest.
    pub(super) fn base(&self) -> &'static str {
        let end = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge => "",
        };
        self.name.strip_suffix(end).unwrap_or(self.name)
    }

    fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Info => MetricType::Info,
        }
    }
}

type Done = Result<(), std::fmt::Error>;

/// Leaves out families that have no series.
struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn infos(&mut self, family: &FamilyInfo, all: &[Labels]) -> Done {
        if all.is_empty() {
            return Ok(());
        }
        let mut metric = self.descriptor(family)?;
        all.iter().try_for_each(|labels| metric.encode_info(labels))
    }

    fn gauges<V: EncodeGaugeValue>(&mut self, family: &FamilyInfo, all: &[(Labels, V)]) -> Done {
        if all.is_empty() {
            return Ok(());
        }
        let mut metric = self.descriptor(family)?;
        all.iter()
            .try_for_each(|(labels, value)| metric.encode_family(labels)?.encode_gauge(value))
    }

    fn gauge<V: EncodeGaugeValue>(&mut self, family: &FamilyInfo, value: Option<V>) -> Done {
        match value {
            None => Ok(()),
            Some(value) => self.descriptor(family)?.encode_gauge(&value),
        }
    }

    /// The count at `index` of each series. When it was created is written as a gauge of the same
    /// name, of which `format` makes a `_created` of OpenMetrics, for the library has none.
    fn counters<const N: usize>(
        &mut self,
        family: &FamilyInfo,
        all: &[Series<N>],
        index: usize,
    ) -> Done {
        if all.is_empty() {
            return Ok(());
        }
        let mut metric = self.descriptor(family)?;
        all.iter().try_for_each(|series| {
            let mut metric = metric.encode_family(&series.labels)?;
            metric.encode_counter::<Labels, u64, f64>(&series.counts[index], None)?;
            metric.encode_gauge(&series.created)
        })
    }

    fn descriptor(&mut self, family: &FamilyInfo) -> Result<MetricEncoder<'_>, std::fmt::Error> {
        self.0
            .encode_descriptor(family.base(), family.help, None, family.metric_type())
    }
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Done {
        let mut to = Encoder(encoder);
        let layout = LAYOUT_VERSION.to_string();
        let build = [("version", env!("CARGO_PKG_VERSION")), ("layout", &layout)];
        to.infos(BUILD, &[Labels::new(&build)])?;
        to.infos(POLICY, &self.policies)?;
        let healthy = self.healthy.iter();
        let healthy: Vec<_> = healthy
            .map(|(labels, healthy)| (labels.clone(), i64::from(*healthy)))
            .collect();
        to.gauges(HEALTHY, &healthy)?;
        to.gauge(DEADLINE, self.confirm_deadline)?;
        to.counters(PACKETS, &self.totals, 0)?;
        to.counters(BYTES, &self.totals, 1)?;
        to.counters(RULE_PACKETS, &self.rules, 0)?;
        to.counters(RULE_BYTES, &self.rules, 1)?;
        to.counters(RULE_REPLIES, &self.rules, 2)?;
        to.counters(REASON_PACKETS, &self.reasons, 0)?;
        to.gauges(FLOWS, self.flows.as_deref().unwrap_or_default())?;
        to.counters(EVICTIONS, &self.evictions, 0)?;
        to.gauge(CAPACITY, self.capacity)?;
        to.counters(EVENTS, &self.events, 0)?;
        to.counters(DIFFERENCES, &self.differences, 0)
    }
}
