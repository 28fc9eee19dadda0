//! Counters as JSON (A4): each row with its rates, where there is a reading before.

use serde::Serialize;
use sg_userspace::observe::counters::{Counters, ReasonCounters, RuleCounters, Totals};
use sg_userspace::observe::status::{PolicyStatus, Standing};

use crate::cli::rates::{Rate, Rates};

/// `counters --json` of one interface, and the same of `run`.
#[derive(Serialize)]
pub(in crate::cli) struct Json<'a> {
    #[serde(flatten)]
    standing: &'a Standing,
    sampled_at: &'a str,
    since: &'a str,
    reset_at: Option<&'a str>,
    policy: &'a PolicyStatus,
    rules: Vec<Rated<'a, RuleCounters>>,
    reasons: Vec<Rated<'a, ReasonCounters>>,
    totals: Vec<Rated<'a, Totals>>,
}

/// A row, and how fast it has counted since the reading before. Null in the first one.
#[derive(Serialize)]
struct Rated<'a, T> {
    #[serde(flatten)]
    row: &'a T,
    packets_per_second: Option<f64>,
    bits_per_second: Option<f64>,
}

impl<'a> Json<'a> {
    pub(in crate::cli) fn of(one: &'a Counters, rates: Option<&Rates>) -> Json<'a> {
        let rates = rates.filter(|rates| rates.are_known());
        fn rated<'a, T>(rows: &'a [T], rate: impl Fn(&T) -> Option<Rate>) -> Vec<Rated<'a, T>> {
            let tenths = |number: f64| (number * 10.0).round() / 10.0;
            let rated = |row| {
                let rate = rate(row);
                Rated {
                    row,
                    packets_per_second: rate.map(|rate| tenths(rate.packets)),
                    bits_per_second: rate.map(|rate| tenths(rate.bits())),
                }
            };
            rows.iter().map(rated).collect()
        }
        // All fields are named, so that a new one is not left out by oversight.
        let Counters {
            standing,
            sampled_at,
            since,
            reset_at,
            policy,
            rules,
            reasons,
            totals,
        } = one;
        Json {
            standing,
            sampled_at,
            since,
            reset_at: reset_at.as_deref(),
            policy,
            rules: rated(rules, |row| Some(rates?.of_rule(one, row))),
            reasons: rated(reasons, |row| Some(rates?.of_reason(one, row))),
            totals: rated(totals, |row| Some(rates?.of_total(one, row))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use sg_common::verdict::{Action, Direction, Reason};

    use super::*;
    use crate::cli::rates::Reading;
    use crate::fixtures;

    fn counters(packets: u64) -> Counters {
        Counters {
            reasons: vec![ReasonCounters {
                direction: Direction::Inbound,
                reason: Reason::NoMatch,
                action: Action::Drop,
                packets,
                bytes: packets * 100,
            }],
            totals: vec![fixtures::totals(Direction::Inbound, 0, packets)],
            ..fixtures::counters("eth0")
        }
    }

    /// A reading that has none before it does not say that nothing comes.
    #[test]
    fn rates_are_null_where_they_are_not_known() {
        let json = |rates: Option<&Rates>| -> Value {
            serde_json::to_value(Json::of(&counters(9000), rates)).unwrap()
        };
        for rates in [None, Some(&Rates::since(None))] {
            let value = json(rates);
            assert_eq!(value["interface"], "eth0");
            assert_eq!(value["rules"], json!([]));
            for row in [&value["reasons"][0], &value["totals"][0]] {
                assert_eq!(row["packets"], 9000);
                let row = row.as_object().unwrap();
                assert_eq!(row["packets_per_second"], Value::Null);
                assert_eq!(row["bits_per_second"], Value::Null);
            }
        }
        let before = Reading::of(&[counters(0)]);
        std::thread::sleep(Duration::from_millis(10));
        let value = json(Some(&Rates::since(Some(before))));
        let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
        let reason = &value["reasons"][0];
        let packets = number(reason, "packets_per_second");
        assert!(packets > 1000.0, "{value}");
        let bits = number(reason, "bits_per_second");
        assert!((bits / packets / 800.0 - 1.0).abs() < 0.01, "{value}");
        assert_eq!(number(&value["totals"][0], "bits_per_second"), 0.0);
    }
}
