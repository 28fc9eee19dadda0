//! Ends chosen flows, as `established: flush` does all of them (SPEC K11): a TCP connection is cut,
//! any other flow is forgotten. Afterwards nothing passes that the rules do not accept: without an
//! entry they alone decide, and a cut connection stays in the table, so that a segment from its
//! middle does not bring it back. For the same reason a connection that is cut already is left as
//! it is.
//!
//! A flow is known by its tuple and by the tick in which it was entered, so that another one which
//! has taken its place since it was listed is left alone. A packet that is being judged meanwhile
//! may enter the flow among the established ones, from what it has read before. So the flows are
//! looked at again when no packet is in the programs any more that has begun before.

use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;
use sg_common::flow::CUT;
use sg_common::flow_entry::{FlowKey, created_of, tick};
use sg_common::flow_table::{cut, remove};
use sg_common::protocol::kind_of;
use sg_common::ruling::is_cut_at_its_end;
use sg_common::verdict::Direction;

use super::error::KernelError;
use super::flow_memory::{FlowTable, key_of};
use super::flow_tables::{Ledger, monotonic_now};
use super::load::tables::LiveTables;
use super::pins::{InterfacePins, PinTree};
use super::state::State;
use super::sys;

/// A flow that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub local: IpAddr,
    pub remote: IpAddr,
    /// The ports, or what stands in their place: see [`FlowKey`].
    pub ports: (u16, u16),
    pub protocol: u8,
    /// The tick in which it was entered.
    pub created: u32,
}

/// What has become of the flows that were to be ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Killed {
    /// TCP connections that are cut: their segments are dropped until a new SYN that the rules
    /// accept.
    pub cut: usize,
    /// Flows that are forgotten: their next packet is judged as a new one.
    pub forgotten: usize,
    /// TCP connections that are forgotten and go on, because the rules accept the packets of both
    /// ends and ask no flow.
    pub by_rules: usize,
    /// Flows that had ended, or made room for a new one, since they were listed.
    pub gone: usize,
    /// Flows that could not be ended, because too many packets changed their words of the table.
    pub busy: usize,
}

/// What has become of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Cut,
    Forgotten,
    ByRules,
    Gone,
    Busy,
}

/// How often a flow is tried to end, if others change its words all the time.
const ATTEMPTS: u32 = 100;

/// Ends the flows, which are those of the attachment of this interface. `bpffs` is the file system
/// with its pins. Other writers are kept out meanwhile, so that the policy stays the same.
pub fn kill(bpffs: &Path, pins: &InterfacePins, chosen: &[Chosen]) -> Result<Killed, KernelError> {
    let tree = PinTree::new(bpffs);
    let _lock = tree.lock()?;
    let state = State::read(pins)?.ok_or_else(|| KernelError::NotAttached {
        scope: "this interface".into(),
    })?;
    let knife = Knife {
        tables: LiveTables::of_running(pins, &state)?,
        table: FlowTable::open(pins, &state.timeouts)?,
        ledger: Ledger::open(pins)?,
        state: &state,
    };
    let mut fates: Vec<Fate> = chosen.iter().map(|one| knife.end(one)).collect();
    sys::wait_for_programs();
    for (one, fate) in chosen.iter().zip(&mut fates) {
        match (*fate, knife.end(one)) {
            // What was ended is not there any more.
            (_, Fate::Gone) => {}
            (_, again) => *fate = again,
        }
    }
    let mut killed = Killed::default();
    for fate in fates {
        *match fate {
            Fate::Cut => &mut killed.cut,
            Fate::Forgotten => &mut killed.forgotten,
            Fate::ByRules => &mut killed.by_rules,
            Fate::Gone => &mut killed.gone,
            Fate::Busy => &mut killed.busy,
        } += 1;
    }
    Ok(killed)
}

struct Knife<'a> {
    state: &'a State,
    tables: LiveTables,
    table: FlowTable,
    ledger: Ledger,
}

impl Knife<'_> {
    fn end(&self, chosen: &Chosen) -> Fate {
        let Chosen {
            local,
            remote,
            ports,
            protocol,
            created,
        } = *chosen;
        let key: FlowKey = key_of(local, remote, ports, protocol);
        let is_tcp = is_cut_at_its_end(kind_of(protocol, remote.is_ipv6()) as u8);
        for _ in 0..ATTEMPTS {
            let found = self.table.find(&key);
            let is_it = |begun: u64| created_of(begun) == created;
            let Some(found) = found.filter(|found| is_it(found.contents.begun)) else {
                return Fate::Gone;
            };
            if is_tcp && found.contents.head.state() == CUT {
                return Fate::Cut;
            }
            let is_seen = !is_tcp || self.asks_about(chosen);
            if is_tcp && is_seen {
                // The next look shows whether that has succeeded.
                cut(&self.table, &found, tick(monotonic_now()));
            } else if remove(&self.table, &found) {
                let mut left = [0; 2];
                left[found.kind() as usize] = 1;
                self.ledger.add_left(left);
                return if is_seen {
                    Fate::Forgotten
                } else {
                    Fate::ByRules
                };
            }
        }
        Fate::Busy
    }

    /// Whether the programs look at the flow table for packets of this TCP connection. Where they
    /// do not, a cut entry would stop nothing, and would only surprise the next policy.
    fn asks_about(&self, chosen: &Chosen) -> bool {
        let accepts = |direction: Direction| {
            let number = match direction {
                Direction::Inbound => chosen.ports.0,
                Direction::Outbound => chosen.ports.1,
            };
            let kind = kind_of(chosen.protocol, chosen.remote.is_ipv6());
            let verdict = self.tables.decide(direction, chosen.remote, kind, number);
            verdict.is_accept()
        };
        let state = self.state;
        state.has_flows && (state.may_have_cut || !Direction::BOTH.into_iter().all(accepts))
    }
}
