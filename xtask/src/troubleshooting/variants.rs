//! Reads what the variants of error enums are called in JSON, and the forms of messages that are
//! put together from fields.

use std::collections::BTreeMap;

use syn::{
    Attribute, Expr, File, Pat, Variant,
    visit::{self, Visit},
};

use super::texts::{Locals, Names};

/// What variants of enums are called in JSON.
pub(super) type Codes = BTreeMap<String, String>;

/// The messages of variants that have no words of their own: they are put together from fields.
pub(super) type Forms = BTreeMap<String, proc_macro2::TokenStream>;

/// The forms of the errors in a file.
pub(super) fn forms_of(file: &File) -> Forms {
    struct Variants(Forms);
    impl<'ast> Visit<'ast> for Variants {
        fn visit_variant(&mut self, variant: &'ast Variant) {
            if let Some(form) = attribute(&variant.attrs, "error")
                && let Some(texts) = Names::default().format(form.clone(), &Locals::default(), 1)
                && !texts.iter().any(|text| has_words(text))
            {
                self.0.insert(variant.ident.to_string(), form);
            }
        }
    }
    let mut variants = Variants(Forms::new());
    variants.visit_file(file);
    variants.0
}

/// Whether a text has words of its own, and not only places for those of others.
pub(super) fn has_words(text: &str) -> bool {
    text.chars().any(char::is_lowercase)
}

/// The codes that a function of a `match` over variants returns: `code_name` of errors.
pub(super) fn codes_of(file: &File, function: &str) -> Codes {
    struct Arms<'f> {
        function: &'f str,
        found: Codes,
    }
    impl<'ast> Visit<'ast> for Arms<'_> {
        fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
            if item.sig.ident == self.function {
                visit::visit_impl_item_fn(self, item);
            }
        }

        fn visit_arm(&mut self, arm: &'ast syn::Arm) {
            let Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(code),
                ..
            }) = &*arm.body
            else {
                return;
            };
            for name in variants(&arm.pat) {
                self.found.insert(name, code.value());
            }
        }
    }
    let mut arms = Arms {
        function,
        found: Codes::new(),
    };
    arms.visit_file(file);
    arms.found
}

/// The names of the variants in a pattern.
fn variants(pattern: &Pat) -> Vec<String> {
    let of = |path: &syn::Path| path.segments.last().map(|last| last.ident.to_string());
    match pattern {
        Pat::Or(or) => or.cases.iter().flat_map(variants).collect(),
        Pat::Struct(it) => of(&it.path).into_iter().collect(),
        Pat::TupleStruct(it) => of(&it.path).into_iter().collect(),
        Pat::Path(it) => of(&it.path).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// `InterfaceGone` as `interface-gone`, as serde writes it.
pub(super) fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// What is in the brackets of an attribute.
pub(super) fn attribute(attributes: &[Attribute], name: &str) -> Option<proc_macro2::TokenStream> {
    let mut of = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident(name));
    of.find_map(|attribute| Some(attribute.meta.require_list().ok()?.tokens.clone()))
}
