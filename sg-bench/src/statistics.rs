//! Medians and spreads.

use serde::Serialize;

use crate::missing::Missing;

/// A bound of a row's value, in the unit of the row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

impl Aim {
    pub(crate) fn is_met_by(self, value: f64) -> bool {
        match self {
            Aim::AtMost(bound) => value <= bound,
            Aim::AtLeast(bound) => value >= bound,
        }
    }
}

/// One row, as `--json` writes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) unit: String,
    /// The median; for a cost above a floor, without that floor. Absent when the row was left out.
    pub(crate) value: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    /// Between the quartiles: half of the values lie within as much.
    pub(crate) spread: Option<f64>,
    /// Where it should stand; known when all rows have been measured.
    pub(crate) aim: Option<Aim>,
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
            spread: spread(&sorted).map(round),
            aim: None,
            floor: floor.map(round),
            runs: sorted.len(),
            note: String::new(),
            is_detail: false,
        }
    }

    pub(crate) fn left_out(name: &str, why: Missing) -> Self {
        Record {
            note: format!("left out: {why}"),
            ..Record::of(name, "", &[], None)
        }
    }

    /// The row, left out because of what `error` says is missing. Any other error is returned.
    pub(crate) fn without(name: &str, error: anyhow::Error) -> anyhow::Result<Self> {
        match Missing::of(&error) {
            Some(missing) => Ok(Record::left_out(name, missing)),
            None => Err(error.context(name.to_owned())),
        }
    }

    /// Whether it does not stand where it should.
    pub(crate) fn misses(&self) -> bool {
        let both = self.aim.zip(self.value);
        both.is_some_and(|(aim, value)| !aim.is_met_by(value))
    }

    pub(crate) fn noted(self, note: impl Into<String>) -> Self {
        Record {
            note: note.into(),
            ..self
        }
    }
}

/// To three digits behind the point: more is noise.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The distance of the quartiles, of numbers in ascending order.
fn spread(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let lower = last / 4;
    Some(sorted[last - lower] - sorted[lower])
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
    fn the_spread_is_that_of_the_middle_half() {
        assert_eq!(spread(&[1.0, 2.0, 4.0, 8.0, 16.0]), Some(6.0));
        assert_eq!(spread(&[1.0, 2.0, 4.0]), Some(3.0));
        assert_eq!(spread(&[7.0]), Some(0.0));
        assert_eq!(spread(&[]), None);
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
        assert_eq!(Record::left_out("a", Missing::Data).value, None);
    }
}
