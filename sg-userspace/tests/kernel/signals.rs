//! Applies a policy while the applying thread gets many signals.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::apply;

use crate::sandbox::sandbox;

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// The verifier stops with EAGAIN when a signal is pending. Without precautions no program could be
/// loaded here.
#[test]
fn signals_do_not_keep_a_policy_from_being_applied() {
    // Interrupted calls restart, as with the signal handlers of most runtimes.
    let action = SigAction::new(
        SigHandler::Handler(count),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler does no more than an atomic addition.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a signal to handle");
    sandbox(|sandbox| {
        sandbox.veth("v0", "v1");
        // SAFETY: no arguments.
        let applying = unsafe { libc::pthread_self() };
        let is_over = AtomicBool::new(false);
        scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // SAFETY: the scope ends before that thread does.
                    unsafe { libc::pthread_kill(applying, libc::SIGUSR1) };
                    sleep(Duration::from_micros(200));
                }
            });
            while CAUGHT.load(Ordering::Relaxed) < 10 {
                sleep(Duration::from_millis(1));
            }
            let policy = rules_from_lines("in tcp 22 from any accept\nout all to any accept");
            let applied = apply(&policy, &sandbox.options("v0"));
            is_over.store(true, Ordering::Relaxed);
            applied.unwrap_or_else(|e| panic!("{e}"));
        });
    });
}
