//! What docs/migrating.md has of another tool: its rules, and the policy that takes their place.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use regex::Regex;

pub(super) struct Section {
    /// The first block of the section.
    pub(super) theirs: String,
    /// The block behind it, in YAML.
    pub(super) ours: String,
}

pub(super) fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migrating.md");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The section with this heading.
#[track_caller]
pub(super) fn section(page: &str, heading: &str) -> Section {
    let begin = format!("\n## {heading}\n");
    let (_, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no section {heading}"));
    let section = rest.split("\n## ").next().unwrap_or_default();
    let mut blocks = section.split("```").skip(1).step_by(2);
    let mut next = |language: &str| {
        let block = blocks
            .next()
            .unwrap_or_else(|| panic!("{heading}: no block"));
        let (info, text) = block.split_once('\n').expect("a block has lines");
        assert_eq!(info, language, "{heading}");
        text.to_owned()
    };
    Section {
        theirs: next("text"),
        ours: next("yaml"),
    }
}

/// The first and the last address of each network in a text, and those next to them.
pub(super) fn addresses(text: &str) -> BTreeSet<IpAddr> {
    let pattern =
        r"\b(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{1,4}(?:::?[0-9a-f]{1,4})+(?:::)?)(?:/(\d+))?";
    let networks = Regex::new(pattern).expect("a pattern");
    let mut found = BTreeSet::new();
    for network in networks.captures_iter(text) {
        let address = network[1].parse();
        let address: IpAddr = address.unwrap_or_else(|e| panic!("{}: {e}", &network[0]));
        let length = network.get(2).map(|it| it.as_str().parse::<u32>());
        let length = length.map(|it| it.expect("a length"));
        match address {
            // Every address, or none in particular.
            _ if length == Some(0) => {}
            IpAddr::V4(address) => {
                let first = u32::from(address);
                let last = first | u32::MAX.checked_shr(length.unwrap_or(32)).unwrap_or(0);
                let all = [first - 1, first, last, last + 1].map(|it| IpAddr::V4(it.into()));
                found.extend(all);
            }
            IpAddr::V6(address) => {
                let first = u128::from(address);
                let last = first | u128::MAX.checked_shr(length.unwrap_or(128)).unwrap_or(0);
                let all = [first - 1, first, last, last + 1].map(|it| IpAddr::V6(it.into()));
                found.extend(all);
            }
        }
    }
    found
}

/// The numbers in a policy's ports, and those next to them.
pub(super) fn ports(text: &str) -> BTreeSet<u16> {
    let ports = Regex::new(r"(?m)\b(?:ports|web): (\[[^\]]*\]|[0-9-]+)").expect("a pattern");
    let number = Regex::new(r"\d+").expect("a pattern");
    let mut found = BTreeSet::new();
    for some in ports.captures_iter(text) {
        for port in number.find_iter(&some[1]) {
            let port: u16 = port.as_str().parse().expect("a port");
            found.extend([port - 1, port, port + 1]);
        }
    }
    found
}

#[test]
fn a_section_has_two_blocks() {
    let page = "# Page\n\n## one\n\n```text\na\nb\n```\n\n```yaml\nname: c\n```\n\n## two\n";
    let section = section(page, "one");
    assert_eq!(section.theirs, "a\nb\n");
    assert_eq!(section.ours, "name: c\n");
}

#[test]
fn the_edges_of_what_is_named_are_found() {
    let found = addresses("-s 192.0.2.64/26 to 192.0.2.53, 2001:db8:10::/48 and 0.0.0.0/0");
    let found: Vec<String> = found.iter().map(IpAddr::to_string).collect();
    assert_eq!(
        found,
        [
            "192.0.2.52",
            "192.0.2.53",
            "192.0.2.54",
            "192.0.2.63",
            "192.0.2.64",
            "192.0.2.127",
            "192.0.2.128",
            "2001:db8:f:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:10::",
            "2001:db8:10:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:11::"
        ]
    );
    let found = ports("{ports: [80, 8000-8099], from: 10.0.0.0/8}");
    assert_eq!(
        Vec::from_iter(found),
        [79, 80, 81, 7999, 8000, 8001, 8098, 8099, 8100]
    );
}
