//! What the enforcer remembers of flows (SPEC K6-K11): half-open and established ones, with a
//! clock that is handed in.

use std::collections::HashMap;

use sg_common::flow::{FlowKind, TIMEOUTS};
use sg_common::verdict::Direction;

use super::identity::{FlowKey, Seen};
use super::parse::{TCP, Transport};
use super::states::{self, Circumstances, Segment, State, Taken};

pub(crate) const SECOND: u64 = 1_000_000_000;

/// A flow that is seen again this soon need not say so.
pub(crate) const TOUCH: u64 = SECOND / 4;

/// Nanoseconds from `then` to `now`, also when `then` lies before the clock's zero: tests turn it
/// back further than a machine that was just started has run.
pub(crate) fn elapsed(now: u64, then: u64) -> i64 {
    now.wrapping_sub(then) as i64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) kind: FlowKind,
    pub(crate) created: u64,
    pub(crate) last_seen: u64,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    /// Whose packets the rules are asked about.
    pub(crate) originator: Direction,
    /// Who has opened it, where that is known.
    pub(crate) opened: Option<Direction>,
    pub(crate) state: State,
    pub(crate) answered: bool,
    pub(crate) seeded: bool,
    /// What acknowledges the other side's last segment of a handshake; the kernel does not tell
    /// it.
    pub(crate) number: Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// It has sent nothing.
    None,
    Of(u32),
    /// Nobody has seen what it sent.
    Unknown,
}

/// The age from which on an answer shows that somebody is there (SPEC K9).
pub(crate) const LASTING: u64 = 2 * SECOND;

/// How a packet of a TCP flow that has been cut is dropped.
pub(crate) const REVOKED: &str = "revoked";

/// What the policy in force says about flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) generation: u32,
    pub(crate) keep: bool,
    pub(crate) flush: bool,
    pub(crate) timeouts: [u32; TIMEOUTS],
}

impl Terms {
    /// How long a flow in `state` may be silent.
    pub(crate) fn seconds(&self, state: State) -> u32 {
        let seconds = self.timeouts[state.timeout() as usize];
        match state {
            // Five days, unless the policy has longer connections.
            State::Cut => seconds.max(432_000),
            _ => seconds,
        }
    }

    /// SPEC K11: it was there before this policy, which has flushed all that were.
    fn has_flushed(&self, flow: &Flow) -> bool {
        self.flush && flow.generation < self.generation
    }
}

/// What a flow has to say about a packet that no rule accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Reply(u32),
    Kept(u32),
    Seeded,
    Revoked,
}

/// Flows of one kind that were entered into the table, that were taken out, and that had to make
/// room for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) entered: u64,
    pub(crate) left: u64,
    pub(crate) evicted: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Flows {
    pub(crate) entries: HashMap<FlowKey, Flow>,
    /// In the order of `FlowKind::BOTH`.
    pub(crate) moves: [Moves; 2],
    /// TCP's steps.
    pub(crate) taken: Taken,
}

pub(crate) fn has_expired(flow: &Flow, now: u64, terms: &Terms) -> bool {
    let seconds = terms.seconds(flow.state);
    elapsed(now, flow.last_seen) > i64::from(seconds) * SECOND as i64
}

/// What a TCP segment acknowledges.
fn acknowledged(seen: &Seen) -> Option<u32> {
    match seen.transport {
        Transport::Tcp { numbers, .. } => Some(numbers.acknowledges),
        _ => None,
    }
}

/// What acknowledges all of a TCP segment: its data, and SYN and FIN, which count for one each
/// (RFC 9293, section 3.4).
fn end(seen: &Seen) -> u32 {
    let Transport::Tcp { numbers, flags, .. } = seen.transport else {
        return 0;
    };
    let marks = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
    numbers
        .sequence
        .wrapping_add(numbers.length)
        .wrapping_add(marks)
}

fn is_tcp(key: &FlowKey) -> bool {
    key.protocol == TCP
}

impl Flow {
    /// SPEC K11: only a SYN that the rules accept begins a connection in its place.
    fn cut(&mut self, now: u64) {
        if self.state != State::Cut || elapsed(now, self.last_seen) > TOUCH as i64 {
            self.last_seen = now;
        }
        self.state = State::Cut;
        self.seeded = false;
    }
}

impl Flows {
    /// What `apply` does to all flows of policies before this one, and the programs to those that
    /// they meet. Returns how many of each kind have gone.
    pub(crate) fn flush(&mut self, now: u64, terms: &Terms) -> [u64; 2] {
        let mut gone = [0; 2];
        self.entries.retain(|key, flow| {
            let is_flushed = terms.has_flushed(flow) && flow.state != State::Cut;
            if is_flushed && is_tcp(key) {
                flow.cut(now);
            } else if is_flushed {
                gone[flow.kind as usize] += 1;
                return false;
            }
            true
        });
        gone
    }

    fn enter(&mut self, key: FlowKey, flow: Flow) {
        let before = self.entries.insert(key, flow);
        assert_eq!(before, None, "{key:?} was entered twice");
        self.moves[flow.kind as usize].entered += 1;
    }

    fn took(&mut self, seen: &Seen, state: Option<State>, from_originator: bool) {
        if let Transport::Tcp { flags, .. } = seen.transport {
            let step = (state, from_originator, states::segment(flags));
            *self.taken.entry(step).or_default() += 1;
        }
    }

    fn remove(&mut self, key: &FlowKey) {
        let flow = self.entries.remove(key).expect("only what is there leaves");
        self.moves[flow.kind as usize].left += 1;
    }

    /// The packet is accepted by the rule of `slot`, and its answer may need the flow table.
    pub(crate) fn remember(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        slot: u32,
        now: u64,
        terms: &Terms,
    ) -> &'static str {
        if let Some(flow) = self.entries.get_mut(&key) {
            // The rules do not pass what would answer this packet. If that is what its originator
            // sends, they do not admit the flow any more, whichever side they are asked about.
            let is_judged = !terms.keep && flow.generation < terms.generation && !flow.seeded;
            let is_lost = is_judged && flow.originator != seen.direction;
            let is_over = is_lost || terms.has_flushed(flow);
            let has_gone = has_expired(flow, now, terms) || is_over && !is_tcp(&key);
            let is_new_connection = states::begins_anew(flow.state, is_over, seen);
            if !has_gone && !is_new_connection {
                if is_over || flow.state == State::Cut {
                    flow.cut(now);
                    return REVOKED;
                }
                let from_originator = flow.originator == seen.direction;
                let is_judged_anew =
                    from_originator && !flow.seeded && flow.generation != terms.generation;
                if is_judged_anew {
                    flow.slot = slot;
                    flow.generation = terms.generation;
                }
                self.go_on(seen, key, now, is_judged_anew);
                return "accept, in a flow";
            }
            self.remove(&key);
        }
        if !seen.may_open() {
            return "accept, opens nothing";
        }
        let flow = Flow {
            kind: FlowKind::HalfOpen,
            created: now,
            last_seen: now,
            slot,
            generation: terms.generation,
            originator: seen.direction,
            // Of TCP that is told by a SYN alone.
            opened: match states::asks_to_open(seen) || !is_tcp(&key) {
                true => Some(seen.direction),
                false => None,
            },
            state: states::begin(seen),
            answered: false,
            seeded: false,
            number: Number::None,
        };
        self.enter(key, flow);
        self.took(seen, None, true);
        "accept, opens a flow"
    }

    /// The packet and its answers are accepted by the rules.
    pub(crate) fn pass(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        now: u64,
        terms: &Terms,
    ) -> &'static str {
        let Some(flow) = self.entries.get_mut(&key) else {
            return "accept, answers by the rules";
        };
        let is_flushed = terms.has_flushed(flow);
        let is_cut = is_tcp(&key) && (flow.state == State::Cut || is_flushed);
        if !is_cut || has_expired(flow, now, terms) {
            return "accept, answers by the rules";
        }
        if states::begins_anew(flow.state, is_flushed, seen) {
            self.remove(&key);
            return "accept, in place of a cut one";
        }
        flow.cut(now);
        REVOKED
    }

    /// The flow of `key` has one more packet.
    fn go_on(&mut self, seen: &Seen, key: FlowKey, now: u64, is_judged_anew: bool) {
        let flow = self.entries.get_mut(&key).expect("it was found");
        let before = *flow;
        let from_originator = flow.originator == seen.direction;
        let state = flow.state;
        let it = Circumstances {
            from_originator,
            acknowledges: match flow.number {
                Number::None => false,
                Number::Of(number) => Some(number) == acknowledged(seen),
                Number::Unknown => true,
            },
            lasts: elapsed(now, flow.created) >= LASTING as i64,
        };
        flow.state = states::after(state, seen, it);
        flow.answered |= states::answers(state, seen, it);
        let is_reset = states::segment(seen.tcp_flags()) == Segment::Rst;
        let tells = is_tcp(&key) && !from_originator && !is_reset && states::is_in_handshake(state);
        self.took(seen, Some(state), from_originator);
        let flow = self.entries.get_mut(&key).expect("it was found");
        let has_moved = *flow != before;
        if tells {
            flow.number = match end(seen) {
                // What the entry says when it has none, and when any will do.
                0 | u32::MAX => Number::None,
                end => Number::Of(end),
            };
        }
        if !has_moved && !is_judged_anew && elapsed(now, flow.last_seen) <= TOUCH as i64 {
            return;
        }
        flow.last_seen = now;
        let flow = *flow;
        let is_assured = states::is_assured(flow.state, flow.answered, it);
        if flow.kind == FlowKind::HalfOpen && is_assured {
            self.remove(&key);
            let kind = FlowKind::Established;
            self.enter(key, Flow { kind, ..flow });
        }
    }

    /// No rule accepts the packet. `accepts_answer` is what the rules of the other direction say
    /// of the packet that would answer this one: the slot, if they accept.
    pub(crate) fn find(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        now: u64,
        terms: &Terms,
        accepts_answer: impl FnOnce() -> Option<u32>,
    ) -> Found {
        let Some(flow) = self.entries.get_mut(&key) else {
            return Found::Nothing;
        };
        let is_flushed = terms.has_flushed(flow);
        if has_expired(flow, now, terms) || is_flushed && !is_tcp(&key) {
            self.remove(&key);
            return Found::Nothing;
        }
        if is_flushed || flow.state == State::Cut {
            flow.cut(now);
            return Found::Revoked;
        }
        let from_originator = flow.originator == seen.direction;
        let is_current = flow.generation == terms.generation;
        if flow.seeded {
            self.go_on(seen, key, now, false);
            return Found::Seeded;
        }
        if from_originator && is_current {
            return Found::Nothing;
        }
        let mut is_judged_anew = false;
        if !is_current && !terms.keep {
            // The rules of the originator's direction have the word: from the originator itself
            // they have just not accepted.
            let slot = if from_originator {
                None
            } else {
                accepts_answer()
            };
            let Some(slot) = slot else {
                match is_tcp(&key) {
                    true => flow.cut(now),
                    false => self.remove(&key),
                }
                return Found::Revoked;
            };
            flow.slot = slot;
            flow.generation = terms.generation;
            is_judged_anew = true;
        }
        let slot = flow.slot;
        self.go_on(seen, key, now, is_judged_anew);
        if from_originator {
            Found::Kept(slot)
        } else {
            Found::Reply(slot)
        }
    }

    /// SPEC K8: a packet that the rules do not accept, quoted in an error, belongs to a flow that
    /// the policy in force admits.
    pub(crate) fn has(
        &self,
        quoted: &Seen,
        now: u64,
        terms: &Terms,
        accepts_answer: impl FnOnce() -> Option<u32>,
    ) -> bool {
        let flow = quoted.flow_key().and_then(|key| self.entries.get(&key));
        let Some(flow) = flow.filter(|flow| !has_expired(flow, now, terms)) else {
            return false;
        };
        if flow.state == State::Cut || terms.has_flushed(flow) {
            return false;
        }
        flow.seeded
            || terms.keep
            || flow.generation == terms.generation
            || (flow.originator != quoted.direction && accepts_answer().is_some())
    }
}
