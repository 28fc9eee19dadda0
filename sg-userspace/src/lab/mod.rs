//! A temporary network: a node under a policy, hosts around it, and real traffic between them.
//! [`run`] compares what got through, and what was counted, with what the policy says.
//!
//! Nothing in it has a name: network namespaces and mounts belong to threads, and programs and maps
//! to pins on a BPF file system that only those threads see. When the process ends, even by
//! SIGKILL, all of it is gone.

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

use sg_common::verdict::Direction;

pub(crate) use error::LabError;
use host::Host;
use network::{INTERFACE, Network, private_bpffs};
use nic::NicCounts;
pub(crate) use plan::Protocol;
use plan::{Plan, Try};
pub(crate) use report::{AnswerBy, Attempt, Enforcer, Report};
use sg_policy::policy::Policy;
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::kernel::{Applied, ApplyOptions, apply, detach};
use sg_userspace::observe::attached::attached_to;
use sg_userspace::observe::counters::{Counters, counters};
use sg_userspace::observe::explain::explain_policy;
use traffic::{Call, Outcome};

/// How long an attempt waits for a reply before it counts as dropped.
const WAIT: Duration = Duration::from_millis(400);
/// How long an attempt waits if a reply is expected: a busy machine may be slow, so the attempt is
/// also repeated.
const PATIENCE: Duration = Duration::from_secs(2);
/// An interface that has counted nothing for this long is considered idle.
const REST: Duration = Duration::from_millis(15);
const RESTS: usize = 100;

#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The policy that the node enforces.
    pub(crate) policy: Policy,
    /// The policy for the comparison, if it is another one. Then the lab must find differences,
    /// which a test uses to show that it can.
    pub(crate) expect: Option<Policy>,
    /// What is to be said in the report.
    pub(crate) notes: Vec<String>,
    /// Called with a few words about each step that begins.
    pub(crate) progress: fn(&str),
}

impl Options {
    pub(crate) fn new(policy: Policy) -> Self {
        Options {
            policy,
            expect: None,
            notes: Vec::new(),
            progress: |_| {},
        }
    }
}

/// Builds the network, enforces the policy on the node, makes all attempts, and compares. Takes one
/// or two seconds. Removes everything, whether it succeeds or not.
pub(crate) fn run(options: &Options) -> Result<Report, LabError> {
    // A new thread, because its mounts and namespaces must not be the caller's.
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
    let plan = Plan::of(policy, network.has_ipv6);
    network.add(&plan.added)?;
    serve(&network, &plan)?;
    let tries = &plan.tries;

    progress("trying everything without a policy");
    baseline(&network, tries)?;

    progress(&format!("applying `{}` to the node", options.policy.name));
    let before = network.node.inside(at_rest)??;
    let enforced = Enforced::new(&network.node, &options.policy, bpffs)?;
    let after = network.node.inside(read_nic)??;

    progress("trying everything again");
    let outcomes = try_all(&network, policy, tries)?;
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
        xdp_mode: state.xdp_mode,
        egress_hook: state.egress_hook,
        inbound_program: state.inbound_program,
        outbound_program: state.outbound_program,
    };

    progress("taking it all down");
    enforced.end()?;
    let mut notes = options.notes.clone();
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

/// Starts the services that the attempts need.
fn serve(network: &Network, plan: &Plan) -> Result<(), LabError> {
    let mut hosts: Vec<(&Host, Direction, Vec<IpAddr>)> = Vec::new();
    for tried in &plan.tries {
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
        let serving = host.start(traffic::serve(addresses, plan.services(direction)));
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

/// Checks that everything gets through without a policy. Otherwise silence would prove nothing.
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

/// Makes all attempts. Those that should have got a reply and did not are repeated with more
/// patience.
fn try_all(
    network: &Network,
    policy: &Policy,
    tries: &[Try],
) -> Result<HashMap<u16, Outcome>, LabError> {
    let mut outcomes = call(network, tries, WAIT)?;
    let late: Vec<&Try> = tries
        .iter()
        .filter(|t| !matches!(outcomes.get(&t.number), Some(Outcome::Answered(_))))
        .filter(|t| explain_policy(policy, &t.question()).verdict.passes())
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
        // The flows of the attempts without a policy must not admit any packet.
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

    /// Detaches, and waits until the kernel has done so.
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
        // If this fails, the rest is removed with the namespaces.
        let _ = self.detach();
    }
}

fn read_nic() -> Result<NicCounts, LabError> {
    nic::read(INTERFACE).map_err(|e| LabError::setup("reading the interface's own counts", e))
}

/// The interface's counts when it is idle, or after a while.
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

/// The interface's counts and the enforcer's counters, read while the interface was idle.
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
