//! What `sgctl` prints and how it exits, shown by running the real binary. Each test makes its own
//! network namespaces and BPF file system for what touches the kernel.

mod audit;
mod bpffs;
mod candidate;
mod capabilities;
mod captures;
mod confirm;
mod counters;
mod cut_off;
mod diff;
mod disk_full;
mod examples;
mod explained;
mod faults;
mod flows;
mod guard;
mod kept;
mod kernel;
mod log;
mod metrics;
mod operating;
mod pty;
mod refusals;
mod remembering;
mod rollback;
mod run;
mod run_ends;
mod run_log;
mod run_trial;
mod schema;
mod screens;
mod shared;
mod standing;
mod top;
mod words;
mod world;
