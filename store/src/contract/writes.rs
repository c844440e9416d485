//! The writing half of the contract.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{fresh, pattern};
use crate::{Created, PutPayload, Store};

const RACERS: usize = 16;
const RACES: usize = 20;

/// A second create of a key, with other bytes, changes nothing and says so.
pub async fn a_create_never_overwrites(store: &Store) {
    let key = format!("{}/object", fresh("create"));
    let (first, second) = (pattern(1_000, 1), pattern(2_000, 2));
    assert_eq!(store.create(&key, first.clone()).await.expect("create"), Created::New);
    for bytes in [second, first.clone()] {
        assert_eq!(store.create(&key, bytes).await.expect("create"), Created::AlreadyExists);
        assert_eq!(store.get(&key).await.expect("get"), first);
    }
    store.sync_existing(&key).await.expect("sync of an existing object");
}

/// A payload of several chunks is written as one object.
pub async fn a_create_in_chunks_is_one_object(store: &Store) {
    let key = format!("{}/object", fresh("chunks"));
    let whole = pattern(300_000, 7);
    let cuts = [0, 1, 70_000, 70_001, 300_000];
    let payload: PutPayload = cuts.windows(2).map(|cut| whole.slice(cut[0]..cut[1])).collect();
    assert_eq!(store.create(&key, payload).await.expect("create"), Created::New);
    assert_eq!(store.get(&key).await.expect("get"), whole);
}

/// ONCE: of 16 creators of one key one wins, and its bytes are the ones that stay; 20 times.
pub async fn of_racing_creators_one_wins(store: &Store) {
    let folder = fresh("race");
    for race in 0..RACES {
        let key = format!("{folder}/{race:02}");
        let bodies: Vec<Bytes> = (0..RACERS as u64).map(|seed| pattern(4_096, seed)).collect();
        let mut racers = JoinSet::new();
        for (racer, body) in bodies.iter().cloned().enumerate() {
            let (store, key) = (store.clone(), key.clone());
            racers.spawn(async move { (racer, store.create(&key, body).await) });
        }
        let mut answers = racers.join_all().await;
        answers.sort_by_key(|(racer, _)| *racer);
        let answers: Vec<Created> =
            answers.into_iter().map(|(_, answer)| answer.expect("create")).collect();
        let winners: Vec<usize> =
            (0..RACERS).filter(|racer| answers[*racer] == Created::New).collect();
        assert_eq!(winners.len(), 1, "race {race}: racers {winners:?} all won");
        assert_eq!(store.get(&key).await.expect("get"), bodies[winners[0]], "race {race}");
    }
}

/// 64 objects written and read at once are 64 objects.
pub async fn distinct_keys_do_not_disturb_each_other(store: &Store) {
    let folder = fresh("distinct");
    let mut tasks = JoinSet::new();
    for i in 0..64_u64 {
        let (store, key) = (store.clone(), format!("{folder}/{}/{i}", i % 8));
        tasks.spawn(async move {
            let bytes = pattern(10_000 + i as usize, i);
            assert_eq!(store.create(&key, bytes.clone()).await.expect("create"), Created::New);
            assert_eq!(store.get(&key).await.expect("get"), bytes, "{key}");
            assert_eq!(store.get_range(&key, 100..200).await.expect("range"), bytes[100..200]);
        });
    }
    tasks.join_all().await;
    assert_eq!(store.list(&folder, None, 1_000).await.expect("list").len(), 64);
}

/// An object of the size that agents write at most comes back bit for bit.
pub async fn a_16_mib_object_comes_back(store: &Store) {
    let key = format!("{}/object", fresh("large"));
    let bytes = pattern(16 << 20, 16);
    assert_eq!(store.create(&key, bytes.clone()).await.expect("create"), Created::New);
    assert!(store.get(&key).await.expect("get") == bytes, "the object differs");
    let (from, to) = (5 << 20, 6 << 20);
    let range = store.get_range(&key, from..to).await.expect("range");
    assert!(range == bytes.slice(from as usize..to as usize), "the range differs");
    let (size, tail) = store.get_tail(&key, 4_096).await.expect("tail");
    assert_eq!((size, tail), (16 << 20, bytes.slice(bytes.len() - 4_096..)));
}

/// Deleting twice, or what never was, is fine; a deleted key can be created again.
pub async fn delete_is_idempotent(store: &Store) {
    let key = format!("{}/object", fresh("delete"));
    store.delete(&key).await.expect("delete of a missing object");
    assert_eq!(store.create(&key, pattern(10, 1)).await.expect("create"), Created::New);
    store.delete(&key).await.expect("delete");
    assert_eq!(store.head(&key).await.expect("head"), None);
    store.delete(&key).await.expect("second delete");
    assert_eq!(store.create(&key, pattern(10, 2)).await.expect("create"), Created::New);
    assert_eq!(store.get(&key).await.expect("get"), pattern(10, 2));
}

/// Keys of the shape that StreamHouse uses, of several depths, do not run into each other.
pub async fn nested_keys_are_kept_apart(store: &Store) {
    let folder = fresh("nested");
    let keys = ["a", "b/a", "b/c/a", "b/c/d/e/f/g/a", "l0/7f/1-ab_C-42/00000000000000000007"];
    for (i, key) in keys.iter().enumerate() {
        let key = format!("{folder}/{key}");
        assert_eq!(
            store.create(&key, pattern(100, i as u64)).await.expect("create"),
            Created::New,
            "{key}"
        );
    }
    for (i, key) in keys.iter().enumerate() {
        let got = store.get(&format!("{folder}/{key}")).await.expect("get");
        assert_eq!(got, pattern(100, i as u64), "{key}");
    }
    for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", "a#1", "ä"] {
        let error = store.create(bad, pattern(1, 0)).await.expect_err("a bad key");
        assert!(!error.can_retry() && !error.may_have_happened(), "{bad:?}: {error}");
    }
}

/// A listing holds what is below a folder, in key order, page after page.
pub async fn list_is_in_order_and_in_pages(store: &Store) {
    let folder = fresh("list");
    let mut keys: Vec<String> =
        (0..25).map(|i| format!("{folder}/x/{}/{:02}", i % 3, (i * 7) % 25)).collect();
    keys.push(format!("{folder}/x/0-after"));
    keys.push(format!("{folder}/x/object"));
    for key in keys.iter().chain([&format!("{folder}/xy/other"), &format!("{folder}/y")]) {
        store.create(key, pattern(key.len(), 0)).await.expect("create");
    }
    keys.sort();
    let prefix = format!("{folder}/x");
    for limit in [1, 10, 1_000] {
        let (mut listed, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = store.list(&prefix, after.as_deref(), limit).await.expect("list");
            assert!(page.len() <= limit);
            assert!(page.iter().all(|object| object.size == object.key.len() as u64));
            let last = page.len() < limit;
            listed.extend(page.into_iter().map(|object| object.key));
            if last {
                break;
            }
            after = listed.last().cloned();
        }
        assert_eq!(listed, keys, "in pages of {limit}");
    }
    assert!(store.list(&fresh("nothing"), None, 10).await.expect("list").is_empty());
    assert!(store.list(&prefix, None, 0).await.expect("list").is_empty());
}

/// The probe finds nothing wrong and leaves nothing behind.
pub async fn the_probe_accepts_and_cleans_up(store: &Store) {
    let scope = fresh("probe");
    store.probe(&scope).await.expect("probe");
    assert!(store.list(&scope, None, 10).await.expect("list").is_empty());
}
