//! The reading half of the contract.

use bytes::Bytes;

use super::{fresh, pattern};
use crate::{Created, GetError, Store};

async fn put(store: &Store, what: &str, bytes: &Bytes) -> String {
    let key = format!("{}/object", fresh(what));
    let created = store.create(&key, bytes.clone()).await.expect("create");
    assert_eq!(created, Created::New, "{key}");
    key
}

/// Inside the object a range is exact; one that leaves it is [`GetError::Short`], wherever it starts.
pub async fn ranges_are_exact_or_errors(store: &Store) {
    let bytes = pattern(10_000, 1);
    let key = put(store, "ranges", &bytes).await;
    for (from, to) in [(0, 1), (0, 10_000), (9_999, 10_000), (1_234, 5_678)] {
        let got = store.get_range(&key, from..to).await.expect("range inside");
        assert_eq!(got, bytes.slice(from as usize..to as usize), "{from}..{to}");
    }
    assert!(store.get_range(&key, 7..7).await.expect("empty range").is_empty());
    for (from, to, held) in [(9_999, 10_001, 1), (10_000, 10_001, 0), (20_000, 30_000, 0)] {
        let error = store.get_range(&key, from..to).await.expect_err("range outside");
        assert!(
            matches!(error, GetError::Short { got, .. } if got == held),
            "{from}..{to}: {error}"
        );
        assert!(error.to_string().contains(&key), "{error}");
    }
}

/// A tail is the last bytes and the whole size; a longer one than the object is all of it.
pub async fn tails_carry_the_size(store: &Store) {
    let bytes = pattern(5_000, 2);
    let key = put(store, "tail", &bytes).await;
    for n in [0, 1, 16, 5_000, 5_001, 1 << 20] {
        let (size, tail) = store.get_tail(&key, n).await.expect("tail");
        assert_eq!(size, 5_000, "tail of {n}");
        assert_eq!(tail, bytes.slice(5_000 - n.min(5_000) as usize..), "tail of {n}");
    }
}

/// `head` tells an object's size, and `None` of a missing one.
pub async fn head_tells_the_size_or_none(store: &Store) {
    let key = put(store, "head", &pattern(777, 3)).await;
    assert_eq!(store.head(&key).await.expect("head"), Some(777));
    assert_eq!(store.head(&format!("{key}-missing")).await.expect("head"), None);
    // A folder is no object.
    let folder = key.rsplit_once('/').expect("a nested key").0;
    assert_eq!(store.head(&format!("{folder}/none/none")).await.expect("head"), None);
}

/// Every kind of read tells a missing object from a failing store, and names the key.
pub async fn get_of_a_missing_key_is_not_found(store: &Store) {
    let key = format!("{}/missing", fresh("missing"));
    let reads = [
        store.get(&key).await.map(drop),
        store.get_range(&key, 0..10).await.map(drop),
        store.get_tail(&key, 10).await.map(drop),
        store.get_tail(&key, 0).await.map(drop),
    ];
    for read in reads {
        let error = read.expect_err("a missing object");
        assert!(matches!(&error, GetError::NotFound { key: k, .. } if *k == key), "{error}");
        assert!(!error.can_retry());
    }
}

/// No bytes are a body like any other.
pub async fn an_empty_object_is_an_object(store: &Store) {
    let key = put(store, "empty", &Bytes::new()).await;
    assert_eq!(store.head(&key).await.expect("head"), Some(0));
    assert!(store.get(&key).await.expect("get").is_empty());
    let (size, tail) = store.get_tail(&key, 64).await.expect("tail");
    assert_eq!((size, tail.len()), (0, 0));
    let again = store.create(&key, Bytes::from_static(b"x")).await.expect("create");
    assert_eq!(again, Created::AlreadyExists);
}
