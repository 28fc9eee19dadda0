//! What reads bytes from outside, as functions of bytes: policies, set files, what is pinned, and
//! what the kernel answers. The test below tries them with what is kept in `fuzz/corpus` and what
//! grows from it; `cargo xtask fuzz` has libFuzzer think up more. A reader panics if something is
//! not as promised.

use sg_policy::formats::{Style, write};
use sg_policy::policy::{PolicyText, SetText, load_text, load_written};

use super::machine::netlink;
use super::{blob, history, seed, state};

/// A reader by its name, which is that of its folder in `fuzz/corpus`. It says whether the bytes
/// are what it is for.
pub type Reader = (&'static str, fn(&[u8]) -> bool);

/// All that read bytes from outside.
pub const READERS: [Reader; 6] = [
    ("policy", policy),
    ("set_file", set_file),
    ("blob", blob::fuzz),
    ("record", record),
    ("netlink", netlink::fuzz),
    ("existing", seed::fuzz),
];

/// A policy is one, and means the same when it is written out and read again; or it has errors,
/// each with a place in it, and none with what a terminal would obey.
fn policy(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match load_text("p.yaml", &text, None, &[]) {
        Ok(loaded) => {
            let written = write(&loaded.policy, Style::default());
            let again = load_written("p.yaml", &written);
            assert!(again.is_ok(), "{:?}\n{}", again.err(), written.yaml);
            let digest = again.map(|it| it.policy.digest);
            assert_eq!(digest.ok(), Some(loaded.policy.digest), "{}", written.yaml);
            true
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without an error");
            for error in &errors.0 {
                assert!(error.line as usize <= text.len() + 1, "{error}");
                let shown = error.to_string();
                assert!(
                    !shown.contains(|c: char| c.is_control() && c != '\n'),
                    "{shown:?}"
                );
            }
            false
        }
    }
}

/// A set file is one of addresses or of ports.
fn set_file(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let load = |kind: &str, rule: &str| {
        let written = PolicyText {
            yaml: format!("{kind}: {{a: {{file: a.txt}}}}\ninbound: [{{{rule}, action: drop}}]\n"),
            files: vec![SetText {
                name: "a.txt".to_owned(),
                text: text.clone(),
            }],
        };
        load_written("p.yaml", &written).is_ok()
    };
    let is_of_addresses = load("address-sets", "protocol: all, from: a");
    let is_of_ports = load("port-sets", "protocol: tcp, ports: a, from: any");
    is_of_addresses || is_of_ports
}

/// The body of a record, or of the text of a policy.
fn record(bytes: &[u8]) -> bool {
    let is_record = state::fuzz(bytes);
    let is_text = history::fuzz(bytes);
    is_record || is_text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use fastrand::Rng;

    /// How long each reader is tried.
    const WHILE: Duration = Duration::from_millis(700);
    /// The most bytes of an input.
    const LONGEST: usize = 4096;

    fn corpus(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(name)
    }

    /// What each reader is for, and inputs that it takes.
    fn samples(name: &str) -> Vec<Vec<u8>> {
        let texts = |texts: &[&str]| texts.iter().map(|it| it.as_bytes().to_vec()).collect();
        match name {
            "policy" => sg_policy::policy::builtins()
                .iter()
                .map(|it| it.text.as_bytes().to_vec())
                .collect(),
            "set_file" => texts(&[
                "# a list\n10.0.0.0/8 # a\n2001:db8::/32\n10.0.0.1-10.0.0.9 ; b\n\n192.0.2.1\r\n",
                "\u{feff}80\n443\n8000-8099\n",
            ]),
            "blob" => blob::samples(),
            "record" => [state::samples(), history::samples()].concat(),
            "netlink" => netlink::samples(),
            "existing" => seed::samples(),
            other => panic!("no sample of {other}"),
        }
    }

    /// What is kept of a reader.
    fn kept(name: &str) -> Vec<Vec<u8>> {
        let folder = corpus(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// Something that grows from one or two inputs.
    fn grown(rng: &mut Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
        let pick = |rng: &mut Rng| &inputs[rng.usize(..inputs.len())];
        let mut bytes = pick(rng).clone();
        for _ in 0..rng.usize(1..8) {
            let at = rng.usize(..=bytes.len());
            let to = (at + rng.usize(..16)).min(bytes.len());
            match rng.u8(..8) {
                0 => bytes.truncate(at),
                1 => _ = bytes.drain(at..to),
                2 => bytes.insert(at, rng.u8(..)),
                3 => {
                    let again = bytes[at..to].to_vec();
                    bytes.splice(at..at, again);
                }
                4 => {
                    let other = pick(rng);
                    let from = rng.usize(..=other.len());
                    let until = (from + rng.usize(..64)).min(other.len());
                    bytes.splice(at..to, other[from..until].iter().copied());
                }
                5 if at < bytes.len() => {
                    bytes[at] = *rng.choice(&[0, 1, 4, 0x7f, 0x80, 0xff]).unwrap()
                }
                6 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
                _ if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
                _ => {}
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }

    /// Proves P12: whatever bytes come, a reader says what is wrong, or takes them.
    #[test]
    fn readers_survive_what_is_kept_and_what_grows_from_it() {
        std::thread::scope(|scope| {
            for (name, read) in READERS {
                scope.spawn(move || {
                    let samples = samples(name);
                    for sample in &samples {
                        assert!(read(sample), "{name} does not take its sample");
                    }
                    let inputs = [samples, kept(name)].concat();
                    for input in &inputs {
                        read(input);
                    }
                    let seed = fastrand::u64(..);
                    println!("{name}: seed {seed}, {} inputs", inputs.len());
                    let mut rng = Rng::with_seed(seed);
                    let started = Instant::now();
                    let (mut tried, mut taken) = (0u64, 0u64);
                    while started.elapsed() < WHILE {
                        let bytes = grown(&mut rng, &inputs);
                        taken += u64::from(read(&bytes));
                        tried += 1;
                    }
                    println!("{name}: {tried} tried, {taken} taken");
                    assert!(tried > 10, "{name}");
                });
            }
        });
    }

    /// Each reader has a corpus, from which libFuzzer begins, and it is small. `SG_WRITE_DOC=1`
    /// writes the samples of today into it.
    #[test]
    fn each_reader_has_a_small_corpus() {
        for (name, _) in READERS {
            let folder = corpus(name);
            if std::env::var_os("SG_WRITE_DOC").is_some() {
                fs::create_dir_all(&folder).unwrap();
                for (number, sample) in samples(name).iter().enumerate() {
                    fs::write(folder.join(format!("sample-{number}")), sample).unwrap();
                }
            }
            let kept = kept(name);
            assert!(!kept.is_empty(), "{name} has none");
            let bytes: usize = kept.iter().map(Vec::len).sum();
            assert!(
                bytes < 512 << 10,
                "{name}: {bytes} bytes are kept: leave out what adds nothing"
            );
        }
    }
}
