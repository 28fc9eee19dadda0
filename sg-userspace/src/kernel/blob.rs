//! Blobs: bytes that have to live as long as what they describe, in a pinned and frozen array map,
//! because a BPF file system holds no files. A blob is replaced atomically, by renaming a new pin
//! over the old one.
//!
//! The values of the map are pages of 4096 bytes, which any kernel allocates for a blob of any
//! length. One behind the other they hold: magic (8 bytes, one for each kind of blob), layout
//! version (u32), length of the body (u32, both little-endian), SHA-256 of the body (32 bytes),
//! body, zeros up to the end of the page.

use std::os::fd::AsFd;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sg_common::LAYOUT_VERSION;
use sha2::{Digest, Sha256};

use super::error::KernelError;
use super::{links, sys};

const HEADER: usize = 8 + 4 + 4 + 32;

/// What a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The record of an interface: see `state`.
    State,
    /// What was in force in an attachment: see `history`.
    History,
    /// The text of one policy.
    Policy,
    /// The zero of an interface's counters: see `zero`.
    Zero,
}

impl Kind {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Kind::State => b"SGSTATE\0",
            Kind::History => b"SGHISTRY",
            Kind::Policy => b"SGPOLICY",
            Kind::Zero => b"SGZERO\0\0",
        }
    }

    /// The name of the map, for who lists maps.
    const fn map_name(self) -> &'static str {
        match self {
            Kind::State => "sg_state",
            Kind::History => "sg_history",
            Kind::Policy => "sg_policy",
            Kind::Zero => "sg_zero",
        }
    }

    /// The name of the pin until it is renamed to its own.
    const fn new_name(self) -> &'static str {
        match self {
            Kind::State => "state_new",
            Kind::History => "history_new",
            Kind::Policy => "policy_new",
            Kind::Zero => "zero_new",
        }
    }
}

/// Pins a blob at `path`, in place of what is pinned there.
pub(super) fn write(path: &Path, kind: Kind, body: &[u8]) -> Result<(), KernelError> {
    let new = path.with_file_name(kind.new_name());
    let io = |e| KernelError::io(format!("writing {}", path.display()), e);
    let bytes = render(kind, body).ok_or_else(|| io(std::io::Error::other("too large")))?;
    // A writer that was killed may have left one.
    links::unpin(&new).map_err(io)?;
    let map = sys::create_pages(kind.map_name(), bytes.len()).map_err(io)?;
    sys::fill_array(map.fd().as_fd(), &bytes).map_err(io)?;
    sys::freeze(map.fd().as_fd()).map_err(io)?;
    links::pin(map.fd().as_fd(), &new).map_err(io)?;
    links::rename(&new, path).map_err(io)
}

/// The body of the blob pinned at `path`, or what is wrong with it. `None` if nothing is pinned
/// there.
pub(super) fn read(
    path: &Path,
    kind: Kind,
) -> Result<Option<Result<Vec<u8>, String>>, KernelError> {
    // Only if the pin does not exist is there no blob.
    let bytes = match sys::read_pages(path) {
        Ok(bytes) => bytes,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(KernelError::at_pin("opening", path, e)),
    };
    Ok(Some(match bytes {
        Some(bytes) => parse(kind, bytes),
        None => Err("it is another map".into()),
    }))
}

/// Pins `value` at `path` as a blob of JSON.
pub(super) fn write_json(
    path: &Path,
    kind: Kind,
    value: &impl Serialize,
) -> Result<(), KernelError> {
    let json = serde_json::to_vec(value)
        .map_err(|e| KernelError::io(format!("writing {}", path.display()), e.into()))?;
    write(path, kind, &json)
}

/// The value of the blob of JSON pinned at `path`, as [`read`] has it.
pub(super) fn read_json<T: DeserializeOwned>(
    path: &Path,
    kind: Kind,
) -> Result<Option<Result<T, String>>, KernelError> {
    let body = read(path, kind)?;
    let value = |json: Vec<u8>| serde_json::from_slice(&json).map_err(|e| e.to_string());
    Ok(body.map(|body| body.and_then(value)))
}

fn render(kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(body.len()).ok()?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(kind.magic());
    bytes.extend_from_slice(&LAYOUT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&Sha256::digest(body));
    bytes.extend_from_slice(body);
    Some(bytes)
}

fn parse(kind: Kind, mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let take = |from: usize, len: usize| bytes.get(from..from + len);
    let word = |from| {
        take(from, 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    if take(0, 8) != Some(kind.magic()) {
        return Err("it does not begin as one".into());
    }
    match word(8) {
        Some(LAYOUT_VERSION) => {}
        Some(other) => return Err(format!("its layout version is {other}")),
        None => return Err("its header is cut off".into()),
    }
    let body = word(12)
        .and_then(|len| take(HEADER, len as usize))
        .ok_or("it is cut off")?;
    if take(16, 32) != Some(Sha256::digest(body).as_slice()) {
        return Err("its checksum does not match".into());
    }
    let end = HEADER + body.len();
    bytes.truncate(end);
    bytes.drain(..HEADER);
    Ok(bytes)
}

/// Reads a blob of each kind, for fuzzing. What is read is what was written.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(bytes: &[u8]) -> bool {
    let kinds = [Kind::State, Kind::History, Kind::Policy, Kind::Zero];
    let read = kinds.map(|kind| {
        let body = parse(kind, bytes.to_vec()).ok()?;
        let again = render(kind, &body).unwrap_or_default();
        assert!(bytes.starts_with(&again), "another body than was written");
        Some(body)
    });
    assert!(read.iter().flatten().count() <= 1, "a blob of two kinds");
    read.iter().flatten().count() == 1
}

/// Blobs, for fuzzing.
#[cfg(test)]
pub(super) fn samples() -> Vec<Vec<u8>> {
    let kinds = [Kind::State, Kind::History, Kind::Policy, Kind::Zero];
    kinds
        .into_iter()
        .filter_map(|kind| render(kind, b"{}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"some\": \"body\"}";

    #[test]
    fn a_blob_reads_back_as_written_even_with_padding_behind_it() {
        let mut bytes = render(Kind::State, BODY).unwrap();
        bytes.extend_from_slice(&[0; 7]);
        assert_eq!(parse(Kind::State, bytes), Ok(BODY.to_vec()));
    }

    #[test]
    fn a_blob_cut_or_changed_anywhere_is_refused() {
        let bytes = render(Kind::State, BODY).unwrap();
        for len in 0..bytes.len() {
            let cut = bytes[..len].to_vec();
            assert!(parse(Kind::State, cut).is_err(), "cut to {len} bytes");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            assert!(parse(Kind::State, changed).is_err(), "byte {at} changed");
        }
        assert!(parse(Kind::History, bytes).is_err(), "another kind");
    }
}
