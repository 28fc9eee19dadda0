//! `cargo xtask test`: the set-up, then every test of the workspace, as root.
//! Says at the end whether the tests that read real data did.

use std::{env, num::NonZero, path::Path, process::Command, thread};

use anyhow::Result;

use crate::{
    clauses, kernels, kubernetes, packages,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
    test_binaries::{DATA, HOST_CRATES, PROFILE, data_folder, run_as_root, way_to_root},
};

/// Has the tests of `tests/cli/faults` try every system call and those of
/// `tests/kernel/fault_points` every fault point, and not a sample.
const FAULTS: &str = "SG_FAULTS";

/// How many tests of a binary run at a time, as the test harness reads it.
const THREADS: &str = "RUST_TEST_THREADS";

/// How often `tests/cli/boot` boots.
const BOOTS: &str = "SG_BOOTS";

/// Run all tests; those that load programs into the kernel need root
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,

    /// Options for the test binaries, such as `--nocapture`
    #[arg(value_name = "OPTION", last = true)]
    options: Vec<String>,

    /// Let every system call and every step of apply, confirm, rollback, detach and run fail, one
    /// at a time, instead of all tests; takes up to an hour (all tests include a sample of it)
    #[arg(long, conflicts_with_all = ["kernels", "filters"])]
    faults: bool,

    /// Boot systemd ten times in namespaces, with the unit that is deployed, instead of all tests;
    /// takes some minutes (all tests include three boots)
    #[arg(long, conflicts_with_all = ["kernels", "faults", "filters"])]
    boot: bool,

    /// Boot older kernels in an emulator and run the kernel tests in them, instead of all tests in
    /// this kernel; they divide tests that are not about the kernel. `--kernels=6.1` boots only
    /// that one, `--kernels=6.1,6.12` has each run all tests
    #[arg(
        long,
        value_name = "VERSION",
        num_args = 0..,
        require_equals = true,
        value_delimiter = ',',
        conflicts_with = "options",
    )]
    kernels: Option<Vec<String>>,

    /// Install, upgrade, downgrade and remove the packages in a clean Debian system that systemd
    /// boots in namespaces, under traffic, instead of all tests; takes some minutes, and half an
    /// hour the first time, when the packages of an older commit are built
    #[arg(long, conflicts_with_all = ["kernels", "faults", "boot", "filters", "options"])]
    packages: bool,

    /// Run a real API server and the kube-proxies of two nodes in namespaces, reach services in
    /// every way under several policies, and roll out a policy that cuts nodes off, instead of all
    /// tests. Takes minutes, and the first time a quarter of an hour more: Kubernetes is built
    /// from Debian's source package, below target/
    #[arg(long, conflicts_with_all = ["kernels", "faults", "boot", "packages", "filters"])]
    kubernetes: bool,

    /// With --kernels: write the table of what each kernel offers to docs/kernels.md
    #[arg(long, requires = "kernels")]
    write_table: bool,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    if let Some(versions) = &args.kernels {
        return kernels::command(&kernels::Options {
            versions,
            filters: &args.filters,
            write_table: args.write_table,
        });
    }
    if args.packages {
        return packages::command();
    }
    if args.kubernetes {
        return kubernetes::command(&args.options);
    }
    let data = data_folder(env::var_os(DATA), &env::current_dir()?)?;
    let way = way_to_root()?;
    setup::ensure(Needs::Tools)?;

    let workspace = shell::workspace()?;
    if args.filters.is_empty() && !args.faults && !args.boot {
        clauses::check(&workspace)?;
    }
    let mut command = tests(&workspace, args, data.as_deref());
    if env::var_os(THREADS).is_none() {
        // Most tests wait for most of their time: for processes, clocks and deadlines.
        let processors = thread::available_parallelism().map_or(2, NonZero::get);
        command.env(THREADS, (2 * processors).to_string());
    }
    run_as_root(&mut command, &way)?;
    let result = shell::run(&mut command);

    match data {
        Some(folder) => term::say(
            Colour::Green,
            "data",
            format_args!("the real-data tests read {}", folder.display()),
        ),
        None => term::say(
            Colour::Yellow,
            "note",
            format_args!("{DATA} is not set: the real-data tests were not run"),
        ),
    }
    result
}

fn tests(workspace: &Path, args: &Args, data: Option<&Path>) -> Command {
    let mut command = shell::cargo(workspace);
    command.arg("test").args(HOST_CRATES);
    if args.boot {
        command.args(["--test", "cli", "--profile", PROFILE]);
        command.args(["--", "boot::", "--nocapture"]);
        command.args(&args.options).env(BOOTS, "10");
        return command;
    }
    match args.faults {
        true => command
            .args(["--test", "cli", "--test", "kernel"])
            .env(FAULTS, "all"),
        false => command.env_remove(FAULTS).env_remove(BOOTS),
    };
    command.args(["--profile", PROFILE]);
    if args.faults {
        // All at once: most of their time they wait, and each takes as long as it may.
        command.args(["--", "faults::", "fault_points::", "--nocapture"]);
        command.arg("--test-threads=16");
        command.args(&args.options);
    } else if !args.filters.is_empty() || !args.options.is_empty() {
        // Cargo takes one filter, the test binaries any number.
        command.arg("--").args(&args.filters).args(&args.options);
    }
    match data {
        Some(folder) => command.env(DATA, folder),
        None => command.env_remove(DATA),
    };
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::{parse, typed};

    #[test]
    fn filters_and_options_reach_the_test_binaries() {
        let all = "cargo test --workspace --exclude sg-ebpf --exclude sg-bench-ebpf --profile test";
        let cases = [
            ("", all.to_owned()),
            ("a b", format!("{all} -- a b")),
            (
                "a -- --nocapture",
                format!("{all} -- a --nocapture"),
            ),
            (
                "-- --ignored",
                format!("{all} -- --ignored"),
            ),
            (
                "--faults",
                "SG_FAULTS=all cargo test --workspace --exclude sg-ebpf --exclude sg-bench-ebpf --test cli --test kernel --profile test -- faults:: fault_points:: --nocapture --test-threads=16"
                    .to_owned(),
            ),
            (
                "--boot",
                "SG_BOOTS=10 cargo test --workspace --exclude sg-ebpf --exclude sg-bench-ebpf --test cli --profile test -- boot:: --nocapture"
                    .to_owned(),
            ),
        ];
        for (words, expected) in cases {
            let command = super::tests(Path::new("."), &typed(words), None);
            assert_eq!(shell::describe(&command), expected);
        }
    }

    #[test]
    fn kernels_are_all_or_some_and_need_the_equals_sign() {
        let cases = [
            ("", None, vec![]),
            ("--kernels", Some(vec![]), vec![]),
            ("--kernels a", Some(vec![]), vec!["a"]),
            ("--kernels=6.1", Some(vec!["6.1"]), vec![]),
            ("--kernels=6.1,6.12 a", Some(vec!["6.1", "6.12"]), vec!["a"]),
        ];
        for (words, kernels, filters) in cases {
            let args: Args = typed(words);
            let found = args.kernels.as_ref();
            let found = found.map(|names| names.iter().map(String::as_str).collect());
            assert_eq!(found, kernels, "{words}");
            assert_eq!(args.filters, filters, "{words}");
        }
        for wrong in [
            "--kernels -- --nocapture",
            "--write-table",
            "--faults --kernels",
            "--kubernetes --boot",
            "--kubernetes a",
            "--boot a",
            "--faults a",
            "--packages --boot",
        ] {
            assert!(parse::<Args>(wrong).is_err(), "{wrong}");
        }
    }
}
