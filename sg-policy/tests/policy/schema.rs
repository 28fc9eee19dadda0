//! The schema for editors, held against the reader: whatever the reader takes the schema takes, and
//! what it refuses the schema refuses, but for what a schema cannot see.

use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;
use sg_policy::formats::{Style, write};
use sg_policy::policy::{builtins, load_text, schema};
use sg_policy::testing::policy_file;

use crate::other_tools::foreign;
use crate::pages::{blocks, read, root};
use crate::refusals::refused;

fn validator() -> Validator {
    let validator = jsonschema::draft7::new(&schema());
    validator.unwrap_or_else(|e| panic!("the schema is none: {e}"))
}

/// A policy as an editor sees it: with numbers, booleans and nulls. `None` if it is no YAML, which
/// editors say by themselves.
fn seen(text: &str) -> Option<Value> {
    serde_saphyr::from_str(text).ok()
}

#[track_caller]
fn takes(validator: &Validator, name: &str, text: &str) {
    let value = seen(text).unwrap_or_else(|| panic!("{name} is no YAML:\n{text}"));
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{text}");
}

/// Every valid policy in the repository, and random ones with all that a policy may have.
#[test]
fn the_schema_takes_what_the_reader_takes() {
    let validator = validator();
    let mut seen = 0;
    for builtin in builtins() {
        takes(&validator, builtin.name, builtin.text);
        seen += 1;
    }
    for entry in std::fs::read_dir(root().join("examples/policies")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            takes(
                &validator,
                &path.display().to_string(),
                &std::fs::read_to_string(&path).unwrap(),
            );
            seen += 1;
        }
    }
    for page in [
        "README.md",
        "docs/policy.md",
        "docs/migrating.md",
        "docs/quick-start.md",
    ] {
        for policy in blocks(&read(page), "yaml") {
            takes(&validator, page, &policy);
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let text = policy_file(&mut rng, "a");
        let loaded = load_text("a.yaml", &text, Some(Path::new("/")), &[]);
        let loaded = loaded.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        takes(&validator, &format!("seed {seed}"), &text);
        // And as `show` writes it.
        let written = write(&loaded.policy, Style::default()).yaml;
        takes(&validator, &format!("seed {seed}, written"), &written);
    }
}

/// What the reader refuses and a schema cannot, by what the reader says.
const BEYOND: [&str; 22] = [
    // What stands elsewhere: which sets and groups there are.
    "unknown address set `admin`",
    "unknown address set `b`",
    "unknown port set `web`",
    "usually 80",
    "every address is `any`",
    "are not looked up",
    "host names are not looked up",
    "a → a",
    "a → b → a",
    "a second group `a`; the first is at line 2",
    "both",
    "cannot read files",
    // What an address or a range means.
    "`10.0.0.0/8` or the single address `10.1.2.3/32`",
    "write `1.2.3.4`",
    "can match nothing",
    "runs backwards",
    "did you mean `3-9`",
    "the longest timeout is 365 days",
    // What YAML has other spellings for, which are gone when a schema sees the value.
    "YAML tag",
    "decimal",
    "octal",
    "did you mean `true`",
];

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let validator = validator();
    let all = refused()
        .into_iter()
        .map(|(policy, _, says)| (policy, says));
    let all = all.chain(foreign());
    let mut taken = BTreeSet::new();
    let (mut refused, mut no_yaml) = (0, 0);
    for (policy, says) in all {
        match seen(&policy) {
            Some(value) if validator.is_valid(&value) => _ = taken.insert(says),
            Some(_) => refused += 1,
            None => no_yaml += 1,
        }
    }
    println!(
        "refused {refused}, no YAML {no_yaml}, taken {}",
        taken.len()
    );
    assert!(refused >= 140, "{refused}");
    assert_eq!(taken, BTreeSet::from(BEYOND));
}

/// What the schema says at a key is what an editor shows there.
#[test]
fn keys_of_policies_have_a_sentence() {
    let schema = schema();
    let keys = schema["properties"].as_object().unwrap();
    assert!(keys.len() >= 15, "{keys:?}");
    for (key, value) in keys {
        assert!(
            value["description"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{key}"
        );
    }
}
