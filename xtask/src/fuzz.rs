//! `cargo xtask fuzz`: what is tried with random input for as long as one likes, in turns. The
//! agreement tests compare the kernel's programs with the reference; a failure is shrunk and
//! written into the folder of cases that every test run replays. The readers of bytes from outside
//! run under libFuzzer; what makes one fail is written into its corpus, which every test run tries.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    files,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
    test_binaries,
};

/// Read by the agreement test itself.
const SECONDS: &str = "SG_FUZZ_SECONDS";
const SEED: &str = "SG_FUZZ_SEED";

/// The agreement test, of `sg-userspace --test kernel`.
const TEST: &str = "fuzz::goes_on";

/// The comparison of the kernel with the reference.
const KERNEL: &str = "kernel";

/// The readers: targets in `fuzz/`.
const READERS: [&str; 6] = [
    "policy", "set_file", "blob", "record", "netlink", "existing",
];

/// The corpora that are kept.
const CORPUS: &str = "fuzz/corpus";
/// What libFuzzer finds on the way, which is not kept.
const FOUND: &str = "target/fuzz";

/// The longest input.
const LONGEST: u32 = 4096;

/// Try the kernel's programs and all that reads from outside with random input
#[derive(clap::Args)]
#[command(after_help = "\
In turns, each for an equal share of the time: the kernel's programs against the reference on random policies
and packets (`kernel`), and under libFuzzer the readers of policies, set files, records, and answers of the
kernel (`policy`, `set_file`, `blob`, `record`, `netlink`, `existing`).

Examples:
  cargo xtask fuzz --minutes 30
  cargo xtask fuzz --minutes 5 --only policy --only set_file
  cargo xtask fuzz --minutes 1 --seed 4711   # the kernel, from where a failure was found

What fails is written to sg-userspace/tests/cases or fuzz/corpus; commit it, and every test run tries it.")]
pub(crate) struct Args {
    /// How long to go on, in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,

    /// Only this one; may be repeated
    #[arg(long, value_name = "NAME", value_parser = [KERNEL, READERS[0], READERS[1], READERS[2], READERS[3], READERS[4], READERS[5]])]
    only: Vec<String>,

    /// The kernel only: the seed of the first policy; the next one has the next seed
    #[arg(long, value_name = "S", conflicts_with = "only")]
    seed: Option<u64>,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let turns = turns(args);
    let seconds = args.minutes * 60 / turns.len() as u64;
    let way = match turns.contains(&KERNEL) {
        true => Some(test_binaries::way_to_root()?),
        false => None,
    };
    let has_readers = turns.iter().any(|turn| *turn != KERNEL);
    setup::ensure(if way.is_some() {
        Needs::Tools
    } else {
        Needs::Build
    })?;
    if has_readers {
        setup::ensure_fuzz()?;
    }
    let workspace = shell::workspace()?;
    for turn in turns {
        term::say(Colour::Cyan, "turn", format_args!("{turn}, {seconds} s"));
        match &way {
            Some(way) if turn == KERNEL => {
                let mut command = kernel(&workspace, seconds, args.seed);
                test_binaries::run_as_root(&mut command, way)?;
                shell::run(&mut command)?;
            }
            _ => {
                let found = workspace.join(FOUND).join(turn);
                files::make_folder(&found)?;
                let mut command = reader(&workspace, &setup::toolchain(), turn, seconds);
                shell::run(&mut command).with_context(|| {
                    format!(
                        "the reader `{turn}` failed: the input is in {CORPUS}/{turn}, commit it"
                    )
                })?;
            }
        }
    }
    Ok(())
}

/// What is to be tried, in order.
fn turns(args: &Args) -> Vec<&str> {
    if args.seed.is_some() {
        return vec![KERNEL];
    }
    let all = std::iter::once(KERNEL).chain(READERS);
    all.filter(|name| args.only.is_empty() || args.only.iter().any(|it| it == name))
        .collect()
}

fn kernel(workspace: &Path, seconds: u64, seed: Option<u64>) -> Command {
    let mut command = shell::cargo(workspace);
    command
        .arg("test")
        .args(test_binaries::HOST_CRATES)
        .args(["--test", "kernel", "--"])
        .args(["--ignored", "--exact", TEST, "--nocapture"])
        .env(SECONDS, seconds.to_string());
    match seed {
        Some(seed) => command.env(SEED, seed.to_string()),
        None => command.env_remove(SEED),
    };
    command
}

/// A reader under libFuzzer. It has no unsafe code that a sanitizer could see more of.
fn reader(workspace: &Path, toolchain: &str, name: &str, seconds: u64) -> Command {
    let mut command = shell::of_toolchain(toolchain, "cargo");
    command
        .current_dir(workspace)
        .args([
            "fuzz",
            "run",
            "--fuzz-dir",
            "fuzz",
            "--sanitizer",
            "none",
            name,
        ])
        // What is found goes to the first folder, and what is kept is in the second.
        .args([format!("{FOUND}/{name}"), format!("{CORPUS}/{name}")])
        .arg("--")
        .arg(format!("-artifact_prefix={CORPUS}/{name}/"))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::typed::{parse, typed};

    #[test]
    fn the_test_learns_how_long_and_from_where() {
        let run = "cargo test --workspace --exclude sg-ebpf --exclude sg-bench-ebpf --test kernel -- \
                   --ignored --exact fuzz::goes_on --nocapture";
        let workspace = Path::new(".");
        assert_eq!(
            shell::describe(&kernel(workspace, 300, None)),
            format!("SG_FUZZ_SECONDS=300 {run}")
        );
        assert_eq!(
            shell::describe(&kernel(workspace, 60, Some(47))),
            format!("SG_FUZZ_SECONDS=60 SG_FUZZ_SEED=47 {run}")
        );
        assert!(parse::<Args>("--minutes 0").is_err());
    }

    #[test]
    fn all_have_their_turn_unless_some_are_named() {
        let of = |words: &str| -> Vec<String> {
            let args: Args = typed(&format!("--minutes 1 {words}"));
            turns(&args).into_iter().map(str::to_owned).collect()
        };
        assert_eq!(of("").len(), 7);
        assert_eq!(of("--only netlink --only policy"), ["policy", "netlink"]);
        assert_eq!(of("--seed 4"), ["kernel"]);
        assert!(parse::<Args>("--minutes 1 --only nothing").is_err());
    }

    #[test]
    fn the_test_is_one_that_there_is() {
        let text = test_binaries::source_of("kernel", TEST);
        for variable in [SECONDS, SEED] {
            assert!(text.contains(variable), "it does not read {variable}");
        }
    }

    /// Each reader has a target and a corpus, and there is no other target.
    #[test]
    fn each_reader_has_a_target_and_a_corpus() {
        let workspace = shell::workspace().unwrap();
        let manifest = fs::read_to_string(workspace.join("fuzz/Cargo.toml")).unwrap();
        assert_eq!(manifest.matches("[[bin]]").count(), READERS.len());
        for name in READERS {
            assert!(
                manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
                "{name}"
            );
            assert!(
                workspace
                    .join(format!("fuzz/fuzz_targets/{name}.rs"))
                    .exists(),
                "{name}"
            );
            let kept = fs::read_dir(workspace.join(CORPUS).join(name)).unwrap();
            assert!(kept.count() > 0, "{name} has an empty corpus");
        }
        let line = shell::describe(&reader(Path::new("."), "nightly", "policy", 5));
        assert!(
            line.starts_with(
                "rustup run nightly cargo fuzz run --fuzz-dir fuzz --sanitizer none policy"
            ) && line.contains("target/fuzz/policy fuzz/corpus/policy -- ")
                && line.contains("-max_total_time=5"),
            "{line}"
        );
    }
}
