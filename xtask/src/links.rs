//! The pages of the repository, and whether their links lead somewhere: each file that is named is
//! there, and each place in it. docs/SUMMARY.md has every page of the documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Where pages are.
const FOLDERS: [&str; 4] = ["docs", "deploy", "examples", "fuzz"];
/// What is no folder of pages in them.
const NOT: [&str; 2] = ["target", "corpus"];
/// The order of the pages in the site.
pub(crate) const SUMMARY: &str = "docs/SUMMARY.md";

/// A link of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) line: usize,
    pub(crate) target: String,
}

/// Fails with every link that leads nowhere.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let pages = pages(workspace)?;
    let anchors: BTreeMap<&PathBuf, BTreeSet<String>> = pages
        .iter()
        .map(|(path, text)| (path, anchors(text)))
        .collect();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (path, text) in &pages {
        for Link { line, target } in links(text) {
            count += 1;
            let at = format!("{}:{line}", path.display());
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = match file.is_empty() {
                true => path.clone(),
                false => resolved(path, file),
            };
            if !workspace.join(&to).exists() {
                wrong.push(format!("{at}: `{target}` is not there"));
            } else if !anchor.is_empty()
                && !anchors.get(&to).is_some_and(|known| known.contains(anchor))
            {
                wrong.push(format!(
                    "{at}: {} has no heading for `#{anchor}`",
                    to.display()
                ));
            }
        }
    }
    wrong.extend(not_in_summary(&pages));
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("{} pages, {count} links between them", pages.len());
    Ok(())
}

/// All pages, by their path in the workspace.
pub(crate) fn pages(workspace: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(workspace)? {
        let path = entry?.path();
        if is_page(&path) {
            add(workspace, &path, &mut found)?;
        }
    }
    for folder in FOLDERS {
        walk(workspace, &workspace.join(folder), &mut found)?;
    }
    Ok(found)
}

fn walk(workspace: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && !NOT.iter().any(|not| name == *not) {
            walk(workspace, &path, found)?;
        } else if is_page(&path) {
            add(workspace, &path, found)?;
        }
    }
    Ok(())
}

fn is_page(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension == "md")
}

fn add(workspace: &Path, path: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.strip_prefix(workspace).unwrap_or(path);
    found.insert(name.to_owned(), text);
    Ok(())
}

/// A path that a page names, in the workspace.
pub(crate) fn resolved(page: &Path, named: &str) -> PathBuf {
    let folder = page.parent().unwrap_or(Path::new(""));
    let mut out = PathBuf::new();
    for part in folder.join(named).components() {
        match part {
            Component::ParentDir => _ = out.pop(),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The lines of a page that are text, with their numbers: no blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<&str> = None;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let trimmed = line.trim_start();
        match fence {
            Some(end) => {
                if trimmed.starts_with(end) {
                    fence = None;
                }
                false
            }
            None if trimmed.starts_with("```") => {
                fence = Some("```");
                false
            }
            None => true,
        }
    })
}

/// The links of a page to others and to places in itself.
pub(crate) fn links(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // What stands in backticks is no link.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let mut rest = plain.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, next)) = after.split_once(')') else {
                break;
            };
            let is_elsewhere = ["https://", "http://", "mailto:"];
            if !is_elsewhere.iter().any(|begin| target.starts_with(begin)) {
                found.push(Link {
                    line: number,
                    target: target.to_owned(),
                });
            }
            rest = next;
        }
    }
    found
}

/// The places in a page that can be linked to, as code hosts and mdBook name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.strip_prefix('#') else {
            continue;
        };
        let heading = heading.trim_start_matches('#');
        if !heading.starts_with(' ') {
            continue;
        }
        let name = anchor(heading.trim());
        let mut unique = name.clone();
        let mut again = 1;
        while !found.insert(unique) {
            unique = format!("{name}-{again}");
            again += 1;
        }
    }
    found
}

fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
            _ => None,
        })
        .collect()
}

/// Pages of the documentation that the site would not have.
fn not_in_summary(pages: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let summary = PathBuf::from(SUMMARY);
    let Some(text) = pages.get(&summary) else {
        return vec![format!("{SUMMARY} is not there")];
    };
    let named: BTreeSet<PathBuf> = links(text)
        .iter()
        .map(|link| resolved(&summary, &link.target))
        .collect();
    let missing = pages
        .keys()
        .filter(|page| page.starts_with("docs") && **page != summary && !named.contains(*page));
    missing
        .map(|page| format!("{SUMMARY} does not name {}", page.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_text_only() {
        let text = "# A `b` title, with c!\nsee [x](a.md#b) and `[y](no.md)`, [z](#c)\n\
                    ```\n[n](no.md)\n# no heading\n```\n[e](https://example.org)\n## A b title with c\n";
        let targets: Vec<(usize, String)> = links(text)
            .into_iter()
            .map(|link| (link.line, link.target))
            .collect();
        assert_eq!(targets, [(2, "a.md#b".to_owned()), (2, "#c".to_owned())]);
        let anchors: Vec<String> = anchors(text).into_iter().collect();
        assert_eq!(anchors, ["a-b-title-with-c", "a-b-title-with-c-1"]);
    }

    #[test]
    fn a_path_is_that_from_the_page() {
        let at = |named| resolved(Path::new("docs/a.md"), named);
        assert_eq!(at("b.md"), Path::new("docs/b.md"));
        assert_eq!(at("../README.md"), Path::new("README.md"));
        assert_eq!(at("./x/../y.md"), Path::new("docs/y.md"));
    }

    #[test]
    fn every_link_of_the_repository_leads_somewhere() {
        check(&crate::shell::workspace().unwrap()).unwrap();
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("docs")).unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "README.md",
            "# T\n[a](docs/a.md) [b](docs/a.md#there) [c](docs/b.md) [d](docs/a.md#no)\n",
        );
        write("docs/a.md", "## There\n");
        write("docs/SUMMARY.md", "- [T](../README.md)\n");
        let error = check(dir.path()).unwrap_err().to_string();
        let expected = "README.md:2: `docs/b.md` is not there\n\
                        README.md:2: docs/a.md has no heading for `#no`\n\
                        docs/SUMMARY.md does not name docs/a.md";
        assert_eq!(error, expected);
    }
}
