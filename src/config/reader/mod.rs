//! The machinery that reads: TOML text to a tree with places, overrides into the tree, the tree key by key to typed
//! values, and every mistake with its place. It knows no key.

pub mod diagnostic;
pub(super) mod document;
pub(super) mod effective;
pub mod key;
pub(super) mod overrides;
pub(super) mod section;
pub(super) mod suggest;
pub(super) mod syntax;
pub(super) mod value;
