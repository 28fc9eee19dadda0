//! See `sg-userspace/src/kernel/fuzzing.rs`.
#![no_main]

sg_fuzz::target!("blob");
