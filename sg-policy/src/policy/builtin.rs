//! The policies that come with the binary, for `templates` and `builtin:NAME`.

/// A built-in policy.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// What stands behind `builtin:`.
    pub name: &'static str,
    /// One line on what it is for.
    pub summary: &'static str,
    /// The policy file.
    pub text: &'static str,
}

const ALL: &[Builtin] = &[
    Builtin {
        name: "tke",
        summary: "the recommended policy for a node of a container cluster",
        text: include_str!("../../templates/tke.yaml"),
    },
    Builtin {
        name: "tke-minimal",
        summary: "the same with the least permission, for IPv4 and IPv6",
        text: include_str!("../../templates/tke-minimal.yaml"),
    },
];

/// Every built-in policy.
pub fn builtins() -> &'static [Builtin] {
    ALL
}

/// The built-in policy of that name.
pub fn builtin(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|builtin| builtin.name == name)
}
