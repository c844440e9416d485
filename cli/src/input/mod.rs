//! What `produce` reads: a source of bytes, cut into lines, each perhaps with a key.

pub(crate) mod key;
pub(crate) mod lines;
pub(crate) mod source;
