//! A local cluster: processes of this machine over one data folder, and what is remembered of them there.

pub(crate) mod cluster;
pub(crate) mod folder;
pub(crate) mod process;
pub(crate) mod record;
