//! Makes a target of a reader of `sg-userspace/src/kernel/fuzzing.rs`, which has what each promises.

pub use libfuzzer_sys::fuzz_target;
use sg_userspace::kernel::fuzzing::{READERS, Reader};

/// The reader of this name.
pub fn reader(name: &str) -> Reader {
    let found = READERS.iter().find(|(known, _)| *known == name);
    *found.unwrap_or_else(|| panic!("no reader is called {name}"))
}

/// A target for the reader of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::fuzz_target!(|bytes: &[u8]| {
            let (_, read) = $crate::reader($name);
            read(bytes);
        });
    };
}
