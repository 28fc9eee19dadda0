//! The text of a policy as it is kept: the JSON of a [`PolicyText`], compressed.

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use crate::kernel::blob::{self, Kind};
use crate::kernel::error::KernelError;
use crate::kernel::pins::InterfacePins;
use sg_policy::formats::{Style, write};
use sg_policy::policy::{Policy, PolicyText};

/// The most memory of the kernel that the texts of an attachment take, compressed. While a policy
/// is replaced, one more may be there.
pub const BYTES: usize = 16 << 20;

/// The most that a text may be, uncompressed: more than the largest policy that can be loaded.
const TEXT_BYTES: usize = 1 << 30;

/// Sets with more entries are kept as set files, which are smaller and faster to load.
const ENTRIES_INLINE: usize = 1000;

/// The fastest level of DEFLATE. The slow ones save little of a list of addresses, and `apply` has
/// to wait for them.
const LEVEL: u8 = 1;

/// The body of the blob of a policy that was put in force. `None` if there is none.
pub(super) fn read_text(
    pins: &InterfacePins,
    generation: u32,
) -> Result<Option<Vec<u8>>, KernelError> {
    let path = pins.policy_text(generation);
    let body = blob::read(&path, Kind::Policy)?.transpose();
    body.map_err(|reason| KernelError::DamagedHistory { path, reason })
}

/// The body of a policy's blob. `None` if it is too large to be kept.
pub(in crate::kernel) fn render(policy: &Policy) -> Result<Option<Vec<u8>>, KernelError> {
    let style = Style {
        entries_inline: ENTRIES_INLINE,
    };
    let written = write(policy, style);
    let json = serde_json::to_vec(&written)
        .map_err(|e| KernelError::io("writing the text of the policy", e.into()))?;
    let Some(len) = u32::try_from(json.len())
        .ok()
        .filter(|_| json.len() <= TEXT_BYTES)
    else {
        return Ok(None);
    };
    let mut body = len.to_le_bytes().to_vec();
    body.append(&mut compress_to_vec(&json, LEVEL));
    Ok((body.len() <= BYTES).then_some(body))
}

/// The text in the body of a blob.
pub(super) fn parse(body: &[u8]) -> Result<PolicyText, String> {
    let (len, compressed) = body.split_first_chunk::<4>().ok_or("it is cut off")?;
    let len = u32::from_le_bytes(*len) as usize;
    let json = decompress_to_vec_with_limit(compressed, len.min(TEXT_BYTES))
        .map_err(|e| format!("it cannot be decompressed: {e}"))?;
    if json.len() != len {
        return Err("its length is not what it says".into());
    }
    serde_json::from_slice(&json).map_err(|e| e.to_string())
}

/// Reads the text of a policy as it is kept, for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::kernel) fn fuzz(body: &[u8]) -> bool {
    match parse(body) {
        Ok(text) => sg_policy::policy::load_written("p.yaml", &text).is_ok(),
        Err(reason) => {
            assert!(!reason.is_empty(), "refused without a reason");
            false
        }
    }
}

/// The text of a policy as it is kept, for fuzzing.
#[cfg(test)]
pub(in crate::kernel) fn samples() -> Vec<Vec<u8>> {
    let text = "name: p\naddress-sets: {a: [10.0.0.0/8]}\n\
                inbound: [{protocol: tcp, ports: 22, from: a, action: accept}]\n";
    let loaded = sg_policy::policy::load_text("p.yaml", text, None, &[]);
    let policy = loaded.map(|it| it.policy).ok();
    let rendered = policy.and_then(|policy| render(&policy).ok().flatten());
    rendered.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_back_as_written_and_a_damaged_one_is_refused() {
        let policy = sg_policy::policy::rules_from_lines("in tcp 22 from 192.0.2.0/24 accept");
        let body = render(&policy).unwrap().unwrap();
        let text = parse(&body).unwrap();
        assert!(text.yaml.contains("192.0.2.0/24"));
        assert!(parse(&body[..3]).is_err());
        assert!(parse(&body[..body.len() - 1]).is_err());
        let mut longer = body.clone();
        longer[0] += 1;
        assert!(parse(&longer).is_err());
        let mut shorter = body;
        shorter[0] -= 1;
        assert!(parse(&shorter).is_err());
    }
}
