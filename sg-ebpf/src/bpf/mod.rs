//! What the packet path is made of: the bytes of a frame, maps and constants, tail calls, shared
//! words, and what the verifier has to be helped with.

pub(crate) mod bytes;
pub(crate) mod clock;
pub(crate) mod hook;
pub(crate) mod maps;
pub(crate) mod tail_call;
pub(crate) mod twins;
pub(crate) mod verifier;
pub(crate) mod word;
