//! The layers of ARCHITECTURE.md: which folder may import which.

use anyhow::{Context as _, Result, bail};

/// Where the page names them.
const LAYERS: &str = "```layers";

/// Before the folders that a layer must not import although they are below it.
const NEVER: &str = "never imports ";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) folder: String,
    pub(super) never: Vec<String>,
}

/// The folders from top to bottom: one may import those below it, unless its line says otherwise.
pub(super) fn layers(page: &str) -> Result<Vec<Layer>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_from_top_to_bottom() {
        let page = "x\n```layers\ntop    the first\nmiddle\nbottom\n```\ny";
        let layers = layers(page).unwrap();
        let folders: Vec<_> = layers.iter().map(|layer| &*layer.folder).collect();
        assert_eq!(folders, ["top", "middle", "bottom"]);
    }

    #[test]
    fn a_block_that_cannot_be_meant_is_refused() {
        assert!(layers("```layers\ntop; never imports botom\nbottom\n```").is_err());
        assert!(layers("no block").is_err());
        assert!(layers("```layers\nopen").is_err());
    }
}
