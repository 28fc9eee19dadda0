//! `run --confirm-if-reachable`: `run` confirms its own policy (C4) when the node can still open
//! the connections that it must be able to open. This stands in for a person where there is none,
//! as in a container of a cluster: what cuts the node off is not confirmed, and the kernel undoes
//! it.
//!
//! A check says something only by comparison: the same connections have to be possible before the
//! policy is put in force. Where they are not, the policy is not put in force.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use sg_userspace::kernel::KernelError;
use sg_userspace::kernel::trial::left_until;

use super::own_trial::OwnTrial;
use crate::cli::failure::Failure;

/// How long one connection may take. A dropped SYN is sent again after one second.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long it is until the next attempt.
const AGAIN: Duration = Duration::from_secs(1);

/// An end of TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target(SocketAddr);

impl FromStr for Target {
    type Err = String;

    /// The last colon stands before the port, so that the variables with which Kubernetes names its
    /// API server can be joined for IPv6 too.
    fn from_str(text: &str) -> Result<Target, String> {
        let joined = || {
            let (address, port) = text.rsplit_once(':')?;
            let address: IpAddr = address.parse().ok()?;
            Some(SocketAddr::new(address, port.parse().ok()?))
        };
        let target = text.parse().ok().or_else(joined);
        target
            .filter(|target| target.port() != 0)
            .map(Target)
            .ok_or_else(|| "expected an address and a port, such as 10.0.0.1:6443".to_owned())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Opens a new connection to each target and closes it. The error names the first that cannot be
/// reached.
fn reach(targets: &[Target]) -> Result<(), String> {
    targets.iter().try_for_each(|target| {
        let connected = TcpStream::connect_timeout(&target.0, PATIENCE);
        connected
            .map(drop)
            .map_err(|error| format!("{target} cannot be reached: {error}"))
    })
}

/// Fails if a target cannot be reached while the policy of this name is not in force.
pub(super) fn reach_before(targets: &[Target], name: &str) -> Result<(), Failure> {
    reach(targets).map_err(|reason| {
        let fixed = KernelError::Fixed {
            what: format!("{name} is not put in force"),
            reason: format!("{reason} already now, so that the check could not show what {name} changes"),
            help: "see why the node cannot reach it; `sgctl apply` puts a policy in force without this \
                   check"
                .into(),
        };
        fixed.into()
    })
}

/// The checks of a session, and the one that is under way.
pub(super) struct Checks {
    targets: Vec<Target>,
    current: Option<Current>,
}

/// The check of a policy on trial.
struct Current {
    generation: u32,
    results: Receiver<Result<(), String>>,
    /// The last reason, so that it is reported only once.
    reason: Option<String>,
}

/// What a check has found since the last look.
pub(super) enum Found {
    Nothing,
    Unreachable(String),
    Reachable,
}

impl Checks {
    pub(super) fn of(targets: &[Target]) -> Checks {
        Checks {
            targets: targets.to_vec(),
            current: None,
        }
    }

    pub(super) fn are_asked_for(&self) -> bool {
        !self.targets.is_empty()
    }

    /// Ends the check that is under way. The next look begins another one.
    pub(super) fn give_up(&mut self) {
        self.current = None;
    }

    /// Begins the check of the policy on trial if that has not begun.
    pub(super) fn look(&mut self, trial: &OwnTrial) -> Found {
        let generation = trial.policy.generation;
        let current = match &mut self.current {
            Some(current) if current.generation == generation => current,
            current => current.insert(begin(&self.targets, trial)),
        };
        match current.results.try_recv() {
            Ok(Ok(())) => Found::Reachable,
            Ok(Err(reason)) if current.reason.as_ref() == Some(&reason) => Found::Nothing,
            Ok(Err(reason)) => {
                current.reason = Some(reason.clone());
                Found::Unreachable(reason)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Found::Nothing,
        }
    }
}

/// Tries until all targets were reached at a time, or until the deadline. In a thread of its own,
/// which ends with the receiver too, so that `run` goes on meanwhile.
fn begin(targets: &[Target], trial: &OwnTrial) -> Current {
    let (sender, results) = channel();
    let (targets, deadline) = (targets.to_vec(), trial.deadline);
    thread::spawn(move || {
        while !left_until(deadline).is_zero() {
            let reached = reach(&targets);
            let is_reached = reached.is_ok();
            if sender.send(reached).is_err() || is_reached {
                return;
            }
            thread::sleep(AGAIN);
        }
    });
    Current {
        generation: trial.policy.generation,
        results,
        reason: None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_target_is_an_address_and_a_port() {
        for (text, shown) in [
            ("10.0.0.1:6443", "10.0.0.1:6443"),
            ("[fd00::1]:443", "[fd00::1]:443"),
            ("fd00::1:443", "[fd00::1]:443"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), shown, "{text}");
        }
        for wrong in [
            "10.0.0.1",
            "api:6443",
            ":443",
            "10.0.0.1:0",
            "10.0.0.1:x",
            "::1",
            "",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_targets_have_to_be_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = Target(listener.local_addr().unwrap());
        assert_eq!(reach(&[open, open]), Ok(()));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Target(closed.local_addr().unwrap());
        drop(closed);
        let reason = reach(&[open, at]).unwrap_err();
        assert!(
            reason.starts_with(&format!("{at} cannot be reached: ")),
            "{reason}"
        );
    }
}
