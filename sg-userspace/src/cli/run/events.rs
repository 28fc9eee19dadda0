//! The events that `run` waits for. Only the waiting is asynchronous. The library is called between
//! waits, because it blocks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sg_userspace::kernel::link_watch::LinkWatch;
use sg_userspace::observe::pin_watch::PinWatch;
use sg_userspace::sources::watch::FileWatch;
use tokio::io::unix::AsyncFd;

use super::quiet::Changes;

/// How often files are checked without an event, because inotify misses some changes (network file
/// systems, directories created again).
const LOOK: Duration = Duration::from_secs(2);

/// How often expired flows are swept out of the tables.
const SWEEP: Duration = Duration::from_secs(5);

/// How often logged packets are fetched and signals noticed. The kernel sends no wake-up for logged
/// packets.
const FETCH: Duration = Duration::from_millis(100);

pub(super) enum Event {
    Stop(&'static str),
    Hangup,
    FilesChanged,
    /// The pins of the interface have changed.
    PinsChanged,
    /// An interface was added, removed or changed.
    LinksChanged,
    Look,
    Show,
    Fetch,
    Sweep,
}

/// Whether a signal has come since the last check. It is a flag, which cannot fail. The runtime's
/// own handlers use a socket: under memory pressure or a seccomp filter they could lose a signal or
/// panic.
struct Notice {
    has_come: Arc<AtomicBool>,
}

impl Notice {
    fn of(signal: libc::c_int) -> io::Result<Notice> {
        let has_come = Arc::default();
        signal_hook::flag::register(signal, Arc::clone(&has_come))?;
        Ok(Notice { has_come })
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
    /// This signal is only caught. Checking whether a file is being written takes a lease, and
    /// breaking it sends a signal that would end the process.
    _lease: Notice,
    files: Option<(FileWatch, Changes)>,
    pins: Option<(PinWatch, Changes)>,
    links: Option<AsyncFd<LinkWatch>>,
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
            Notice::of(libc::SIGINT)?,
            Notice::of(libc::SIGTERM)?,
            Notice::of(libc::SIGHUP)?,
            Notice::of(libc::SIGIO)?,
        );
        // SAFETY: the watch owns its descriptor and always gives the same one, until it is dropped.
        let register = |watch| unsafe { AsyncFd::register(watch) }.ok();
        let links = LinkWatch::new().ok().and_then(register);
        drop(guard);
        let (changed, changes) = Changes::channel();
        let files = FileWatch::new(changed).ok().map(|watch| (watch, changes));
        Ok(Events {
            runtime,
            interrupt,
            terminate,
            hangup,
            _lease: lease,
            files,
            pins: None,
            links,
            look,
            show,
            fetch,
            sweep,
        })
    }

    pub(super) fn watch(&mut self, files: &[PathBuf]) {
        if let Some((watch, _)) = &mut self.files {
            watch.set(files);
        }
    }

    /// Watches the pins in `dirs`. If that fails, the periodic check still finds changes.
    pub(super) fn watch_pins(&mut self, dirs: &[&Path]) {
        let (changed, changes) = Changes::channel();
        let watch = PinWatch::new(dirs, changed).ok();
        self.pins = watch.map(|watch| (watch, changes));
    }

    pub(super) fn next(&mut self) -> Event {
        // The periodic fetching ends the wait soon after a signal.
        self.signalled().unwrap_or_else(|| self.wait())
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

    /// Waits for one event, signals not included.
    fn wait(&mut self) -> Event {
        let Events {
            runtime,
            files,
            pins,
            links,
            look,
            show,
            fetch,
            sweep,
            ..
        } = self;
        runtime.block_on(async {
            let files = async {
                match files {
                    Some((_, changes)) => changes.quiet().await,
                    None => std::future::pending().await,
                }
            };
            let pins = async {
                match pins {
                    Some((_, changes)) => changes.any().await,
                    None => std::future::pending().await,
                }
            };
            let links = async {
                match links {
                    Some(watch) => link_changed(watch).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = links => Event::LinksChanged,
                () = pins => Event::PinsChanged,
                () = files => Event::FilesChanged,
                _ = look.tick() => Event::Look,
                _ = show.tick() => Event::Show,
                _ = fetch.tick() => Event::Fetch,
                _ = sweep.tick() => Event::Sweep,
            }
        })
    }
}

/// Returns when an interface may have changed. Can be dropped at any await and called again.
async fn link_changed(watch: &AsyncFd<LinkWatch>) {
    match watch.readable().await {
        Ok(mut ready) => {
            watch.get_ref().drain();
            ready.clear_ready();
        }
        // No message will ever come.
        Err(_) => std::future::pending().await,
    }
}
