//! Where the events of `log` come from: a reader for each attachment that it is about.

use sg_userspace::kernel::KernelError;
use sg_userspace::observe::attached::{Attached, attached};
use sg_userspace::observe::events::{Events, Logged, LoggedPacket, Tally};
use sg_userspace::observe::pace::Pace;
use sg_userspace::observe::status::Standing;

use crate::cli::context::{Context, Ifaces};
use crate::cli::health::warnings;

/// Which events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Those that are there.
    Newest,
    /// Those from now on, also of what is dropped and not logged.
    Watch,
    /// Both.
    NewestAndWatch,
}

pub(super) struct Sources {
    readers: Vec<Reader>,
    /// What has come while events were counted. It is part of the next reading.
    late: Logged,
    /// What became of the events of attachments that are gone.
    over: Vec<Tally>,
    names: Vec<String>,
    /// Whether events of other interfaces of an attachment are left out.
    is_chosen: bool,
    ifaces: Vec<String>,
    snap: u32,
    /// How often it is looked whether the interfaces enforce their policies, and what was said of
    /// that last.
    health: Pace,
    said: String,
}

struct Reader {
    events: Events,
    attached: Attached,
}

impl Sources {
    pub(super) fn open(
        found: Vec<Attached>,
        ifaces: &Ifaces,
        mode: Mode,
        snap: u32,
    ) -> Result<Sources, KernelError> {
        let names = found.iter().filter_map(Attached::name).collect();
        let mut sources = Sources {
            readers: Vec::new(),
            late: Logged::default(),
            over: Vec::new(),
            names,
            is_chosen: !ifaces.names.is_empty(),
            ifaces: ifaces.names.clone(),
            snap,
            health: Pace::default(),
            said: String::new(),
        };
        sources.add(found, mode)?;
        Ok(sources)
    }

    /// Adds readers of attachments that have none.
    fn add(&mut self, found: Vec<Attached>, mode: Mode) -> Result<(), KernelError> {
        for one in found {
            let is_known = |known: &Reader| known.attached.pins.shares_with(&one.pins);
            if self.readers.iter().any(is_known) {
                continue;
            }
            let events = match mode {
                Mode::Newest => Events::newest(&one)?,
                Mode::Watch => Events::watch(&one, self.snap)?,
                Mode::NewestAndWatch => Events::newest_and_watch(&one, self.snap)?,
            };
            self.readers.push(Reader {
                events,
                attached: one,
            });
        }
        Ok(())
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether events of other interfaces of an attachment are left out.
    pub(super) fn is_chosen(&self) -> bool {
        self.is_chosen
    }

    /// Whether events of this interface are wanted.
    pub(super) fn takes(&self, interface: &str) -> bool {
        !self.is_chosen || self.names.iter().any(|name| name == interface)
    }

    /// Warnings about interfaces that do not enforce their policies: what passes there unjudged has
    /// no event. Empty if nothing has changed since they were asked for last.
    pub(super) fn warnings(&mut self, context: &Context) -> String {
        if !self.health.is_due() {
            return String::new();
        }
        let ifaces = Ifaces {
            names: self.ifaces.clone(),
        };
        let text = self.health.pass(|| {
            // Where nothing is attached any more, `look` says so.
            let found = attached(&context.bpffs, &context.here(&ifaces)).unwrap_or_default();
            let warnings = found
                .iter()
                .map(|one| warnings(&context.err, &Standing::of(one)));
            warnings.collect::<String>()
        });
        if text == self.said {
            return String::new();
        }
        self.said.clone_from(&text);
        text
    }

    /// The events of all attachments since the last call, oldest first.
    pub(super) fn read(&mut self) -> Result<Logged, KernelError> {
        let mut all = self.take_late();
        for reader in &mut self.readers {
            add(&mut all, reader.events.drain()?);
        }
        all.packets.sort_by_key(|packet| packet.at);
        Ok(all)
    }

    /// What became of all events, also of those that have come since the last reading.
    pub(super) fn tally(&mut self) -> Result<Vec<Tally>, KernelError> {
        let mut tallies = self.over.clone();
        for reader in &mut self.readers {
            Tally::merge(&mut tallies, reader.events.tally(&mut self.late)?);
        }
        Ok(tallies)
    }

    /// The packets that are counted in the last tally, and not read yet.
    pub(super) fn late(&self) -> &[LoggedPacket] {
        &self.late.packets
    }

    /// Reads what is counted in the last tally, and nothing that came after it.
    pub(super) fn take_late(&mut self) -> Logged {
        std::mem::take(&mut self.late)
    }

    /// Looks whether what is read is still attached, and reads what has taken its place. Returns
    /// what is to be said about it.
    pub(super) fn look(&mut self, context: &Context) -> Result<Vec<String>, KernelError> {
        if !self.readers.is_empty() && !self.readers.iter().any(|one| one.events.is_over()) {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        for mut one in std::mem::take(&mut self.readers) {
            if !one.events.is_over() {
                self.readers.push(one);
                continue;
            }
            let name = one.attached.name().unwrap_or_default();
            lines.push(format!(
                "{name}: detached; waiting until it is attached again"
            ));
            Tally::merge(&mut self.over, one.events.tally(&mut self.late)?);
        }
        let ifaces = Ifaces {
            names: self.ifaces.clone(),
        };
        match attached(&context.bpffs, &context.here(&ifaces)) {
            Ok(found) => self.add(found, Mode::Watch)?,
            Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(lines)
    }
}

pub(super) fn add(all: &mut Logged, one: Logged) {
    all.packets.extend(one.packets);
    all.lost += one.lost;
    all.suppressed += one.suppressed;
    all.unwatched |= one.unwatched;
}
