//! Where the events of `log` come from: a reader for each attachment that it is about.

use sg_userspace::kernel::KernelError;
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::observe::attached::{Attached, attached, name_now};
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

/// What `log` reads.
pub(super) struct Sources {
    readers: Vec<Reader>,
    /// What has come while events were counted. It is part of the next reading.
    late: Logged,
    /// What became of the events of attachments that are gone.
    over: Vec<Tally>,
    /// The interfaces that are asked for, with the names that they have now.
    interfaces: Vec<(InterfacePins, String)>,
    /// Whether events of other interfaces of an attachment are left out.
    is_chosen: bool,
    /// The names and patterns that were given, if any.
    ifaces: Ifaces,
    /// How many bytes of each packet are wanted.
    snap: u32,
    /// How often it is looked what else is attached.
    listing: Pace,
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
    /// Opens a reader for each attachment of these interfaces, which `ifaces` has chosen.
    pub(super) fn open(
        found: Vec<Attached>,
        ifaces: Ifaces,
        mode: Mode,
        snap: u32,
    ) -> Result<Sources, KernelError> {
        let mut sources = Sources {
            readers: Vec::new(),
            late: Logged::default(),
            over: Vec::new(),
            interfaces: Vec::new(),
            is_chosen: !ifaces.names.is_empty(),
            ifaces,
            snap,
            listing: Pace::default(),
            health: Pace::default(),
            said: String::new(),
        };
        sources.add(found, mode)?;
        Ok(sources)
    }

    /// Adds these interfaces, and readers of attachments that have none. Returns the interfaces
    /// that are new.
    fn add(&mut self, found: Vec<Attached>, mode: Mode) -> Result<Vec<String>, KernelError> {
        let mut new = Vec::new();
        for one in found {
            let name = one.name_or_index();
            let is_read = |known: &Reader| known.attached.pins.shares_with(&one.pins);
            let is_read = self.readers.iter().any(is_read);
            let is_known = self.interfaces.iter().any(|(pins, _)| *pins == one.pins);
            if !is_known {
                // One that is made anew has the name of another.
                self.interfaces.retain(|(_, before)| *before != name);
                self.interfaces.push((one.pins.clone(), name.clone()));
            }
            if !is_known || !is_read {
                new.push(name);
            }
            if is_read {
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
        Ok(new)
    }

    pub(super) fn names(&self) -> Vec<String> {
        let names = self.interfaces.iter().map(|(_, name)| name.clone());
        names.collect()
    }

    /// Whether events of other interfaces of an attachment are left out.
    pub(super) fn is_chosen(&self) -> bool {
        self.is_chosen
    }

    /// Whether events of this interface are wanted.
    pub(super) fn takes(&self, interface: &str) -> bool {
        !self.is_chosen || self.interfaces.iter().any(|(_, name)| name == interface)
    }

    /// Warnings about interfaces that do not enforce their policies: what passes there unjudged has
    /// no event. Empty if nothing has changed since they were asked for last.
    pub(super) fn warnings(&mut self, context: &Context) -> String {
        if !self.health.is_due() {
            return String::new();
        }
        let scope = context.here(&self.ifaces);
        let text = self.health.pass(|| {
            // Where nothing is attached any more, `look` says so.
            let found = attached(&context.bpffs, &scope).unwrap_or_default();
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
            all.add(reader.events.drain()?);
        }
        all.packets.sort_by_key(|packet| packet.at);
        for (pins, name) in &mut self.interfaces {
            if let Some(now) = name_now(pins) {
                *name = now;
            }
        }
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

    /// Looks whether what is read is still attached, and reads what has taken its place, or is
    /// attached beside it. Returns what is to be said about it.
    pub(super) fn look(&mut self, context: &Context) -> Result<Vec<String>, KernelError> {
        let is_over = self.readers.iter().any(|one| one.events.is_over());
        if !is_over && !self.readers.is_empty() && !self.listing.is_due() {
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
        let scope = context.here(&self.ifaces);
        let found = self.listing.pass(|| attached(&context.bpffs, &scope));
        match found.and_then(|found| self.add(found, Mode::Watch)) {
            Ok(new) => {
                let new = new.into_iter();
                lines.extend(new.map(|name| format!("{name}: attached; shown from now on")));
            }
            Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. }) => {}
            // As while a policy is being applied. What is watched goes on; the next look tries
            // again.
            Err(_) if !self.readers.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(lines)
    }
}
