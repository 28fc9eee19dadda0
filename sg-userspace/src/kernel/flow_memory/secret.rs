//! The secret of the flow table's hash.

use std::os::fd::AsFd;
use std::path::Path;

use sg_common::flow_entry::HASH_KEYS;

use crate::kernel::error::KernelError;
use crate::kernel::pins::InterfacePins;
use crate::kernel::sys;

/// The multipliers of the hash, pinned beside the table. They are secret, because knowing them
/// would allow an attacker to fill one group.
pub(in crate::kernel) type FlowKeys = [u64; HASH_KEYS];

/// Reads the multipliers of an interface, or creates them.
pub(in crate::kernel) fn keys_of(pins: Option<&InterfacePins>) -> Result<FlowKeys, KernelError> {
    let making = |e| KernelError::io("making the flow table's secret", e);
    let Some(pins) = pins else {
        return sys::random().map_err(making);
    };
    let path = pins.flow_keys();
    if path.exists() {
        return read_keys(&path);
    }
    let keys: FlowKeys = sys::random().map_err(making)?;
    let bytes = keys.map(u64::to_ne_bytes);
    sys::create_blob("sg_flow_keys", size_of::<FlowKeys>() as u32)
        .and_then(|map| {
            sys::fill_array(map.fd().as_fd(), bytes.as_flattened())?;
            sys::freeze(map.fd().as_fd())?;
            map.pin(&path).map_err(sys::pin_error)
        })
        .map_err(making)?;
    Ok(keys)
}

pub(super) fn read_keys(path: &Path) -> Result<FlowKeys, KernelError> {
    let bytes = sys::read_blob(path).map_err(|e| KernelError::at_pin("opening", path, e))?;
    let bytes = bytes.unwrap_or_default();
    let (words, _) = bytes.as_chunks::<8>();
    let mut keys = [0; HASH_KEYS];
    if words.len() != HASH_KEYS {
        return Err(KernelError::OtherMap {
            path: path.to_owned(),
            difference: format!("it has {} keys, not {HASH_KEYS}", words.len()),
        });
    }
    for (key, word) in keys.iter_mut().zip(words) {
        *key = u64::from_ne_bytes(*word);
    }
    Ok(keys)
}
