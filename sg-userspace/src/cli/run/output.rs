//! Writes standard output and standard error of `run` in a separate thread, so that a reader that
//! stalls (a terminal after Ctrl-S, a full pipe) delays nothing else. The queue is bounded. Items
//! that did not fit are counted, and the number is printed when the reader continues.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::screen::{Frame, Screen};

/// The most bytes in the queue. A longer item is accepted if the queue is empty.
const MOST: usize = 256 << 10;
/// Above this size no logged packets are added, because the ring keeps the newest ones. The rest of
/// the queue is for other lines.
const MOST_FOR_PACKETS: usize = 192 << 10;

/// For how long a reader may stall at the end before `run` gives up.
const PATIENCE: Duration = Duration::from_secs(1);

/// What waits to be written.
enum Item {
    /// Text for standard output, above the table if there is one.
    Text(String),
    /// For standard error.
    Error(String),
    /// The table. Only the latest is of interest.
    Table(String),
    /// Counters as a line, if there is no table. Only the latest is of interest.
    Counters(String),
    /// Leaves the table as it is. Further output comes below it.
    LeaveTable,
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Item::Text(text) | Item::Error(text) | Item::Table(text) | Item::Counters(text) => {
                text.len()
            }
            Item::LeaveTable => 0,
        }
    }

    /// Whether this item makes an earlier one obsolete.
    fn replaces(&self, earlier: &Item) -> bool {
        matches!(
            (self, earlier),
            (Item::Table(_), Item::Table(_)) | (Item::Counters(_), Item::Counters(_))
        )
    }
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// How many items did not fit since the number was last printed.
    dropped: u64,
    /// How many items were written so far, to tell a slow reader from one that stalls.
    written: u64,
    is_writing: bool,
    is_closed: bool,
}

impl Queue {
    fn push(&mut self, item: Item) {
        if let Some(at) = self.items.iter().position(|earlier| item.replaces(earlier))
            && let Some(earlier) = self.items.remove(at)
        {
            self.bytes -= earlier.len();
        }
        let is_text = matches!(item, Item::Text(_) | Item::Error(_));
        if is_text && self.bytes + item.len() > MOST && !self.items.is_empty() {
            self.dropped += 1;
            return;
        }
        self.bytes += item.len();
        self.items.push_back(item);
    }
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code panics while the queue is inconsistent, so a poisoned lock can be used.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
pub(super) struct Output {
    shared: Arc<Shared>,
}

impl Output {
    /// `dropped` formats the line about dropped items.
    pub(super) fn new(
        out: Screen,
        err: Screen,
        dropped: impl Fn(u64) -> String + Send + 'static,
    ) -> std::io::Result<Output> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let writer = Writer {
            frame: Frame::new(out),
            out,
            err,
        };
        // The thread is never joined, because it may block in a write for ever.
        thread::Builder::new()
            .name("output".into())
            .spawn(move || writer.work(&theirs, dropped))?;
        Ok(Output { shared })
    }

    fn push(&self, item: Item) {
        self.shared.lock().push(item);
        self.shared.changed.notify_all();
    }

    pub(super) fn text(&self, text: String) {
        self.push(Item::Text(text));
    }

    pub(super) fn error(&self, text: String) {
        self.push(Item::Error(text));
    }

    pub(super) fn table(&self, text: String) {
        self.push(Item::Table(text));
    }

    pub(super) fn counters(&self, text: String) {
        self.push(Item::Counters(text));
    }

    pub(super) fn leave_table(&self) {
        self.push(Item::LeaveTable);
    }

    /// Whether the queue is short enough for more logged packets.
    pub(super) fn has_room(&self) -> bool {
        self.shared.lock().bytes <= MOST_FOR_PACKETS
    }

    /// Waits until everything is written, or the reader stalls.
    pub(super) fn finish(&self) {
        let mut queue = self.shared.lock();
        queue.is_closed = true;
        self.shared.changed.notify_all();
        let (mut seen, mut since) = (queue.written, Instant::now());
        while !queue.items.is_empty() || queue.is_writing || queue.dropped > 0 {
            let left = PATIENCE.saturating_sub(since.elapsed());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            if queue.written != seen {
                (seen, since) = (queue.written, Instant::now());
            }
        }
    }
}

struct Writer {
    frame: Frame,
    out: Screen,
    err: Screen,
}

impl Writer {
    fn work(mut self, shared: &Shared, dropped: impl Fn(u64) -> String) {
        loop {
            let mut queue = shared.lock();
            let item = loop {
                if queue.dropped > 0 && queue.bytes < MOST / 2 {
                    break Item::Text(dropped(std::mem::take(&mut queue.dropped)));
                }
                if let Some(item) = queue.items.pop_front() {
                    queue.bytes -= item.len();
                    break item;
                }
                if queue.is_closed {
                    return;
                }
                let waited = shared.changed.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
            };
            queue.is_writing = true;
            drop(queue);
            self.write(item);
            let mut queue = shared.lock();
            queue.is_writing = false;
            queue.written += 1;
            drop(queue);
            shared.changed.notify_all();
        }
    }

    /// Errors are ignored: the reader may be gone, while enforcement and reloading go on.
    fn write(&mut self, item: Item) {
        let _ = match item {
            Item::Text(text) => self.above(|out, _| out.print(&text)),
            Item::Error(text) => self.above(|_, err| {
                let _ = err.write(&text);
                Ok(())
            }),
            Item::Table(text) => self.frame.draw(&text),
            Item::Counters(text) => self.out.print(&text),
            Item::LeaveTable => {
                self.frame.leave();
                Ok(())
            }
        };
    }

    /// Removes the table if there is one, writes, and draws the table again below.
    fn above(
        &mut self,
        write: impl FnOnce(&Screen, &Screen) -> Result<(), crate::cli::failure::Failure>,
    ) -> Result<(), crate::cli::failure::Failure> {
        if !self.frame.is_drawn() {
            return write(&self.out, &self.err);
        }
        self.frame.clear()?;
        write(&self.out, &self.err)?;
        self.frame.redraw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_the_rest_is_counted() {
        let mut queue = Queue::default();
        let line = "x".repeat(1024);
        for _ in 0..1000 {
            queue.push(Item::Text(line.clone()));
        }
        assert_eq!(queue.items.len() as u64 + queue.dropped, 1000);
        assert!(queue.bytes <= MOST && queue.dropped > 0);
        // Only the latest table and the latest counters wait, whatever else is in the queue.
        for number in 0..3 {
            queue.push(Item::Counters(number.to_string()));
            queue.push(Item::Table(number.to_string()));
        }
        let shown = queue.items.iter().filter_map(|item| match item {
            Item::Counters(text) | Item::Table(text) => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(shown.collect::<Vec<_>>(), ["2", "2"]);
        let bytes: usize = queue.items.iter().map(Item::len).sum();
        assert_eq!(bytes, queue.bytes);
    }

    #[test]
    fn what_is_longer_than_may_wait_is_taken_alone() {
        let mut queue = Queue::default();
        queue.push(Item::Text("x".repeat(2 * MOST)));
        assert_eq!((queue.items.len(), queue.dropped), (1, 0));
        queue.push(Item::Text("y".into()));
        assert_eq!((queue.items.len(), queue.dropped), (1, 1));
    }
}
