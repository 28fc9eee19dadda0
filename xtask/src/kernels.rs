//! `cargo xtask test --kernels`: boots older kernels in an emulator and runs the kernel tests in
//! them. One file for each part; this one puts them together.

mod archive;
mod binaries;
mod emulator;
mod filesystem;
mod guest;
mod image;
mod modules;
mod protocol;
mod table;

use std::{collections::BTreeSet, path::Path, thread, time::Instant};

use anyhow::{Result, bail};

use crate::{
    files,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
};

use binaries::Share;
use emulator::Emulator;
use guest::{Accelerator, Guest};
use image::Image;
use protocol::{Protocol, Suite};

/// The long-term kernels that Debian builds for clouds: one before tcx (6.6), one after.
const VERSIONS: [&str; 2] = ["6.1", "6.12"];

/// What to run, and what to do with the figures.
pub(crate) struct Options<'a> {
    /// Versions among [`VERSIONS`]; empty for all.
    pub(crate) versions: &'a [String],
    /// Only tests whose name contains one of these; empty for all.
    pub(crate) filters: &'a [String],
    /// Write the table of figures to the documentation.
    pub(crate) write_table: bool,
}

pub(crate) fn command(options: &Options) -> Result<()> {
    let started = Instant::now();
    let versions = chosen(options.versions)?;
    if !cfg!(target_arch = "x86_64") {
        bail!("--kernels boots x86-64 kernels, and this machine is none");
    }
    if options.write_table && (versions.len() < VERSIONS.len() || !options.filters.is_empty()) {
        bail!("the table has figures of every kernel and test: leave out the choice of some");
    }
    setup::ensure(Needs::Kernels)?;

    let workspace = shell::workspace()?;
    let binaries = binaries::build(&workspace)?;
    let suites = shares(options)
        .map(|share| binaries.suites(options.filters, share))
        .collect::<Result<Vec<_>>>()?;
    let tests: BTreeSet<_> = suites.iter().flatten().flat_map(|s| &s.tests).collect();
    if tests.is_empty() {
        bail!("no test of these names; `cargo xtask test --kernels` without a name runs all");
    }
    let cache = binaries::target_folder(&workspace)?.join("kernels");
    files::make_folder(&cache)?;

    let emulator = emulator::ready(&cache)?;
    let images = versions
        .iter()
        .map(|version| image::ready(version, &cache))
        .collect::<Result<Vec<_>>>()?;
    // All at once: an emulator keeps one processor busy.
    let outcomes: Vec<_> = thread::scope(|scope| {
        let run = |(image, suites): (_, &Vec<_>)| run(&emulator, image, suites, &binaries, &cache);
        let guests: Vec<_> = images
            .iter()
            .zip(&suites)
            .map(|guest| scope.spawn(move || run(guest)))
            .collect();
        guests
            .into_iter()
            .map(|guest| guest.join().expect("errors are returned"))
            .collect()
    });
    let mut columns = Vec::new();
    let mut failures = Vec::new();
    for (version, outcome) in versions.iter().zip(outcomes) {
        match outcome {
            Ok(column) => columns.push(column),
            Err(error) => {
                term::error(&error);
                failures.push(*version);
            }
        }
    }
    if !failures.is_empty() {
        bail!("failed on Linux {}, see above", failures.join(" and "));
    }
    if options.filters.is_empty() {
        columns.extend(table::host_column(&binaries)?);
        table::publish(&columns, &workspace, options.write_table)?;
    }
    let line = format!(
        "{} tests on Linux {} ({:.0} s)",
        tests.len(),
        versions.join(" and "),
        started.elapsed().as_secs_f64()
    );
    term::say(Colour::Green, "passed", line);
    Ok(())
}

/// Which tests each of the chosen kernels runs: all of them if versions or tests were named. Else
/// the kernels divide those that are not about the kernel.
fn shares(options: &Options) -> impl Iterator<Item = Share> {
    let of = VERSIONS.len();
    let is_all = !options.versions.is_empty() || !options.filters.is_empty();
    (0..of).map(move |index| match is_all {
        true => Share::All,
        false => Share::Part { index, of },
    })
}

fn chosen(wanted: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !VERSIONS.contains(&name.as_str()))
    {
        bail!(
            "no kernel `{unknown}`; there are {}",
            VERSIONS.join(" and ")
        );
    }
    let mut versions = VERSIONS.to_vec();
    versions.retain(|version| wanted.is_empty() || wanted.iter().any(|name| name == version));
    Ok(versions)
}

/// Boots the kernel, shows what its tests say, and fails unless every one of them passed.
fn run(
    emulator: &Emulator,
    image: &Image,
    suites: &[Suite],
    binaries: &binaries::Binaries,
    cache: &Path,
) -> Result<table::Column> {
    let started = Instant::now();
    let file = |name: &str| cache.join(format!("{}.{name}", image.version));
    let initramfs = file("initramfs");
    let modules = modules::gather(&image.modules, &modules::NEEDED)?;
    filesystem::write(&initramfs, &modules, binaries, suites)?;

    let guest = Guest {
        emulator,
        image,
        initramfs: &initramfs,
        console: &file("console"),
        complaints: &file("emulator"),
    };
    let tests: usize = suites.iter().map(|suite| suite.tests.len()).sum();
    let mut accelerator = Accelerator::best();
    let (protocol, ended) = loop {
        let line = format!("Linux {}, {tests} tests, {accelerator}", image.release);
        term::say(Colour::Cyan, "boot", line);
        let mut protocol = Protocol::default();
        let ended = guest.run(accelerator, |line| {
            if let Some(shown) = protocol.read(line) {
                term::say(Colour::Cyan, &image.version, shown);
            }
        })?;
        if protocol.has_booted() || accelerator == Accelerator::None {
            break (protocol, ended);
        }
        term::say(Colour::Yellow, "note", "it does not boot with KVM");
        accelerator = Accelerator::None;
    };
    let problems = protocol.problems(suites, ended, &image.release);
    if !problems.is_empty() {
        let release = &image.release;
        bail!(
            "Linux {release}:\n{}\n{}",
            problems.join("\n"),
            guest.last_words()
        );
    }
    let line = format!(
        "{tests} tests on Linux {} ({:.0} s)",
        image.release,
        started.elapsed().as_secs_f64()
    );
    term::say(Colour::Green, "passed", line);
    Ok(table::Column {
        is_emulated: accelerator == Accelerator::None,
        facts: protocol.into_facts(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_version_in_their_own_order() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(chosen(&[]).unwrap(), VERSIONS);
        assert_eq!(chosen(&names(&["6.12"])).unwrap(), ["6.12"]);
        assert_eq!(chosen(&names(&["6.12", "6.1"])).unwrap(), VERSIONS);
        let error = chosen(&names(&["6.1", "5.4"])).unwrap_err().to_string();
        assert_eq!(error, "no kernel `5.4`; there are 6.1 and 6.12");
    }
}
