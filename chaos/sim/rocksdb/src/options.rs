//! Settings, all of them without effect: memory has no tables, no cache, and no log to tune.

use crate::error::Error;

/// Settings; none of them means anything here.
#[derive(Default)]
pub struct Options;

/// How a write-ahead log is read.
pub enum DBRecoveryMode {
    /// Up to where it does not hold.
    PointInTime,
}

macro_rules! ignored {
    ($($name:ident($($of:ty),*));* $(;)?) => {
        impl Options {
            $(
                /// Without effect.
                pub fn $name(&mut self, $(_: $of),*) {}
            )*
        }
    };
}

ignored! {
    create_if_missing(bool);
    create_missing_column_families(bool);
    set_wal_recovery_mode(DBRecoveryMode);
    set_track_and_verify_wals_in_manifest(bool);
    set_paranoid_checks(bool);
    set_manual_wal_flush(bool);
    set_max_total_wal_size(u64);
    set_bytes_per_sync(u64);
    set_keep_log_file_num(usize);
    set_max_open_files(i32);
    set_block_based_table_factory(&BlockBasedOptions);
    set_write_buffer_size(usize);
    set_memtable_whole_key_filtering(bool);
    set_memtable_prefix_bloom_ratio(f64);
}

impl Options {
    /// As without the string.
    ///
    /// # Errors
    /// None.
    pub fn get_options_from_string(&mut self, _: impl AsRef<str>) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// Settings of tables, without effect.
#[derive(Default)]
pub struct BlockBasedOptions;

impl BlockBasedOptions {
    /// Without effect.
    pub fn set_block_cache(&mut self, _: &Cache) {}
    /// Without effect.
    pub fn set_format_version(&mut self, _: i32) {}
    /// Without effect.
    pub fn set_bloom_filter(&mut self, _: f64, _: bool) {}
}

/// A cache of nothing.
pub struct Cache;

impl Cache {
    /// One.
    pub fn new_lru_cache(_: usize) -> Self {
        Self
    }
}
