//! The flow table, flow by flow.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use sg_common::flow::{CUT, FlowKind, TIMEOUTS, Timeout, elapsed, is_expired, seconds, state_name};
use sg_common::verdict::Direction;

use super::attached::Attached;
use super::filter::{Ends, Filter, RuleSeen};
use crate::kernel::KernelError;
pub use crate::kernel::flow_tables::monotonic_now;
use crate::kernel::flow_tables::{FlowEntry, each_flow};
use crate::kernel::kill::Chosen;
use crate::kernel::state::{SlotOwner, State};

/// One tracked flow. Ports are missing for protocols without them. An ICMP query has its identifier
/// instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub icmp_id: Option<u16>,
    /// The direction of the packet that opened it.
    pub opened: Opened,
    pub kind: FlowKind,
    pub state: FlowState,
    /// Whether it existed before the first policy and no rule admits it.
    #[serde(rename = "seeded")]
    pub is_seeded: bool,
    /// Whether it passes only because what would be dropped is watched (C9).
    #[serde(rename = "audited")]
    pub is_audited: bool,
    /// Seconds since it was entered, and since its last packet (to about a quarter of a second).
    pub age_seconds: u64,
    pub idle_seconds: u64,
    /// Seconds after which it is forgotten, unless there is a packet of it before.
    pub seconds_left: u64,
    /// The epoch in which a policy admitted it last, by the number of the generation that began
    /// it: loading the same policy again, or adding an interface, begins none.
    pub generation: u32,
    /// The rule that admitted it. Null if that rule is not known any more, or if the flow is
    /// seeded or cut.
    #[serde(serialize_with = "as_rule")]
    pub rule: Option<Arc<FlowRule>>,
    /// Its ports, or what stands in their place.
    #[serde(skip)]
    pub numbers: (u16, u16),
    /// The tick in which it was entered.
    #[serde(skip)]
    pub created: u32,
}

fn as_rule<S: Serializer>(rule: &Option<Arc<FlowRule>>, serializer: S) -> Result<S::Ok, S::Error> {
    rule.as_deref().serialize(serializer)
}

/// The direction of the packet that opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opened {
    Inbound,
    Outbound,
    /// The connection existed before the first attachment, and its originator is not known.
    Unknown,
}

impl Opened {
    pub fn name(self) -> &'static str {
        match self {
            Opened::Inbound => Direction::Inbound.name(),
            Opened::Outbound => Direction::Outbound.name(),
            Opened::Unknown => "unknown",
        }
    }
}

impl From<Option<Direction>> for Opened {
    fn from(direction: Option<Direction>) -> Opened {
        match direction {
            Some(Direction::Inbound) => Opened::Inbound,
            Some(Direction::Outbound) => Opened::Outbound,
            None => Opened::Unknown,
        }
    }
}

/// The state of a flow, written as the name of its timeout, such as `tcp-established`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    Lives(Timeout),
    /// `tcp-cut`: a connection that was revoked, flushed or cut. Its segments are dropped until a
    /// SYN that the rules accept.
    Cut,
}

impl FlowState {
    /// Every state that a flow can have.
    pub fn all() -> impl Iterator<Item = FlowState> {
        let timeouts = Timeout::ALL.into_iter();
        let states = timeouts.filter(|timeout| *timeout != Timeout::Fragment);
        states.map(FlowState::Lives).chain([FlowState::Cut])
    }

    fn of(number: u8) -> FlowState {
        Timeout::from_index(number).map_or(FlowState::Cut, FlowState::Lives)
    }

    /// Its number in the entry of a flow.
    pub(super) fn number(self) -> u8 {
        match self {
            FlowState::Lives(timeout) => timeout as u8,
            FlowState::Cut => CUT,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            FlowState::Lives(timeout) => timeout.name(),
            FlowState::Cut => state_name(CUT),
        }
    }

    /// The name without the protocol, where that stands beside it: `time-wait`.
    pub fn short(self) -> &'static str {
        let name = self.name();
        name.strip_prefix("tcp-").unwrap_or(name)
    }
}

impl Serialize for FlowState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRule {
    /// The direction whose packets it decides.
    pub direction: Direction,
    pub group: String,
    pub position: Option<u32>,
    pub name: Option<String>,
    pub summary: String,
}

/// Which flows are meant, in which order, and how many at most.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub filter: Filter,
    /// One of these states or kinds. Empty: any.
    pub states: Vec<StateChoice>,
    pub sort: Sort,
    /// Whether the last ones come first.
    pub is_reversed: bool,
    pub most: usize,
}

impl Default for Wanted {
    /// All, the most recently seen first.
    fn default() -> Self {
        Wanted {
            filter: Filter::default(),
            states: Vec::new(),
            sort: Sort::Seen,
            is_reversed: false,
            most: usize::MAX,
        }
    }
}

impl Wanted {
    /// Whether all flows are meant.
    pub fn is_all(&self) -> bool {
        self.filter.is_empty() && self.states.is_empty()
    }
}

/// A state by its name, or all states of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChoice {
    State(FlowState),
    Kind(FlowKind),
}

impl StateChoice {
    /// Parses a name as it is listed, or `half-open` and `established`, which are kinds and not
    /// short names of states. `None` if it is neither.
    pub fn of(name: &str) -> Option<StateChoice> {
        let kinds = FlowKind::BOTH.map(|kind| (kind.name(), StateChoice::Kind(kind)));
        let of = |name: fn(FlowState) -> &'static str| {
            FlowState::all().map(move |state| (name(state), StateChoice::State(state)))
        };
        let states = of(FlowState::name).chain(of(FlowState::short));
        let mut all = kinds.into_iter().chain(states);
        all.find_map(|(known, choice)| (known == name).then_some(choice))
    }

    /// The names of all of them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let kinds = FlowKind::BOTH.into_iter().map(FlowKind::name);
        kinds.chain(FlowState::all().map(FlowState::name))
    }

    fn means(self, flow: &Flow) -> bool {
        match self {
            StateChoice::State(state) => flow.state == state,
            StateChoice::Kind(kind) => flow.kind == kind,
        }
    }
}

/// By what flows are sorted. Flows that are equal in that are in the order of [`Sort::Seen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The one whose last packet is the newest first.
    Seen,
    /// The oldest first.
    Age,
    /// The one that is forgotten next first.
    Left,
    Proto,
    State,
    Local,
    Remote,
    /// By the port to which it was opened.
    Port,
    /// By the rule that admitted it: inbound ones first, by position; those of no rule last.
    Rule,
}

impl Sort {
    /// Each with its name.
    pub const ALL: [(&str, Sort); 9] = [
        ("seen", Sort::Seen),
        ("age", Sort::Age),
        ("left", Sort::Left),
        ("proto", Sort::Proto),
        ("state", Sort::State),
        ("local", Sort::Local),
        ("remote", Sort::Remote),
        ("port", Sort::Port),
        ("rule", Sort::Rule),
    ];

    fn compare(self, a: &Flow, b: &Flow) -> Ordering {
        let first = match self {
            Sort::Seen => Ordering::Equal,
            Sort::Age => b.age_seconds.cmp(&a.age_seconds),
            Sort::Left => a.seconds_left.cmp(&b.seconds_left),
            Sort::Proto => a.protocol.cmp(&b.protocol),
            Sort::State => a.state.name().cmp(b.state.name()),
            Sort::Local => (a.local, a.local_port).cmp(&(b.local, b.local_port)),
            Sort::Remote => (a.remote, a.remote_port).cmp(&(b.remote, b.remote_port)),
            Sort::Port => a.port().cmp(&b.port()),
            Sort::Rule => a.rank_of_rule().cmp(&b.rank_of_rule()),
        };
        let key = |f: &Flow| (f.idle_seconds, f.remote, f.remote_port, f.local_port);
        first.then_with(|| key(a).cmp(&key(b)))
    }
}

impl Flow {
    /// The port to which it was opened.
    fn port(&self) -> Option<u16> {
        match self.opened {
            Opened::Outbound => self.remote_port,
            Opened::Inbound | Opened::Unknown => self.local_port,
        }
    }

    fn rank_of_rule(&self) -> (u8, u32) {
        match &self.rule {
            Some(rule) => (rule.direction as u8, rule.position.unwrap_or(u32::MAX)),
            None => (u8::MAX, u32::MAX),
        }
    }

    /// The flow as [`crate::kernel::kill`] takes it.
    pub fn chosen(&self) -> Chosen {
        Chosen {
            local: self.local,
            remote: self.remote,
            ports: self.numbers,
            protocol: self.protocol,
            created: self.created,
        }
    }
}

/// The flows of an interface that are wanted.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// At most as many as were wanted, in the order that was wanted.
    pub flows: Vec<Flow>,
    /// How many flows there are, and how many of each kind, in the order of [`FlowKind::BOTH`].
    pub total: usize,
    pub live: [u64; 2],
    /// How many of them fit what was wanted.
    pub matching: usize,
}

/// Keeps the first flows in an order, with memory for twice as many.
struct First<'a> {
    wanted: &'a Wanted,
    flows: Vec<Flow>,
}

impl First<'_> {
    /// How many there have to be before it is worth while to drop some.
    const FEW: usize = 1024;

    fn compare(&self) -> impl Fn(&Flow, &Flow) -> Ordering + use<> {
        let (sort, is_reversed) = (self.wanted.sort, self.wanted.is_reversed);
        move |a, b| match is_reversed {
            true => sort.compare(b, a),
            false => sort.compare(a, b),
        }
    }

    fn push(&mut self, flow: Flow) {
        let most = self.wanted.most;
        if most == 0 {
            return;
        }
        self.flows.push(flow);
        if self.flows.len() >= most.saturating_mul(2).max(Self::FEW) {
            let compare = self.compare();
            self.flows.select_nth_unstable_by(most - 1, compare);
            self.flows.truncate(most);
        }
    }

    fn sorted(mut self) -> Vec<Flow> {
        let compare = self.compare();
        self.flows.sort_unstable_by(compare);
        self.flows.truncate(self.wanted.most);
        self.flows
    }
}

/// The live flows of an interface, the most recently seen first.
pub fn flows(attached: &Attached) -> Result<Vec<Flow>, KernelError> {
    list(attached, &Wanted::default()).map(|listing| listing.flows)
}

/// The live flows of an interface that are wanted. The table is read where it is, flow by flow;
/// packets are not held up, and only what is wanted is kept.
pub fn list(attached: &Attached, wanted: &Wanted) -> Result<Listing, KernelError> {
    let state = attached.state()?;
    let rules = rules(state);
    let timeouts = state.timeouts;
    let now = monotonic_now();
    let mut listing = Listing::default();
    let mut first = First {
        wanted,
        flows: Vec::new(),
    };
    each_flow(&attached.pins, |entry| {
        let Some(flow) = flow_of(&entry, &rules, &timeouts, now) else {
            return;
        };
        listing.total += 1;
        listing.live[flow.kind as usize] += 1;
        let ends = Ends {
            direction: entry.value.opened_by(),
            protocol: flow.protocol,
            local: flow.local,
            local_port: flow.local_port,
            remote: flow.remote,
            remote_port: flow.remote_port,
        };
        let is_wanted = wanted.filter.takes(&ends)
            && (wanted.states.is_empty() || wanted.states.iter().any(|it| it.means(&flow)))
            && wanted
                .filter
                .takes_rule(flow.rule.as_deref().map(FlowRule::seen));
        if is_wanted {
            listing.matching += 1;
            first.push(flow);
        }
    })?;
    listing.flows = first.sorted();
    Ok(listing)
}

/// What an entry says at a time. `None` if the flow has expired.
pub(super) fn flow_of(
    entry: &FlowEntry,
    rules: &HashMap<u32, Arc<FlowRule>>,
    timeouts: &[u32; TIMEOUTS],
    now: u64,
) -> Option<Flow> {
    let v = entry.value;
    let timeout = seconds(timeouts, v.state);
    if is_expired(now, v.last_seen, timeout) {
        return None;
    }
    let state = Timeout::from_index(v.state);
    let is_icmp = state == Some(Timeout::Icmp);
    let has_ports = !is_icmp && state != Some(Timeout::Other);
    let seconds_since = |t: u64| elapsed(now, t).max(0) as u64 / 1_000_000_000;
    let is_nobodys = v.is_seeded() || v.state == CUT;
    let idle_seconds = seconds_since(v.last_seen);
    Some(Flow {
        protocol: entry.protocol,
        local: entry.local,
        local_port: has_ports.then_some(entry.local_port),
        remote: entry.remote,
        remote_port: has_ports.then_some(entry.remote_port),
        icmp_id: is_icmp.then_some(entry.local_port),
        opened: v.opened_by().into(),
        kind: entry.kind,
        state: FlowState::of(v.state),
        is_seeded: v.is_seeded(),
        is_audited: v.is_audited(),
        age_seconds: seconds_since(v.created),
        idle_seconds,
        seconds_left: u64::from(timeout).saturating_sub(idle_seconds),
        generation: v.generation,
        rule: rules.get(&v.slot).filter(|_| !is_nobodys).cloned(),
        numbers: (entry.local_port, entry.remote_port),
        created: entry.created,
    })
}

impl FlowRule {
    /// The rule as filters see it.
    pub fn seen(&self) -> RuleSeen<'_> {
        RuleSeen {
            direction: self.direction,
            position: self.position,
            name: self.name.as_deref(),
        }
    }
}

/// The rules that flows may name, by their counter slots: those of the policy, and those that are
/// not in it any more.
pub(super) fn rules(state: &State) -> HashMap<u32, Arc<FlowRule>> {
    let rule = |(slot, (owner, is_there)): (u32, (&SlotOwner, bool))| {
        let rule = FlowRule {
            direction: owner.direction,
            group: owner.group.clone(),
            position: is_there.then_some(owner.position),
            name: owner.name.clone(),
            summary: owner.summary.clone(),
        };
        (slot, Arc::new(rule))
    };
    state.rules_by_slot().into_iter().map(rule).collect()
}

/// The rules that flows of this interface may name.
pub fn known_rules(attached: &Attached) -> Result<Vec<Arc<FlowRule>>, KernelError> {
    Ok(rules(attached.state()?).into_values().collect())
}
