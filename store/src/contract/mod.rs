//! Test support: what every store must do, as functions that panic where it does not.
//!
//! A test opens a [`Store`] and calls [`all`]. Each function works below a folder of its own, so a suite may run
//! against a store that holds other things, and twice against one store. [`moto`] starts an S3 server.

pub mod moto;
mod reads;
mod uploads;
mod writes;

pub use reads::{
    an_empty_object_is_an_object, get_of_a_missing_key_is_not_found, head_tells_the_size_or_none,
    ranges_are_exact_or_errors, tails_carry_the_size,
};
pub use uploads::{an_upload_is_one_object, an_upload_that_was_given_up_is_no_object};
pub use writes::{
    a_16_mib_object_comes_back, a_create_in_chunks_is_one_object, a_create_never_overwrites,
    delete_is_idempotent, distinct_keys_do_not_disturb_each_other, list_is_in_order_and_in_pages,
    nested_keys_are_kept_apart, of_racing_creators_one_wins, the_probe_accepts_and_cleans_up,
};

use bytes::Bytes;

use crate::Store;
use crate::entropy::unique_name;

/// The whole contract.
pub async fn all(store: &Store) {
    a_create_never_overwrites(store).await;
    a_create_in_chunks_is_one_object(store).await;
    ranges_are_exact_or_errors(store).await;
    tails_carry_the_size(store).await;
    head_tells_the_size_or_none(store).await;
    get_of_a_missing_key_is_not_found(store).await;
    an_empty_object_is_an_object(store).await;
    delete_is_idempotent(store).await;
    nested_keys_are_kept_apart(store).await;
    list_is_in_order_and_in_pages(store).await;
    a_16_mib_object_comes_back(store).await;
    distinct_keys_do_not_disturb_each_other(store).await;
    of_racing_creators_one_wins(store).await;
    the_probe_accepts_and_cleans_up(store).await;
}

/// A folder that no other test uses.
fn fresh(what: &str) -> String {
    format!("contract/{what}-{}", unique_name())
}

/// `size` bytes in which no two ranges of a few bytes are alike.
fn pattern(size: usize, seed: u64) -> Bytes {
    let word = |i: u64| (i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    (0..size.div_ceil(8) as u64).flat_map(word).take(size).collect()
}
