//! Finds the file that a path leads to.

use std::collections::HashMap;

use super::paths::{Found, Paths};

/// A module: its target (`lib` or `main`), then the names of its parents and its own.
pub(super) type Module = Vec<String>;

/// Finds the files that paths in one file lead to.
pub(super) struct Resolver<'a> {
    modules: &'a HashMap<Module, usize>,
    library: &'a str,
    module: &'a Module,
    /// Modules that the file has imported, by the names that it gives them.
    names: HashMap<String, Module>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(
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
    pub(super) fn resolve(&self, path: &Found) -> Option<(usize, Module)> {
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
