//! What commands are given: lines to `produce`, each perhaps with a key, and points in time.

pub(crate) mod key;
pub(crate) mod lines;
pub(crate) mod size;
pub(crate) mod source;
pub(crate) mod when;
