//! The JSON of every command against expectations written by hand (A4). The comparison fails for a
//! key that is missing, a key that is not expected, a value of another type, and a list that is
//! empty although it should not be.
//!
//! An expectation is JSON too. A string in it names a type: `text`, `number` (whole and not
//! negative), `real`, `bool`, `null`, `time` (RFC 3339, UTC), `digest`, `address`, or `a|b|c` for
//! one of these words. With `?` at its end the value may be null as well. `[x]` is a list of at
//! least one x, `["*", x]` a list of any number of x, and `["?", x]` is x or null. An object has
//! exactly the keys of its expectation.

mod attached;
mod errors;
mod findings;
mod shapes;
mod streams;

use serde_json::{Value, json};

/// Where and why `value` differs from `expected`, or `None`.
fn differs(expected: &Value, value: &Value, at: &str) -> Option<String> {
    match expected {
        Value::String(kind) => {
            let is_right = is_kind(kind, value);
            (!is_right).then(|| format!("{at} is {value} and not {kind}"))
        }
        Value::Array(inner) => match (inner.as_slice(), value) {
            ([Value::String(mark), _], Value::Null) if mark == "?" => None,
            ([Value::String(mark), one], value) if mark == "?" => differs(one, value, at),
            ([Value::String(mark), one], Value::Array(all)) if mark == "*" => each(one, all, at),
            ([one], Value::Array(all)) if !all.is_empty() => each(one, all, at),
            _ => Some(format!("{at} is {value} and no list with something in it")),
        },
        Value::Object(keys) => {
            let Value::Object(found) = value else {
                return Some(format!("{at} is {value} and no object"));
            };
            if let Some(key) = found.keys().find(|key| !keys.contains_key(*key)) {
                return Some(format!("{at} has a key `{key}` that is not expected"));
            }
            keys.iter()
                .find_map(|(key, expected)| match found.get(key) {
                    None => Some(format!("{at} has no `{key}`")),
                    Some(value) => differs(expected, value, &format!("{at}.{key}")),
                })
        }
        other => panic!("{other} is no expectation"),
    }
}

fn each(one: &Value, all: &[Value], at: &str) -> Option<String> {
    let mut numbered = all.iter().enumerate();
    numbered.find_map(|(i, value)| differs(one, value, &format!("{at}[{i}]")))
}

fn is_kind(kind: &str, value: &Value) -> bool {
    if let Some(kind) = kind.strip_suffix('?') {
        return value.is_null() || is_kind(kind, value);
    }
    let text = value.as_str();
    match kind {
        "text" => text.is_some_and(|text| !text.is_empty()),
        "number" => value.is_u64(),
        "real" => value.is_f64(),
        "bool" => value.is_boolean(),
        "null" => value.is_null(),
        "time" => text.is_some_and(is_time),
        "address" => text.is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
        "digest" => text
            .and_then(|text| text.strip_prefix("sha256:"))
            .is_some_and(|hex| {
                hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }),
        words => text.is_some_and(|text| words.split('|').any(|word| word == text)),
    }
}

/// Whether the text is a time such as `2026-01-31T10:20:30.123Z`, and this moment exists.
fn is_time(text: &str) -> bool {
    let shape = |(i, c): (usize, char)| match i {
        4 | 7 => c == '-',
        10 => c == 'T',
        13 | 16 => c == ':',
        _ if i < 19 => c.is_ascii_digit(),
        _ => c.is_ascii_digit() || c == '.' || c == 'Z',
    };
    text.len() >= 20
        && text.ends_with('Z')
        && text.chars().enumerate().all(shape)
        && text.parse::<jiff::Timestamp>().is_ok()
}

#[track_caller]
fn assert_shape(expected: &Value, value: &Value) {
    if let Some(why) = differs(expected, value, "it") {
        panic!("{why}:\n{value:#}");
    }
}

/// Shows that the comparison can fail, since the tests below would prove nothing otherwise.
#[test]
fn what_differs_is_seen() {
    let expected = json!({
        "a": "text", "b": ["number"], "c": ["?", {"d": "x|y"}], "t": "time", "n": "number?",
    });
    let right = json!({
        "a": "z", "b": [1], "c": {"d": "y"}, "t": "2026-01-31T10:20:30.5Z", "n": null,
    });
    assert_eq!(differs(&expected, &right, "it"), None);
    let with = |key: &str, value: Value| {
        let mut changed = right.clone();
        changed[key] = value;
        changed
    };
    let mut without = right.clone();
    without.as_object_mut().unwrap().remove("n");
    let wrong = [
        (without, "has no `n`"),
        (with("more", json!(1)), "`more` that is not expected"),
        (with("a", json!(1)), "it.a"),
        (with("a", json!("")), "it.a"),
        (with("b", json!([])), "no list with something"),
        (with("b", json!(1)), "no list"),
        (with("b", json!([1, -1])), "it.b[1]"),
        (with("b", json!({"0": 1})), "no list"),
        (with("c", json!({"d": "z"})), "it.c.d"),
        (with("c", json!({"d": "x", "e": 1})), "`e` that is not"),
        (with("c", json!([])), "no object"),
        (with("t", json!("2026-01-31 10:20:30Z")), "it.t"),
        (with("t", json!("2026-13-31T10:20:30Z")), "it.t"),
        (with("t", json!("2026-01-31T10:20:30+01:00")), "it.t"),
        (with("n", json!("1")), "it.n"),
        (json!([right]), "no object"),
    ];
    for (value, says) in wrong {
        let why = differs(&expected, &value, "it").unwrap_or_default();
        assert!(why.contains(says), "`{why}` of {value}");
    }
}
