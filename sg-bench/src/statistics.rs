//! Medians, and how far the rest lies from them.

use serde::Serialize;

use crate::aims;

/// One row, as `--json` writes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) unit: String,
    /// The median; for a cost above a floor, without that floor. Absent when the row was left out.
    pub(crate) value: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    /// Where it should stand.
    pub(crate) aim: Option<f64>,
    /// What the same run measured with an empty program.
    pub(crate) floor: Option<f64>,
    pub(crate) runs: usize,
    pub(crate) note: String,
    /// The table leaves it out: another row's note says it.
    #[serde(skip)]
    pub(crate) is_detail: bool,
}

impl Record {
    /// The median of `values`, which are above `floor` if there is one.
    pub(crate) fn of(name: &str, unit: &str, values: &[f64], floor: Option<f64>) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Record {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value: (!sorted.is_empty()).then(|| round(median(&sorted))),
            min: sorted.first().copied().map(round),
            max: sorted.last().copied().map(round),
            aim: aims::aim(name),
            floor: floor.map(round),
            runs: sorted.len(),
            note: String::new(),
            is_detail: false,
        }
    }

    pub(crate) fn left_out(name: &str, why: &str) -> Self {
        Record {
            note: format!("left out: {why}"),
            ..Record::of(name, "", &[], None)
        }
    }

    pub(crate) fn noted(self, note: impl Into<String>) -> Self {
        Record {
            note: note.into(),
            ..self
        }
    }
}

/// To three digits behind the point: more is noise.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Of numbers in any order; the lower one of two in the middle. Zero if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 1.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_record_has_median_and_extremes() {
        let record = Record::of("a", "ns", &[5.0, 1.0, 9.0], Some(70.12345));
        assert_eq!(
            (
                record.value,
                record.min,
                record.max,
                record.floor,
                record.runs
            ),
            (Some(5.0), Some(1.0), Some(9.0), Some(70.123), 3)
        );
        assert_eq!(Record::left_out("a", "no data").value, None);
    }
}
