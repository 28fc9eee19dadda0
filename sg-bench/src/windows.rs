//! Which windows count. A hypervisor may move a virtual core in the middle of a run, and what two
//! cores share takes several times as long while they do not share a cache. So the time that a
//! cache line takes between them is measured before and after each window, and a window in which
//! it was long is discarded and measured again, a bounded number of times for each kind of row.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cores::{Cores, transfer_time};
use crate::statistics::median;

/// Nanoseconds. A cache line that takes longer comes from a core with which no cache is shared.
const SLOW: f64 = 90.0;

/// Attempts to measure one window.
const ATTEMPTS: u32 = 24;

/// How many more slow windows are discarded before all are kept: there are machines whose cores
/// never share a cache, and a run has to end there too. Shared by all rows of a kind.
#[derive(Clone)]
pub(crate) struct Patience(Rc<Cell<u32>>);

impl Patience {
    pub(crate) fn new(windows: u32) -> Self {
        Patience(Rc::new(Cell::new(windows)))
    }

    /// False when it is at an end.
    fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }
}

/// Windows that were measured, and those that were discarded.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    /// Nanoseconds that a cache line took from core to core, beside the windows that count.
    transfers: Vec<f64>,
    discarded: u32,
    /// Slow, and kept because no attempt was left.
    kept: u32,
}

impl Tally {
    pub(crate) fn describe(&self) -> String {
        let line = format!("cache line {:.0} ns", median(&self.transfers));
        match (self.discarded, self.kept) {
            (0, 0) => line,
            (discarded, 0) => format!("{line}, {discarded} slow windows discarded"),
            (discarded, kept) => {
                format!("{line}, {discarded} slow windows discarded, {kept} kept")
            }
        }
    }
}

/// Measures until a window counts.
pub(crate) fn measure<T>(
    cores: Cores,
    patience: &Patience,
    tally: &mut Tally,
    window: impl FnMut() -> Result<T>,
) -> Result<T> {
    measure_with(|| transfer_time(cores), patience, tally, window)
}

/// Measures as [`measure`] does, where the caller measures how long a cache line takes.
pub(crate) fn measure_with<T>(
    transfer: impl Fn() -> Result<f64>,
    patience: &Patience,
    tally: &mut Tally,
    mut window: impl FnMut() -> Result<T>,
) -> Result<T> {
    for attempt in 1.. {
        let may_discard = attempt < ATTEMPTS;
        let before = transfer()?;
        if before > SLOW && may_discard && patience.take() {
            tally.discarded += 1;
            std::thread::sleep(Duration::from_millis(100));
            continue;
        }
        let measured = window()?;
        let longest = before.max(transfer()?);
        let is_slow = longest > SLOW;
        if is_slow && may_discard && patience.take() {
            tally.discarded += 1;
            continue;
        }
        tally.kept += u32::from(is_slow);
        tally.transfers.push(longest);
        return Ok(measured);
    }
    bail!("no window was measured")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures a window while transfers take these times, one after the other.
    fn check(transfers: &[f64], patience: u32, expected: &str) {
        let next = Cell::new(0);
        let transfer = || {
            let at = next.get();
            next.set(at + 1);
            Ok(transfers[at])
        };
        let mut tally = Tally::default();
        measure_with(transfer, &Patience::new(patience), &mut tally, || Ok(())).unwrap();
        assert_eq!(tally.describe(), expected, "{transfers:?}");
        assert_eq!(next.get(), transfers.len(), "{transfers:?}");
    }

    #[test]
    fn slow_windows_are_discarded_while_there_is_patience() {
        check(&[30.0, 32.0], 9, "cache line 32 ns");
        check(
            &[30.0, 150.0, 31.0, 32.0],
            9,
            "cache line 32 ns, 1 slow windows discarded",
        );
        check(
            &[30.0, 150.0, 31.0, 160.0],
            1,
            "cache line 160 ns, 1 slow windows discarded, 1 kept",
        );
        check(
            &[30.0, 150.0],
            0,
            "cache line 150 ns, 0 slow windows discarded, 1 kept",
        );
    }
}
