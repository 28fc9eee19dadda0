//! One flow as eight words of shared memory, the hash that says where it lives, and its clock.
//! Layouts and pure arithmetic; what is done with them is in `flow_table`.

mod clock;
mod contents;
mod handshake;
mod hash;
mod head;
mod key;

pub use clock::{
    LASTING_AGE, LONGEST_TICKS, TICK_SHIFT, TOUCH_AGE, age, clock, has_expired, of_ticks, tick,
    ticks_of, time_out,
};
pub use contents::{
    ADDRESSES, BEGUN, Contents, ENTRY_WORDS, HEAD, NAME, RULE, audits, differs_from_mark,
    generation_of, rule_word, slot_of,
};
pub use handshake::{
    ANY_NUMBER, NO_NUMBER, acknowledges, begun_word, created_of, number_after, number_of,
};
pub use hash::{HASH_KEYS, finish, hash, hash_halves, hash_step};
pub use head::Head;
pub use key::FlowKey;
