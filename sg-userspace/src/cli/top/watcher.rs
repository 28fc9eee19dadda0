//! Watches what is dropped, for the panel of sources and ports. A watch ends by itself soon after
//! the last reading.

use sg_common::verdict::{Action, Direction};
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::events::{Events, LoggedPacket};

use super::drops::Dropped;
use super::reading::Seen;

/// A reader for each attachment.
#[derive(Default)]
pub(super) struct Watcher {
    readers: Vec<(InterfacePins, Events)>,
    trouble: Option<String>,
}

impl Watcher {
    /// Watches these interfaces' attachments from now on, and no others.
    pub(super) fn follow<'a>(&mut self, all: impl Iterator<Item = &'a Attached> + Clone) {
        self.trouble = None;
        self.readers.retain(|(pins, events)| {
            !events.is_over() && all.clone().any(|one| one.pins.shares_with(pins))
        });
        for one in all {
            if self
                .readers
                .iter()
                .any(|(pins, _)| pins.shares_with(&one.pins))
            {
                continue;
            }
            // The headers are enough.
            match Events::watch(one, 0) {
                Ok(events) => self.readers.push((one.pins.clone(), events)),
                Err(error) => self.trouble = Some(error.to_string()),
            }
        }
    }

    /// What was dropped since the last call. It has to be called at least twice a second.
    pub(super) fn look(&mut self) -> Seen {
        let mut seen = Seen {
            trouble: self.trouble.clone(),
            ..Seen::default()
        };
        for (_, events) in &mut self.readers {
            match events.drain() {
                Ok(logged) => seen
                    .packets
                    .extend(logged.packets.iter().filter_map(dropped)),
                // The attachment is listed anew soon.
                Err(error) => seen.trouble = Some(error.to_string()),
            }
        }
        seen
    }
}

fn dropped(packet: &LoggedPacket) -> Option<(String, Dropped)> {
    let (source, port) = match packet.direction {
        Direction::Inbound => (packet.remote, packet.local_port),
        Direction::Outbound => (packet.local, packet.remote_port),
    };
    let dropped = Dropped {
        direction: packet.direction,
        source,
        port: packet.protocol.zip(port),
        packets: u64::from(packet.packets),
    };
    (packet.verdict == Action::Drop).then(|| (packet.interface.clone(), dropped))
}
