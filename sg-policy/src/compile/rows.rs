//! What a class decides → a row: an entry for each direction and kind. Equal rows are one class of
//! the tables.

use std::collections::{HashMap, HashSet};

use sg_common::{
    lookup::{COLUMNS, LINE_WORDS, POINTER, column_index},
    protocol::Kind,
    verdict::{Direction, Verdict},
};

use super::{arena::Arena, budget::TooLarge, port_tables::PortTables, row::Row};
use crate::partition::{Decisions, Verdicts, set};

/// The distinct rows so far; a row's index is an address class of the tables.
pub(super) struct Rows<'a> {
    verdicts: &'a Verdicts,
    rows: Vec<Row>,
    classes: HashMap<Row, u32>,
    pub(super) port_tables: PortTables,
    /// Entries that lead to a port table which accepts every number.
    accepting: HashSet<u32>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(verdicts: &'a Verdicts) -> Self {
        Rows {
            verdicts,
            rows: Vec::new(),
            classes: HashMap::new(),
            port_tables: PortTables::new(),
            accepting: HashSet::new(),
        }
    }

    /// Whether every number is accepted, by whichever rules.
    pub(super) fn accepts_all(&self, entry: u32) -> bool {
        match entry & POINTER {
            0 => Verdict(entry).is_accept(),
            _ => self.accepting.contains(&entry),
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Stores the rows column by column, equal ones once: a packet's direction and kind have all
    /// their entries side by side. Returns the word at which each column begins.
    pub(super) fn store(&self, arena: &mut Arena) -> Result<[u32; COLUMNS], TooLarge> {
        let mut begins = [0; COLUMNS];
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        for (index, begin) in begins.iter_mut().enumerate() {
            let column: Vec<u32> = self.rows.iter().map(|row| row[index]).collect();
            if let Some(stored) = known.get(&column) {
                *begin = *stored;
                continue;
            }
            let line = arena.take_lines(column.len().div_ceil(LINE_WORDS))?;
            for (word, entry) in arena.words_mut(line).zip(&column) {
                *word = *entry;
            }
            *begin = line * LINE_WORDS as u32;
            known.insert(column, *begin);
        }
        Ok(begins)
    }

    /// The class of addresses that decide so; its port tables are stored. Where the addresses are
    /// those of a prefix that is alone, its node will lie beside a port table.
    pub(super) fn class_of(
        &mut self,
        decisions: &Decisions,
        is_alone: bool,
        arena: &mut Arena,
    ) -> Result<u32, TooLarge> {
        let mut row = Row::default();
        for direction in Direction::BOTH {
            for kind in Kind::ALL {
                // Rules with the same verdict are no longer told apart.
                let mut steps = Vec::new();
                for step in decisions.steps(direction, kind) {
                    let verdict = self.verdicts.of(direction, step.rule);
                    set(&mut steps, step.first.into(), verdict.0);
                }
                // One of them is enough: the node is one.
                let is_first = row.iter().all(|entry| entry & POINTER == 0);
                let column = column_index(direction, kind as u8);
                let with_place = is_alone && is_first;
                row[column] = self.port_tables.entry(arena, column, &steps, with_place)?;
                let accepts = |(_, verdict): &(u32, u32)| Verdict(*verdict).is_accept();
                if row[column] & POINTER != 0 && steps.iter().all(accepts) {
                    self.accepting.insert(row[column]);
                }
            }
        }
        let next = self.rows.len() as u32;
        let class = *self.classes.entry(row).or_insert(next);
        if class == next {
            self.rows.push(row);
        }
        Ok(class)
    }
}
