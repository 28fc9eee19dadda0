//! Runs scripts. A script that fails is shrunk as long as it still fails, and written as a case
//! file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::script::{self, Group, PolicyText, Step};
use super::{Disagreement, World};
use crate::sandbox::Sandbox;

/// The options of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// Compares the tables after every step, and not only at the end.
    pub(crate) exact: bool,
    /// See [`crate::reference::Reference::sabotaged_port`].
    pub(crate) sabotaged_port: Option<u16>,
    /// The folder for case files, if it is not the usual one.
    pub(crate) cases: Option<PathBuf>,
}

/// The first difference between kernel and reference.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How many steps were taken, including the one that failed.
    pub(crate) steps: usize,
    pub(crate) why: Disagreement,
}

/// The time limit for shrinking.
const PATIENCE: Duration = Duration::from_secs(60);
/// If the script has more frames than this, their bytes are not shrunk.
const FEW: usize = 12;

/// The folder with the cases that every test run replays.
pub(crate) fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// Runs a script from its beginning.
pub(crate) fn run(sandbox: &Sandbox, manner: &Manner, steps: &[Step]) -> Result<World, Failure> {
    run_with(sandbox, manner, steps, |_, _| {})
}

/// Like [`run`], with a callback for every step. For a frame the callback also gets the reference's
/// decision.
fn run_with(
    sandbox: &Sandbox,
    manner: &Manner,
    steps: &[Step],
    mut each: impl FnMut(usize, Option<&str>),
) -> Result<World, Failure> {
    let mut world = World::new(sandbox, manner.exact);
    world.sabotage(manner.sabotaged_port);
    for (position, step) in steps.iter().enumerate() {
        let result = world.step(step);
        each(position, world.last.as_deref());
        result.map_err(|why| Failure {
            steps: position + 1,
            why,
        })?;
    }
    let steps = steps.len();
    world.finish().map_err(|why| Failure { steps, why })?;
    Ok(world)
}

/// Runs a script that must not fail. If it does, the script is shrunk and written as a case file,
/// and the panic message has all that is needed to replay it.
pub(crate) fn check(
    sandbox: &Sandbox,
    manner: &Manner,
    name: &str,
    seed: u64,
    steps: &[Step],
) -> World {
    let failure = match run(sandbox, manner, steps) {
        Ok(world) => return world,
        Err(failure) => failure,
    };
    let small = shrink(sandbox, manner, &steps[..failure.steps]);
    let (small, why) = annotate(sandbox, manner, small);
    let why = match why {
        Some(why) => why,
        None => format!("{} (once; not when it was run again)", failure.why),
    };
    let comment = format!("Found by `{name}` with seed {seed}:\n{why}");
    let text = script::write(&comment, &small);
    let folder = manner.cases.clone().unwrap_or_else(cases);
    let file = folder.join(format!("{name}-{seed}.txt"));
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &text));
    let frames = small.iter().filter(|s| matches!(s, Step::Frame(_))).count();
    let where_to = match written {
        Ok(()) => format!(
            "written to {}: commit it, every test run replays it",
            file.display()
        ),
        Err(e) => format!("could not be written to {}: {e}", file.display()),
    };
    panic!(
        "{name}, seed {seed}, step {}: {}\nshrunk to {frames} frames, {where_to}\n\n{text}",
        failure.steps, failure.why
    );
}

/// Adds the reference's decision to each frame. Also returns why the script fails, if it does.
fn annotate(
    sandbox: &Sandbox,
    manner: &Manner,
    mut steps: Vec<Step>,
) -> (Vec<Step>, Option<Disagreement>) {
    let mut said = vec![None; steps.len()];
    let result = run_with(sandbox, manner, &steps, |position, last| {
        said[position] = last.map(str::to_owned);
    });
    for (step, said) in steps.iter_mut().zip(said) {
        if let Step::Frame(sent) = step {
            sent.expected = said.or(sent.expected.take());
        }
    }
    (steps, result.err().map(|failure| failure.why))
}

/// Tries smaller and smaller scripts, as long as they still fail.
struct Shrinker<'a> {
    sandbox: &'a Sandbox,
    manner: &'a Manner,
    deadline: Instant,
    best: Vec<Step>,
}

fn shrink(sandbox: &Sandbox, manner: &Manner, steps: &[Step]) -> Vec<Step> {
    let mut shrinker = Shrinker {
        sandbox,
        manner,
        deadline: Instant::now() + PATIENCE,
        best: steps.to_vec(),
    };
    loop {
        let before = shrinker.best.clone();
        shrinker.fewer_steps();
        shrinker.fewer_rules();
        shrinker.simpler_frames();
        if shrinker.best == before || shrinker.is_over() {
            return shrinker.best;
        }
    }
}

impl Shrinker<'_> {
    fn is_over(&self) -> bool {
        Instant::now() > self.deadline
    }

    /// Makes `steps` the best script so far if they fail.
    fn accept(&mut self, steps: Vec<Step>) -> bool {
        if self.is_over() {
            return false;
        }
        match run(self.sandbox, self.manner, &steps) {
            Ok(_) => false,
            Err(failure) => {
                self.best = steps;
                self.best.truncate(failure.steps);
                true
            }
        }
    }

    /// Leaves out halves, quarters, and finally single elements of the parts that `parts` counts. A
    /// change is kept if the script that `without` builds still fails.
    fn leave_out(
        &mut self,
        parts: impl Fn(&[Step]) -> usize,
        without: impl Fn(&[Step], std::ops::Range<usize>) -> Vec<Step>,
    ) {
        let mut size = parts(&self.best).div_ceil(2);
        while size > 0 && !self.is_over() {
            let mut end = parts(&self.best);
            while end > 0 {
                let start = end.saturating_sub(size);
                let smaller = without(&self.best, start..end);
                self.accept(smaller);
                end = start.min(parts(&self.best));
            }
            size /= 2;
        }
    }

    /// Leaves out steps. The first one is the first policy, which is always needed.
    fn fewer_steps(&mut self) {
        self.leave_out(
            |steps| steps.len() - 1,
            |steps, range| {
                let mut steps = steps.to_vec();
                steps.drain(range.start + 1..range.end + 1);
                steps
            },
        );
    }

    /// Leaves out rules, groups and options, numbered over all policies.
    fn fewer_rules(&mut self) {
        let parts = |steps: &[Step]| -> usize { policies(steps).map(lines).sum() };
        self.leave_out(parts, |steps, range| {
            let mut steps = steps.to_vec();
            let mut position = 0;
            for step in &mut steps {
                let Step::Policy(policy) = step else { continue };
                let mut stays = || {
                    position += 1;
                    !range.contains(&(position - 1))
                };
                policy.options.retain(|_| stays());
                for group in &mut policy.groups {
                    group.rules.retain(|_| stays());
                }
            }
            steps
        });
        let without_empty_groups = |group: &Group| !group.rules.is_empty();
        let mut steps = self.best.clone();
        for step in &mut steps {
            if let Step::Policy(policy) = step {
                let first = policy.groups[..1].to_vec();
                policy.groups.retain(without_empty_groups);
                if policy.groups.is_empty() {
                    policy.groups = first;
                }
            }
        }
        if steps != self.best {
            self.accept(steps);
        }
    }

    /// Shortens frames, and sets bytes to zero that do not matter.
    fn simpler_frames(&mut self) {
        let frames = |steps: &[Step]| steps.iter().filter(|s| matches!(s, Step::Frame(_))).count();
        if frames(&self.best) > FEW {
            return;
        }
        let mut position = 0;
        while position < self.best.len() && !self.is_over() {
            for change in [halve, shorten, one_segment] {
                while self.change(position, change) {}
            }
            // First the MAC addresses, then all other bytes in smaller and smaller pieces.
            for size in [16, 4, 1] {
                let mut at = 0;
                while self.change(position, |bytes, _| zero(bytes, at, size))
                    || at < self.length(position)
                {
                    at += size;
                }
            }
            position += 1;
        }
    }

    fn length(&self, position: usize) -> usize {
        match self.best.get(position) {
            Some(Step::Frame(sent)) => sent.bytes.len(),
            _ => 0,
        }
    }

    /// Changes one frame. The change is kept if it makes a difference and the script still fails.
    fn change(&mut self, position: usize, change: impl FnOnce(&mut Vec<u8>, &mut u32)) -> bool {
        let mut steps = self.best.clone();
        let Some(Step::Frame(sent)) = steps.get_mut(position) else {
            return false;
        };
        change(&mut sent.bytes, &mut sent.segments);
        steps != self.best && self.accept(steps)
    }
}

const ETHERNET: usize = 14;

fn halve(bytes: &mut Vec<u8>, _: &mut u32) {
    bytes.truncate((bytes.len() / 2).max(ETHERNET));
}

fn shorten(bytes: &mut Vec<u8>, _: &mut u32) {
    bytes.truncate((bytes.len() - 1).max(ETHERNET));
}

fn one_segment(_: &mut Vec<u8>, segments: &mut u32) {
    *segments = 1;
}

fn zero(bytes: &mut [u8], at: usize, size: usize) {
    for byte in bytes.iter_mut().skip(at).take(size) {
        *byte = 0;
    }
}

fn policies(steps: &[Step]) -> impl Iterator<Item = &PolicyText> {
    steps.iter().filter_map(|step| match step {
        Step::Policy(policy) => Some(policy),
        _ => None,
    })
}

fn lines(policy: &PolicyText) -> usize {
    let rules: usize = policy.groups.iter().map(|g| g.rules.len()).sum();
    policy.options.len() + rules
}
