//! The paths that stand in a file: in a `use`, in code, or inside a macro. What is there in tests
//! only is passed over.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

/// A path in the code.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) segments: Vec<String>,
    /// The modules inside the file in which it stands.
    pub(super) inside: Vec<String>,
    pub(super) line: usize,
    /// The name that a `use` gives it.
    pub(super) name: Option<String>,
}

#[derive(Default)]
pub(super) struct Paths {
    pub(super) found: Vec<Found>,
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

/// Whether the item is there in tests only.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || condition.starts_with("all (test")
        }
        Meta::Path(path) => path.is_ident("test"),
        _ => false,
    })
}
