//! Which file of a crate imports which, read from the code itself: no files import each other in
//! a circle, and folders import only what ARCHITECTURE.md puts below them.
//!
//! An import is a path to a module of the same package: in a `use`, in code, or inside a macro.
//! What only tests import does not count.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};
use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, File, Item, ItemMod, ItemUse, Macro, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

/// The crates whose files are looked at.
const CRATES: [&str; 8] = [
    "sg-bench",
    "sg-bench-ebpf",
    "sg-common",
    "sg-ebpf",
    "sg-policy",
    "sg-testbed",
    "sg-userspace",
    "xtask",
];

/// Those whose folders are in layers.
const LAYERED: [&str; 2] = ["sg-policy", "sg-userspace"];

/// Where ARCHITECTURE.md says which folder may import which.
const LAYERS: &str = "```layers";

pub(crate) fn check(workspace: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut files = 0;
    for name in CRATES {
        let package = Package::read(&workspace.join(name))?;
        files += package.files.len();
        found.extend(package.circles());
        if LAYERED.contains(&name) {
            let page = fs::read_to_string(workspace.join("ARCHITECTURE.md"))?;
            found.extend(package.upward(&layers(&page)?));
        }
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    println!("{files} files, no circle of imports, and no import of a layer above");
    Ok(())
}

/// Before the folders that a layer must not import although they are below it.
const NEVER: &str = "never imports ";

#[derive(Debug, PartialEq, Eq)]
struct Layer {
    folder: String,
    never: Vec<String>,
}

/// The folders from top to bottom: one may import those below it, unless its line says otherwise.
fn layers(page: &str) -> Result<Vec<Layer>> {
    let (_, rest) = page
        .split_once(LAYERS)
        .with_context(|| format!("ARCHITECTURE.md has no block that starts with {LAYERS}"))?;
    let (block, _) = rest.split_once("```").context("the block does not end")?;
    let layer = |line: &str| {
        let folder = line.split_whitespace().next()?.to_owned();
        let never = line.split_once(NEVER).map_or("", |(_, names)| names);
        let never = never.split(',').map(|name| name.trim().to_owned());
        let never = never.filter(|name| !name.is_empty()).collect();
        Some(Layer { folder, never })
    };
    let layers: Vec<Layer> = block.lines().filter_map(layer).collect();
    let names = layers.iter().flat_map(|layer| &layer.never);
    for name in names {
        if !layers.iter().any(|layer| layer.folder == *name) {
            bail!("the layers of ARCHITECTURE.md forbid to import `{name}`, which is none of them");
        }
    }
    Ok(layers)
}

/// A module: its target (`lib` or `main`), then the names of its parents and its own.
type Module = Vec<String>;

struct Source {
    /// Below the package's `src`.
    path: String,
    module: Module,
    syntax: File,
}

struct Package {
    name: String,
    files: Vec<Source>,
    /// From a file to another, with the line of the first import.
    imports: BTreeMap<(usize, usize), usize>,
}

impl Package {
    fn read(folder: &Path) -> Result<Self> {
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
    fn circles(&self) -> Vec<String> {
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
    fn upward(&self, layers: &[Layer]) -> Vec<String> {
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

/// Whether the item is there in tests only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || condition.starts_with("all (test")
        }
        Meta::Path(path) => path.is_ident("test"),
        _ => false,
    })
}

/// A path in the code.
#[derive(Debug)]
struct Found {
    segments: Vec<String>,
    /// The modules inside the file in which it stands.
    inside: Vec<String>,
    line: usize,
    /// The name that a `use` gives it.
    name: Option<String>,
}

#[derive(Default)]
struct Paths {
    found: Vec<Found>,
    inside: Vec<String>,
}

impl Paths {
    fn add(&mut self, segments: Vec<String>, span: Span, name: Option<String>) {
        self.found.push(Found {
            segments,
            inside: self.inside.clone(),
            line: span.start().line,
            name,
        });
    }

    fn tree(&mut self, tree: &UseTree, mut before: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before);
            }
            UseTree::Name(name) if name.ident == "self" => {
                let last = before.last().cloned();
                self.add(before, name.ident.span(), last);
            }
            UseTree::Name(name) => {
                before.push(name.ident.to_string());
                self.add(before, name.ident.span(), Some(name.ident.to_string()));
            }
            UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    before.push(rename.ident.to_string());
                }
                self.add(before, rename.ident.span(), Some(rename.rename.to_string()));
            }
            UseTree::Glob(glob) => self.add(before, glob.star_token.spans[0], None),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before.clone());
                }
            }
        }
    }

    /// Paths among the tokens of a macro, which nothing has parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Option<(Vec<String>, Span)> = None;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => match &mut path {
                    Some((segments, _)) if colons == 2 => segments.push(ident.to_string()),
                    _ => {
                        self.end(path.take());
                        path = Some((vec![ident.to_string()], ident.span()));
                    }
                },
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end(path.take());
                    self.tokens(group.stream());
                }
                _ => self.end(path.take()),
            }
            colons = 0;
        }
        self.end(path);
    }

    fn end(&mut self, path: Option<(Vec<String>, Span)>) {
        if let Some((segments, span)) = path
            && segments.len() > 1
        {
            self.add(segments, span, None);
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.inside.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&item.tree, Vec::new());
    }

    /// `pub(in crate::a)` says who may import an item, and imports nothing itself.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments = path.segments.iter().map(|part| part.ident.to_string());
            let span = path.segments[0].ident.span();
            self.add(segments.collect(), span, None);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.tokens(item.tokens.clone());
    }
}

/// Finds the files that paths in one file lead to.
struct Resolver<'a> {
    modules: &'a HashMap<Module, usize>,
    library: &'a str,
    module: &'a Module,
    /// Modules that the file has imported, by the names that it gives them.
    names: HashMap<String, Module>,
}

impl<'a> Resolver<'a> {
    fn new(
        modules: &'a HashMap<Module, usize>,
        library: &'a str,
        module: &'a Module,
        paths: &Paths,
    ) -> Self {
        let mut resolver = Resolver {
            modules,
            library,
            module,
            names: HashMap::new(),
        };
        let mut names = HashMap::new();
        for path in &paths.found {
            if let Some(name) = &path.name
                && let Some((_, reached)) = resolver.resolve(path)
                // A module and not something in it.
                && reached.last() == path.segments.last()
            {
                names.insert(name.clone(), reached);
            }
        }
        resolver.names = names;
        resolver
    }

    /// The file in which what the path names is looked for, and its module. `None` for what is in
    /// no module of this package.
    fn resolve(&self, path: &Found) -> Option<(usize, Module)> {
        let mut segments = path.segments.iter().map(String::as_str).peekable();
        let mut at: Module = self.module.iter().chain(&path.inside).cloned().collect();
        let first = *segments.peek()?;
        let child: Module = self
            .module
            .iter()
            .cloned()
            .chain([first.to_owned()])
            .collect();
        if first == "super" {
            while segments.next_if_eq(&"super").is_some() {
                at.pop();
            }
        } else if self.modules.contains_key(&child) {
            at.clone_from(self.module);
        } else {
            segments.next();
            match self.names.get(first) {
                Some(module) => at.clone_from(module),
                None if first == "crate" => at.truncate(1),
                None if first == self.library => at = vec!["lib".to_owned()],
                None if first == "self" => {}
                None => return None,
            }
        }
        for segment in segments {
            at.push(segment.to_owned());
            if !self.modules.contains_key(&at) {
                at.pop();
                break;
            }
        }
        // A module inside the file is the file's.
        while !at.is_empty() && !self.modules.contains_key(&at) {
            at.pop();
        }
        self.modules.get(&at).map(|number| (*number, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let page = "x\n```layers\ntop    the first\nmiddle\nbottom\n```\ny";
        let layers = layers(page).unwrap();
        let folders: Vec<_> = layers.iter().map(|layer| &*layer.folder).collect();
        assert_eq!(folders, ["top", "middle", "bottom"]);
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

    /// What `cargo xtask lint` checks, so that a plain `cargo test` fails as well.
    #[test]
    fn the_files_of_this_workspace_import_what_they_may() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        check(&workspace).unwrap_or_else(|e| panic!("{e}"));
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

    #[test]
    fn a_block_that_cannot_be_meant_is_refused() {
        assert!(layers("```layers\ntop; never imports botom\nbottom\n```").is_err());
        assert!(layers("no block").is_err());
        assert!(layers("```layers\nopen").is_err());
    }
}
