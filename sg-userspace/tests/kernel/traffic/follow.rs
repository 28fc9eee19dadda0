//! Packets that depend on earlier ones: more packets of a flow, replies, fragments and ICMP errors.
//! Also the tags, options and extension headers that any packet may get.

use sg_common::verdict::Direction;

use super::draft::{Draft, Extension, Fragment};
use super::{MEMORY, Traffic};
use crate::reference::parse::{TCP, Transport, icmp_of};

/// How many first fragments are kept, so that later ones can follow.
const FIRSTS: usize = 12;

impl Traffic {
    pub(super) fn remember(&mut self, draft: Draft) -> Draft {
        if self.past.len() < MEMORY {
            self.past.push(draft.clone());
        } else {
            let place = self.rng.usize(..MEMORY);
            self.past[place] = draft.clone();
        }
        draft
    }

    fn earlier(&mut self) -> Draft {
        match self.rng.choice(&self.past) {
            Some(draft) => draft.clone(),
            None => self.fresh(),
        }
    }

    /// Another packet of an earlier one's flow, in either direction. Sometimes its tuple differs
    /// slightly.
    pub(super) fn following(&mut self) -> Draft {
        let earlier = self.earlier();
        let mut draft = match self.rng.u8(..10) {
            0..3 => earlier,
            _ => answer(&earlier),
        };
        if let Transport::Tcp { flags, numbers, .. } = &mut draft.transport {
            *flags = self.tcp_flags();
            *numbers = self.numbers();
        }
        match (&mut draft.transport, self.rng.u8(..16)) {
            (
                Transport::Tcp { destination, .. }
                | Transport::Udp { destination, .. }
                | Transport::Sctp { destination, .. },
                0,
            ) => *destination ^= 1,
            (Transport::Icmp { identifier, .. }, 0) => *identifier ^= 1,
            (Transport::Icmp { code, .. }, 1) => *code ^= 1,
            (_, 2) => draft.protocol ^= 1,
            _ => {}
        }
        if draft.protocol != protocol_of(&draft) {
            draft.transport = Transport::Other;
        }
        draft
    }

    /// An ICMP error about an earlier packet, sent to its sender.
    pub(super) fn error(&mut self) -> Draft {
        let mut about = self.earlier();
        if self.rng.u8(..4) == 0 {
            // The error is about the reply, which may never have been sent.
            about = answer(&about);
        }
        if self.rng.u8(..6) == 0 {
            self.wrap(&mut about);
        }
        about.tags.clear();
        let is_v4 = about.source.is_ipv4();
        let mut quotation = about.packet();
        match self.rng.u8(..8) {
            // As much as RFC 792 asks for at least.
            0..4 => quotation.truncate(if is_v4 { 28 } else { 48 }),
            4 => quotation.truncate(self.rng.usize(..=quotation.len())),
            5 => {
                let at = self.rng.usize(..quotation.len());
                quotation[at] ^= 1 << self.rng.u8(..8);
            }
            _ => {}
        }
        let router = self.local(is_v4);
        let (source, destination) = match self.rng.u8(..8) {
            0 => (about.destination, self.local(is_v4)),
            1..4 => (router, about.source),
            _ => (about.destination, about.source),
        };
        let kinds: &[u8] = match is_v4 {
            true => &[3, 3, 11, 12, 4, 5],
            false => &[1, 2, 3, 4, 5, 127],
        };
        let transport = Transport::Icmp {
            kind: *self.rng.choice(kinds).unwrap_or(&3),
            code: self.rng.u8(..5),
            identifier: 0,
        };
        let direction = match self.rng.u8(..12) {
            0 => about.direction,
            _ => about.direction.opposite(),
        };
        let mut draft = Draft::new(direction, source, destination, icmp_of(source), transport);
        draft.payload = quotation;
        draft
    }

    /// Adds tags, options or extension headers to a packet, and builds its bytes.
    pub(super) fn dressed(&mut self, mut draft: Draft) -> (Direction, Vec<u8>) {
        if draft.payload.is_empty() {
            let len = match self.rng.u8(..40) {
                0 => self.rng.usize(..1400),
                // Larger than the first of a driver's buffers.
                1 if draft.direction == Direction::Inbound => self.rng.usize(3000..6000),
                _ => self.rng.usize(..40),
            };
            draft.payload = vec![0x5a; len];
        }
        if draft.fragment.is_none() && self.rng.u8(..3) == 0 {
            self.wrap(&mut draft);
        }
        if self.rng.u8(..12) == 0 {
            let header = draft.payload.len() as i16 + 8;
            let lies = [1, -1, 8, -8, 100, i16::MIN, -header, 7 - header, 8 - header];
            draft.udp_lie = *self.rng.choice(&lies).unwrap_or(&1);
        }
        if self.rng.u8(..60) == 0 {
            draft.cut = Some(self.rng.usize(..24));
        }
        if matches!(
            draft.fragment,
            Some(Fragment {
                offset: 0,
                more: true,
                ..
            })
        ) {
            if self.firsts.len() == FIRSTS {
                self.firsts.remove(0);
            }
            self.firsts.push(draft.clone());
        }
        (draft.direction, draft.frame())
    }

    /// A later fragment of a datagram whose first one was sent. Sometimes one field differs.
    pub(super) fn later_fragment(&mut self) -> Draft {
        let Some(first) = self.rng.choice(&self.firsts) else {
            return self.fresh();
        };
        let mut draft = first.clone();
        let rng = &mut self.rng;
        draft.cut = None;
        draft.payload = vec![0x5a; 8 * rng.usize(1..6)];
        if let Some(fragment) = &mut draft.fragment {
            fragment.offset = *rng.choice(&[1, 2, 3, 50, 50, 50, 8000]).unwrap_or(&50);
            fragment.more = rng.bool();
            if rng.u8(..12) == 0 {
                fragment.identification += 1;
            }
        }
        match rng.u8(..24) {
            0 => draft.protocol ^= 1,
            1 => draft.direction = draft.direction.opposite(),
            2 => draft = answer(&draft),
            _ => {}
        }
        draft
    }

    fn wrap(&mut self, draft: &mut Draft) {
        let rng = &mut self.rng;
        if rng.u8(..3) == 0 {
            let tags = *rng.choice(&[1, 1, 1, 2, 2, 3]).unwrap_or(&1);
            let tag = |rng: &mut fastrand::Rng| *rng.choice(&[0x8100, 0x88a8]).unwrap_or(&0x8100);
            draft.tags = (0..tags).map(|_| tag(rng)).collect();
        }
        if rng.u8(..4) == 0 {
            draft.options = vec![1; 4 * rng.usize(..=10)];
        }
        if draft.protocol == TCP && rng.u8(..4) == 0 {
            draft.tcp_options = rng.u8(..=10);
        }
        if rng.u8(..3) == 0 {
            draft.fragment = Some(Fragment {
                identification: rng.u32(..1000),
                offset: *rng
                    .choice(&[0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 1000, 8191])
                    .unwrap_or(&0),
                more: rng.u8(..4) > 0,
            });
        }
        if rng.u8(..2) == 0 {
            let count = match rng.u8(..4) {
                0 => rng.usize(..10),
                _ => rng.usize(..4),
            };
            draft.extensions = (0..count).map(|_| extension(rng)).collect();
        }
    }
}

fn extension(rng: &mut fastrand::Rng) -> Extension {
    match rng.u8(..10) {
        0 => Extension::Fragment,
        1 => Extension::AtomicFragment,
        2 | 3 if rng.u8(..8) == 0 => Extension::ShortAuthentication,
        2 | 3 => Extension::Authentication(rng.u8(..5)),
        4 => Extension::Generic(60, rng.u8(..20)),
        _ => {
            let number = *rng.choice(&[0, 43, 60]).unwrap_or(&0);
            Extension::Generic(number, rng.u8(..3))
        }
    }
}

/// The reply to a packet.
pub(super) fn answer(draft: &Draft) -> Draft {
    let transport = match draft.transport {
        Transport::Tcp {
            source,
            destination,
            flags,
            numbers,
        } => Transport::Tcp {
            source: destination,
            destination: source,
            flags,
            numbers,
        },
        Transport::Udp {
            source,
            destination,
        } => Transport::Udp {
            source: destination,
            destination: source,
        },
        Transport::Sctp {
            source,
            destination,
        } => Transport::Sctp {
            source: destination,
            destination: source,
        },
        Transport::Icmp {
            kind,
            code,
            identifier,
        } => Transport::Icmp {
            kind: match kind {
                8 => 0,
                0 => 8,
                13 | 15 | 17 | 128 | 139 => kind + 1,
                14 | 16 | 18 | 129 | 140 => kind - 1,
                other => other,
            },
            code,
            identifier,
        },
        Transport::Other => Transport::Other,
    };
    Draft {
        direction: draft.direction.opposite(),
        source: draft.destination,
        destination: draft.source,
        transport,
        ..draft.clone()
    }
}

/// The protocol number of the draft's transport header.
fn protocol_of(draft: &Draft) -> u8 {
    match draft.transport {
        Transport::Tcp { .. } => 6,
        Transport::Udp { .. } => 17,
        Transport::Sctp { .. } => 132,
        Transport::Icmp { .. } => icmp_of(draft.source),
        Transport::Other => draft.protocol,
    }
}
