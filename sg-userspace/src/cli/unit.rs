//! Whether enforcement ends with a unit of systemd: `detach --unless-enabled`, which the unit calls
//! after it has stopped.
//!
//! A stopped unit is not told why it stops. `systemctl disable --now` first disables it and then
//! stops it, so it is over if a stop was asked for and the unit is not enabled by then. A restart,
//! the end of the machine and a failure leave everything as it is, and so does a question that
//! systemd does not answer.

use std::process::{Command, Stdio};

/// What becomes of enforcement, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Over(String),
    Stays(String),
}

/// Asks systemd about the unit that has stopped.
pub(super) fn end_of(unit: &str) -> End {
    decide(unit, std::env::var("SERVICE_RESULT").ok(), systemctl)
}

/// What `systemctl` prints. `None` if it cannot be asked.
fn systemctl(words: &[&str]) -> Option<String> {
    let mut command = Command::new("systemctl");
    command.args(words).stdin(Stdio::null());
    // Its exit code says the same as what it prints.
    let output = command.stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn decide(unit: &str, result: Option<String>, ask: impl Fn(&[&str]) -> Option<String>) -> End {
    let stays = |why: String| End::Stays(why);
    if let Some(result) = result.filter(|result| result != "success") {
        return stays(format!("{unit} has ended with {result}"));
    }
    let Some(system) = ask(&["is-system-running"]) else {
        return stays("systemd does not answer".into());
    };
    if system == "stopping" {
        return stays("the machine is going down".into());
    }
    let jobs = ask(&["list-jobs", "--no-legend", "--plain", unit]);
    let jobs = jobs.unwrap_or_default();
    // `123 sgctl@eth0.service stop running`
    let job = jobs.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some(unit)).then(|| words.next())?
    });
    if job != Some("stop") {
        return stays(format!("nobody has asked {unit} to stop for good"));
    }
    match ask(&["is-enabled", unit]).as_deref() {
        Some(now @ ("disabled" | "masked" | "masked-runtime")) => {
            End::Over(format!("{unit} is {now}"))
        }
        Some(now) if !now.is_empty() => stays(format!(
            "{unit} is {now}; `systemctl disable --now {unit}` ends enforcement"
        )),
        _ => stays(format!("it is not known whether {unit} is enabled")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "sgctl@eth0.service";

    /// With these answers to the three questions.
    fn decided(result: &str, system: &str, jobs: &str, enabled: &str) -> End {
        let answers = [system, jobs, enabled].map(str::to_owned);
        decide(UNIT, Some(result.to_owned()), |words| {
            let [system, jobs, enabled] = answers.clone();
            match words[0] {
                "is-system-running" => Some(system),
                "list-jobs" => Some(jobs),
                "is-enabled" => Some(enabled),
                other => panic!("{other}"),
            }
        })
    }

    fn is_over(end: &End) -> bool {
        matches!(end, End::Over(_))
    }

    #[test]
    fn it_is_over_when_a_disabled_unit_is_stopped_and_at_no_other_time() {
        let stop = format!("71 {UNIT} stop running");
        let restart = format!("71 {UNIT} restart running");
        let other = "71 sgctl@eth01.service stop running";
        for (result, system, jobs, enabled, over) in [
            ("success", "running", &*stop, "disabled", true),
            ("success", "degraded", &*stop, "masked", true),
            ("success", "starting", &*stop, "disabled", true),
            ("success", "running", &*stop, "enabled", false),
            ("success", "running", &*stop, "static", false),
            ("success", "running", &*stop, "", false),
            ("success", "running", &*restart, "disabled", false),
            ("success", "running", "", "disabled", false),
            ("success", "running", other, "disabled", false),
            ("success", "stopping", &*stop, "disabled", false),
            ("signal", "running", &*stop, "disabled", false),
            ("watchdog", "running", "", "disabled", false),
        ] {
            let end = decided(result, system, jobs, enabled);
            let row = (result, system, jobs, enabled);
            assert_eq!(is_over(&end), over, "{row:?}: {end:?}");
        }
    }

    #[test]
    fn the_policy_stays_where_systemd_does_not_answer() {
        let end = decide(UNIT, Some("success".into()), |_| None);
        assert_eq!(end, End::Stays("systemd does not answer".into()));
    }
}
