//! The reference's flow table (K6 to K11): half-open and established flows, with the time as an
//! argument.

use std::collections::HashMap;

use sg_common::flow::{FlowKind, TIMEOUTS};
use sg_common::verdict::Direction;

use super::identity::{FlowKey, Seen};
use super::parse::{TCP, Transport};
use super::rules::Ruling;
use super::states::{self, Circumstances, Segment, State, Taken};

pub(crate) const SECOND: u64 = 1_000_000_000;

/// A packet updates the time of its flow only if the last update is older than this.
pub(crate) const TOUCH: u64 = SECOND / 4;

/// Nanoseconds from `then` to `now`. `then` may lie before the clock's zero, since tests move times
/// back by more than the machine has been up.
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
    /// The direction whose rules have to admit the flow.
    pub(crate) originator: Direction,
    /// The direction of the packet that opened the connection, if it was seen.
    pub(crate) opened: Option<Direction>,
    pub(crate) state: State,
    pub(crate) has_seen_reply: bool,
    pub(crate) seeded: bool,
    /// Whether it passes only because what would be dropped is watched (C9).
    pub(crate) audited: bool,
    /// The number that acknowledges the other side's last segment of the handshake. The kernel's
    /// entry keeps it in another form, so it is not compared.
    pub(crate) number: Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// The other side has sent nothing.
    None,
    Of(u32),
    /// What the other side sent was not seen.
    Unknown,
}

/// A reply at this age shows that the flow lasts (K9).
pub(crate) const LASTING: u64 = 2 * SECOND;

/// The reason of dropped packets of a cut TCP flow.
pub(crate) const REVOKED: &str = "revoked";

/// The options of the policy in force that concern flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) generation: u32,
    pub(crate) keep: bool,
    pub(crate) flush: bool,
    pub(crate) timeouts: [u32; TIMEOUTS],
    /// Whether the policy audits anything (C9). To one that does not, a flow that an earlier
    /// policy only watched and that it keeps is a flow as any other.
    pub(crate) watches: bool,
}

impl Terms {
    /// The timeout of a flow in `state`.
    pub(crate) fn seconds(&self, state: State) -> u32 {
        let seconds = self.timeouts[state.timeout() as usize];
        match state {
            // Five days, or longer if the policy's timeout for connections is.
            State::Cut => seconds.max(432_000),
            _ => seconds,
        }
    }

    /// K11: whether the flow is older than this policy, which has flushed all older ones.
    fn has_flushed(&self, flow: &Flow) -> bool {
        self.flush && flow.generation < self.generation
    }
}

/// What the flow table says about a packet that no rule accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Reply(Member),
    Kept(Member),
    Seeded,
    Revoked,
}

/// The flow that a packet belongs to: the slot it counts for, and whether it is only watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) slot: u32,
    pub(crate) audited: bool,
}

/// What the flow table makes of a packet that the rules accept, where they accept no reply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    ByRules(&'static str),
    /// It is a reply in a flow that is only watched.
    Reply(Member),
    Revoked,
}

/// How many flows of one kind were entered, were removed, and were evicted.
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
    /// The steps of TCP that were taken, to see that all are tried.
    pub(crate) taken: Taken,
}

pub(crate) fn has_expired(flow: &Flow, now: u64, terms: &Terms) -> bool {
    let seconds = terms.seconds(flow.state);
    elapsed(now, flow.last_seen) > i64::from(seconds) * SECOND as i64
}

/// The acknowledgement number of a TCP segment.
fn acknowledged(seen: &Seen) -> Option<u32> {
    match seen.transport {
        Transport::Tcp { numbers, .. } => Some(numbers.acknowledges),
        _ => None,
    }
}

/// The number that acknowledges all of a TCP segment: its data, and SYN and FIN, which count for
/// one each (RFC 9293, section 3.4).
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
    /// The rules of this policy let the flow pass.
    fn admit(&mut self, ruling: Ruling, terms: &Terms) {
        self.slot = ruling.slot;
        self.audited = ruling.audit;
        self.generation = terms.generation;
    }

    /// Whether it passes only because the policy in force watches it.
    fn is_watched(&self, terms: &Terms) -> bool {
        self.audited && !self.seeded && terms.watches
    }

    fn member(&self, terms: &Terms) -> Member {
        Member {
            slot: self.slot,
            audited: self.is_watched(terms),
        }
    }

    /// K11: cuts the flow. Only a SYN that the rules accept opens a connection on these ports
    /// again.
    fn cut(&mut self, now: u64) {
        if self.state != State::Cut || elapsed(now, self.last_seen) > TOUCH as i64 {
            self.last_seen = now;
        }
        self.state = State::Cut;
        self.seeded = false;
    }
}

impl Flows {
    /// What a policy with `flush` does to all older flows: `apply` does it for the whole table, and
    /// the programs for each flow that they find before. Returns how many flows of each kind were
    /// removed.
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

    /// Enters the flow that this packet opens, if it may.
    fn open(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        ruling: Ruling,
        now: u64,
        terms: &Terms,
    ) -> &'static str {
        let paths = match ruling.audit {
            true => ["audit, opens nothing", "audit, opens a flow"],
            false => ["accept, opens nothing", "accept, opens a flow"],
        };
        if !seen.may_open() {
            return paths[0];
        }
        let flow = Flow {
            kind: FlowKind::HalfOpen,
            created: now,
            last_seen: now,
            slot: ruling.slot,
            generation: terms.generation,
            originator: seen.direction,
            // For TCP, only a SYN shows which side opened the connection.
            opened: match states::asks_to_open(seen) || !is_tcp(&key) {
                true => Some(seen.direction),
                false => None,
            },
            state: states::begin(seen),
            has_seen_reply: false,
            seeded: false,
            audited: ruling.audit,
            number: Number::None,
        };
        self.enter(key, flow);
        self.took(seen, None, true);
        paths[1]
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

    /// The rules accept the packet, and may not accept its replies. `of_reply` is what they say of
    /// those, if they let them pass.
    pub(crate) fn remember(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        ruling: Ruling,
        of_reply: Option<Ruling>,
        now: u64,
        terms: &Terms,
    ) -> Remembered {
        if let Some(flow) = self.entries.get_mut(&key) {
            // The rules do not accept the replies to this packet. If this packet comes from the
            // other side than the originator, the originator's own packets are what the rules
            // refuse, so they do not admit the flow any more; unless they only watch it.
            let is_judged = !terms.keep && flow.generation < terms.generation && !flow.seeded;
            let from_originator = flow.originator == seen.direction;
            let is_lost = is_judged && !from_originator && of_reply.is_none();
            let is_over = is_lost || terms.has_flushed(flow);
            let has_gone = has_expired(flow, now, terms) || is_over && !is_tcp(&key);
            let makes_room = is_over || is_judged && !from_originator || flow.is_watched(terms);
            let is_new_connection = states::begins_anew(flow.state, makes_room, seen);
            if !has_gone && !is_new_connection {
                if is_over || flow.state == State::Cut {
                    flow.cut(now);
                    return Remembered::Revoked;
                }
                let is_other = !flow.seeded && flow.generation != terms.generation;
                if !from_originator {
                    let watched = of_reply.filter(|_| is_other && !terms.keep);
                    if let Some(watched) = watched {
                        flow.admit(watched, terms);
                    }
                    let member = flow.member(terms);
                    self.go_on(seen, key, now, watched.is_some());
                    return match member.audited {
                        true => Remembered::Reply(member),
                        false => Remembered::ByRules("accept, in a flow"),
                    };
                }
                if is_other {
                    flow.admit(ruling, terms);
                }
                self.go_on(seen, key, now, is_other);
                return Remembered::ByRules("accept, in a flow");
            }
            self.remove(&key);
        }
        Remembered::ByRules(self.open(seen, key, ruling, now, terms))
    }

    /// The rules audit the packet (C9). Whatever a flow admits passes in it, as if the rules
    /// dropped the packet; what they would drop passes too, and begins a flow that is watched.
    /// Returns the path of what the rules decide.
    pub(crate) fn watch(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        ruling: Ruling,
        of_reply: Option<Ruling>,
        now: u64,
        terms: &Terms,
    ) -> Result<&'static str, Found> {
        let Some(flow) = self.entries.get_mut(&key) else {
            return Ok(self.open(seen, key, ruling, now, terms));
        };
        let is_flushed = terms.has_flushed(flow);
        let from_originator = flow.originator == seen.direction;
        let is_judged = !terms.keep && flow.generation < terms.generation && !flow.seeded;
        let is_accepted = of_reply.is_some_and(|of_reply| of_reply.accept);
        let makes_room = is_flushed || is_judged && !from_originator && !is_accepted;
        if has_expired(flow, now, terms)
            || is_flushed && !is_tcp(&key)
            || states::begins_anew(flow.state, makes_room, seen)
        {
            self.remove(&key);
            return Ok(self.open(seen, key, ruling, now, terms));
        }
        let only_rules = states::asks_to_open(seen);
        let is_live = !is_flushed && flow.state != State::Cut;
        let is_kept = terms.keep && flow.generation != terms.generation;
        let by_rules = only_rules || from_originator && !flow.seeded && !is_kept;
        if is_live && by_rules {
            let is_other = !flow.seeded && flow.generation != terms.generation;
            let is_judged_anew = is_other && from_originator && !is_kept;
            if is_judged_anew {
                flow.admit(ruling, terms);
            }
            self.go_on(seen, key, now, is_judged_anew);
            return Ok("audit, in a flow");
        }
        match self.find(seen, key, now, terms, || of_reply) {
            Found::Nothing => Ok("audit, beside a flow"),
            found => Err(found),
        }
    }

    /// The rules accept both the packet and the replies to it.
    pub(crate) fn pass(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        now: u64,
        terms: &Terms,
    ) -> &'static str {
        let Some(flow) = self.entries.get_mut(&key) else {
            return "accept, replies by the rules";
        };
        let is_flushed = terms.has_flushed(flow);
        let is_cut = is_tcp(&key) && (flow.state == State::Cut || is_flushed);
        if !is_cut || has_expired(flow, now, terms) {
            return "accept, replies by the rules";
        }
        if states::begins_anew(flow.state, is_flushed, seen) {
            self.remove(&key);
            return "accept, in place of a cut one";
        }
        flow.cut(now);
        REVOKED
    }

    /// Updates the flow of `key` for one more packet of it.
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
        flow.has_seen_reply |= states::is_reply(state, seen, it);
        let is_reset = states::segment(seen.tcp_flags()) == Segment::Rst;
        let tells = is_tcp(&key) && !from_originator && !is_reset && states::is_in_handshake(state);
        self.took(seen, Some(state), from_originator);
        let flow = self.entries.get_mut(&key).expect("it was found");
        let has_moved = *flow != before;
        if tells {
            flow.number = match end(seen) {
                // The entry stores these two values for "none" and "any", so a segment that ends
                // there counts as none.
                0 | u32::MAX => Number::None,
                end => Number::Of(end),
            };
        }
        if !has_moved && !is_judged_anew && elapsed(now, flow.last_seen) <= TOUCH as i64 {
            return;
        }
        flow.last_seen = now;
        let flow = *flow;
        let is_assured = states::is_assured(flow.state, flow.has_seen_reply, it);
        if flow.kind == FlowKind::HalfOpen && is_assured {
            self.remove(&key);
            let kind = FlowKind::Established;
            self.enter(key, Flow { kind, ..flow });
        }
    }

    /// No rule accepts the packet. `of_reply` gives what the rules of the other direction say of
    /// the reply to this packet, if they let it pass.
    pub(crate) fn find(
        &mut self,
        seen: &Seen,
        key: FlowKey,
        now: u64,
        terms: &Terms,
        of_reply: impl FnOnce() -> Option<Ruling>,
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
            // The rules of the originator's direction decide. If this packet is the originator's
            // own, they have just refused it.
            let ruling = if from_originator { None } else { of_reply() };
            let Some(ruling) = ruling else {
                match is_tcp(&key) {
                    true => flow.cut(now),
                    false => self.remove(&key),
                }
                return Found::Revoked;
            };
            flow.admit(ruling, terms);
            is_judged_anew = true;
        }
        let member = flow.member(terms);
        self.go_on(seen, key, now, is_judged_anew);
        if from_originator {
            Found::Kept(member)
        } else {
            Found::Reply(member)
        }
    }

    /// K8: whether a packet quoted in an ICMP error, which the rules do not accept, belongs to a
    /// flow that the policy in force lets pass; if so, whether it only watches that. `of_reply` as
    /// in `find`.
    pub(crate) fn has(
        &self,
        quoted: &Seen,
        now: u64,
        terms: &Terms,
        of_reply: impl FnOnce() -> Option<Ruling>,
    ) -> Option<bool> {
        let flow = quoted.flow_key().and_then(|key| self.entries.get(&key));
        let flow = flow.filter(|flow| !has_expired(flow, now, terms))?;
        if flow.state == State::Cut || terms.has_flushed(flow) {
            return None;
        }
        if flow.seeded || terms.keep || flow.generation == terms.generation {
            return Some(flow.is_watched(terms));
        }
        match flow.originator == quoted.direction {
            true => None,
            false => of_reply().map(|ruling| ruling.audit),
        }
    }
}
