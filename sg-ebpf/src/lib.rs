//! Empty library: lets userspace depend on this package, so that cargo rebuilds the BPF object
//! whenever the packet path changes.
#![no_std]
