//! What `sgctl` prints and how it exits, by running the real binary. Whatever touches the kernel
//! happens in network namespaces and BPF file systems that each test makes for itself.

mod bpffs;
mod capabilities;
mod examples;
mod faults;
mod kernel;
mod refusals;
mod remembering;
mod run;
mod run_ends;
mod schema;
mod screens;
mod shared;
mod standing;
mod words;
mod world;
