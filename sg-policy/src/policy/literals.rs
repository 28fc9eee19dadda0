//! Lists of literals outside of a policy, as options of commands have them: the spellings of rules,
//! without the names of sets. An error is one line.

use super::errors::Problem;
use super::kind::{Addresses, Kind, PortKind, literal};
use super::model::{Protocol, Remote};
use super::protocol;

/// The addresses in a list such as `10.0.0.0/8,192.0.2.1-192.0.2.9`.
///
/// # Errors
/// What is wrong with the first entry that is none, and what was expected.
pub fn addresses_in(text: &str) -> Result<Remote, String> {
    list::<Addresses>(text)
}

/// The ranges of ports in a list such as `22,8000-8099`, in order, both ends included.
///
/// # Errors
/// What is wrong with the first entry that is none, and what was expected.
pub fn ports_in(text: &str) -> Result<Vec<(u16, u16)>, String> {
    list::<PortKind>(text)
}

/// A protocol by its name in policies, or by its number.
///
/// # Errors
/// What is wrong with it, and what was expected.
pub fn protocol_in(text: &str) -> Result<Protocol, String> {
    protocol::parse(text).map_err(|problem| line(&problem))
}

fn list<K: Kind>(text: &str) -> Result<K::Value, String> {
    let mut value = K::Value::default();
    for entry in text.split(',') {
        let entry = literal::<K>(entry.trim()).map_err(|problem| line(&problem))?;
        K::add(&mut value, entry);
    }
    K::finish(&mut value);
    Ok(value)
}

fn line(problem: &Problem) -> String {
    match &problem.expected {
        Some(expected) => format!("{}: expected {expected}", problem.message),
        None => problem.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_in_rules() {
        let remote = addresses_in("192.0.2.1-192.0.2.2, 2001:db8::/32").unwrap();
        let holds = |address: &str| remote.contains(address.parse().unwrap());
        assert!(holds("192.0.2.2") && holds("2001:db8::7"));
        assert!(!holds("192.0.2.3") && !holds("2001:db9::"));
        assert_eq!(
            ports_in("443,22,80-81,81-90").unwrap(),
            [(22, 22), (80, 90), (443, 443)]
        );
        assert_eq!(protocol_in("tcp"), Ok(Protocol::Number(6)));
        for error in [
            addresses_in("10.1.2.3/8").unwrap_err(),
            addresses_in("").unwrap_err(),
            ports_in("22,ssh").unwrap_err(),
            protocol_in("tpc").unwrap_err(),
        ] {
            assert!(
                error.contains("expected") && !error.contains("set's name"),
                "{error}"
            );
        }
    }
}
