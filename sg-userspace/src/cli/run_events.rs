//! Everything that wakes `run` up. Only waiting is asynchronous: the library is called between waits,
//! since it drives netlink with a runtime of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sg_userspace::kernel::link_watch::LinkWatch;
use sg_userspace::observe::pin_watch::PinWatch;
use sg_userspace::observe::watch::FileWatch;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What inotify cannot tell (a network file system, a directory made anew) is found by looking.
const LOOK: Duration = Duration::from_secs(2);

/// How often flows that have expired are swept out of the tables.
const SWEEP: Duration = Duration::from_secs(5);

/// How often logged packets are fetched; the kernel wakes nobody up for them. A signal whose wake-up was
/// lost is noticed as soon.
const FETCH: Duration = Duration::from_millis(100);

pub(super) enum Event {
    Stop(&'static str),
    Hangup,
    FilesChanged,
    /// The pins of the interface have changed.
    PinsChanged,
    /// An interface has come, gone or changed.
    LinksChanged,
    Look,
    Show,
    Fetch,
    Sweep,
}

/// A signal, and whether it has come since somebody looked. The runtime's handler of a signal wakes the
/// runtime up by sending through a socket. That may fail, for want of memory or by a seccomp filter, and
/// then the runtime never hears of the signal. So the flag decides, which cannot fail, and the runtime
/// only makes it be looked at sooner.
struct Notice {
    has_come: Arc<AtomicBool>,
    wake_up: Signal,
}

impl Notice {
    fn of(kind: SignalKind) -> io::Result<Notice> {
        let has_come = Arc::default();
        // Handlers are called in this order, so the flag is set before anybody is woken up.
        signal_hook::flag::register(kind.as_raw_value(), Arc::clone(&has_come))?;
        Ok(Notice {
            has_come,
            wake_up: signal(kind)?,
        })
    }

    fn take(&self) -> bool {
        self.has_come.swap(false, Ordering::SeqCst)
    }
}

pub(super) struct Events {
    runtime: tokio::runtime::Runtime,
    interrupt: Notice,
    terminate: Notice,
    hangup: Notice,
    /// Nobody waits for it: looking whether a file is being written may cause one, whose usual effect is
    /// the end of the process.
    _lease: Signal,
    files: Option<FileWatch>,
    pins: Option<PinWatch>,
    links: Option<LinkWatch>,
    look: tokio::time::Interval,
    show: tokio::time::Interval,
    fetch: tokio::time::Interval,
    sweep: tokio::time::Interval,
}

impl Events {
    /// Counters are shown every `interval`.
    pub(super) fn new(interval: Duration) -> io::Result<Events> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let every = |period| {
            let mut timer = tokio::time::interval(period);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            timer
        };
        let (look, show) = (every(LOOK), every(interval));
        let (fetch, sweep) = (every(FETCH), every(SWEEP));
        let (interrupt, terminate, hangup, lease) = (
            Notice::of(SignalKind::interrupt())?,
            Notice::of(SignalKind::terminate())?,
            Notice::of(SignalKind::hangup())?,
            signal(SignalKind::io())?,
        );
        let links = LinkWatch::new().ok();
        drop(guard);
        Ok(Events {
            runtime,
            interrupt,
            terminate,
            hangup,
            _lease: lease,
            files: FileWatch::new().ok(),
            pins: None,
            links,
            look,
            show,
            fetch,
            sweep,
        })
    }

    pub(super) fn watch(&mut self, files: &[PathBuf]) {
        if let Some(watch) = &mut self.files {
            watch.set(files);
        }
    }

    /// Watches the pins in `dir`. Where that cannot be done, looking from time to time has to do.
    pub(super) fn watch_pins(&mut self, dir: &Path) {
        self.pins = PinWatch::new(dir).ok();
    }

    pub(super) fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.signalled().or_else(|| self.wait()) {
                return event;
            }
        }
    }

    fn signalled(&self) -> Option<Event> {
        if self.interrupt.take() {
            Some(Event::Stop("interrupted"))
        } else if self.terminate.take() {
            Some(Event::Stop("terminated"))
        } else {
            self.hangup.take().then_some(Event::Hangup)
        }
    }

    /// Waits for one event; `None` when a signal has come.
    fn wait(&mut self) -> Option<Event> {
        let Events {
            runtime,
            interrupt,
            terminate,
            hangup,
            _lease: _,
            files,
            pins,
            links,
            look,
            show,
            fetch,
            sweep,
        } = self;
        runtime.block_on(async {
            let files = async {
                match files {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let pins = async {
                match pins {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let links = async {
                match links {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = interrupt.wake_up.recv() => None,
                _ = terminate.wake_up.recv() => None,
                _ = hangup.wake_up.recv() => None,
                () = links => Some(Event::LinksChanged),
                () = pins => Some(Event::PinsChanged),
                () = files => Some(Event::FilesChanged),
                _ = look.tick() => Some(Event::Look),
                _ = show.tick() => Some(Event::Show),
                _ = fetch.tick() => Some(Event::Fetch),
                _ = sweep.tick() => Some(Event::Sweep),
            }
        })
    }
}
