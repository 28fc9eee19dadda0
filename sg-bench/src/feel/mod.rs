//! What a connection feels: real sockets through a veth pair, with nothing attached, with empty
//! programs at both hooks, with the enforcer and with nftables, in turns.

mod line;
mod load;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::line::{Contender, Frames, Line};
use self::load::{Sample, Test};
use crate::cores::{Cores, transfer_time};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::statistics::{Record, median};
use crate::windows::{self, Patience, Tally};

/// What every name begins with.
pub(crate) const PREFIX: &str = "feel/";

/// The contender whose rows have absolute figures, and with which the others are compared.
pub(crate) const BASE: &str = Contender::Empty.name();

/// The contenders that are compared with it, in the order of a table's columns.
pub(crate) fn compared() -> impl Iterator<Item = &'static str> {
    let others = Contender::ALL.iter().filter(|c| **c != Contender::Empty);
    others.map(|contender| contender.name())
}

/// One comparison: what is done, and by which frames.
#[derive(Clone, Copy, PartialEq)]
struct Case {
    test: Test,
    frames: Frames,
}

impl Case {
    fn all() -> impl Iterator<Item = Case> {
        let of = |test| Frames::ALL.map(|frames| Case { test, frames });
        Test::ALL.into_iter().flat_map(of)
    }

    fn name(self, contender: Contender) -> String {
        let (test, frames) = (self.test.name(), self.frames.name());
        format!("{PREFIX}{test}/{frames}/{}", contender.name())
    }

    fn names(self) -> impl Iterator<Item = String> {
        Contender::ALL.into_iter().map(move |c| self.name(c))
    }
}

pub(crate) fn names() -> impl Iterator<Item = String> {
    Case::all().flat_map(Case::names)
}

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let is_wanted = |case: &Case| case.names().any(|name| settings.wants(&name));
    let wanted: Vec<Case> = Case::all().filter(is_wanted).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let cores = Cores::find()?;
    let folder = tempfile::tempdir().context("a folder for the rules of nftables")?;
    let plan = Plan {
        cores,
        transfer_time,
        patience: Patience::new(settings.patience / 4),
        rounds: if settings.quick { 3 } else { settings.rounds },
        window: settings.window,
        folder: folder.path(),
    };
    let mut measured = Vec::new();
    for frames in Frames::ALL {
        let of_frames = wanted.iter().filter(|case| case.frames == frames);
        let tests: Vec<Test> = of_frames.map(|case| case.test).collect();
        if tests.is_empty() {
            continue;
        }
        measured.extend(plan.measure(frames, &tests, progress)?);
    }
    let order: Vec<Case> = Case::all().collect();
    measured.sort_by_key(|one| order.iter().position(|case| *case == one.case));
    Ok(measured.iter().flat_map(Measured::records).collect())
}

struct Plan<'a> {
    cores: Cores,
    /// Tells which windows count.
    transfer_time: fn(Cores) -> Result<f64>,
    patience: Patience,
    rounds: usize,
    window: Duration,
    folder: &'a Path,
}

/// The windows of one case: for each contender one for each round.
struct Measured {
    case: Case,
    samples: [Vec<Sample>; Contender::ALL.len()],
    tally: Tally,
}

impl Plan<'_> {
    /// Measures some tests with all contenders in turn. Each contender has a client, a node and a
    /// veth pair of its own, so that nothing is attached or detached in between.
    fn measure(
        &self,
        frames: Frames,
        tests: &[Test],
        progress: &Progress,
    ) -> Result<Vec<Measured>> {
        let mut lines = Vec::new();
        for contender in Contender::ALL {
            let case = Case {
                test: tests[0],
                frames,
            };
            progress.say(format!("{}: setting up", case.name(contender)));
            let line = Line::new(contender, frames, self.folder);
            lines.push(line.with_context(|| case.name(contender))?);
        }
        let bar = progress.bar((self.rounds * tests.len() * lines.len()) as u64);
        let mut all: Vec<Measured> = tests
            .iter()
            .map(|&test| Measured {
                case: Case { test, frames },
                samples: Default::default(),
                tally: Tally::default(),
            })
            .collect();
        for _ in 0..self.rounds {
            for measured in &mut all {
                let test = measured.case.test;
                bar.at(test.name());
                for (line, samples) in lines.iter().zip(&mut measured.samples) {
                    let sample = windows::measure_with(
                        || (self.transfer_time)(self.cores),
                        &self.patience,
                        &mut measured.tally,
                        || load::run(test, &line.ends(self.cores), self.window),
                    );
                    samples.push(sample.with_context(|| measured.case.name(line.contender))?);
                    bar.step();
                }
            }
        }
        bar.finish();
        for line in &mut lines {
            let contender = line.contender;
            let (frames, name) = (frames.name(), contender.name());
            line.check()
                .with_context(|| format!("{PREFIX}…/{frames}/{name}"))?;
        }
        Ok(all)
    }
}

impl Measured {
    /// One for each window.
    fn each(&self, contender: Contender, of: fn(&Sample, Test) -> Option<f64>) -> Vec<f64> {
        let samples = self.samples[contender as usize].iter();
        samples
            .filter_map(|sample| of(sample, self.case.test))
            .collect()
    }

    /// One row for each contender: what the empty programs reach, and how much of their speed the
    /// others do. Beside each, as details, its figure and its share of what was reached with
    /// nothing attached.
    fn records(&self) -> Vec<Record> {
        let base = self.each(Contender::Empty, Sample::speed);
        let nothing = self.each(Contender::Nothing, Sample::speed);
        let unit = self.case.test.unit();
        let mut records = Vec::new();
        for contender in Contender::ALL {
            let name = self.case.name(contender);
            let figures = self.each(contender, Sample::figure);
            let speeds = self.each(contender, Sample::speed);
            let of_nothing = ratios(&speeds, &nothing);
            let detail = |part: &str, unit: &str, values: &[f64]| Record {
                is_detail: true,
                ..Record::of(&format!("{name}/{part}"), unit, values, None)
            };
            let mut note = format!("{:.2} of nothing attached", median(&of_nothing));
            if let Some(latency) = self.latency(contender) {
                note = format!("{note}; {latency}");
            }
            note = format!("{note}; {}", self.tally.describe());
            records.push(match contender {
                Contender::Empty => Record::of(&name, unit, &figures, None),
                _ => Record::of(&name, RATIO, &ratios(&speeds, &base), None),
            });
            if let Some(last) = records.last_mut() {
                last.note = note;
            }
            records.push(detail("figure", unit, &figures));
            records.push(detail("of-nothing", RATIO, &of_nothing));
        }
        records
    }

    /// Medians over the windows.
    fn latency(&self, contender: Contender) -> Option<String> {
        let of = |share| -> Option<f64> {
            let samples = self.samples[contender as usize].iter();
            let all: Option<Vec<f64>> = samples
                .map(|s| s.percentile(share).map(f64::from))
                .collect();
            all.map(|values| median(&values))
        };
        let (half, most) = (of(0.5)?, of(0.99)?);
        Some(format!(
            "half of the requests within {half:.1} us, 99 % within {most:.1} us"
        ))
    }
}

/// The unit of a share.
pub(crate) const RATIO: &str = "ratio";

/// Window by window.
fn ratios(rates: &[f64], base: &[f64]) -> Vec<f64> {
    rates
        .iter()
        .zip(base)
        .map(|(rate, base)| rate / base)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: u64, latencies: &[f32]) -> Sample {
        Sample {
            count,
            seconds: 1.0,
            latencies: latencies.to_vec(),
        }
    }

    #[test]
    fn contenders_are_compared_with_the_empty_programs_round_by_round() {
        let latencies = [10.0, 20.0, 30.0];
        let measured = Measured {
            case: Case {
                test: Test::Crr,
                frames: Frames::Wire,
            },
            samples: [[200, 200], [100, 200], [90, 190], [80, 100], [50, 100]]
                .map(|counts| counts.map(|count| sample(count, &latencies)).into()),
            tally: Tally::default(),
        };
        let records = measured.records();
        let of = |name: &str| {
            let record = records.iter().find(|record| record.name == name);
            let record = record.unwrap_or_else(|| panic!("{name}"));
            (record.unit.as_str(), record.value, record.min, record.max)
        };
        let expected = ("connections/s", Some(100.0), Some(100.0), Some(200.0));
        assert_eq!(of("feel/crr/wire/empty"), expected);
        let expected = ("ratio", Some(0.9), Some(0.9), Some(0.95));
        assert_eq!(of("feel/crr/wire/tke"), expected);
        let expected = ("ratio", Some(1.0), Some(1.0), Some(2.0));
        assert_eq!(of("feel/crr/wire/nothing"), expected);
        let expected = ("ratio", Some(0.25), Some(0.25), Some(0.5));
        assert_eq!(of("feel/crr/wire/nft/of-nothing"), expected);
        let note = &records[0].note;
        assert!(
            note.contains("requests within 20.0 us, 99 % within 30.0 us"),
            "{note}"
        );
    }

    /// Bytes and requests arrive by both kinds of frames, and each contender has been there: it is
    /// the only one at the hooks, and has counted packets of both directions where it counts.
    #[test]
    fn a_short_load_passes_every_contender() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            cores: Cores::find().unwrap(),
            // All count: how fast they are is not what is tested.
            transfer_time: |_| Ok(0.0),
            patience: Patience::new(0),
            rounds: 1,
            window: Duration::from_millis(10),
            folder: folder.path(),
        };
        for frames in Frames::ALL {
            let measured = plan.measure(frames, &Test::ALL, &Progress::new()).unwrap();
            for measured in measured {
                for (contender, samples) in Contender::ALL.iter().zip(&measured.samples) {
                    let name = measured.case.name(*contender);
                    assert_eq!(samples.len(), 1, "{name}");
                    assert!(samples[0].count > 0, "{name}: {:?}", samples[0]);
                }
            }
        }
    }
}
