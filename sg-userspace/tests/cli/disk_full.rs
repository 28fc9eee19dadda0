//! A disk without room: what changes something does it and says so, a trial ends as any other, and
//! nothing that is written in part is left.

use std::fs::{File, OpenOptions, read_dir};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run::policy;
use super::world::{APPLY, Ran, World, file};

const PATIENCE: Duration = Duration::from_secs(30);

const DONE: &str =
    "done as asked, but that could not be written to standard output: No space left on device";

/// A disk on which only empty files can be made.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn of(world: &World) -> Disk {
        let path = world.dir.small("disk", 64 << 10).expect("a small disk");
        let mut filler = File::create(path.join("filler")).expect("there is room yet");
        while filler.write_all(&[0; 4096]).is_ok() {}
        Disk { path }
    }

    fn file(&self) -> File {
        let path = self.path.join("out");
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.expect("an empty file takes no room");
        file.write_all(b"x").expect_err("the disk is full");
        file
    }

    /// Runs `sgctl` with its output, its directory and its temporary files on the disk.
    fn run(&self, world: &World, words: &[&str]) -> Ran {
        let mut command = world.command(words);
        command
            .current_dir(&self.path)
            .env("TMPDIR", &self.path)
            .stdout(self.file())
            .stderr(Stdio::piped());
        Ran::of(&command.output().expect("sgctl starts"))
    }

    /// What cannot be written is said, after it was done.
    #[track_caller]
    fn does(&self, world: &World, words: &[&str]) {
        let ran = self.run(world, words);
        assert_eq!(ran.code, 1, "{}", ran.all());
        assert!(ran.err.contains(DONE), "{}", ran.all());
    }
}

fn named(world: &World) -> String {
    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status[0]["health"], "enforcing", "{status}");
    status[0]["policy"]["name"]
        .as_str()
        .expect("it has a name")
        .to_owned()
}

/// Proves C1, C3 and C4: with the disk full a policy is applied, tried out, undone at its deadline,
/// confirmed, rolled back and detached, each time with a word about what could not be written; what
/// cannot be kept in a file whole is not kept at all.
#[test]
fn a_full_disk_keeps_nobody_from_changing_a_policy() {
    let world = World::new();
    let mistake = file(
        world.dir.path(),
        "mistake.yaml",
        "name: mistake\ninbound: []\n",
    );
    let disk = Disk::of(&world);
    disk.does(&world, &APPLY);
    assert_eq!(named(&world), "tke");

    let try_out = |time: &'static str| {
        [
            "apply",
            &mistake,
            "--iface",
            "nic",
            "--confirm-within",
            time,
        ]
    };
    disk.does(&world, &try_out("1s"));
    let deadline = Instant::now() + PATIENCE;
    while named(&world) != "tke" {
        assert!(Instant::now() < deadline, "the policy was not undone");
        std::thread::sleep(Duration::from_millis(50));
    }
    disk.does(&world, &[&try_out("1h")[..], &["--json"]].concat());
    disk.does(&world, &["confirm"]);
    assert_eq!(named(&world), "mistake");
    disk.does(&world, &["rollback"]);
    assert_eq!(named(&world), "tke");
    disk.does(&world, &try_out("1h"));
    disk.does(&world, &["rollback", "--json"]);
    assert_eq!(named(&world), "tke");

    let ran = disk.run(&world, &["show", "--iface", "nic", "--output", "shown"]);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.err.contains("No space left on device"), "{}", ran.all());
    let shown = read_dir(disk.path.join("shown")).into_iter().flatten();
    assert_eq!(shown.count(), 0, "{}", ran.all());
    // What only reads has failed if nobody can read it.
    let ran = disk.run(&world, &["status"]);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(!ran.err.contains("done as asked"), "{}", ran.all());

    disk.does(&world, &["detach"]);
    world.assert_untouched();
}

/// Proves C1 and C11: a `run` that cannot write goes on, and returns at its end to what was there.
#[test]
fn a_run_goes_on_when_the_disk_is_full() {
    let world = World::new();
    world.run(&APPLY).ok();
    let mine = file(world.dir.path(), "mine.yaml", &policy(1));
    let disk = Disk::of(&world);
    let mut running = world
        .command(&["run", &mine, "--iface", "nic", "--interval", "1"])
        .current_dir(&disk.path)
        .stdout(disk.file())
        .stderr(disk.file())
        .spawn()
        .expect("sgctl starts");
    let wait_for = |name: &str| {
        let deadline = Instant::now() + PATIENCE;
        while named(&world) != name {
            assert!(Instant::now() < deadline, "{name} is not in force");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for("p1");
    file(world.dir.path(), "mine.yaml", &policy(2));
    wait_for("p2");
    let id = Pid::from_raw(running.id().cast_signed());
    kill(id, Signal::SIGTERM).expect("it runs");
    assert_eq!(running.wait().expect("it ends").code(), Some(0));
    assert_eq!(named(&world), "tke");
}
