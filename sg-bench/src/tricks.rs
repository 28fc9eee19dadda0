//! What single tricks of the packet path and its tables buy: a policy's programs with one and
//! without it, in turns on one core by `BPF_PROG_TEST_RUN`, as in `code`.

use anyhow::Result;
use sg_policy::compile::Without;

use crate::cases::Inputs;
use crate::code::{measure_each, time};
use crate::enforcer::{Enforcer, Switches};
use crate::object::Writer;
use crate::policies::{self, Workload};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::statistics::{Record, median};

/// One row.
struct Trick {
    name: &'static str,
    build: fn(&Inputs<'_>) -> Result<Workload>,
    /// What both have in common, and what the second one leaves out.
    with: Switches,
    without: Switches,
    note: &'static str,
}

const ALL: Switches = Switches::ALL;
const ASKING: Switches = Switches {
    asks_for_each: true,
    ..ALL
};
const NARROW_HEADS: Switches = Switches {
    without: Without {
        way256_heads: true,
        ..Without::NOTHING
    },
    ..ALL
};

const fn trick(
    name: &'static str,
    build: fn(&Inputs<'_>) -> Result<Workload>,
    without: Switches,
    note: &'static str,
) -> Trick {
    Trick {
        name,
        build,
        with: ALL,
        without,
        note,
    }
}

const TRICKS: &[Trick] = &[
    trick(
        "trick/variants/tke",
        |_| policies::tke_drop(),
        ASKING,
        "without: the variant of the first program that asks for each property",
    ),
    trick(
        "trick/variants/rules_10",
        |_| policies::rules(10),
        ASKING,
        "as above",
    ),
    trick(
        "trick/way256_heads/tke",
        |_| policies::tke_accept(),
        NARROW_HEADS,
        "without: the first sixteen port tables begin with the smallest node that will do",
    ),
    trick(
        "trick/way256_heads/rules_10",
        |_| policies::rules(10),
        NARROW_HEADS,
        "as above",
    ),
    trick(
        "trick/way256_heads/ports_40",
        |_| policies::ports(40),
        NARROW_HEADS,
        "as above",
    ),
    trick(
        "trick/hosts/1m",
        |i| policies::hosts(1_000_000, i.folder),
        Switches {
            without: Without {
                hosts: true,
                ..Without::NOTHING
            },
            ..ALL
        },
        "without: a list of a million single addresses lies among the prefixes",
    ),
    Trick {
        with: ASKING,
        ..trick(
            "trick/bss/rules_1k",
            |_| policies::rules(1000),
            Switches {
                may_be_in_bss: false,
                ..ASKING
            },
            "without: tables in an array map; both with the variant that asks",
        )
    },
    Trick {
        with: ASKING,
        ..trick(
            "trick/bss/prefixes_1k",
            |i| policies::prefixes(1000, i.folder),
            Switches {
                may_be_in_bss: false,
                ..ASKING
            },
            "as above",
        )
    },
    trick(
        "trick/port_counts/tke",
        |_| policies::tke_drop(),
        Switches {
            fills_port_counts: true,
            ..ALL
        },
        "without: a flow at each range of local ports, so that no count says that there is none",
    ),
    trick(
        "trick/index6/prefixes6_1k",
        |i| policies::prefixes6(1000, i.folder),
        Switches {
            without: Without {
                index6: true,
                ..Without::NOTHING
            },
            ..ALL
        },
        "without: a tree from its root on, and no index in front of it",
    ),
    trick(
        "trick/shared_lines/rules_10k",
        |_| policies::rules(10_000),
        Switches {
            without: Without {
                shared_lines: true,
                ..Without::NOTHING
            },
            ..ALL
        },
        "without: a prefix's node and the table of ports below it lie in two lines",
    ),
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TRICKS.iter().map(|trick| trick.name)
}

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let wanted = TRICKS.iter().filter(|t| settings.wants(t.name));
    let wanted = wanted.map(|trick| (trick.name.to_owned(), trick)).collect();
    measure_each(wanted, settings, progress, |_, trick, inputs| {
        Ok(vec![measure(trick, inputs, settings)?])
    })
}

/// `value` is what a packet takes more without the trick, the mean of the middle half of all turns;
/// `floor` what it takes with it, the prologue included.
fn measure(trick: &Trick, inputs: &Inputs<'_>, settings: &Settings) -> Result<Record> {
    const MAX_FLOWS: u32 = 65_536;
    const NO_INTERFACE: u32 = 0;
    /// Many short runs: on a machine that does much else most of them are disturbed a little.
    const TURNS: usize = 8;
    let workload = (trick.build)(inputs)?;
    let mut writer = Writer::new(&workload.traffic, NO_INTERFACE, 0x5eed)?;
    let mut programs = Vec::new();
    // Kept until the end: the programs' tables are theirs.
    let mut kept = Vec::new();
    for switches in [&trick.with, &trick.without] {
        let mut enforcer = Enforcer::load_with(&workload.policy, MAX_FLOWS, switches)?;
        programs.push(enforcer.inbound()?.fd()?.try_clone()?);
        kept.push(enforcer);
    }
    let [with, without] = &programs[..] else {
        anyhow::bail!("two builds of one policy");
    };
    let packets = settings.test_runs() / 2;
    let (mut more, mut least) = (Vec::new(), Vec::new());
    for turn in 0..settings.rounds * TURNS {
        // The variant that is measured first in one turn is measured last in the next.
        let (first, second) = match turn % 2 {
            0 => (with, without),
            _ => (without, with),
        };
        let first = time(&mut writer, first, packets)?;
        let second = time(&mut writer, second, packets)?;
        let (with, without) = match turn % 2 {
            0 => (first, second),
            _ => (second, first),
        };
        more.push(without - with);
        least.push(with);
    }
    let note = format!("{}; {}", trick.note, workload.note);
    let record = Record::of(trick.name, "ns", &more, Some(median(&least)));
    Ok(Record {
        value: Some(middle(&more)),
        ..record.noted(note)
    })
}

/// The mean of the middle half: each of the differences is a whole number of nanoseconds, and so
/// their median would be.
fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    let half = &sorted[quarter..sorted.len() - quarter];
    half.iter().sum::<f64>() / half.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_half_counts() {
        assert_eq!(middle(&[100.0, 1.0, 2.0, -100.0]), 1.5);
        assert_eq!(middle(&[3.0]), 3.0);
        assert_eq!(middle(&[]), 0.0);
    }
}
