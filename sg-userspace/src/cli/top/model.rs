//! What was read and what the user chose. Nothing here knows a terminal or the kernel.

use std::time::Duration;

use sg_common::flow::FlowKind;
use sg_common::verdict::Direction;
use sg_userspace::kernel::flow_tables::{FlowTableUse, half_open_capacity};
use sg_userspace::observe::candidate::CandidateStatus;
use sg_userspace::observe::counters::{Counters, ReasonCounters, RuleCounters, Totals};
use sg_userspace::observe::history::Past;
use sg_userspace::observe::status::{PolicyStatus, Standing, Unconfirmed};

use super::drops::Drops;
use super::list::{Choice, listed};
use super::reading::{InterfaceReading, Reading, Seen};
use super::sum::sum;
use super::track::{Counted as _, Row, Track, follow};

/// The whole of it.
#[derive(Default)]
pub(super) struct Model {
    /// The sum first, if there are several interfaces.
    pub(super) tables: Vec<Table>,
    /// Which of them is shown.
    shown: Key,
    pub(super) troubles: Vec<String>,
    /// Why dropped packets cannot be watched.
    pub(super) unwatched: Option<String>,
    pub(super) choice: Choice,
    /// Whether the filter is being typed.
    pub(super) is_typing: bool,
    /// What is in the place below the rules, where there is no place for all panels.
    pub(super) panel: Panel,
    pub(super) shows_help: bool,
    pub(super) is_paused: bool,
    /// The rules that are listed: indices of rows of the table that is shown.
    pub(super) order: Vec<usize>,
    /// The row of the selected rule, which stays selected wherever it moves.
    pub(super) selected: Option<usize>,
    /// How many listed rules are above the screen.
    pub(super) offset: usize,
    /// How many rules fit on the screen.
    pub(super) page: usize,
}

/// Which table is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Key {
    /// That of all interfaces, or of the only one.
    #[default]
    All,
    Interface(Option<String>, String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Panel {
    #[default]
    Reasons,
    Drops,
    Policies,
}

impl Panel {
    const ALL: [Panel; 3] = [Panel::Reasons, Panel::Drops, Panel::Policies];

    pub(super) fn next(self) -> Panel {
        let at = Panel::ALL.iter().position(|panel| *panel == self);
        Panel::ALL[at.map_or(0, |at| (at + 1) % Panel::ALL.len())]
    }
}

/// One interface, or all of them together.
pub(super) struct Table {
    pub(super) key: Key,
    /// What is known of each interface in it.
    pub(super) interfaces: Vec<About>,
    pub(super) rules: Vec<Row<RuleCounters>>,
    pub(super) reasons: Vec<Row<ReasonCounters>>,
    pub(super) totals: Vec<DirectionTrack>,
    /// The flow tables: interfaces that share one count once.
    pub(super) flows: Flows,
    /// What was dropped lately.
    pub(super) drops: Drops,
    /// When it was read, by a clock that cannot be set.
    pub(super) at: Duration,
}

/// What an interface is and runs.
pub(super) struct About {
    pub(super) standing: Standing,
    pub(super) policy: PolicyStatus,
    pub(super) unconfirmed: Option<Unconfirmed>,
    pub(super) candidate: Option<CandidateStatus>,
    pub(super) past: Vec<Past>,
    pub(super) attachment: usize,
}

/// All packets of one direction: their counts, and how fast they come.
pub(super) struct DirectionTrack {
    pub(super) totals: Totals,
    pub(super) all: Track,
    pub(super) accepted: Track,
    pub(super) dropped: Track,
}

/// The use of flow tables.
#[derive(Clone, Default)]
pub(super) struct Flows {
    pub(super) half_open: FlowTableUse,
    pub(super) established: FlowTableUse,
    /// How many established flows there is room for, and how many half-open ones.
    pub(super) capacity: u64,
    pub(super) half_open_capacity: u64,
    /// Evictions of half-open and of established flows; bytes are none.
    pub(super) evictions: [Track; 2],
    /// New flows of both kinds.
    pub(super) entered: Track,
}

impl Model {
    /// The table that is shown. `None` if nothing is attached.
    pub(super) fn table(&self) -> Option<&Table> {
        self.tables.get(self.place())
    }

    /// Where the table that is shown is among all of them.
    pub(super) fn place(&self) -> usize {
        let found = self.tables.iter().position(|table| table.key == self.shown);
        found.unwrap_or(0)
    }

    /// The next reading, taken at `at`.
    pub(super) fn read(&mut self, reading: Reading, at: Duration) {
        self.troubles = reading.troubles;
        let mut before = std::mem::take(&mut self.tables);
        // The selection is kept by what the rule is, because its row may change.
        let shown = before.iter().find(|table| table.key == self.shown);
        let shown = shown.or(before.first());
        let selected = self.selected.and_then(|row| shown?.rules.get(row));
        let selected = selected.map(|row| row.what.key());
        let mut is_same = true;
        let mut add = |key: Key, rows: Rows, tables: &mut Vec<Table>| {
            let at_before = before.iter().position(|table| table.key == key);
            let old = at_before.map(|index| before.swap_remove(index));
            let (table, same) = Table::follow(old, key, rows, at);
            is_same &= same;
            tables.push(table);
        };
        let mut tables = Vec::new();
        if reading.interfaces.len() > 1 {
            add(Key::All, Rows::of_all(&reading.interfaces), &mut tables);
        }
        for one in reading.interfaces {
            let counters = &one.sample.counters;
            let key = Key::Interface(
                counters.standing.netns.clone(),
                counters.standing.interface.clone(),
            );
            add(key, Rows::of(one), &mut tables);
        }
        self.tables = tables;
        if !is_same {
            let row = |key: String| {
                let rows = &self.table()?.rules;
                rows.iter().position(|row| row.what.key() == key)
            };
            self.selected = selected.and_then(row);
        }
        self.list();
    }

    /// Events of dropped packets, seen at `at`.
    pub(super) fn see(&mut self, seen: Seen, at: Duration) {
        for (interface, packet) in seen.packets {
            for table in &mut self.tables {
                let mut names = table.interfaces.iter().map(|one| &one.standing.interface);
                if names.any(|name| *name == interface) {
                    table.drops.see(packet, at);
                }
            }
        }
        self.unwatched = seen.trouble;
    }

    /// Lists the rules anew, after anything that matters for it has changed.
    pub(super) fn list(&mut self) {
        let order = self.table().map(|table| listed(&table.rules, &self.choice));
        self.order = order.unwrap_or_default();
        if self.selected.is_some() && self.selected_place().is_none() {
            self.selected = None;
        }
        self.fit();
    }

    /// The place of the selected rule in the list.
    pub(super) fn selected_place(&self) -> Option<usize> {
        let selected = self.selected?;
        self.order.iter().position(|row| *row == selected)
    }

    /// Takes how many rules fit on the screen.
    pub(super) fn set_page(&mut self, page: usize) {
        self.page = page;
        self.fit();
    }

    /// Keeps the selected rule on the screen, and the screen full.
    fn fit(&mut self) {
        let page = self.page.max(1);
        if let Some(place) = self.selected_place() {
            let lowest = (place + 1).saturating_sub(page);
            self.offset = self.offset.clamp(lowest, place);
        }
        self.offset = self.offset.min(self.order.len().saturating_sub(page));
    }

    /// Selects the rule so many places further down, or up. Without a selection the first step
    /// selects the first rule on the screen.
    pub(super) fn step(&mut self, by: isize) {
        let place = match self.selected_place() {
            None if by.unsigned_abs() > 1 => self.offset.saturating_add_signed(by),
            None => self.offset,
            Some(place) => place.saturating_add_signed(by),
        };
        let last = self.order.len().saturating_sub(1);
        self.selected = self.order.get(place.min(last)).copied();
        self.fit();
    }

    /// Back to the top, with no rule selected.
    pub(super) fn go_to_top(&mut self) {
        self.selected = None;
        self.offset = 0;
    }

    pub(super) fn go_to_end(&mut self) {
        self.selected = self.order.last().copied();
        self.fit();
    }

    /// Shows the next table, or the one before.
    pub(super) fn turn(&mut self, forward: bool) {
        let count = self.tables.len();
        if count > 1 {
            let next = self.place() + if forward { 1 } else { count - 1 };
            self.shown = self.tables[next % count].key.clone();
            self.go_to_top();
            self.list();
        }
    }
}

/// The parts of a table before they are followed.
struct Rows {
    interfaces: Vec<About>,
    rules: Vec<RuleCounters>,
    reasons: Vec<ReasonCounters>,
    totals: Vec<Totals>,
    flows: Vec<([FlowTableUse; 2], u32)>,
}

impl Rows {
    fn of(one: InterfaceReading) -> Rows {
        let interfaces = vec![About::of(&one)];
        let Counters {
            rules,
            reasons,
            totals,
            ..
        } = one.sample.counters;
        Rows {
            interfaces,
            rules,
            reasons,
            totals,
            flows: vec![(one.sample.flows, one.sample.max_flows)],
        }
    }

    fn of_all(all: &[InterfaceReading]) -> Rows {
        let sums = sum(all.iter().map(|one| &one.sample.counters));
        let mut seen = Vec::new();
        let mut flows = Vec::new();
        for one in all {
            if !seen.contains(&one.attachment) {
                seen.push(one.attachment);
                flows.push((one.sample.flows, one.sample.max_flows));
            }
        }
        Rows {
            interfaces: all.iter().map(About::of).collect(),
            rules: sums.rules,
            reasons: sums.reasons,
            totals: sums.totals,
            flows,
        }
    }
}

impl About {
    fn of(one: &InterfaceReading) -> About {
        let (sample, counters) = (&one.sample, &one.sample.counters);
        About {
            standing: counters.standing.clone(),
            policy: counters.policy.clone(),
            unconfirmed: sample.unconfirmed.clone(),
            candidate: sample.candidate.clone(),
            past: sample.past.clone(),
            attachment: one.attachment,
        }
    }
}

impl Table {
    /// The table of this reading, and whether it has the same rules as in the reading before.
    fn follow(before: Option<Table>, key: Key, now: Rows, at: Duration) -> (Table, bool) {
        let seconds = before
            .as_ref()
            .map(|table| at.saturating_sub(table.at).as_secs_f64());
        let dropped: u64 = now.totals.iter().map(|total| total.dropped).sum();
        // What was dropped before the first reading is not of the last minute.
        let dropped_before = before.as_ref().map_or(dropped, |table| {
            table.totals.iter().map(|total| total.totals.dropped).sum()
        });
        let (rules, reasons, mut totals, mut flows, mut drops) = match before {
            None => Default::default(),
            Some(Table {
                rules,
                reasons,
                totals,
                flows,
                drops,
                ..
            }) => (rules, reasons, totals, flows, drops),
        };
        drops.count(dropped.saturating_sub(dropped_before), at);
        let (rules, is_same) = follow(rules, now.rules, seconds);
        let (reasons, _) = follow(reasons, now.reasons, seconds);
        let totals = now.totals.into_iter().map(|total| {
            let known = totals
                .iter()
                .position(|old| old.totals.direction == total.direction);
            let old = known.map(|known| totals.swap_remove(known));
            DirectionTrack::follow(old, total, seconds)
        });
        let totals = totals.collect();
        flows.read(&now.flows, seconds);
        let table = Table {
            key,
            interfaces: now.interfaces,
            rules,
            reasons,
            totals,
            flows,
            drops,
            at,
        };
        (table, is_same)
    }

    /// All packets of one direction.
    pub(super) fn total(&self, direction: Direction) -> Option<&DirectionTrack> {
        self.totals
            .iter()
            .find(|total| total.totals.direction == direction)
    }
}

impl DirectionTrack {
    fn follow(
        before: Option<DirectionTrack>,
        totals: Totals,
        seconds: Option<f64>,
    ) -> DirectionTrack {
        let (mut all, mut accepted, mut dropped) = match before {
            None => Default::default(),
            Some(old) => (old.all, old.accepted, old.dropped),
        };
        all.read(totals.packets, totals.bytes, seconds);
        accepted.read(totals.accepted, 0, seconds);
        dropped.read(totals.dropped, 0, seconds);
        DirectionTrack {
            totals,
            all,
            accepted,
            dropped,
        }
    }
}

impl Flows {
    fn read(&mut self, tables: &[([FlowTableUse; 2], u32)], seconds: Option<f64>) {
        let of_kind = |kind: FlowKind| {
            let all = tables.iter().map(|(of_kinds, _)| of_kinds[kind as usize]);
            all.fold(FlowTableUse::default(), |sum, one| FlowTableUse {
                live: sum.live + one.live,
                entered: sum.entered + one.entered,
                evicted: sum.evicted + one.evicted,
            })
        };
        self.half_open = of_kind(FlowKind::HalfOpen);
        self.established = of_kind(FlowKind::Established);
        self.capacity = tables.iter().map(|(_, most)| u64::from(*most)).sum();
        let of_half_open = tables.iter().map(|(_, most)| half_open_capacity(*most));
        self.half_open_capacity = of_half_open.sum();
        let evicted = [self.half_open.evicted, self.established.evicted];
        for (track, count) in self.evictions.iter_mut().zip(evicted) {
            track.read(count, 0, seconds);
        }
        let entered = self.half_open.entered + self.established.entered;
        self.entered.read(entered, 0, seconds);
    }
}
