//! Damages frames, since a frame may arrive differently from how it was sent.

use fastrand::Rng;

/// The length of an Ethernet header. The kernel runs no program on shorter frames.
const ETHERNET: usize = 14;
/// The headers of most frames end before this offset.
const HEADERS: usize = 100;

/// Changes, inserts or removes a few bytes.
pub(crate) fn mangle(rng: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        let len = frame.len();
        if len <= ETHERNET {
            break;
        }
        // A position among the headers, but not in the MAC addresses.
        let at = rng.usize(12..len.min(HEADERS));
        match rng.u8(..9) {
            0 => frame[at] ^= 1 << rng.u8(..8),
            1 => frame[at] = rng.u8(..),
            2 => {
                frame[at] = *rng
                    .choice(&[
                        0, 1, 4, 5, 6, 0x0f, 0x40, 0x44, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xff,
                    ])
                    .unwrap_or(&0);
            }
            3 => {
                let word = *rng
                    .choice(&[
                        0, 1, 8, 0x0800, 0x1fff, 0x2000, 0x2001, 0x8100, 0x86dd, 0xffff,
                    ])
                    .unwrap_or(&0);
                set_word(frame, at, word);
            }
            4 => {
                // A 16-bit length that is off by a few bytes.
                let word = (len - ETHERNET) as u16;
                set_word(frame, at, word.wrapping_add(rng.u16(..9)).wrapping_sub(4));
            }
            5 => {
                let position = *rng.choice(&[16, 18, 20, 24]).unwrap_or(&16);
                if position + 1 < len {
                    let word = u16::from_be_bytes([frame[position], frame[position + 1]]);
                    let word = word.wrapping_add(rng.u16(..9)).wrapping_sub(4);
                    set_word(frame, position, word);
                }
            }
            6 => frame.truncate(rng.usize(ETHERNET..=len)),
            7 => {
                let extra = rng.usize(1..40);
                frame.extend((0..extra).map(|i| i as u8));
            }
            _ => {
                let end = (at + rng.usize(1..9)).min(len);
                if rng.bool() {
                    frame.drain(at..end);
                } else {
                    let copy = frame[at..end].to_vec();
                    frame.splice(at..at, copy);
                }
            }
        }
    }
    // The frame must not become shorter than an Ethernet header.
    if frame.len() < ETHERNET {
        frame.resize(ETHERNET, 0);
    }
}

fn set_word(frame: &mut [u8], at: usize, word: u16) {
    for (to, from) in frame[at..].iter_mut().zip(word.to_be_bytes()) {
        *to = from;
    }
}
