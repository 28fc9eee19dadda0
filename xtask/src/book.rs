//! `cargo xtask book`: the documentation as one static site, with a search. The pages stay where
//! they are in the repository; mdbook gets copies of them, beside what they link to, in the same
//! folders, so that their links hold. docs/SUMMARY.md has their order. `cargo xtask lint` checks
//! links without any of this: mdbook takes minutes to build.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    files,
    links::{self, SUMMARY},
    setup, shell,
    term::{self, Colour},
};

/// Make a static site of the documentation
#[derive(clap::Args)]
#[command(after_help = "\
Builds mdbook the first time, which takes some minutes. The site is in target/book/html; every link in it is
checked.

Examples:
  cargo xtask book")]
pub(crate) struct Args {}

const SETTINGS: &str = "docs/book.toml";
const FOLDER: &str = "target/book";
/// What the README is called in the site: mdbook takes one of its name for the index of a folder.
const OVERVIEW: &str = "overview.md";

pub(crate) fn command(_: &Args) -> Result<()> {
    let workspace = shell::workspace()?;
    links::check(&workspace)?;
    setup::ensure_book()?;
    let folder = workspace.join(FOLDER);
    files::remove_folder(&folder)?;
    for (name, text) in sources(&workspace)? {
        files::write(&folder.join("src").join(name), &text)?;
    }
    files::write(
        &folder.join("book.toml"),
        &fs::read(workspace.join(SETTINGS))?,
    )?;
    let mdbook = shell::which("mdbook").context("mdbook is not on the PATH")?;
    let mut build = std::process::Command::new(mdbook);
    build
        .current_dir(&folder)
        .args(["build", "--dest-dir", "html"]);
    shell::run(&mut build)?;
    let site = folder.join("html");
    let count = check(&site)?;
    term::say(
        Colour::Green,
        "written",
        format_args!("{FOLDER}/html/index.html, with {count} links"),
    );
    Ok(())
}

/// What mdbook gets: pages, and the files that they link to.
fn sources(workspace: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let pages = links::pages(workspace)?;
    let mut linked = BTreeSet::new();
    for (path, text) in &pages {
        let named = links::links(text).into_iter().filter_map(|link| {
            let file = link.target.split('#').next()?;
            // A place in the same page names no file.
            (!file.is_empty()).then(|| links::resolved(path, file))
        });
        linked.extend(named);
        let name = match (path.to_str(), path == Path::new(SUMMARY)) {
            (Some("README.md"), _) => PathBuf::from(OVERVIEW),
            (_, true) => PathBuf::from("SUMMARY.md"),
            _ => path.clone(),
        };
        let text = match path == Path::new(SUMMARY) {
            true => from_the_top(text),
            false => text.clone(),
        };
        found.insert(name, renamed(&text).into_bytes());
    }
    for path in linked {
        let from = workspace.join(&path);
        let read =
            |from: &Path| fs::read(from).with_context(|| format!("cannot read {}", from.display()));
        if pages.contains_key(&path) {
            continue;
        }
        if from.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(&from)? {
                let entry = entry?;
                if entry.path().is_file() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    found.insert(path.join(&name), read(&entry.path())?);
                    names.push(name);
                }
            }
            found.insert(path.join("index.html"), index(&path, names).into_bytes());
        } else if from.is_file() {
            let bytes = read(&from)?;
            found.insert(path, bytes);
        }
    }
    Ok(found)
}

/// A page for a folder that is linked to: what is in it.
fn index(folder: &Path, mut names: Vec<String>) -> String {
    names.sort();
    let lines = names
        .iter()
        .map(|name| format!("<li><a href=\"{name}\">{name}</a></li>\n"));
    format!(
        "<!doctype html>\n<title>{0}</title>\n<h1>{0}</h1>\n<ul>\n{1}</ul>\n",
        folder.display(),
        lines.collect::<String>()
    )
}

/// The summary, whose links are from docs/, with links from the top.
fn from_the_top(summary: &str) -> String {
    let mut out = String::new();
    let mut rest = summary;
    while let Some((before, after)) = rest.split_once("](") {
        let (target, next) = after.split_once(')').unwrap_or((after, ""));
        let resolved = links::resolved(Path::new(SUMMARY), target);
        out.push_str(&format!("{before}]({})", resolved.display()));
        rest = next;
    }
    out + rest
}

/// A page whose links name the README as the site does.
fn renamed(text: &str) -> String {
    text.replace("(README.md", &format!("({OVERVIEW}"))
        .replace("/README.md", &format!("/{OVERVIEW}"))
}

/// Fails with links of the site that lead nowhere. How many there are.
fn check(site: &Path) -> Result<usize> {
    let mut pages = BTreeMap::new();
    html_files(site, &mut pages)?;
    let (mut count, mut wrong) = (0, Vec::new());
    for (path, text) in &pages {
        for part in text.split(" href=\"").skip(1) {
            let target = part.split('"').next().unwrap_or_default();
            if target.contains("://") || target.starts_with("mailto:") || target.is_empty() {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let name = path.strip_prefix(site).unwrap_or(path);
            let to = match file.is_empty() {
                true => path.clone(),
                false => site.join(links::resolved(name, file)),
            };
            let has_place = anchor.is_empty()
                || pages
                    .get(&to)
                    .is_some_and(|text| text.contains(&format!("id=\"{anchor}\"")));
            if !to.exists() || !has_place {
                wrong.push(format!("{}: `{target}`", name.display()));
            }
        }
    }
    wrong.dedup();
    if !wrong.is_empty() {
        bail!("links of the site lead nowhere:\n{}", wrong.join("\n"));
    }
    Ok(count)
}

fn html_files(folder: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            html_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "html")
            // What is shown for a missing page, wherever it would be.
            && name != "404.html"
        {
            found.insert(path.clone(), fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_keep_their_places_and_links() {
        let found = sources(&shell::workspace().unwrap()).unwrap();
        let text = |name: &str| {
            let bytes = found
                .get(Path::new(name))
                .unwrap_or_else(|| panic!("no {name}"));
            String::from_utf8(bytes.clone()).unwrap()
        };
        assert!(text("SUMMARY.md").contains("](docs/policy.md)"));
        assert!(text("SUMMARY.md").contains(&format!("]({OVERVIEW})")));
        assert!(text(OVERVIEW).contains("](docs/spec.md)"));
        assert!(!found.contains_key(Path::new("README.md")));
        // What is no page and is linked to, such as a test that proves a clause.
        assert!(found.contains_key(Path::new("sg-userspace/tests/kernel/packets.rs")));
        // A folder that is linked to has a page of what is in it.
        assert!(found.contains_key(Path::new("examples/policies/web-behind-load-balancer.yaml")));
        assert!(text("examples/policies/index.html").contains("href=\"block-list.yaml\""));
    }

    #[test]
    fn a_link_of_the_site_that_leads_nowhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "a.html",
            "<a href=\"b.html#x\">x</a> <a href=\"https://example.org\">",
        );
        write("b.html", "<h1 id=\"x\">");
        assert_eq!(check(dir.path()).unwrap(), 1);
        write("c.html", "<a href=\"b.html#y\"> <a href=\"d.html\">");
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("c.html: `b.html#y`") && error.contains("`d.html`"),
            "{error}"
        );
    }
}
