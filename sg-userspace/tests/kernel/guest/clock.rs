//! The clock of the machine is set while a policy waits to be confirmed. Only a guest has a clock
//! that a test may set.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::trial::left_until;
use sg_userspace::kernel::{ApplyOptions, apply, confirm, undo};

use super::require_guest;
use crate::probe::{A, B, Probe, Seen};
use crate::sandbox::{Sandbox, sandbox};
use crate::watching::{apply_rules, only};

/// Long enough that the policy can be looked at before its deadline on an emulated processor.
const WITHIN: Duration = Duration::from_secs(20);

const DAY: i64 = 24 * 3600;

/// The clock of the machine, so much away from the right time until this is dropped.
struct Moved(i64);

impl Moved {
    fn by(seconds: i64) -> Moved {
        let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("there is a clock");
        let then = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
        clock_settime(ClockId::CLOCK_REALTIME, then).expect("the clock of a guest can be set");
        Moved(seconds)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("there is a clock");
        let then = TimeSpec::new(now.tv_sec() - self.0, now.tv_nsec());
        let _ = clock_settime(ClockId::CLOCK_REALTIME, then);
    }
}

/// How the last policy that is not in force any more ended, and how many seconds ago.
fn last_end(sandbox: &Sandbox) -> (String, i64) {
    let history = only(sandbox, "sg0").history().expect("it can be read");
    let history = serde_json::to_value(&history.policies).expect("it can be printed");
    let ended = &history[1]["ended"];
    let at: jiff::Timestamp = ended["at"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .unwrap_or_else(|| panic!("{history}"));
    let ago = jiff::Timestamp::now().as_second() - at.as_second();
    let how = ended["how"].as_str().expect("it is a word").to_owned();
    (how, ago)
}

/// Proves C4: the clock of the machine set forth or back by a day while a policy waits, and set
/// right again, moves no deadline, neither for the kernel nor for `status`, and the history says
/// how each policy ended.
#[test]
#[ignore = "needs the guest of cargo xtask test --kernels"]
fn setting_the_clock_moves_no_deadline() {
    require_guest();
    for seconds in [DAY, -DAY] {
        sandbox(|sandbox| {
            sandbox.veth("sg0", "sg1");
            let options = sandbox.options("sg0");
            apply_rules(sandbox, A, &options);
            let mut probe = Probe::new("sg0", "sg1");
            let within = |within| ApplyOptions {
                confirm_within: Some(within),
                ..options.clone()
            };
            let try_out = |within: ApplyOptions| {
                let applied = apply(&rules_from_lines(B), &within);
                let applied = applied.unwrap_or_else(|e| panic!("{e}"));
                let trial = applied.first.state.open_trial();
                trial.expect("the policy waits to be confirmed").deadline
            };
            let deadline = try_out(within(WITHIN));
            let moved = Moved::by(seconds);
            let seen = probe.look();
            let status = only(sandbox, "sg0").status().expect("it can be read");
            let left = left_until(deadline);
            assert!(left > Duration::ZERO, "the guest is too slow");
            assert_eq!(seen, [Seen::B; 2], "{seconds}");
            let waits = status.unconfirmed.expect("it waits");
            assert!(waits.seconds_left <= WITHIN.as_secs_f64());
            std::thread::sleep(left + Duration::from_millis(20));
            assert_eq!(probe.look(), [Seen::A; 2], "{seconds}");
            // The next command tidies up.
            let pins = only(sandbox, "sg0").pins;
            confirm(sandbox.bpffs(), &pins).expect_err("it is too late");
            let (how, ago) = last_end(sandbox);
            assert_eq!(how, "undone", "{seconds}");
            assert!((0..600).contains(&ago), "{seconds}: {ago} s ago");
            drop(moved);

            // One that is taken back by hand was not undone at its deadline, whatever the clock
            // says, and one that is confirmed in time stays.
            try_out(within(Duration::from_secs(3600)));
            let moved = Moved::by(seconds);
            let undone = undo(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
            assert!(undone.is_some_and(|undone| !undone.is_confirmed));
            assert_eq!(last_end(sandbox).0, "rolled-back", "{seconds}");
            drop(moved);
            try_out(within(Duration::from_secs(3600)));
            let moved = Moved::by(seconds);
            confirm(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
            drop(moved);
            assert_eq!(probe.look(), [Seen::B; 2], "{seconds}");
        });
    }
}
