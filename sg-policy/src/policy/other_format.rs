//! Documents and values of other tools, known by their shape, and what to write instead.

use super::clip::clip;
use super::dialect::plain;
use super::errors::Problem;
use super::yaml::{Node, Value};

/// What is wrong with `{cidr: …, except: […]}`, as Kubernetes and Cilium write a network with
/// exceptions.
pub(crate) fn block(node: &Node<'_>) -> Option<Problem> {
    let Value::Map(pairs) = &node.value else {
        return None;
    };
    let words: Vec<String> = pairs
        .iter()
        .filter_map(|(key, _)| key.text())
        .map(plain)
        .collect();
    let has = |all: &[&str]| words.iter().any(|word| all.contains(&word.as_str()));
    if !has(&["cidr", "cidrs", "ipblock", "except", "prefix", "network"]) {
        return None;
    }
    let problem = Problem::new(
        "wrong-shape",
        "a network is written as it is, and not as a mapping",
    )
    .expected("a CIDR such as `10.0.0.0/8`, a range `a-b`, or a list of those");
    Some(match has(&["except", "ipblock"]) {
        true => problem.help(
            "of a network with exceptions list the ranges around what is left out: 10.0.0.0/8 without \
             10.1.0.0/16 is `[10.0.0.0-10.0.255.255, 10.2.0.0-10.255.255.255]`",
        ),
        false => problem.help("write the CIDR alone"),
    })
}

/// The error for a document of another tool, which it names; `None` where it is not recognised.
pub(crate) fn other_document(root: &Node<'_>) -> Option<Problem> {
    let keys = match &root.value {
        Value::Map(pairs) => pairs.as_slice(),
        _ => return None,
    };
    let value = |name: &str| {
        let mut pairs = keys.iter();
        let (_, value) = pairs.find(|(key, _)| key.text() == Some(name))?;
        Some(value.text().unwrap_or_default().to_owned())
    };
    let has = |name: &str| value(name).is_some();
    const SHAPE: &str = "a policy: a mapping with `inbound`, `outbound` or `groups`";
    let spec = keys.iter().find(|(key, _)| key.text() == Some("spec"));
    let selects_pods = spec.is_some_and(|(_, spec)| match &spec.value {
        Value::Map(pairs) => pairs
            .iter()
            .any(|(key, _)| matches!(key.text(), Some("podSelector" | "policyTypes"))),
        _ => false,
    });
    let has_parts = has("kind") && (has("spec") || has("metadata") || has("data"));
    if has("apiVersion") || selects_pods || has_parts {
        let kind = value("kind").filter(|kind| !kind.is_empty());
        let unnamed = if selects_pods {
            "NetworkPolicy"
        } else {
            "object"
        };
        let kind = kind.unwrap_or_else(|| unnamed.to_owned());
        let problem = Problem::new(
            "other-format",
            format!(
                "this is a Kubernetes {}, and no policy of sgctl",
                clip(&kind)
            ),
        )
        .expected(SHAPE);
        return Some(match kind.contains("NetworkPolicy") {
            true => problem.help(
                "a NetworkPolicy selects pods by their labels, and the cluster's network enforces \
                 it; sgctl enforces addresses and ports on a node's interface: write them as \
                 `inbound` and `outbound` rules (`sgctl templates show tke-minimal` is a start)",
            ),
            false => problem.help(
                "where a ConfigMap or Secret holds a policy, name the file that it is mounted as",
            ),
        });
    }
    let (what, help) = if has("SecurityGroups") || has("SecurityGroupRules") || has("IpPermissions")
    {
        (
            "an answer of the AWS API",
            "write its rules as `inbound` and `outbound` lists of `{protocol, ports, from, action}`",
        )
    } else if has("SecurityGroupPolicySet") || has("Response") {
        (
            "an answer of the Tencent Cloud API",
            "write its rules as `inbound` and `outbound` lists of `{protocol, ports, from, action}`",
        )
    } else if has("nftables") {
        (
            "a ruleset of nftables",
            "write its rules as `inbound` and `outbound` lists of `{protocol, ports, from, action}`",
        )
    } else if has("resource") || has("terraform_version") {
        (
            "a Terraform document",
            "write its rules as `inbound` and `outbound` lists of `{protocol, ports, from, action}`",
        )
    } else {
        return None;
    };
    let problem = Problem::new(
        "other-format",
        format!("this is {what}, and no policy of sgctl"),
    );
    Some(problem.expected(SHAPE).help(help))
}

/// As [`other_document`], of a text that is no YAML mapping.
pub(crate) fn other_text(text: &str) -> Option<Problem> {
    let mut lines = text.lines().map(str::trim);
    let first = lines
        .find(|line| !line.is_empty() && (!line.starts_with('#') || line.starts_with("#!")))?;
    let begins = |words: &[&str]| words.iter().any(|word| first.starts_with(word));
    let what = if begins(&[
        "table ",
        "flush ruleset",
        "#!/usr/sbin/nft",
        "nft ",
        "add table",
        "add rule",
    ]) {
        "a ruleset of nftables"
    } else if begins(&[
        "*filter",
        "*nat",
        "*mangle",
        "*raw",
        "-A ",
        "iptables ",
        "ip6tables ",
    ]) {
        "a ruleset of iptables"
    } else if begins(&["resource \"", "module \"", "terraform {", "provider \""]) {
        "a Terraform document"
    } else {
        return None;
    };
    Some(
        Problem::new("other-format", format!("this is {what}, and no policy of sgctl"))
            .expected("a policy: a YAML mapping with `inbound`, `outbound` or `groups`")
            .help("write its rules as `inbound` and `outbound` lists of `{protocol, ports, from, action}`"),
    )
}
