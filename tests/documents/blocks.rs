//! The fenced blocks of a page.

use std::path::Path;

/// The text between ```` ```LANGUAGE ```` and ```` ``` ````.
pub(crate) struct Block {
    /// `sh`; the rest of that line is omitted.
    pub(crate) language: String,
    /// Line of the opening fence, from 1.
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Block {
    /// Its first line that is not a comment.
    pub(crate) fn begin(&self) -> &str {
        let lines = self.text.lines().map(str::trim);
        lines
            .filter(|line| !line.starts_with('#'))
            .find(|line| !line.is_empty())
            .unwrap_or_default()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The blocks of the page at `path`, in order.
pub(crate) fn blocks(path: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut blocks: Vec<Block> = Vec::new();
    // Blocks in lists are indented.
    let mut open: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        match (open, trimmed.strip_prefix("```")) {
            (None, Some(info)) => {
                open = Some(indent);
                blocks.push(Block {
                    language: info.split(' ').next().unwrap_or_default().to_owned(),
                    line: number + 1,
                    text: String::new(),
                });
            }
            (Some(_), Some("")) => open = None,
            (Some(indent), _) => {
                let block = blocks.last_mut().expect("an open block");
                block.text.push_str(line.get(indent..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{path}: a block without an end");
    blocks
}

/// Every page that may contain commands: those at the top, and all below `docs`.
pub(crate) fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    let mut folders = vec![root().to_owned(), root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.starts_with(root().join("docs")) && path != root().join("docs") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let path = path.strip_prefix(root()).expect("below the root");
                pages.push(path.display().to_string());
            }
        }
    }
    pages.sort();
    pages
}
