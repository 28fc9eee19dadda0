//! `cargo xtask bench`: builds the benchmarks and sgctl with optimisations, then runs the former
//! as root. What is measured and how is theirs to know; this hands the arguments on.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    root::{NotPermitted, Way, way},
    setup::{self, Needs},
    shell, test_binaries,
};

const BINARY: &str = "sg-bench";

/// Measure what a packet, a connection, a load and a replacement cost
#[derive(clap::Args)]
#[command(
    after_help = "Rows, of which any first part names a group; `--list` has them all:
  live/…     a packet over a veth pair, above an empty program: inbound
  live/out/… the same for outbound packets, at the tc hook
  live/nft/…, live/xdp-filter/…
             other filters with the same packets
  feel/{stream,rr,crr,udp-rr}/{wire,offload}/…
             real sockets: throughput, latency and connections a second, with
             nothing attached, empty programs, the enforcer, nftables
  code/…     a packet by test run on one core; instructions of the programs
  replace/…  what packets notice of a policy that is replaced
  apply/…    `sgctl apply` as a whole process
  flows/…    `sgctl flows` on a million flows
  observe/…  a scrape of ten thousand rules; what of a core the events of a
             flood take

Examples:
  cargo xtask bench                               # everything: a quarter of an hour
  cargo xtask bench --quick                       # everything, roughly: three minutes
  cargo xtask bench live/tke live/rules           # the rows whose names begin so
  cargo xtask bench --quick feel                  # what connections feel: ten seconds
  SG_DATA=data cargo xtask bench live/classbench  # rows over real data
  cargo xtask bench --json rows.json --write-doc  # also into docs/performance.md

Leave the machine alone meanwhile: two of its cores are measured."
)]
pub(crate) struct Args {
    /// Rows, or the first parts of their names; all when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Fewer and shorter windows
    #[arg(long)]
    quick: bool,

    /// Also write the rows to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Also write the rows into the tables of docs/performance.md
    #[arg(long)]
    write_doc: bool,

    /// Only say which rows there are
    #[arg(long)]
    list: bool,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let way = way();
    // What is missing is told before the build, which would be for nothing.
    if way == Way::Closed && !args.list {
        return Err(NotPermitted(
            "measuring loads programs into the kernel, which needs root, and there is no sudo\n\
             run this command as root"
                .to_owned(),
        )
        .into());
    }
    let data = test_binaries::data_folder(env::var_os(test_binaries::DATA), &env::current_dir()?)?;
    setup::ensure(Needs::Tools)?;
    if asks_for_peer(&args.names) && !args.list {
        setup::ensure_peer();
    }
    let sgctl = build::binary(true)?;
    let binary = build::package_binary(BINARY, BINARY, true)?;

    let workspace = shell::workspace()?;
    let mut command = match (&way, args.list) {
        (Way::Sudo(sudo), false) => {
            let mut command = Command::new(sudo);
            command.arg("-E").arg(&binary);
            command
        }
        _ => Command::new(&binary),
    };
    hand_on(&mut command, args, &sgctl, &workspace);
    match data {
        Some(folder) => command.env(test_binaries::DATA, folder),
        None => command.env_remove(test_binaries::DATA),
    };
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    if !status.success() {
        anyhow::bail!("the benchmarks failed ({status}), see above");
    }
    Ok(())
}

/// Whether rows of another filter, which the tests have no use for, are among those that are
/// named.
fn asks_for_peer(names: &[String]) -> bool {
    const PEER: &str = "live/xdp-filter";
    let overlaps = |name: &String| PEER.starts_with(name.as_str()) || name.starts_with(PEER);
    names.is_empty() || names.iter().any(overlaps)
}

fn hand_on(command: &mut Command, args: &Args, sgctl: &Path, workspace: &Path) {
    command.arg("--sgctl").arg(sgctl);
    if args.quick {
        command.arg("--quick");
    }
    if let Some(file) = &args.json {
        command.arg("--json").arg(file);
    }
    if args.write_doc {
        let doc = workspace.join("docs/performance.md");
        command.arg("--write-doc").arg(doc);
    }
    if args.list {
        command.arg("--list");
    }
    command.args(&args.names);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::typed;

    fn check(words: &str, expected: &str) {
        let mut command = Command::new("sg-bench");
        hand_on(
            &mut command,
            &typed(words),
            Path::new("t/sgctl"),
            Path::new("/w"),
        );
        let expected = format!("sg-bench --sgctl t/sgctl {expected}");
        assert_eq!(shell::describe(&command), expected.trim_end(), "{words}");
    }

    #[test]
    fn the_other_filter_is_wanted_where_its_rows_are() {
        let asks = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            asks_for_peer(&names)
        };
        assert!(asks(&[]) && asks(&["live"]) && asks(&["code", "live/xdp-filter/10"]));
        assert!(!asks(&["live/tke"]) && !asks(&["code"]));
    }

    #[test]
    fn arguments_are_handed_on() {
        check("", "");
        check("live/tke code --quick", "--quick live/tke code");
        check("--json a.json --list", "--json a.json --list");
        check("--write-doc", "--write-doc /w/docs/performance.md");
    }
}
