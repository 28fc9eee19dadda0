//! The test binaries that go into the guest, and the tests in them, asked of the binaries
//! themselves.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::protocol::Suite;
use crate::{
    shell,
    test_binaries::{HOST_CRATES, PROFILE},
};

/// The test that prints what the table of kernels is made of.
pub(super) const FACTS: &str = "facts::what_this_kernel_offers";

/// The module of tests that only a guest can run, and that are ignored elsewhere.
const GUEST_ONLY: &str = "guest::";

/// Tests that tell nothing about a guest's kernel.
const LEFT_OUT: [&str; 3] = [
    // Reads data that lies outside the repository.
    "agreement::nftables::classbench_rules_count_as_in_nftables",
    // About the search for mistakes, which is the same everywhere and takes long there.
    "agreement::a_mistake_is_found_shrunk_and_written_down",
    // About our own order of steps; what a kernel does at each of them is in `fault_points`.
    "several::faults::a_fault_at_any_step_leaves_one_policy_everywhere",
];

/// The tests of these modules are about what we ask of the kernel, and what it answers. What a test
/// of another module is about does not come from the kernel: the programs, which are the same
/// everywhere, and the order of our own steps.
const OF_EACH_KERNEL: [&str; 23] = [
    "attach",
    "budget",
    "buffers",
    "confirm",
    "event_watch",
    "events",
    "facts",
    "fault_points",
    "guest",
    "hold",
    "impact",
    "layouts",
    "packets",
    "refusals",
    "repair",
    "seed",
    "seed_meanwhile",
    "seed_moment",
    "seed_namespaces",
    "seed_requests",
    "signals",
    "specialised",
    "targets",
];

/// Which of the kernels' tests one of them runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share {
    /// All.
    All,
    /// Those of [`OF_EACH_KERNEL`], and of the others every `of`-th from the `index`-th on.
    Part { index: usize, of: usize },
}

pub(super) struct Binaries {
    pub(super) kernel: PathBuf,
    pub(super) lab: PathBuf,
    /// The tests find it under the path that it has here.
    pub(super) sgctl: PathBuf,
}

/// Builds as `cargo xtask test` does, so that nothing is built twice.
pub(super) fn build(workspace: &Path) -> Result<Binaries> {
    let mut command = shell::cargo(workspace);
    command
        .arg("test")
        .args(HOST_CRATES)
        .args(["--profile", PROFILE])
        .args(["--test", "kernel", "--test", "lab", "--no-run"]);
    let mut found = shell::cargo_executables(command, "the tests do not build")?;
    let mut take = |name: &str| {
        found
            .remove(name)
            .with_context(|| format!("cargo did not tell where it put {name}"))
    };
    Ok(Binaries {
        kernel: take("kernel")?,
        lab: take("lab")?,
        sgctl: take("sgctl")?,
    })
}

pub(super) fn target_folder(workspace: &Path) -> Result<PathBuf> {
    let metadata = shell::cargo_metadata(workspace, &["--no-deps", "--offline"])?;
    Ok(metadata.target_directory.into())
}

impl Binaries {
    /// Every test that the guest is to run, by name: what it then does not report has not run.
    pub(super) fn suites(&self, filters: &[String], share: Share) -> Result<Vec<Suite>> {
        let kernel = tests_of(&self.kernel, &[])?;
        // A test that was renamed would be run for nothing.
        if let Some(gone) = LEFT_OUT.iter().find(|test| !kernel.contains(**test)) {
            bail!("{gone} is to be left out, but there is no such test");
        }
        let is_there = |module: &str| kernel.iter().any(|test| module_of(test) == module);
        if let Some(gone) = OF_EACH_KERNEL.iter().find(|module| !is_there(module)) {
            bail!("{gone} is to run on each kernel, but there is no such module");
        }
        let ignored = tests_of(&self.kernel, &["--ignored"])?;
        let lab = &tests_of(&self.lab, &[])? - &tests_of(&self.lab, &["--ignored"])?;
        let chosen = |tests: BTreeSet<String>| part(select(tests, filters), share);
        let suites = [
            ("kernel", "kernel", chosen(&kernel - &ignored), false),
            ("guest", "kernel", chosen(guest_only(ignored)), true),
            ("lab", "lab", select(lab, filters), false),
        ];
        Ok(suites
            .map(|(name, binary, tests, are_ignored)| Suite {
                name,
                binary,
                tests,
                are_ignored,
            })
            .into_iter()
            .filter(|suite| !suite.tests.is_empty())
            .collect())
    }
}

fn select(mut tests: BTreeSet<String>, filters: &[String]) -> BTreeSet<String> {
    tests.retain(|test| {
        let wanted = filters.is_empty() || filters.iter().any(|filter| test.contains(filter));
        wanted && !LEFT_OUT.contains(&test.as_str())
    });
    tests
}

fn part(tests: BTreeSet<String>, share: Share) -> BTreeSet<String> {
    let Share::Part { index, of } = share else {
        return tests;
    };
    let is_of_each = |test: &String| OF_EACH_KERNEL.contains(&module_of(test));
    let (mut each, others): (BTreeSet<_>, BTreeSet<_>) = tests.into_iter().partition(is_of_each);
    each.extend(others.into_iter().skip(index).step_by(of));
    each
}

fn module_of(test: &str) -> &str {
    test.split_once("::").map_or("", |(module, _)| module)
}

fn guest_only(mut tests: BTreeSet<String>) -> BTreeSet<String> {
    tests.retain(|test| test.starts_with(GUEST_ONLY));
    tests
}

fn tests_of(binary: &Path, options: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = Command::new(binary);
    command.args(["--list", "--format", "terse"]).args(options);
    Ok(listed(&shell::read(&mut command)?))
}

fn listed(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn tests_are_read_from_the_list() {
        let text = "a::b: test\nc: test\nd: benchmark\n\n2 tests, 1 benchmark\n";
        assert_eq!(listed(text), set(&["a::b", "c"]));
        assert_eq!(listed(""), set(&[]));
    }

    #[test]
    fn names_choose_tests_and_what_is_left_out_stays_out() {
        let all = set(&["packets::a", "attach::b", LEFT_OUT[0]]);
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(select(all.clone(), &[]), set(&["attach::b", "packets::a"]));
        assert_eq!(select(all.clone(), &words(&["pack"])), set(&["packets::a"]));
        assert_eq!(select(all, &words(&["agreement", "x"])), set(&[]));
        assert_eq!(
            guest_only(set(&["guest::a", "soak::b"])),
            set(&["guest::a"])
        );
    }

    #[test]
    fn kernels_divide_what_is_not_about_them() {
        let all = set(&[
            "attach::a",
            "cut::a",
            "cut::b",
            "cut::c",
            "flows::a",
            "reference",
        ]);
        let one = part(all.clone(), Share::Part { index: 0, of: 2 });
        let other = part(all.clone(), Share::Part { index: 1, of: 2 });
        assert_eq!(one, set(&["attach::a", "cut::a", "cut::c", "reference"]));
        assert_eq!(other, set(&["attach::a", "cut::b", "flows::a"]));
        assert_eq!(part(all.clone(), Share::All), all);
    }
}
