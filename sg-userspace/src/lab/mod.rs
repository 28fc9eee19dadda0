//! A throw-away network: a node under a policy, hosts around it, real traffic between them.
//! [`run`] compares what got through, and what was counted, with what the policy says.
//!
//! Everything it makes is anonymous: network namespaces and mounts belong to threads, programs and
//! maps to pins on a BPF file system that only those threads see. The end of the process, even by
//! SIGKILL, is the end of them all.

mod echo;
mod error;
mod host;
mod judge;
mod network;
mod nic;
mod plan;
mod report;
mod traffic;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sg_common::verdict::{Action, Direction};

use crate::kernel::pins::InterfacePins;
use crate::kernel::{Applied, ApplyOptions, apply, detach};
use crate::observe::attached::attached_to;
use crate::observe::counters::{Counters, counters};
use crate::observe::explain::explain_policy;
pub use error::LabError;
use host::Host;
use network::{INTERFACE, Network, private_bpffs};
use nic::NicCounts;
use plan::Try;
pub use report::{AnswerBy, Attempt, Enforcer, InterfaceCount, Report};
use sg_policy::policy::Policy;
use traffic::{Call, Outcome};

/// How long an attempt waits before its silence counts as dropped.
const WAIT: Duration = Duration::from_millis(400);
/// The same where an answer is expected: a busy machine may take its time, and is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// An interface that counted nothing for so long has come to rest.
const REST: Duration = Duration::from_millis(15);
const RESTS: usize = 100;

#[derive(Clone, Debug)]
pub struct Options {
    /// What the node enforces.
    pub policy: Policy,
    /// What is taken to be the policy when comparing, if that is not the same: with another one
    /// the lab must find differences, by which a test proves that it can.
    pub expect: Option<Policy>,
    /// Told what begins, in a few words.
    pub progress: fn(&str),
}

impl Options {
    pub fn new(policy: Policy) -> Self {
        Options {
            policy,
            expect: None,
            progress: |_| {},
        }
    }
}

/// Builds the network, enforces the policy on the node, tries everything, and compares. Takes one
/// or two seconds. Leaves nothing behind, whether it succeeds or not.
pub fn run(options: &Options) -> Result<Report, LabError> {
    // On a thread of its own, whose mounts and namespaces are not the caller's.
    thread::scope(|scope| {
        let lab = thread::Builder::new()
            .name("lab".into())
            .spawn_scoped(scope, || run_apart(options))
            .map_err(|e| LabError::setup("starting a thread", e))?;
        lab.join().unwrap_or(Err(LabError::Lost))
    })
}

fn run_apart(options: &Options) -> Result<Report, LabError> {
    let started = Instant::now();
    let progress = options.progress;
    let policy = options.expect.as_ref().unwrap_or(&options.policy);

    progress("building a network of four hosts");
    let mount = private_bpffs()?;
    let bpffs = mount.path();
    let network = Network::build()?;
    let tries = plan::tries(network.has_ipv6);
    serve(&network, &tries)?;

    progress("trying everything without a policy");
    baseline(&network, &tries)?;

    progress(&format!("applying `{}` to the node", options.policy.name));
    let before = network.node.inside(at_rest)??;
    let enforced = Enforced::new(&network.node, &options.policy, bpffs)?;
    let after = network.node.inside(read_nic)??;

    progress("trying everything again");
    let outcomes = try_all(&network, policy, &tries)?;
    let (end, counters) = network.node.inside(|| counted(bpffs))??;

    let attempts: Vec<Attempt> = tries
        .iter()
        .map(|tried| {
            let outcome = outcomes.get(&tried.number).unwrap_or(&Outcome::Silence);
            judge::attempt(policy, tried, outcome)
        })
        .collect();
    let interface = judge::interface_counts(&counters, before, after, end);
    let mut differences: Vec<String> = judge::differing_attempts(&attempts).collect();
    differences.extend(judge::differing_counts(&attempts, &counters));
    differences.extend(judge::differing_sums(&counters));
    differences.extend(judge::differing_interface(&interface));
    let state = &enforced.applied.first.state;
    let enforcer = Enforcer {
        xdp_mode: state.xdp_mode.clone(),
        egress_hook: state.egress_hook.clone(),
        inbound_program: state.inbound_program,
        outbound_program: state.outbound_program,
    };

    progress("taking it all down");
    enforced.end()?;
    let mut notes = Vec::new();
    if !network.has_ipv6 {
        notes.push("this kernel has no IPv6: its attempts were left out".to_owned());
    }
    drop(network);
    Ok(Report {
        ok: differences.is_empty(),
        seconds: started.elapsed().as_secs_f64(),
        enforcer,
        attempts,
        counters,
        interface,
        differences,
        notes,
    })
}

/// Starts what the attempts want an answer from.
fn serve(network: &Network, tries: &[Try]) -> Result<(), LabError> {
    let mut hosts: Vec<(&Host, Direction, Vec<IpAddr>)> = Vec::new();
    for tried in tries {
        let (host, address) = match tried.direction {
            Direction::Inbound => (&network.node, tried.peer.node),
            Direction::Outbound => (network.host(tried.peer.place), tried.peer.address),
        };
        match hosts.iter_mut().find(|(h, ..)| std::ptr::eq(*h, host)) {
            Some((.., addresses)) if addresses.contains(&address) => {}
            Some((.., addresses)) => addresses.push(address),
            None => hosts.push((host, tried.direction, vec![address])),
        }
    }
    for (host, direction, addresses) in hosts {
        let serving = host.start(traffic::serve(addresses, plan::services(direction)));
        let failed = |e| LabError::setup("starting the lab's services", e);
        serving.wait()?.map_err(failed)?;
    }
    Ok(())
}

/// Makes the calls of `tries`, all at the same time.
fn call<'a>(
    network: &Network,
    tries: impl IntoIterator<Item = &'a Try>,
    wait: Duration,
) -> Result<HashMap<u16, Outcome>, LabError> {
    let mut hosts: Vec<(&Host, Vec<Call>)> = Vec::new();
    for tried in tries {
        let host = match tried.direction {
            Direction::Inbound => network.host(tried.peer.place),
            Direction::Outbound => &network.node,
        };
        let call = Call {
            from: tried.from().1,
            to: tried.to().1,
            what: tried.what,
            number: tried.number,
        };
        match hosts.iter_mut().find(|(h, _)| std::ptr::eq(*h, host)) {
            Some((_, calls)) => calls.push(call),
            None => hosts.push((host, vec![call])),
        }
    }
    let running: Vec<_> = hosts
        .into_iter()
        .map(|(host, calls)| host.start(traffic::call_all(calls, wait)))
        .collect();
    let mut outcomes = HashMap::new();
    for pending in running {
        outcomes.extend(pending.wait()?);
    }
    Ok(outcomes)
}

/// Without a policy everything must get through, or silence would prove nothing.
fn baseline(network: &Network, tries: &[Try]) -> Result<(), LabError> {
    let outcomes = call(network, tries, PATIENCE)?;
    let is_silent = |t: &&Try| !matches!(outcomes.get(&t.number), Some(Outcome::Answered(_)));
    let Some(first) = tries.iter().find(is_silent) else {
        return Ok(());
    };
    let how = match outcomes.get(&first.number) {
        Some(Outcome::Odd(how)) => how.as_str(),
        _ => "no answer",
    };
    let port = first.port().map(|p| format!(" {p}")).unwrap_or_default();
    Err(LabError::Baseline {
        what: format!(
            "{} of {} attempts failed, the first from {} to {}, {}{port}: {how}",
            tries.iter().filter(is_silent).count(),
            tries.len(),
            first.from().1,
            first.to().1,
            first.transport(),
        ),
    })
}

/// Tries everything, and with more patience again what should have been answered but was not.
fn try_all(
    network: &Network,
    policy: &Policy,
    tries: &[Try],
) -> Result<HashMap<u16, Outcome>, LabError> {
    let mut outcomes = call(network, tries, WAIT)?;
    let late: Vec<&Try> = tries
        .iter()
        .filter(|t| !matches!(outcomes.get(&t.number), Some(Outcome::Answered(_))))
        .filter(|t| explain_policy(policy, &t.question()).verdict == Action::Accept.name())
        .collect();
    if !late.is_empty() {
        outcomes.extend(call(network, late, PATIENCE)?);
    }
    Ok(outcomes)
}

/// The policy on the node's interface. Detaches when it is dropped.
struct Enforced<'a> {
    node: &'a Host,
    bpffs: &'a Path,
    pins: Option<InterfacePins>,
    applied: Applied,
}

impl<'a> Enforced<'a> {
    fn new(node: &'a Host, policy: &Policy, bpffs: &'a Path) -> Result<Self, LabError> {
        let mut options = ApplyOptions::new(INTERFACE);
        options.bpffs = bpffs.to_owned();
        // What the attempts without a policy have left behind is not to let anything through.
        options.cut_existing = true;
        let applied = node.inside(|| apply(policy, &options))??;
        let mut enforced = Enforced {
            node,
            bpffs,
            pins: None,
            applied,
        };
        enforced.pins = Some(node.inside(|| attached_to(bpffs, INTERFACE))??.pins);
        Ok(enforced)
    }

    /// Detaches, and waits for the kernel to have done so.
    fn end(mut self) -> Result<(), LabError> {
        self.detach()
    }

    fn detach(&mut self) -> Result<(), LabError> {
        match self.pins.take() {
            Some(pins) => Ok(self.node.inside(|| detach(self.bpffs, &pins))??),
            None => Ok(()),
        }
    }
}

impl Drop for Enforced<'_> {
    fn drop(&mut self) {
        // What this leaves, the namespaces take with them.
        let _ = self.detach();
    }
}

fn read_nic() -> Result<NicCounts, LabError> {
    nic::read(INTERFACE).map_err(|e| LabError::setup("reading the interface's own counts", e))
}

/// The interface's counts once nothing moves any more, or after a while.
fn at_rest() -> Result<NicCounts, LabError> {
    let mut last = read_nic()?;
    for _ in 0..RESTS {
        thread::sleep(REST);
        let now = read_nic()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

/// The interface's counts and the enforcer's of one moment at which nothing moved.
fn counted(bpffs: &Path) -> Result<(NicCounts, Counters), LabError> {
    let mut rounds = RESTS;
    loop {
        let nic = at_rest()?;
        let counters = counters(&attached_to(bpffs, INTERFACE)?)?;
        thread::sleep(REST);
        rounds -= 1;
        if read_nic()? == nic || rounds == 0 {
            return Ok((nic, counters));
        }
    }
}
