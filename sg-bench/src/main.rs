//! The benchmarks; `cargo xtask bench` builds and runs this. One file for each kind of row.

mod aims;
mod apply;
mod cases;
mod code;
mod cores;
mod enforcer;
mod feel;
mod flows;
mod frames;
mod live;
mod missing;
mod nftables;
mod object;
mod observe;
mod peers;
mod policies;
mod progress;
mod replace;
mod report;
mod rig;
mod settings;
mod sockets;
mod statistics;
mod tricks;
mod uplinks;
mod windows;
mod xdp_filter;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use cores::apart;
use progress::Progress;
use settings::Settings;

fn main() -> ExitCode {
    match bench(&Settings::from_environment()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(settings: &Settings) -> Result<()> {
    let mut names: Vec<String> = cases::names().map(str::to_owned).collect();
    names.extend(uplinks::names().map(str::to_owned));
    names.extend(feel::names());
    names.extend(code::names());
    names.extend(tricks::names().map(str::to_owned));
    names.extend(replace::names().map(str::to_owned));
    names.extend(apply::names().map(str::to_owned));
    names.extend(flows::names().map(str::to_owned));
    names.extend(observe::names().map(str::to_owned));
    if settings.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if let Some(unknown) = settings.unknown(&names) {
        bail!("no row is called `{unknown}` or begins like that; `--list` names them all");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("measuring loads programs into the kernel, which needs root: run it as root");
    }
    let progress = Progress::new();
    let mut records = apart(|| live::run(settings, &progress))?;
    records.extend(apart(|| uplinks::run(settings, &progress))?);
    records.extend(apart(|| feel::run(settings, &progress))?);
    records.extend(apart(|| code::run(settings, &progress))?);
    records.extend(apart(|| tricks::run(settings, &progress))?);
    records.extend(apart(|| replace::run(settings, &progress))?);
    records.extend(apart(|| apply::run(settings, &progress))?);
    records.extend(apart(|| flows::run(settings, &progress))?);
    records.extend(apart(|| observe::run(settings, &progress))?);
    aims::set(&mut records);
    report::print(&records);
    if let Some(path) = &settings.write_doc {
        report::write_doc(path, &settings.command(), &records)?;
    }
    if let Some(path) = &settings.json {
        let text = serde_json::to_string_pretty(&records)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
