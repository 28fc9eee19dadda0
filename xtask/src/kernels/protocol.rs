//! What a guest says while it runs, and whether that is all that it was to do.
//! A test that is not reported as passed has failed, whatever else the guest says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use super::guest::Ended;

/// Tests of one binary that run in one go.
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// Its name in the guest.
    pub(super) binary: &'static str,
    /// Every one of them must pass.
    pub(super) tests: BTreeSet<String>,
    /// They are marked as ignored, since only a guest can run them.
    pub(super) are_ignored: bool,
}

#[derive(Default)]
pub(super) struct Protocol {
    release: Option<String>,
    running: Option<String>,
    /// By suite and test: whether it passed.
    results: BTreeMap<(String, String), bool>,
    exits: BTreeMap<String, String>,
    facts: Vec<(String, String)>,
    is_done: bool,
    /// Between the test binary's `failures:` and its end.
    is_explaining: bool,
}

impl Protocol {
    /// Takes in a line, and returns it if it is worth showing.
    pub(super) fn read(&mut self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["guest", "booted", release] => self.release = Some(release.to_owned()),
            ["guest", "runs", suite] => {
                self.running = Some(suite.to_owned());
                self.is_explaining = false;
            }
            ["guest", "ran", suite, exit] => {
                self.exits.insert(suite.to_owned(), exit.to_owned());
                self.running = None;
                self.is_explaining = false;
            }
            ["guest", "done"] => self.is_done = true,
            ["guest", ..] => {}
            ["failures:"] => self.is_explaining = true,
            ["successes:"] => {
                self.is_explaining = false;
                return None;
            }
            ["fact", ..] => self.facts.extend(fact(line)),
            _ => {
                let suite = self.running.clone()?;
                if let Some((test, has_passed)) = result(line) {
                    self.results.insert((suite, test), has_passed);
                } else if !self.is_explaining {
                    return None;
                }
            }
        }
        Some(line.to_owned())
    }

    pub(super) fn has_booted(&self) -> bool {
        self.release.is_some()
    }

    pub(super) fn into_facts(self) -> Vec<(String, String)> {
        self.facts
    }

    /// Everything that is not as it should be.
    pub(super) fn problems(&self, suites: &[Suite], ended: Ended, release: &str) -> Vec<String> {
        let mut problems = Vec::new();
        match &self.release {
            None => problems.push("it did not boot".to_owned()),
            Some(other) if other != release => {
                problems.push(format!("it booted Linux {other}, not {release}"));
            }
            Some(_) => {}
        }
        if let Ended::OutOfTime(limit) = ended {
            let running = self.running.as_deref().unwrap_or("no suite");
            problems.push(format!(
                "it did not end within {} s; {running} was running",
                limit.as_secs()
            ));
        } else if !self.is_done {
            problems.push("it ended before it was done".to_owned());
        }
        if suites.iter().all(|suite| suite.tests.is_empty()) {
            problems.push("it was given no tests".to_owned());
        }
        for suite in suites {
            let result = |test: &&String| {
                let key = (suite.name.to_owned(), (*test).clone());
                self.results.get(&key).copied()
            };
            let of = |wanted: Option<bool>| suite.tests.iter().filter(move |t| result(t) == wanted);
            problems.extend(of(Some(false)).map(|test| format!("{}: {test} failed", suite.name)));
            problems.extend(of(None).map(|test| format!("{}: {test} has not run", suite.name)));
            let exit = self.exits.get(suite.name).map(String::as_str);
            if let Some(exit) = exit.filter(|exit| *exit != "0") {
                problems.push(format!("{}: exit status {exit}", suite.name));
            }
        }
        problems
    }
}

/// `test NAME ... ok`, as the standard test harness prints it.
fn result(line: &str) -> Option<(String, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    Some((name.to_owned(), outcome == "ok"))
}

/// `fact KEY = VALUE`, which tests print for the table of kernels.
pub(super) fn fact(line: &str) -> Option<(String, String)> {
    let (key, value) = line.strip_prefix("fact ")?.split_once(" = ")?;
    let trimmed = |text: &dyn Display| text.to_string().trim().to_owned();
    Some((trimmed(&key), trimmed(&value)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GOOD: &str = "guest booted 6.1.0-9
guest runs one

running 3 tests
test a::b ... ok
test c - should panic ... ok

successes:

---- a::b stdout ----
fact outbound hook = clsact
something else

test result: ok. 2 passed; 0 failed
guest ran one 0
guest runs two
test a::b ... ok
guest ran two 0
guest done";

    fn suites() -> [Suite; 2] {
        let suite = |name, tests: &[&str]| Suite {
            name,
            binary: "kernel",
            tests: tests.iter().map(|test| (*test).to_owned()).collect(),
            are_ignored: false,
        };
        [suite("one", &["a::b", "c"]), suite("two", &["a::b"])]
    }

    fn problems(text: &str, ended: Ended) -> Vec<String> {
        let mut protocol = Protocol::default();
        for line in text.lines() {
            protocol.read(line);
        }
        protocol.problems(&suites(), ended, "6.1.0-9")
    }

    #[test]
    fn a_guest_that_ran_everything_has_no_problems() {
        assert_eq!(problems(GOOD, Ended::ByItself), [""; 0]);
    }

    #[test]
    fn whatever_is_missing_is_a_problem() {
        let cut = |at: &str| GOOD.split(at).next().unwrap().to_owned();
        let late = Ended::OutOfTime(Duration::from_secs(9));
        let no_two = "two: a::b has not run";
        let cases: [(String, Ended, &[&str]); 8] = [
            (
                String::new(),
                Ended::ByItself,
                &[
                    "it did not boot",
                    "it ended before it was done",
                    "one: a::b has not run",
                    "one: c has not run",
                    no_two,
                ],
            ),
            (
                GOOD.replace("6.1.0-9", "6.5.0"),
                Ended::ByItself,
                &["it booted Linux 6.5.0, not 6.1.0-9"],
            ),
            (
                cut("guest done"),
                Ended::ByItself,
                &["it ended before it was done"],
            ),
            (
                cut("guest ran two"),
                late,
                &["it did not end within 9 s; two was running"],
            ),
            (
                cut("guest runs two") + "guest done",
                Ended::ByItself,
                &[no_two],
            ),
            (
                GOOD.replace("test a::b ... ok\ntest", "test"),
                Ended::ByItself,
                &["one: a::b has not run"],
            ),
            (
                GOOD.replace("panic ... ok", "panic ... FAILED"),
                Ended::ByItself,
                &["one: c failed"],
            ),
            (
                GOOD.replace("ran one 0", "ran one 101"),
                Ended::ByItself,
                &["one: exit status 101"],
            ),
        ];
        for (text, ended, expected) in cases {
            assert_eq!(problems(&text, ended), expected, "{text}");
        }
        let ignored = GOOD.replace("test c - should panic ... ok", "test c ... ignored, why");
        assert_eq!(problems(&ignored, Ended::ByItself), ["one: c failed"]);
    }

    #[test]
    fn no_tests_at_all_is_a_problem() {
        let mut protocol = Protocol::default();
        for line in GOOD.lines() {
            protocol.read(line);
        }
        let found = protocol.problems(&[], Ended::ByItself, "6.1.0-9");
        assert_eq!(found, ["it was given no tests"]);
    }

    #[test]
    fn results_and_facts_are_shown_and_so_is_why_a_test_failed() {
        let shown = |text: &str| {
            let mut protocol = Protocol::default();
            let lines = text.lines().filter_map(|line| protocol.read(line));
            (lines.collect::<Vec<_>>(), protocol.into_facts())
        };
        let (lines, facts) = shown(GOOD);
        assert!(lines.contains(&"test a::b ... ok".to_owned()));
        assert!(!lines.contains(&"something else".to_owned()));
        assert_eq!(facts, [("outbound hook".to_owned(), "clsact".to_owned())]);
        let (lines, _) = shown("guest runs one\nfailures:\n\nbecause\nguest ran one 101");
        assert!(lines.contains(&"because".to_owned()));
    }
}
