//! What an upload in parts must do. Beside [`all`](super::all): the endpoint inside this process knows no parts.

use super::{fresh, pattern};
use crate::{Created, Store};

/// One part, and more than two.
const SIZES: [usize; 4] = [0, 1_000, 8 << 20, (16 << 20) + 77];

async fn write(store: &Store, key: &str, bytes: &[u8]) -> Created {
    let mut upload = store.upload(key);
    for piece in bytes.chunks(1 << 20) {
        if upload.write(piece).await.expect("write") == Created::AlreadyExists {
            upload.abort().await;
            return Created::AlreadyExists;
        }
    }
    upload.finish().await.expect("finish")
}

/// Large or small, it appears as it was written, and overwrites nothing.
pub async fn an_upload_is_one_object(store: &Store) {
    let folder = fresh("uploads");
    for size in SIZES {
        let key = format!("{folder}/{size}");
        let bytes = pattern(size, 1);
        assert_eq!(write(store, &key, &bytes).await, Created::New, "{size}");
        assert!(store.get(&key).await.expect("get") == bytes, "{size}");
        assert_eq!(write(store, &key, &pattern(size + 1, 2)).await, Created::AlreadyExists);
        assert!(store.get(&key).await.expect("get") == bytes, "{size}");
    }
}

/// One that was not finished is not there.
pub async fn an_upload_that_was_given_up_is_no_object(store: &Store) {
    let folder = fresh("uploads");
    let key = format!("{folder}/given-up");
    let mut upload = store.upload(&key);
    upload.write(&pattern((8 << 20) + 1, 3)).await.expect("write");
    assert_eq!(store.head(&key).await.expect("head"), None);
    upload.abort().await;
    assert!(store.list(&folder, None, 10).await.expect("list").is_empty());
    // Its key is free.
    assert_eq!(write(store, &key, b"another").await, Created::New);
}
