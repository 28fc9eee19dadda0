//! The files of a package and what they import, and which of these imports may not be.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};
use syn::{File, Item, visit::Visit as _};

use super::layers::Layer;
use super::paths::{Paths, is_test};
use super::resolver::{Module, Resolver};

pub(super) struct Source {
    /// Below the package's `src`.
    path: String,
    module: Module,
    syntax: File,
}

pub(super) struct Package {
    name: String,
    pub(super) files: Vec<Source>,
    /// From a file to another, with the line of the first import.
    imports: BTreeMap<(usize, usize), usize>,
}

impl Package {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let src = folder.join("src");
        let name = folder.file_name().context("a folder has a name")?;
        let mut package = Package {
            name: name.to_string_lossy().into_owned(),
            files: Vec::new(),
            imports: BTreeMap::new(),
        };
        for target in ["lib", "main"] {
            let root = src.join(target).with_extension("rs");
            if root.is_file() {
                package.add(&src, &root, &src, vec![target.to_owned()])?;
            }
        }
        package.resolve();
        Ok(package)
    }

    /// Adds a file and those of the modules that it declares, which lie in `below`.
    fn add(&mut self, src: &Path, file: &Path, below: &Path, module: Module) -> Result<()> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let syntax =
            syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        let children: Vec<String> = declared(&syntax.items).collect();
        let path = file.strip_prefix(src).unwrap_or(file).display().to_string();
        self.files.push(Source {
            path,
            module: module.clone(),
            syntax,
        });
        for child in children {
            let inside = below.join(&child);
            let candidates: [PathBuf; 2] = [inside.with_extension("rs"), inside.join("mod.rs")];
            // What a build script writes lies elsewhere.
            if let Some(file) = candidates.iter().find(|path| path.is_file()) {
                let module = module.iter().cloned().chain([child]).collect();
                self.add(src, file, &inside, module)?;
            }
        }
        Ok(())
    }

    fn resolve(&mut self) {
        let library = self.name.replace('-', "_");
        let modules: HashMap<Module, usize> = (0..)
            .zip(&self.files)
            .map(|(number, file)| (file.module.clone(), number))
            .collect();
        for (number, file) in self.files.iter().enumerate() {
            let mut paths = Paths::default();
            paths.visit_file(&file.syntax);
            let resolver = Resolver::new(&modules, &library, &file.module, &paths);
            for path in &paths.found {
                if let Some((other, _)) = resolver.resolve(path)
                    && other != number
                {
                    self.imports
                        .entry((number, other))
                        .and_modify(|line| *line = path.line.min(*line))
                        .or_insert(path.line);
                }
            }
        }
    }

    /// Every group of files that import each other, with the imports that make it one.
    pub(super) fn circles(&self) -> Vec<String> {
        let graph: DiGraphMap<usize, ()> = self.imports.keys().copied().collect();
        let groups = tarjan_scc(&graph);
        let circles = groups.iter().filter(|group| group.len() > 1);
        circles
            .map(|group| {
                let mut text = format!("{}: files that import each other in a circle:", self.name);
                let inside = |number: &usize| group.contains(number);
                for ((from, to), line) in &self.imports {
                    if inside(from) && inside(to) {
                        let (from, to) = (&self.files[*from].path, &self.files[*to].path);
                        let _ = write!(text, "\n  src/{from}:{line} imports src/{to}");
                    }
                }
                text
            })
            .collect()
    }

    /// Imports of a layer by one below it or by one that never imports it, and of layers that are
    /// not named.
    pub(super) fn upward(&self, layers: &[Layer]) -> Vec<String> {
        let layer = |number: usize| {
            let path = &self.files[number].path;
            let first = path.split('/').next().unwrap_or(path);
            first.strip_suffix(".rs").unwrap_or(first).to_owned()
        };
        let position = |name: &str| layers.iter().position(|layer| layer.folder == name);
        let is_root = |name: &str| matches!(name, "lib" | "main");
        let mut found = Vec::new();
        for ((from, to), line) in &self.imports {
            let (above, below) = (layer(*from), layer(*to));
            if above == below || is_root(&above) || is_root(&below) {
                continue;
            }
            let is_down = match (position(&above), position(&below)) {
                (Some(from), Some(to)) => from < to && !layers[from].never.contains(&below),
                _ => false,
            };
            if !is_down {
                let (from, to) = (&self.files[*from].path, &self.files[*to].path);
                found.push(format!(
                    "{}: src/{from}:{line} imports src/{to}, and the layers of ARCHITECTURE.md do not let \
                     `{above}` import `{below}`",
                    self.name
                ));
            }
        }
        found
    }
}

/// The names of the modules in files of their own.
fn declared(items: &[Item]) -> impl Iterator<Item = String> {
    items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() && !is_test(&module.attrs) => {
            Some(module.ident.to_string())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imports::layers::layers;

    /// A package of these files.
    fn package(files: &[(&str, &str)]) -> Package {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join("a-b/src").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Package::read(&folder.path().join("a-b")).unwrap()
    }

    #[test]
    fn circles_are_found_whatever_the_import_looks_like() {
        let to_b = [
            "use super::b::B;",
            "use crate::b::B as C;",
            "use super::{b::{self, B}, x};",
            "use super::*; use super::b::*;",
            "fn f() { super::b::f(); }",
            "use super::b as other; fn f() { other::f(); }",
            "fn f() -> Vec<crate::b::B> { Vec::new() }",
            "fn f() { println!(\"{}\", crate::b::B); }",
            "macro_rules! m { () => { $crate::b::f() } }",
            "mod inner { use super::super::b::B; }",
            "#[cfg(not(test))] mod inner { fn f() { crate::b::f() } }",
            "#[cfg(debug_assertions)] mod inner { fn f() { crate::b::f() } }",
        ];
        for import in to_b {
            let found = package(&[
                ("lib.rs", "mod a;\nmod b;"),
                ("a.rs", import),
                ("b.rs", "\nuse super::a::A;"),
            ])
            .circles();
            let [circle] = &found[..] else {
                panic!("{import}: {found:?}");
            };
            assert!(circle.starts_with("a-b: "), "{circle}");
            assert!(circle.contains("src/a.rs:1 imports src/b.rs"), "{circle}");
            assert!(circle.contains("src/b.rs:2 imports src/a.rs"), "{circle}");
        }
    }

    #[test]
    fn what_goes_one_way_and_what_tests_import_is_no_circle() {
        let from_b = [
            "",
            "#[cfg(test)] mod tests { use super::super::a::A; }",
            "#[cfg(test)] use super::a::A;",
            "#[test] fn f() { crate::a::f() }",
            "// use super::a::A;",
            "fn f() { let a = \"crate::a::A\"; }",
            "use std::a::A; use other::a::A;",
            "mod a { pub struct A; } use self::a::A;",
            "pub(in crate::a) fn f() {}",
        ];
        for import in from_b {
            let package = package(&[
                ("lib.rs", "mod a;\nmod b;\npub use a::A;"),
                ("a.rs", "use super::b::B;"),
                ("b.rs", import),
            ]);
            assert_eq!(package.circles(), [""; 0], "{import}");
            assert_eq!(package.imports.len(), 2, "{import}: {:?}", package.imports);
        }
    }

    #[test]
    fn what_a_parent_exports_again_is_its_own() {
        let found = package(&[
            ("lib.rs", "mod folder;"),
            ("folder/mod.rs", "mod child;\npub use child::Thing;"),
            ("folder/child.rs", "use super::Thing;"),
        ])
        .circles();
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn layers_import_those_below_them_only() {
        let layers = layers("```layers\ntop\nmiddle\nbottom\n```").unwrap();
        let found = package(&[
            ("lib.rs", "mod middle;\nmod bottom;\nmod unnamed;"),
            ("main.rs", "mod top;"),
            ("top.rs", "use a_b::middle::M;\nuse a_b::bottom::B;"),
            ("middle/mod.rs", "mod part;\nuse crate::bottom::B;"),
            ("middle/part.rs", "use crate::unnamed::U;"),
            ("bottom.rs", "fn f() {}\nuse crate::middle::M;"),
            ("unnamed.rs", ""),
        ])
        .upward(&layers);
        let starts: Vec<_> = found
            .iter()
            .map(|line| line.split(',').next().unwrap())
            .collect();
        assert_eq!(
            starts,
            [
                "a-b: src/middle/part.rs:1 imports src/unnamed.rs",
                "a-b: src/bottom.rs:2 imports src/middle/mod.rs",
            ]
        );
    }

    #[test]
    fn what_a_layer_never_imports_is_found_although_it_is_below() {
        let files = [
            ("lib.rs", "mod top;\nmod middle;\nmod bottom;"),
            ("top.rs", "use crate::middle::M;\nuse crate::bottom::B;"),
            ("middle.rs", "use crate::bottom::B;"),
            ("bottom.rs", "#[cfg(test)] mod tests { use crate::top::T; }"),
        ];
        let found = |never: &str| {
            let page = format!("```layers\ntop the first; {never}\nmiddle\nbottom\n```");
            package(&files).upward(&layers(&page).unwrap())
        };
        assert_eq!(found(""), [""; 0]);
        assert_eq!(
            found("never imports bottom"),
            [
                "a-b: src/top.rs:2 imports src/bottom.rs, and the layers of ARCHITECTURE.md do not \
                 let `top` import `bottom`"
            ]
        );
        assert_eq!(found("never imports middle, bottom").len(), 2);
    }
}
